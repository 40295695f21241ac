// `vrouter forward` over capture files: the pipeline without a network.

import ArgumentParser
import Firewall
import Forwarding
import PacketIO
import Packets
import Router

struct ForwardFiles: ParsableArguments {
    @Option(
        help: ArgumentHelp("The frames that arrive, as tcpdump writes them; - is standard input.", valueName: "file"))
    var pcapIn: String?

    @Option(
        help: ArgumentHelp("Where the frames that leave are written; what was in the file is lost.", valueName: "file"))
    var pcapOut: String?

    @Option(help: ArgumentHelp("The router's MAC address on the trunk.", valueName: "mac"))
    var mac: String?

    @Option(help: ArgumentHelp("The MTU of every VLAN, in octets of the IP packet.", valueName: "octets"))
    var mtu: UInt16 = 1500

    @Option(
        name: .customLong("neighbor"), parsing: .singleValue,
        help: ArgumentHelp(
            "A host or router in one of the VLANs. Can be repeated.", valueName: "address=mac"))
    var neighbors: [String] = []

    @Option(
        name: .customLong("route"), parsing: .singleValue,
        help: ArgumentHelp(
            """
            A route through one of the neighbors, or several for equal-cost paths; or 'other', through an interface that is not \
            vrouter's; or 'blackhole', 'unreachable' or 'prohibit', as with ip route. Can be repeated.
            """, valueName: "prefix=address,…"))
    var routes: [String] = []

    @Flag(help: "Print a line for each frame: what it is, what is done with it, and why.")
    var explain = false

    @Flag(help: "Print the result as JSON.")
    var json = false

    var isWanted: Bool { pcapIn != nil }

    func validate() throws {
        guard isWanted || (pcapOut == nil && mac == nil && neighbors.isEmpty && routes.isEmpty && !explain && !json)
        else {
            throw ValidationError("these options are about a capture file: give it with --pcap-in FILE")
        }
        guard pcapIn == nil || !explain || !json else {
            throw ValidationError("--explain is for people and --json for programs: give one of them")
        }
    }

    func run(_ routing: VLANOptions) throws {
        let counts = try reportingFailure { () throws(Failure) in
            try forward(Snapshot(try world(try configuration(routing))))
        }
        if json { try printJSON(Report(counts)) } else { print(counts.table, terminator: "") }
    }

    // MARK: The frames

    private func forward(_ snapshot: Snapshot) throws(Failure) -> Counts {
        var counts = Counts()
        let path = pcapIn ?? "-"
        var reader = try Self.pcap("give a capture of Ethernet frames, such as tcpdump -w makes") {
            () throws(PcapError) in try PcapReader(path)
        }
        var writer: PcapWriter?
        if let pcapOut {
            guard pcapOut != "-" else {
                throw Failure(
                    .usage, "--pcap-out -: standard output is for what is printed", remedy: "give the name of a file")
            }
            guard !reader.isSameFile(as: pcapOut) else {
                throw Failure(
                    .usage, "--pcap-out \(pcapOut) is the file that is read", remedy: "give the name of another file")
            }
            writer = try Self.pcap("give the name of a file that can be written") {
                () throws(PcapError) in try PcapWriter(pcapOut)
            }
        }
        while var captured = try Self.pcap(
            "capture again, or repair the file", { () throws(PcapError) in try reader.next() })
        {
            counts.frames += 1
            guard captured.isComplete else {
                counts.incomplete += 1
                if explain {
                    print(
                        "\(counts.frames)  not decided: the capture kept only its first \(captured.octets.count) octets"
                    )
                }
                continue
            }
            var (frame, tag) = captured.inRing
            let text = explain ? FrameText.describe(frame, tag) : ""
            var octets = frame.mutableSpan
            let outcome = Pipeline.process(&octets, FrameMetadata(tag: tag), snapshot)
            counts.verdicts[outcome.verdict.index] += 1
            if explain { print("\(counts.frames)  \(text): \(decision(outcome, snapshot))") }
            guard outcome.verdict == .forward else { continue }
            captured.octets = Array(frame.prefix(outcome.length))
            captured.originalLength = outcome.length
            writer?.write(captured)
        }
        try Self.pcap("make room on the disk") { () throws(PcapError) in try writer?.flush() }
        return counts
    }

    /// What is wrong with a file is a failure.
    private static func pcap<Result: ~Copyable>(_ remedy: String, _ body: () throws(PcapError) -> Result)
        throws(Failure)
        -> Result
    {
        do {
            return try body()
        } catch {
            throw Failure(.usage, "\(error)", remedy: remedy)
        }
    }

    private func decision(_ outcome: Outcome, _ snapshot: Snapshot) -> String {
        switch outcome.verdict {
        case .forward:
            let hop = snapshot.neighbor(outcome.adjacency).map { ", next hop \($0.address) at \($0.mac)" } ?? ""
            return "forwarded into VLAN \(outcome.vlan)\(hop)"
        case .drop(let reason): return "dropped, as the kernel would: \(reason)"
        case .punt(let reason): return "left to the kernel: \(reason)"
        }
    }

    // MARK: The world

    private func configuration(_ routing: VLANOptions) throws(Failure) -> Configuration {
        try Configuration(
            parent: routing.parent ?? "trunk", vlans: unjoined(routing.vlans), masquerade: routing.masquerade ?? .vlans,
            denied: routing.denied)
    }

    private func world(_ configuration: Configuration) throws(Failure) -> World {
        guard let mac else {
            throw Failure(
                .usage, "the router's MAC address is not given",
                remedy: "give what 'ip link show dev INTERFACE' shows on the trunk, for example --mac 02:00:00:00:00:01"
            )
        }
        let own = try Self.mac(mac, in: "--mac \(mac)")
        var world = World(
            denied: configuration.denied.map { ($0.from, $0.to) },
            masquerades: [.vlans, .all].contains(configuration.masquerade))
        for vlan in configuration.vlans {
            world.gateways.append(Snapshot.Gateway(vlan: vlan.id, mac: own, mtu: mtu))
            for address in vlan.addresses { world.routes += World.Route.implied(by: address, in: vlan.id) }
        }
        for text in neighbors {
            let (address, mac) = try Self.halves(of: text, "--neighbor", "172.16.20.11=02:00:00:00:02:11")
            let neighbor = try Self.address(address, in: "--neighbor \(text)")
            world.neighbors.append(
                World.Neighbor(
                    neighbor, vlan: try Self.vlan(of: neighbor, configuration, "--neighbor \(text)"),
                    mac: try Self.mac(mac, in: "--neighbor \(text)")))
        }
        for text in routes { world.routes.append(try route(text, configuration)) }
        return world
    }

    private func route(_ text: String, _ configuration: Configuration) throws(Failure) -> World.Route {
        let option = "--route \(text)"
        let (destination, way) = try Self.halves(of: text, "--route", "10.0.0.0/8=172.16.20.2")
        let prefix: IPPrefix
        do {
            prefix = try InterfaceAddress(destination).prefix
        } catch {
            throw Failure(.usage, "\(option): \(error)", remedy: "write the network as in 10.0.0.0/8 or fd00::/8")
        }
        switch way {
        case "other": return World.Route(prefix, .unicast([World.NextHop(via: nil, vlan: nil)]))
        case "blackhole": return World.Route(prefix, .blackhole)
        case "unreachable": return World.Route(prefix, .unreachable)
        case "prohibit": return World.Route(prefix, .prohibited)
        default: break
        }
        var hops: [World.NextHop] = []
        for part in way.split(separator: ",", omittingEmptySubsequences: false) {
            let via = try Self.address(part, in: option)
            guard via.family == prefix.family else {
                throw Failure(
                    .usage, "\(option): \(via) is not of the family of \(prefix)",
                    remedy: "give a next hop of the same family")
            }
            hops.append(World.NextHop(via: via, vlan: try Self.vlan(of: via, configuration, option)))
        }
        return World.Route(prefix, .unicast(hops))
    }

    // MARK: What people write

    private static func halves(of text: String, _ option: String, _ example: String) throws(Failure) -> (
        Substring, Substring
    ) {
        guard let equals = text.firstIndex(of: "=") else {
            throw Failure(.usage, "\(option) \(text): no '='", remedy: "write it as in \(option) \(example)")
        }
        return (text[..<equals], text[text.index(after: equals)...])
    }

    private static func address(_ text: Substring, in option: String) throws(Failure) -> IPAddress {
        guard let address = IPAddress(text) else {
            throw Failure(
                .usage, "\(option): '\(text)' is not an IPv4 or IPv6 address",
                remedy: "write it as in 172.16.20.11 or fd00:20::11")
        }
        return address
    }

    private static func mac(_ text: some StringProtocol, in option: String) throws(Failure) -> MACAddress {
        guard let mac = MACAddress(text), !mac.isGroup else {
            throw Failure(
                .usage, "\(option): '\(text)' is not a station's MAC address",
                remedy: "write six pairs of hexadecimal digits, as in 02:00:00:00:02:11")
        }
        return mac
    }

    private static func vlan(of address: IPAddress, _ configuration: Configuration, _ option: String) throws(Failure)
        -> VLANID
    {
        guard
            let vlan = configuration.vlans.first(where: { $0.addresses.contains { $0.prefix.contains(address) } })
        else {
            throw Failure(
                .usage, "\(option): \(address) is in no VLAN's subnet",
                remedy: "give the VLAN with --vlan ID=ADDRESS/LENGTH, or correct the address")
        }
        return vlan.id
    }
}

// MARK: The result

/// How often each verdict was reached.
private struct Counts {
    var frames = 0
    /// Captured without their end, so that nothing can be said of them.
    var incomplete = 0
    /// In the order of `Verdict.allCases`.
    var verdicts = Array(repeating: 0, count: Verdict.allCases.count)

    var table: String {
        var table = Table(["frames", "verdict", "reason", "meaning"])
        table.rightAligned = [0]
        for (verdict, count) in zip(Verdict.allCases, verdicts) where count > 0 {
            table.add([String(count), verdict.kind, verdict.reason ?? "-", verdict.description])
        }
        if incomplete > 0 {
            table.add([String(incomplete), "none", "-", "the capture does not have all of their octets"])
        }
        return table.text
    }
}

extension Verdict {
    fileprivate var kind: String {
        switch self {
        case .forward: "forward"
        case .drop: "drop"
        case .punt: "kernel"
        }
    }

    fileprivate var reason: String? {
        switch self {
        case .forward: nil
        case .drop(let reason): reason.name
        case .punt(let reason): reason.name
        }
    }
}

/// The same for programs.
private struct Report: Encodable {
    var frames: Int
    var incomplete: Int
    var verdicts: [Row]

    struct Row: Encodable {
        var verdict: String
        var reason: String?
        var meaning: String
        var frames: Int
    }

    init(_ counts: Counts) {
        frames = counts.frames
        incomplete = counts.incomplete
        verdicts = zip(Verdict.allCases, counts.verdicts).filter { $0.1 > 0 }.map { verdict, frames in
            Row(verdict: verdict.kind, reason: verdict.reason, meaning: verdict.description, frames: frames)
        }
    }
}
