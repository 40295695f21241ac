import Forwarding
import Packets
import Routing
import TestSupport
import Testing

/// Runs one frame: the outcome, and what is sent then, or the octets as they are afterwards.
func process(
    _ frame: TestFrame, gsoSize: UInt16 = 0, in snapshot: Snapshot = TestWorld.snapshot
) -> (outcome: Outcome, octets: [UInt8]) {
    var octets = frame.inRing
    let outcome = process(&octets, FrameMetadata(tag: frame.tags.first ?? .none, gsoSize: gsoSize), snapshot)
    return (outcome, outcome.verdict == .forward ? Array(octets.prefix(outcome.length)) : octets)
}

func process(_ octets: inout [UInt8], _ metadata: FrameMetadata, _ snapshot: Snapshot) -> Outcome {
    var span = octets.mutableSpan
    return Pipeline.process(&span, metadata, snapshot)
}

@Suite struct ForwardTests {
    private let next = MACAddress(0x02_00_00_00_02_11)

    @Test func ipv4() {
        let result = process(.ipv4())
        let expected = TestFrame.ipv4(vlan: 200, timeToLive: 63).with {
            ($0.destination, $0.source) = (next, TestWorld.mac)
        }
        #expect(result.outcome.verdict == .forward && result.outcome.vlan == 200)
        #expect(result.octets == expected.octets)
        #expect(TestWorld.snapshot.neighbor(result.outcome.adjacency)?.address == IPAddress("172.16.20.11"))
    }

    @Test func ipv6() {
        let result = process(.ipv6(payload: .echo(8)))
        let expected = TestFrame.ipv6(vlan: 200, hopLimit: 63, payload: .echo(8)).with {
            ($0.destination, $0.source) = (next, TestWorld.mac)
        }
        #expect(result.outcome.verdict == .forward && result.outcome.vlan == 200)
        #expect(result.octets == expected.octets)
    }

    @Test func overARouter() {
        for (frame, hop) in [
            (TestFrame.ipv4(to: "10.9.255.255"), "172.16.20.2"), (.ipv6(to: "fd00:9:1:2:3:4:5:6"), "fe80::2"),
        ] {
            let result = process(frame)
            #expect(result.outcome.verdict == .forward)
            #expect(TestWorld.snapshot.neighbor(result.outcome.adjacency)?.address == IPAddress(hop))
            #expect(Array(result.octets.prefix(6)) == [2, 0, 0, 0, 2, 2])
        }
    }

    /// Linux cuts off what follows the IP packet (`pskb_trim_rcsum`): padding, or what somebody hides there.
    @Test(arguments: [TestFrame.ipv4(payload: .udp(0)), .ipv6(payload: .udp(0))])
    func padding(_ frame: TestFrame) {
        let padded = frame.with { $0.packet += [UInt8](repeating: 0xaa, count: 18) }
        #expect(process(padded).octets == process(frame).octets)
        #expect(process(padded).outcome.length == 18 + frame.packet.count)
    }

    /// Of the tag only the VLAN changes, as with the driver `ebpf`; a VLAN device of the kernel starts from 0.
    @Test func priority() {
        let frame = TestFrame.ipv4().with { $0.tags = [VLANTag(VLANID(100)!, priority: 0xf000)] }
        #expect(Array(process(frame).octets[12..<16]) == [0x81, 0x00, 0xf0, 200])
        let deviceLike = TestWorld.changed { $0.keepsPriority = false }
        #expect(Array(process(frame, in: deviceLike).octets[12..<16]) == [0x81, 0x00, 0x00, 200])
    }

    /// All packets between two addresses take the same way, and each way gets its weight's share.
    @Test func equalCostPaths() {
        var counts: [IPAddress?: Int] = [:]
        for host in 0..<4000 {
            let frame = TestFrame.ipv4(to: "10.10.\(host / 256).\(host % 256)")
            let hop = TestWorld.snapshot.neighbor(process(frame).outcome.adjacency)?.address
            let other = TestFrame.ipv4(to: "10.10.\(host / 256).\(host % 256)", timeToLive: 9, payload: .tcp(7))
            #expect(TestWorld.snapshot.neighbor(process(other).outcome.adjacency)?.address == hop)
            counts[hop, default: 0] += 1
        }
        // 1000 ± 5 standard deviations of 27.
        #expect((863...1137).contains(counts[IPAddress("172.16.20.2")] ?? 0), "\(counts)")
        #expect(counts[IPAddress("172.16.20.2")]! + (counts[IPAddress("172.16.20.3")] ?? 0) == 4000, "\(counts)")
    }

    @Test func superFrames() {
        func mtu(_ mtu: UInt16) -> Snapshot {
            TestWorld.changed { world in world.gateways[1].mtu = mtu }
        }
        // 40 octets of headers and 1448 of payload in each segment.
        let tcp = TestFrame.ipv4(payload: .tcp(30_000))
        let whole = process(tcp, gsoSize: 1448, in: mtu(1488))
        #expect(whole.outcome.verdict == .forward && whole.outcome.length == 18 + 30_040)
        #expect(process(tcp, gsoSize: 1448, in: mtu(1487)).outcome.verdict == .punt(.tooBig))
        #expect(process(.ipv6(payload: .tcp(30_000)), gsoSize: 1440, in: mtu(1500)).outcome.verdict == .forward)
        #expect(process(.ipv6(payload: .tcp(30_000)), gsoSize: 1441, in: mtu(1500)).outcome.verdict == .punt(.tooBig))
        // Options belong to every segment's header.
        let withOptions = tcp.patched { $0[32] = 8 << 4 }
        #expect(process(withOptions, gsoSize: 1448, in: mtu(1500)).outcome.verdict == .forward)
        #expect(process(withOptions, gsoSize: 1448, in: mtu(1499)).outcome.verdict == .punt(.tooBig))
        // One segment that happens to be marked.
        #expect(process(.ipv4(payload: .tcp(100)), gsoSize: 9000).outcome.verdict == .forward)
    }

    @Test func aFullFrame() {
        #expect(process(.ipv4(payload: .udp(1472))).outcome.verdict == .forward)
        #expect(process(.ipv6(payload: .udp(1452))).outcome.verdict == .forward)
    }
}

/// Frames that are not forwarded, and why.
@Suite struct VerdictTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var what: String
        var verdict: Verdict
        var frame: TestFrame
        var gsoSize: UInt16 = 0
        var snapshot = TestWorld.snapshot

        init(
            _ verdict: Verdict, _ what: String, _ frame: TestFrame, gsoSize: UInt16 = 0,
            in snapshot: Snapshot = TestWorld.snapshot
        ) {
            (self.verdict, self.what, self.frame, self.gsoSize, self.snapshot) = (
                verdict, what, frame, gsoSize, snapshot
            )
        }

        var testDescription: String { "\(verdict.name): \(what)" }
    }

    static let cases: [Case] = link + header + addresses + sources + routes + ways

    static let link: [Case] = [
        Case(.punt(.untagged), "no tag", .ipv4().with { $0.tags = [] }),
        Case(.punt(.untagged), "VLAN id 0", .ipv4().with { $0.tags = [VLANTag(identifier: .vlan, control: 0x6000)] }),
        Case(.punt(.serviceTag), "802.1ad", .ipv4().with { $0.tags[0].identifier = .serviceVLAN }),
        Case(.punt(.otherVLAN), "VLAN 101", .ipv4(vlan: 101)),
        Case(.punt(.otherVLAN), "VLAN id 4095", .ipv4().with { $0.tags[0].control = 0xffff }),
        Case(.punt(.groupDestination), "broadcast", .ipv4().with { $0.destination = MACAddress(0xffff_ffff_ffff) }),
        Case(.punt(.groupDestination), "multicast", .ipv4().with { $0.destination = MACAddress(0x0100_5e00_0001) }),
        Case(
            .punt(.otherDestination), "another station", .ipv4().with { $0.destination = MACAddress(0x0200_0000_0002) }),
        Case(.punt(.innerTag), "QinQ", .ipv4().with { $0.tags.append(VLANTag(VLANID(200)!)) }),
        Case(.punt(.innerTag), "802.1ad within", .ipv4().with { $0.type = .serviceVLAN }),
        Case(.punt(.notIP), "ARP", .ipv4().with { $0.type = .arp }),
        Case(.punt(.notIP), "a length", .ipv4().with { $0.type = EtherType(46) }),
    ]

    static let header: [Case] = [
        Case(.drop(.ipHeaderTruncated), "19 octets", .ipv4().with { $0.packet.removeLast($0.packet.count - 19) }),
        Case(.drop(.ipHeaderTruncated), "none", .ipv4().with { $0.packet = [] }),
        Case(.drop(.ipHeaderTruncated), "39 octets", .ipv6().with { $0.packet.removeLast($0.packet.count - 39) }),
        Case(.drop(.ipVersion), "6 as IPv4", .ipv4().patched { $0[0] = 0x65 }),
        Case(.drop(.ipVersion), "4 as IPv6", .ipv6().patched { $0[0] = 0x45 }),
        Case(.drop(.ipHeaderLength), "16 octets", .ipv4().patched { $0[0] = 0x44 }),
        Case(.punt(.options), "router alert", .ipv4(options: [0x94, 4, 0, 0])),
        Case(.punt(.options), "options beyond the frame", .ipv4().patched { $0[0] = 0x4f }),
        Case(.drop(.ipChecksum), "one bit", .ipv4().with { $0.packet[11] ^= 1 }),
        Case(.drop(.ipTotalLength), "19", .ipv4().patched { $0[2...3] = [0, 19] }),
        Case(.drop(.ipTotalLength), "0", .ipv4().patched { $0[2...3] = [0, 0] }),
        Case(.drop(.ipTruncated), "IPv4, one octet short", .ipv4().with { $0.packet.removeLast() }),
        Case(.drop(.ipTruncated), "IPv6, one octet short", .ipv6().with { $0.packet.removeLast() }),
        Case(.punt(.fragment), "the first", .ipv4 { $0.fragmentation = IPv4Header.moreFragments }),
        Case(.punt(.fragment), "the last", .ipv4 { $0.fragmentation = 1 }),
        Case(.punt(.fragment), "IPv6", .ipv6 { $0.nextHeader = .fragment }),
        Case(.punt(.extensionHeader), "hop-by-hop", .ipv6 { $0.nextHeader = .hopByHop }),
        Case(.punt(.extensionHeader), "jumbo", .ipv6 { $0.nextHeader = .hopByHop }.patched { $0[4...5] = [0, 0] }),
        Case(.punt(.extensionHeader), "routing", .ipv6 { $0.nextHeader = .routing }),
        Case(.punt(.extensionHeader), "destination options", .ipv6 { $0.nextHeader = .destinationOptions }),
        Case(.punt(.extensionHeader), "authentication", .ipv6 { $0.nextHeader = .authentication }),
        Case(.punt(.timeToLive), "1", .ipv4(timeToLive: 1)),
        Case(.punt(.timeToLive), "0", .ipv4(timeToLive: 0)),
        Case(.punt(.timeToLive), "hop limit 1", .ipv6(hopLimit: 1)),
        Case(.punt(.timeToLive), "hop limit 0", .ipv6(hopLimit: 0)),
        Case(.punt(.superFrame), "UDP, or a tunnel in UDP", .ipv4(payload: .udp(3000)), gsoSize: 1448),
        Case(.punt(.superFrame), "neither TCP nor UDP", .ipv6(payload: .echo(3000)), gsoSize: 1448),
        Case(
            .punt(.superFrame), "more than 64 KiB", .ipv4(payload: .tcp(100)).patched { $0[2...3] = [0, 0] },
            gsoSize: 50),
        Case(.punt(.superFrame), "padded", .ipv4(payload: .tcp(3000)).with { $0.packet.append(0) }, gsoSize: 1448),
        Case(.punt(.superFrame), "no TCP header", .ipv4(payload: .udp(0)) { $0.transport = .tcp }, gsoSize: 1448),
        Case(
            .punt(.superFrame), "TCP header of 16", .ipv4(payload: .tcp(9)).patched { $0[32] = 4 << 4 }, gsoSize: 1448),
    ]

    static let addresses: [Case] = [
        // RFC 1812 §5.3.7 and ip_route_input_slow
        Case(.drop(.sourceAddress), "multicast", .ipv4(from: "224.0.0.1")),
        Case(.drop(.sourceAddress), "limited broadcast", .ipv4(from: "255.255.255.255")),
        Case(.drop(.sourceAddress), "this host", .ipv4(from: "0.0.0.0")),
        Case(.drop(.destinationAddress), "this host", .ipv4(to: "0.0.0.0")),
        Case(.punt(.specialSource), "this network", .ipv4(from: "0.1.2.3")),
        Case(.punt(.specialDestination), "this network", .ipv4(to: "0.1.2.3")),
        Case(.punt(.specialDestination), "all zero", .ipv4(from: "0.0.0.0", to: "0.0.0.0")),
        Case(.punt(.specialDestination), "DHCP", .ipv4(from: "0.0.0.0", to: "255.255.255.255")),
        Case(.punt(.specialDestination), "limited broadcast", .ipv4(to: "255.255.255.255")),
        Case(.punt(.specialDestination), "multicast", .ipv4(to: "239.255.255.255")),
        Case(.punt(.specialDestination), "class E", .ipv4(to: "240.0.0.1")),
        Case(.punt(.specialDestination), "loopback", .ipv4(to: "127.0.0.1")),
        Case(.punt(.specialDestination), "link-local", .ipv4(to: "169.254.1.1")),
        Case(.punt(.specialSource), "loopback", .ipv4(from: "127.255.255.255")),
        Case(.punt(.specialSource), "link-local", .ipv4(from: "169.254.255.255")),
        Case(.punt(.specialSource), "class E", .ipv4(from: "255.255.255.254")),
        // ip6_rcv_core and ip6_forward
        Case(.drop(.sourceAddress), "IPv6 multicast", .ipv6(from: "ff02::1")),
        Case(.drop(.sourceAddress), "IPv6 loopback", .ipv6(from: "::1")),
        Case(.punt(.specialSource), "IPv4 in IPv6's form", .ipv6(from: "::ffff:172.16.10.10")),
        Case(.drop(.destinationAddress), "IPv6 loopback", .ipv6(to: "::1")),
        Case(.punt(.specialSource), "unspecified", .ipv6(from: "::")),
        Case(.punt(.specialSource), "IPv6 link-local", .ipv6(from: "fe80::10")),
        Case(.punt(.specialDestination), "unspecified", .ipv6(to: "::")),
        Case(.punt(.specialDestination), "IPv6 link-local", .ipv6(to: "febf::10")),
        Case(.punt(.specialDestination), "IPv6 multicast", .ipv6(to: "ff0e::1")),
        Case(.punt(.specialDestination), "IPv4 in IPv6's form", .ipv6(to: "::ffff:172.16.20.11")),
    ]

    // fib_validate_source
    static let sources: [Case] = {
        let strict = TestWorld.checkingSources(.strict)
        let loose = TestWorld.checkingSources(.loose)
        return [
            Case(.drop(.sourceOwn), "the gateway's", .ipv4(from: "172.16.10.1")),
            Case(.drop(.sourceOwn), "another gateway's", .ipv4(from: "172.16.30.1")),
            Case(.forward, "unknown", .ipv4(from: "192.0.2.1")),
            Case(.drop(.sourceUnreachable), "unknown", .ipv4(from: "192.0.2.1"), in: strict),
            Case(.drop(.sourceUnreachable), "unknown", .ipv4(from: "192.0.2.1"), in: loose),
            Case(.forward, "of another VLAN", .ipv4(from: "172.16.30.12")),
            Case(.drop(.sourceUnreachable), "of another VLAN", .ipv4(from: "172.16.30.12"), in: strict),
            Case(.drop(.sourceUnreachable), "of another VLAN, not known", .ipv4(from: "172.16.30.77"), in: strict),
            Case(.forward, "of another VLAN", .ipv4(from: "172.16.30.12"), in: loose),
            Case(.forward, "of this VLAN", .ipv4(from: "172.16.10.10"), in: strict),
            Case(.forward, "of this VLAN, not known", .ipv4(from: "172.16.10.77"), in: strict),
            Case(.drop(.sourceUnreachable), "of another interface", .ipv4(from: "10.16.0.1"), in: strict),
            Case(.forward, "of another interface", .ipv4(from: "10.16.0.1"), in: loose),
            Case(.punt(.sourceUndecided), "of a route that nobody knows", .ipv4(from: "10.15.0.1"), in: strict),
            Case(.punt(.sourceUndecided), "of a route that nobody knows", .ipv4(from: "10.15.0.1"), in: loose),
            Case(.forward, "of a route that nobody knows", .ipv4(from: "10.15.0.1")),
            Case(.forward, "of another interface", .ipv4(from: "10.16.0.1")),
            Case(.forward, "behind a blackhole", .ipv4(from: "10.12.0.1")),
            Case(.drop(.sourceUnreachable), "behind a blackhole", .ipv4(from: "10.12.0.1"), in: loose),
            Case(.forward, "a subnet's broadcast address", .ipv4(from: "172.16.10.255")),
            Case(.drop(.sourceAddress), "a subnet's broadcast address", .ipv4(from: "172.16.10.255"), in: loose),
            // The kernel looks for the destination first, and answers.
            Case(.punt(.noRoute), "and no source", .ipv4(from: "192.0.2.1", to: "192.0.2.2"), in: strict),
            // Linux has no such check for IPv6.
            Case(.forward, "IPv6, unknown", .ipv6(from: "2001:db8::1"), in: strict),
        ]
    }()

    static let routes: [Case] = [
        Case(.punt(.noRoute), "none", .ipv4(to: "192.0.2.1")),
        Case(.punt(.noRoute), "none", .ipv6(to: "2001:db8::1")),
        Case(.punt(.local), "this gateway", .ipv4(to: "172.16.10.1")),
        Case(.punt(.local), "another gateway", .ipv6(to: "fd00:20::1")),
        Case(.punt(.broadcast), "of another VLAN", .ipv4(to: "172.16.20.255")),
        Case(.punt(.broadcast), "of this VLAN", .ipv4(to: "172.16.10.255")),
        Case(.punt(.unresolved), "a host", .ipv4(to: "172.16.20.77")),
        Case(.punt(.unresolved), "a host", .ipv6(to: "fd00:20::77")),
        Case(.punt(.unresolved), "a router", .ipv4(to: "10.11.0.1")),
        Case(.drop(.blackhole), "IPv4", .ipv4(to: "10.12.0.1")),
        Case(.drop(.blackhole), "IPv6", .ipv6(to: "fd00:12::1")),
        Case(.punt(.unreachable), "route", .ipv4(to: "10.13.0.1")),
        Case(.punt(.prohibited), "route", .ipv4(to: "10.14.0.1")),
        Case(.punt(.otherRoute), "a kind of route that nobody knows", .ipv4(to: "10.15.0.1")),
        Case(.punt(.otherInterface), "uplink", .ipv4(to: "10.16.0.1")),
    ]

    static let ways: [Case] = [
        Case(.punt(.sameVLAN), "a neighbor", .ipv4(to: "172.16.10.13")),
        Case(.punt(.sameVLAN), "through a router", .ipv4(vlan: 200, from: "172.16.20.11", to: "10.9.0.1")),
        Case(.punt(.denied), "from here to there", .ipv4(vlan: 300, from: "172.16.30.12")),
        Case(.punt(.denied), "from there to here", .ipv4(vlan: 200, from: "172.16.20.11", to: "172.16.30.12")),
        Case(.forward, "not denied", .ipv4(vlan: 300, from: "172.16.30.12", to: "172.16.10.10")),
        Case(.punt(.masqueraded), "IPv4", .ipv4(), in: TestWorld.changed { $0.masquerades = true }),
        Case(.forward, "IPv6 is not masqueraded", .ipv6(), in: TestWorld.changed { $0.masquerades = true }),
        Case(
            .punt(.tooBig), "one octet more than in", .ipv4(payload: .udp(1473)),
            in: TestWorld.changed { $0.gateways[1].mtu = 9000 }),
        Case(
            .punt(.tooBig), "one more than out", .ipv4(payload: .udp(1472)),
            in: TestWorld.changed { $0.gateways[1].mtu = 1499 }),
        Case(
            .punt(.tooBig), "padding counts on the way in",
            .ipv4().with { $0.packet += [UInt8](repeating: 0, count: 1500) }),
        Case(.punt(.unknownTarget), "a route of a table from elsewhere", .ipv4(), in: mistaken),
    ]

    /// Its routes name targets that it does not have.
    static let mistaken: Snapshot = {
        var table = RouteTable()
        table.insert(TestWorld.prefix("0.0.0.0/0"), target: 7)
        return Snapshot(
            gateways: TestWorld.world.gateways, adjacencies: [], targets: [.kernel], routes: table.publish())
    }()

    @Test(arguments: cases) func verdict(_ expected: Case) {
        let result = process(expected.frame, gsoSize: expected.gsoSize, in: expected.snapshot)
        #expect(result.outcome.verdict == expected.verdict)
        if expected.verdict != .forward { #expect(result.octets == expected.frame.inRing, "no octet changes") }
    }

    /// Each of many denied pairs is found, in both directions, and no other.
    @Test func manyDeniedPairs() {
        let denied = stride(from: UInt16(2), to: 60, by: 3).map(TestWorld.vlan)
        let snapshot = TestWorld.changed { world in
            for id in UInt16(1)...60 {
                world.gateways.append(Snapshot.Gateway(vlan: TestWorld.vlan(id), mac: TestWorld.mac))
                let address = try! InterfaceAddress("10.100.\(id).1/24")
                world.routes += World.Route.implied(by: address, in: TestWorld.vlan(id))
                world.neighbors.append(TestWorld.neighbor("10.100.\(id).2", id, UInt64(id)))
            }
            world.denied = denied.shuffled().map { (TestWorld.vlan(100), $0) }
        }
        for id in UInt16(1)...60 {
            let out = process(.ipv4(to: "10.100.\(id).2"), in: snapshot).outcome.verdict
            let back = process(.ipv4(vlan: id, from: "10.100.\(id).2", to: "172.16.10.10"), in: snapshot).outcome
                .verdict
            let expected: Verdict = denied.contains(TestWorld.vlan(id)) ? .punt(.denied) : .forward
            #expect(out == expected && back == expected, "VLAN \(id)")
        }
    }

    @Test func shortFrames() {
        let whole = TestFrame.ipv4().inRing
        for length in 0..<18 {
            var octets = Array(whole.prefix(length))
            let outcome = process(&octets, FrameMetadata(tag: VLANTag(VLANID(100)!)), TestWorld.snapshot)
            #expect(outcome.verdict == .punt(.shortFrame))
            #expect(octets == Array(whole.prefix(length)))
        }
    }

    /// No reason stands there for nothing.
    @Test func everyVerdictIsReached() {
        let reached = Set(Self.cases.map { process($0.frame, gsoSize: $0.gsoSize, in: $0.snapshot).outcome.verdict })
        // And what only a world with flows has.
        #expect(Set(Verdict.allCases).subtracting(reached) == [.punt(.shortFrame), .punt(.unknownFlow)])
    }

    @Test func names() {
        for (index, verdict) in Verdict.allCases.enumerated() { #expect(verdict.index == index) }
        let names = Verdict.allCases.map(\.name)
        #expect(Set(names).count == names.count)
        #expect(names.allSatisfy { $0.allSatisfy { $0 == "_" || $0.isLowercase } })
        #expect(Set(Verdict.allCases.map(\.description)).count == names.count)
    }
}
