import Firewall
import FoundationEssentials
import Kernel
import Packets
import TestSupport
import Testing

/// What the compiled rules do with packets that are really sent is what the matrix says: for hundreds of policies that nobody has chosen.
///
///     p1 ── e.1 ┐                 ┌ e.3 ── p3
///     p2 ── e.2 ┤ router (rules)  ├ e.4 ── p4
///               └ wan0 ── pwan, behind which everything else is
///
/// Each packet begins a connection with a port or an identifier of its own, by which it, its answer, or the error that it causes is known.
@Suite struct PolicyVerdictTests {
    /// VROUTER_TEST_CONFIGURATIONS: how many, where 300 take too long.
    @Test func theRulesDoWhatTheMatrixSays() throws {
        let setting = ThisProcess.environment["VROUTER_TEST_CONFIGURATIONS"]
        let count = try #require(setting.map { Int($0) } ?? 300, "VROUTER_TEST_CONFIGURATIONS is not a number")
        var generator = SeededGenerator(seed: 4890)
        var number: UInt16 = 20_000
        var cases: [(policy: Policy, probes: [Probe])] = []
        for _ in 0..<count {
            let policy = try Self.policy(&generator)
            let probes = try (0..<50).map { _ in
                number += 1
                return try Probe.random(&generator, number: number)
            }
            cases.append((policy, probes))
        }
        let seen = try exchange(cases.map { ($0.policy, $0.probes) })
        var reached: [String: Int] = [:]
        for (policy, probes) in cases {
            let verdicts = Verdicts(policy)
            for probe in probes {
                let verdict = verdicts.verdict(on: probe.packet)
                reached[
                    "\(verdict) \(probe.from == nil ? "from" : probe.isForRouter ? "to" : "through")", default: 0] += 1
                let expected = probe.signs(of: verdict)
                guard seen["\(probe.number)", default: []] == expected else {
                    Issue.record(
                        "\(probe): \(seen["\(probe.number)", default: []]), and not \(expected)\n\(policy)\n\(Ruleset(policy).nftText)"
                    )
                    return
                }
            }
        }
        // The generator reaches what it is meant to.
        for kind in ["through", "to", "from"] {
            for verdict in Treatment.Verdict.allCases {
                #expect(reached["\(verdict) \(kind)", default: 0] > count / 10, "\(verdict) \(kind): \(reached)")
            }
        }
    }

    private static func policy(_ generator: inout SeededGenerator) throws -> Policy {
        let zones = [Zone.vlans] + ["iot", "servers"].compactMap { Zone($0) }
        let gateways = try (1...4).map { number in
            Policy.Gateway(
                interface: "e.\(number)", vlan: try #require(VLANID(UInt16(number))),
                addresses: try Probe.gateway(number).map { try InterfaceAddress($0) }, zone: zones.pick(&generator))
        }
        var matrix = ZoneMatrix.generated(Set(gateways.map(\.zone)), &generator)
        // How many connections begin is another question.
        for pair in matrix.cells.keys { matrix.cells[pair]?.connectionsPerSecond = nil }
        let sets = [
            "printers": ["10.0.1.0/28", "10.0.2.10/32", "fd00:1::/124"], "off": ["10.0.0.0/16", "fd00::/16"],
            "a-b_c": ["198.51.100.0/28", "10.0.3.0/28", "2001:db8::/124"],
        ]
        for name in matrix.addressSets.keys {
            matrix.addressSets[name] = try sets[name]?.map { try InterfaceAddress($0).prefix }
        }
        let names = gateways.map(\.interface)
        let denied = (0..<2).compactMap { _ -> Policy.Pair? in
            let pair = Policy.Pair(from: names.pick(&generator), to: names.pick(&generator))
            return pair.from != pair.to && Bool.random(using: &generator) ? pair : nil
        }
        return try Policy(
            gateways: gateways, masquerade: .none, denied: denied,
            uplinks: [[], [], ["wan0"], ["elsewhere0"]].pick(&generator), matrix: matrix)
    }

    /// Loads each policy, sends its probes, and returns what was seen of each, by its number.
    private func exchange(_ cases: [(Policy, [Probe])]) throws -> [String: [String]] {
        let router = try TestHost(trunk: false)
        let wire = try TestHost(trunk: false)
        let links = (1...4).map { ("e.\($0)", "p\($0)", Probe.gateway($0)) } + [("wan0", "pwan", Probe.wan)]
        for (name, peer, addresses) in links {
            let hosts = name == "wan0" ? Probe.wanRouters : Probe.hosts(Int(name.dropFirst(2)) ?? 0)
            try wire.sh(
                "ip link add \(peer) type veth peer name \(name) netns \(router.name); ip link set \(peer) addrgenmode none up"
            )
            try router.sh(
                "ip link set \(name) address \(Probe.mac) addrgenmode none up\n"
                    + addresses.map { "ip address add \($0) dev \(name) nodad\n" }.joined()
                    + hosts.map { "ip neigh add \($0) lladdr 02:00:00:00:00:99 dev \(name) nud permanent\n" }.joined())
        }
        // Errors are counted here, not limited.
        try router.sh(
            """
            ip link set lo up
            ip route add default via \(Probe.wanRouters[0]); ip -6 route add default via \(Probe.wanRouters[1])
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratemask=0 net.ipv4.tcp_synack_retries=0
            sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv6.icmp.ratemask=
            """)
        let input = cases.map { policy, probes in
            Case(nft: Ruleset(policy).nftText, probes: probes.map(\.message))
        }
        let file = TemporaryFile(String(decoding: try JSONEncoder().encode(input), as: UTF8.self))
        let result = try wire.run([
            "python3", "-c", Self.script, router.name, file.path, Probe.services.map { "\($0)" }.joined(separator: ","),
            isEmulated ? "0.3" : "0.03",
        ])
        try #require(result.status == 0, "\(result)")
        return try JSONDecoder().decode([String: [String]].self, from: Data(result.output.utf8))
    }

    private struct Case: Encodable {
        var nft: String
        var probes: [Message]
    }

    struct Message: Encodable {
        /// Where it goes in; empty: the router sends it.
        var tap: String
        /// In hexadecimal.
        var frame: String
        var transport: String
        var number: UInt16
        var destination: String
        var port: UInt16
    }

    private static let script = """
        import ctypes, json, os, select, socket, struct, subprocess, sys, time
        router, cases, ports, quiet = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3].split(","), float(sys.argv[4])
        poll, taps, seen = select.poll(), {}, {}
        for name in ["p1", "p2", "p3", "p4", "pwan"]:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            tap.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
            tap.bind((name, 3))
            tap.setblocking(False)
            taps[name] = tap
        setns = ctypes.CDLL(None, use_errno=True).setns
        assert setns(os.open("/run/netns/" + router, os.O_RDONLY), 0x40000000) == 0
        datagrams, listeners = {}, []
        for port in ports:
            one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            one.bind(("::", int(port)))
            one.setblocking(False)
            datagrams[one.fileno()] = one
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            listener.bind(("::", int(port)))
            listener.listen(4096)
            listeners.append(listener)
        echo4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
        echo6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
        files = {tap.fileno(): name for name, tap in taps.items()}
        for file in list(files) + list(datagrams):
            poll.register(file, select.POLLIN)

        def note(number, sign):
            signs = seen.setdefault(str(number), [])
            if sign not in signs:
                signs.append(sign)

        def look(name, packet, inner=False):
            if packet[0] >> 4 == 4:
                protocol, rest, is6 = packet[9], packet[(packet[0] & 15) * 4:], False
            else:
                protocol, rest, is6 = packet[6], packet[40:], True
            if protocol in (6, 17):
                source, destination = struct.unpack_from("!HH", rest)
                if inner:
                    return source
                if protocol == 17 or rest[13] & 0x16 == 2:
                    note(source, name + " passes")
                elif rest[13] & 4:
                    note(destination, name + " reset")
                elif rest[13] & 0x12 == 0x12:
                    note(destination, name + " answer")
            elif protocol in (1, 58):
                kind, code, identifier = rest[0], rest[1], struct.unpack_from("!H", rest, 4)[0]
                if inner:
                    return identifier
                if kind == (128 if is6 else 8):
                    note(identifier, name + " passes")
                elif kind == (129 if is6 else 0):
                    note(identifier, name + " answer")
                elif kind == (1 if is6 else 3):
                    prohibited = code == (1 if is6 else 13)
                    note(look(name, rest[8:], True), name + (" prohibited" if prohibited else f" error {kind}/{code}"))

        def read(wait):
            events = poll.poll(wait * 1000)
            for file, _ in events:
                try:
                    while True:
                        if file in files:
                            frame = taps[files[file]].recv(4096)
                            if frame[12:14] in (b"\\x08\\0", b"\\x86\\xdd"):
                                look(files[file], frame[14:])
                        else:
                            _, sender = datagrams[file].recvfrom(4096)
                            note(sender[1], "received")
                except BlockingIOError:
                    pass
            return bool(events)

        for case in cases:
            subprocess.run(["nft", "-f", "-"], input=case["nft"].encode(), check=True)
            own = []
            for probe in case["probes"]:
                if probe["tap"]:
                    taps[probe["tap"]].send(bytes.fromhex(probe["frame"]))
                    continue
                family = socket.AF_INET6 if ":" in probe["destination"] else socket.AF_INET
                try:
                    if probe["transport"] == "icmp":
                        kind = 128 if family == socket.AF_INET6 else 8
                        data = struct.pack("!BBHHH", kind, 0, 0, probe["number"], 1)
                        if kind == 8:
                            total = (8 << 8) + probe["number"] + 1
                            total = (total & 0xffff) + (total >> 16)
                            data = struct.pack("!BBHHH", kind, 0, 0xffff - total, probe["number"], 1)
                        (echo4 if kind == 8 else echo6).sendto(data, (probe["destination"], 0))
                        continue
                    sender = socket.socket(family, socket.SOCK_STREAM if probe["transport"] == "tcp" else socket.SOCK_DGRAM)
                    own.append(sender)
                    sender.setblocking(False)
                    sender.bind(("::" if family == socket.AF_INET6 else "", probe["number"]))
                    sender.connect((probe["destination"], probe["port"]))
                    if probe["transport"] == "udp":
                        sender.send(b"x")
                except (BlockingIOError, PermissionError, ConnectionRefusedError, OSError):
                    pass
            # A machine that is busy elsewhere is not quiet.
            while read(quiet):
                pass
            for sender in own:
                sender.close()
        json.dump(seen, sys.stdout)
        """
}

/// The beginning of a connection.
private struct Probe: CustomStringConvertible {
    /// Of the source port, or the identifier of an echo.
    var number: UInt16
    /// A gateway's number, 0: the uplink; nil: the router sends it.
    var from: Int?
    var to: Int
    var isForRouter: Bool
    var source: IPAddress
    var destination: IPAddress
    var transport: IPProtocol
    var port: UInt16

    /// Of all the router's interfaces.
    static let mac = MACAddress(0x02_00_00_00_00_01)
    static let services: [UInt16] = [1, 22, 53, 80, 443, 444, 65535]
    static let wan = ["192.0.2.1/24", "2001:db8:1::1/64"]
    static let wanRouters = ["192.0.2.2", "2001:db8:1::2"]
    static func gateway(_ number: Int) -> [String] { ["10.0.\(number).1/24", "fd00:\(number)::1/64"] }
    static func hosts(_ number: Int) -> [String] {
        ["10.0.\(number).10", "10.0.\(number).200", "fd00:\(number)::a", "fd00:\(number)::200"]
    }

    static func random(_ generator: inout SeededGenerator, number: UInt16) throws -> Probe {
        let isIPv6 = Bool.random(using: &generator)
        let transport: IPProtocol = [.tcp, .udp, isIPv6 ? .icmpv6 : .icmp].pick(&generator)
        func host(_ place: Int) throws -> IPAddress {
            let texts = place == 0 ? ["198.51.100.9", "198.51.100.99", "2001:db8::9", "2001:db8::99"] : hosts(place)
            return try #require(IPAddress(texts[(isIPv6 ? 2 : 0) + Int.random(in: 0...1, using: &generator)]))
        }
        func router(_ place: Int) throws -> IPAddress {
            try InterfaceAddress((place == 0 ? wan : gateway(place))[isIPv6 ? 1 : 0]).address
        }
        let places = Array(0...4).shuffled(using: &generator)
        let kind = Int.random(in: 0..<4, using: &generator)
        let isForRouter = kind == 0
        let from = kind == 1 ? nil : places[0]
        // One's own gateway, or another one.
        let to = isForRouter && Bool.random(using: &generator) ? places[0] : places[1]
        return Probe(
            number: number, from: from, to: to, isForRouter: isForRouter,
            source: try from.map(host) ?? router(to), destination: try isForRouter ? router(to) : host(to),
            transport: transport, port: transport == .tcp || transport == .udp ? services.pick(&generator) : 0)
    }

    private static func place(_ number: Int) -> FirstPacket.Place {
        number == 0 ? .interface("wan0") : .gateway("e.\(number)")
    }

    var packet: FirstPacket {
        FirstPacket(
            from: from.map(Self.place) ?? .router, to: isForRouter ? .router : Self.place(to), source: source,
            destination: destination, transport: transport, destinationPort: port)
    }

    private static func tap(_ place: Int) -> String { place == 0 ? "pwan" : "p\(place)" }

    var tap: String { from.map(Self.tap) ?? "" }

    func signs(of verdict: Treatment.Verdict) -> [String] {
        switch verdict {
        case .accept where isForRouter: transport == .udp ? ["received"] : ["\(tap) answer"]
        case .accept: ["\(Self.tap(to)) passes"]
        // The router's own programs are told in another way.
        case .reject where from != nil: ["\(tap) \(transport == .tcp ? "reset" : "prohibited")"]
        case .reject, .drop: []
        }
    }

    var message: PolicyVerdictTests.Message {
        let payload =
            switch transport {
            case .tcp:
                TCPHeader(sourcePort: number, destinationPort: port, flags: .syn)
                    .octets([], from: source, to: destination)
            case .udp:
                UDPHeader(sourcePort: number, destinationPort: port).octets([1, 2, 3], from: source, to: destination)
            default: ICMPEcho(identifier: number, sequence: 1).octets([], from: source, to: destination)
            }
        let packet: [UInt8]
        switch (source, destination) {
        case (.v4(let from), .v4(let to)):
            packet = IPv4Header(source: from, destination: to, transport: transport).octets(payload, options: [])
        case (.v6(let from), .v6(let to)):
            packet = IPv6Header(source: from, destination: to, nextHeader: transport).octets(payload)
        default: packet = []
        }
        let header = EthernetHeader(
            destination: Self.mac, source: MACAddress(0x02_00_00_00_00_99), tags: [],
            type: source.isV4 ? .ipv4 : .ipv6)
        let digits = header.octets(packet).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
        return PolicyVerdictTests.Message(
            tap: tap, frame: digits.joined(),
            transport: transport == .tcp ? "tcp" : transport == .udp ? "udp" : "icmp", number: number,
            destination: destination.description, port: port)
    }

    var description: String {
        "\(transport) from \(source) (\(from.map { "\($0)" } ?? "router")) to \(destination) port \(port)"
    }
}
