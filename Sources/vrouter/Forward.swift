import ArgumentParser

struct Forward: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Forward frames as the fast path does, from a capture file into another.",
        discussion: """
            Decides about each frame of a capture as the fast path would: it forwards what certainly only needs forwarding, drops what \
            Linux drops without a word, and leaves everything else to the kernel. Needs no privileges. What it has to know of the world \
            is given with it: neighbors are hosts and routers in the VLANs whose MAC addresses are known.

              vrouter forward --pcap-in in.pcap --pcap-out out.pcap --explain --masquerade none --mac 02:00:00:00:00:01 \
            --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 --neighbor 172.16.20.11=02:00:00:00:02:11 \
            --neighbor 172.16.20.2=02:00:00:00:02:02 --route 10.0.0.0/8=172.16.20.2

            Capture with all octets, with the tags, and without merged packets: tcpdump -i enp0s8 -s 0 -w in.pcap after ethtool -K \
            enp0s8 gro off.
            """)

    @OptionGroup(title: "The router") var routing: RoutingOptions
    @OptionGroup(title: "Files") var files: ForwardFiles

    func run() throws {
        guard files.isWanted else {
            throw ValidationError("nothing to forward: give a capture file with --pcap-in FILE")
        }
        try files.run(routing)
    }
}
