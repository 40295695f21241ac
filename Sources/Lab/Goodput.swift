import FoundationEssentials
import Kernel
import Packets
import Router

/// TCP between a host of each VLAN, by the tool that everybody knows.
///
///     …-client 172.16.10.100 ─ trunk.100 ┐                     ┌ trunk.100
///                                  …-wire trunk ═══════ trunk  …-router
///     …-server 172.16.20.100 ─ trunk.200 ┘                     └ trunk.200
struct Goodput {
    private static let interface = "eth0"
    private let client: String
    private let server: String
    private static let serverAddress = "172.16.20.100"
    /// One for who sends and one for who receives; none where there is only one.
    private static let processors: [Int32] = {
        let processors = ThisProcess.processors
        return processors.count > 1 ? Array(processors.prefix(2)) : []
    }()

    /// - Throws: there is no `iperf3`, or packets cannot be steered to a processor.
    static func check() throws(Failure) {
        do throws(KernelError) {
            _ = try ChildProcess.run(["iperf3", "--version"])
        } catch {
            throw Failure(
                .unavailable, "\(error)", remedy: "install it: apt-get install iperf3, or leave TCP out: --tcp none")
        }
        let steered: Result<Void, KernelError> = try kernel { () throws(KernelError) in
            try Namespace.runInNew { () throws(KernelError) in
                Result { () throws(KernelError) in
                    for processor in processors { try PacketSteering.steer("lo", to: processor) }
                }
            }
        }
        do throws(KernelError) {
            try steered.get()
        } catch {
            let needs = "TCP needs CONFIG_RPS, and to be allowed to mount /sys"
            throw Failure(.unavailable, "\(error)", remedy: "\(needs); or leave it out: --tcp none")
        }
    }

    /// Puts the two hosts on the wire, which nothing else may use from here on.
    init(_ network: BenchNetwork) throws(Failure) {
        client = network.host("client")
        server = network.host("server")
        let added = try kernel { () throws(KernelError) in
            try Namespace.run(in: network.wire) { () throws(KernelError) in
                // With a program on it a veth pair does without segmentation offload.
                try TrafficProgram.detach(linkIndex: network.linkIndex)
                return Result { () throws(Failure) in
                    // Not 8021q, whose interfaces cannot be steered.
                    try VLANInterfaces.add(BenchNetwork.vlans.map(\.id), to: BenchNetwork.trunk, driver: .ebpf)
                }
            }
        }
        try added.get()
        // Each end's stack stays with its program, as if they were two machines. Without that, what is sent upon an ACK is sent by
        // whichever processor the ACK came by, and a round is twice as fast as another one by chance.
        try kernel { () throws(KernelError) in
            try Namespace.run(in: network.wire) { () throws(KernelError) in
                for (vlan, processor) in zip(BenchNetwork.vlans, Self.processors) {
                    try PacketSteering.steer("\(BenchNetwork.trunk).\(vlan.id)", to: processor)
                }
            }
        }
        let addresses = ["172.16.10.100/24", "\(Self.serverAddress)/24"]
        for (name, (vlan, address)) in zip([client, server], zip(BenchNetwork.vlans, addresses)) {
            guard let address = try? InterfaceAddress(address), let gateway = try? InterfaceAddress(vlan.gateway) else {
                continue
            }
            try kernel { () throws(KernelError) in
                try Namespace.add(name)
                let descriptor = try Namespace.open(name)
                defer { Namespace.close(descriptor) }
                try within(network.wire) { (socket) throws(KernelError) in
                    var batch = NetlinkBatch()
                    batch.addMacvlan(
                        name: Self.interface, parent: try link("\(BenchNetwork.trunk).\(vlan.id)", socket).index,
                        namespace: descriptor)
                    try socket.execute(batch)
                }
                try within(name) { (socket) throws(KernelError) in
                    var batch = NetlinkBatch()
                    batch.addAddress(
                        address, linkIndex: try link(Self.interface, socket).index, linkName: Self.interface)
                    batch.setLink(.name(Self.interface), up: true)
                    batch.addDefaultRoute(via: gateway.address)
                    try socket.execute(batch)
                }
            }
        }
    }

    /// What of `iperf3 --json` is read.
    private struct Report: Decodable {
        struct End: Decodable {
            let received: Sum?
            enum CodingKeys: String, CodingKey { case received = "sum_received" }
        }
        struct Sum: Decodable {
            let bitsPerSecond: Double
            enum CodingKeys: String, CodingKey { case bitsPerSecond = "bits_per_second" }
        }
        let end: End?
        let error: String?
    }

    /// - Returns: what arrives, in bits a second.
    func measure(connections: Int, seconds: Int) throws(Failure) -> Double {
        let (process, result) = try kernel { () throws(KernelError) in
            let process = try Namespace.run(in: server) { () throws(KernelError) in
                try ChildProcess(["iperf3", "--server", "--one-off"])
            }
            // It may need a moment until it listens.
            var arguments = [
                "iperf3", "--client", Self.serverAddress, "--time", "\(seconds)", "--parallel", "\(connections)",
                "--json",
            ]
            if !Self.processors.isEmpty {
                arguments += ["--affinity", Self.processors.map(String.init).joined(separator: ",")]
            }
            var result: ChildProcess.Result
            let deadline = ContinuousClock.now + .seconds(3)
            repeat {
                ThisProcess.sleep(milliseconds: 50)
                result = try Namespace.run(in: client) { () throws(KernelError) in try ChildProcess.run(arguments) }
            } while result.status != 0 && ContinuousClock.now < deadline && Interruption.signal == nil
            return (process, result)
        }
        process.signal(SignalNumber.kill)
        _ = process.wait()
        let report = try? JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        guard let received = report?.end?.received?.bitsPerSecond else {
            throw Failure(
                .software, "iperf3 has failed with exit status \(result.status): \(report?.error ?? result.errors)")
        }
        return received
    }
}
