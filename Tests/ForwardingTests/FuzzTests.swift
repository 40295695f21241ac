import Forwarding
import Packets
import Routing
import TestSupport
import Testing

/// Whatever comes, in whatever world: nothing stops the pipeline, and it changes what it may change or nothing.
@Suite struct FuzzTests {
    private static let frames = TestFrame.samples + VerdictTests.cases.map(\.frame)

    private static let snapshots: [Snapshot] = [
        TestWorld.snapshot, TestWorld.checkingSources(.strict), TestWorld.checkingSources(.loose),
        TestWorld.changed { $0.masquerades = true }, TestWorld.changed { $0.keepsPriority = false },
        VerdictTests.mistaken, Snapshot(World()),
    ]

    @Test(arguments: 0..<4) func anyFrame(_ seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var reached: [Verdict: Int] = [:]
        for round in 0..<40_000 {
            let frame = Self.frames.randomElement(using: &generator)!
            var octets = frame.inRing
            if round % 16 == 0 {
                octets = generator.octets(Int.random(in: 0...100, using: &generator))
            } else {
                octets.mutate(packetAt: 18, using: &generator)
            }
            var tag = frame.tags.first ?? .none
            if Int.random(in: 0..<16, using: &generator) == 0 {
                tag.control = UInt16.random(in: 0 ... .max, using: &generator)
            }
            let metadata = FrameMetadata(
                tag: tag, gsoSize: [0, 0, 0, 0, 0, 0, 1, 1448, .max].randomElement(using: &generator)!)
            let snapshot =
                Bool.random(using: &generator)
                ? TestWorld.snapshot : Self.snapshots.randomElement(using: &generator)!

            let before = octets
            let outcome = process(&octets, metadata, snapshot)
            reached[outcome.verdict, default: 0] += 1
            if outcome.verdict == .forward {
                check(before, octets, metadata, outcome)
            } else if octets != before {
                Issue.record("\(outcome.verdict.name) changed the frame \(before)")
            }
        }
        // Most of what may happen did, and often enough.
        #expect(reached[.forward, default: 0] > 3000)
        #expect(reached.count > Verdict.allCases.count * 3 / 4)
    }

    /// Tables that no control plane would build.
    @Test func anySnapshot() {
        var generator = SeededGenerator(seed: 4094)
        func number(_ generator: inout SeededGenerator) -> UInt32 {
            [0, 1, 2, 3, 5, 0x7fff_ffff, .max - 1, .max].randomElement(using: &generator)!
        }
        var reached: Set<Verdict> = []
        for _ in 0..<2000 {
            let vlans = [1, 100, 200, 300, 4094].map(TestWorld.vlan)
            let targets: [Snapshot.Target] = (0..<Int.random(in: 0...4, using: &generator)).map { _ in
                Bool.random(using: &generator)
                    ? .forward(first: number(&generator), count: number(&generator))
                    : [.connected(vlans[1]), .local, .broadcast, .blackhole, .otherInterface, .kernel].randomElement(
                        using: &generator)!
            }
            let adjacencies = (0..<Int.random(in: 0...4, using: &generator)).map { index in
                Snapshot.Adjacency(
                    vlan: vlans.randomElement(using: &generator)!, destination: MACAddress(generator.next()),
                    source: MACAddress(generator.next()), mtu: UInt16.random(in: 0 ... .max, using: &generator))
            }
            var table = RouteTable()
            for prefix in ["0.0.0.0/0", "172.16.10.0/24", "172.16.20.0/24", "::/0", "fd00:20::/64"] {
                let target = number(&generator)
                if (1...RouteTable.maxTarget).contains(target) {
                    table.insert(TestWorld.prefix(prefix), target: target)
                }
            }
            let gateways = vlans.map {
                Snapshot.Gateway(
                    vlan: $0, mac: TestWorld.mac, mtu: [0, 1500, .max].randomElement(using: &generator)!,
                    sourceCheck: [.none, .loose, .strict].randomElement(using: &generator)!)
            }
            let snapshot = Snapshot(
                gateways: gateways, adjacencies: adjacencies, targets: targets, routes: table.publish(),
                denied: [(vlans[0], vlans[4]), (vlans[1], vlans[1])])
            for frame in TestFrame.samples {
                let (outcome, octets) = process(frame, in: snapshot)
                reached.insert(outcome.verdict)
                if outcome.verdict == .forward {
                    #expect(octets.count == outcome.length && adjacencies.indices.contains(outcome.adjacency))
                } else {
                    #expect(octets == frame.inRing)
                }
            }
        }
        #expect(reached.isSuperset(of: [.forward, .punt(.unknownTarget), .punt(.noRoute), .drop(.blackhole)]))
    }

    // MARK: How

    /// A forwarded frame: what it was, what it may be, and what changed.
    private func check(_ before: [UInt8], _ octets: [UInt8], _ metadata: FrameMetadata, _ outcome: Outcome) {
        func require(_ condition: Bool, _ what: String) {
            if !condition { Issue.record("\(what): \(before) became \(octets)") }
        }
        let after = Array(octets.prefix(outcome.length))
        require(octets.count == before.count && after.count == outcome.length, "length")
        require(metadata.tag.identifier == .vlan && Array(before[4..<10]) == TestWorld.mac.octets, "not for the router")
        require(Array(after[6..<12]) == TestWorld.mac.octets, "source MAC")
        require(after[0..<5] == [2, 0, 0, 0, 2], "not a neighbor's MAC")
        require(
            UInt16(after[14]) << 8 | UInt16(after[15]) == metadata.tag.control & 0xf000 | outcome.vlan
                || after[14] >> 4 == 0, "tag")
        require(after[12..<14] == [0x81, 0] && outcome.vlan != metadata.tag.vid, "VLAN")

        // Only the header's octets 8, 10 and 11 (IPv4) or 7 (IPv6) differ.
        let isIPv4 = after[16..<18] == [8, 0]
        require(before[16..<18] == after[16..<18] && (isIPv4 || after[16..<18] == [0x86, 0xdd]), "type")
        var allowed = Array(before[18..<after.count])
        let lives = isIPv4 ? 8 : 7
        require(allowed[lives] > 1, "time to live")
        allowed[lives] -= 1
        if isIPv4 { allowed.repairChecksum() }
        require(Array(after[18...]) == allowed, "other octets")

        let header = Array(before[18...])
        if isIPv4 {
            require(header[0] == 0x45 && Checksum.of(Array(header[..<20]).span) == 0, "header")
            require(header[6] & 0x3f == 0 && header[7] == 0, "fragment")
            require(Int(header[2]) << 8 | Int(header[3]) == after.count - 18, "total length")
            for octets in [header[12..<16], header[16..<20]] {
                let address = IPAddress(octets: Array(octets))!
                for block in ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"] {
                    require(!TestWorld.prefix(block).contains(address), "\(address)")
                }
                require(![1, 255].contains(header[19]) || header[16] != 172, "the router or a broadcast address")
            }
        } else {
            require(header[0] >> 4 == 6 && ![0, 43, 44, 51, 60].contains(header[6]), "header")
            require(Int(header[4]) << 8 | Int(header[5]) == after.count - 58, "payload length")
            for octets in [header[8..<24], header[24..<40]] {
                let address = IPAddress(octets: Array(octets))!
                for block in ["::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"] {
                    require(!TestWorld.prefix(block).contains(address), "\(address)")
                }
            }
        }
        require(metadata.gsoSize > 0 || before.count - 18 <= 1500, "MTU")
    }
}
