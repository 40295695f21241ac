import ArgumentParser
import Kernel
import Router

struct Forward: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Be the fast path: forward between VLANs in user space, or from one capture file to another.",
        discussion: """
            Without options, forwards beside the kernel until it is told to end, what certainly only needs forwarding; the kernel does \
            everything else, and all of it as soon as this ends, however that comes. `vrouter up … --fast-path af-packet` starts it \
            detached. A service manager can run it instead, after `up`: it says when it is ready (sd_notify).

            With --pcap-in, decides about each frame of a capture in the same way, without privileges: it forwards, drops what Linux \
            drops without a word, and leaves the rest to the kernel. What it has to know of the world is given with it: neighbors are \
            hosts and routers in the VLANs whose MAC addresses are known.

              vrouter forward --pcap-in in.pcap --pcap-out out.pcap --explain --masquerade none --mac 02:00:00:00:00:01 \
            --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 --neighbor 172.16.20.11=02:00:00:00:02:11 \
            --neighbor 172.16.20.2=02:00:00:00:02:02 --route 10.0.0.0/8=172.16.20.2

            Capture with all octets, with the tags, and without merged packets: tcpdump -i enp0s8 -s 0 -w in.pcap after ethtool -K \
            enp0s8 gro off.
            """)

    @OptionGroup(title: "The router") var routing: VLANOptions
    @OptionGroup(title: "Files") var files: ForwardFiles

    func run() throws {
        if files.isWanted { return try files.run(routing) }
        try reportingFailure { () throws(Failure) in
            guard routing.vlans.isEmpty else {
                throw Failure(
                    .usage, "--vlan says nothing to the running router, which has its VLANs from `vrouter up`",
                    remedy: "leave it out, or add --pcap-in FILE")
            }
            try FastPath.run { ServiceManager.tellReady() }
        }
    }
}
