import Forwarding
import Packets
import Routing
import TestSupport
import Testing

/// A table with a few flows, as whoever fills it lays it out.
struct TestTable {
    var v4: [UInt64]
    var v6: [UInt64]
    let seed: UInt64

    init(buckets: Int = 64, seed: UInt64 = 0x1234_5678_9abc_def0) {
        v4 = Array(repeating: 0, count: buckets * FlowLayout.entriesPerBucket * FlowLayout.words(.v4))
        v6 = Array(repeating: 0, count: buckets * FlowLayout.entriesPerBucket * FlowLayout.words(.v6))
        self.seed = seed
    }

    /// - Parameter second: whether in the bucket that the hash's upper half names.
    mutating func insert(_ entry: FlowEntry, second: Bool = false, place: Int = 0) {
        let words = entry.words
        let count = (entry.family == .v4 ? v4.count : v6.count) / words.count / FlowLayout.entriesPerBucket
        let buckets = FlowLayout.buckets(of: words, entry.family, count: count, seed: seed)
        let first = ((second ? buckets.1 : buckets.0) * FlowLayout.entriesPerBucket + place) * words.count
        for (index, word) in words.enumerated() {
            if entry.family == .v4 { v4[first + index] = word } else { v6[first + index] = word }
        }
    }

    func process(_ octets: inout [UInt8], _ metadata: FrameMetadata, _ snapshot: Snapshot) -> Outcome {
        var span = octets.mutableSpan
        return Pipeline.process(&span, metadata, snapshot, FlowTable(v4: v4.span, v6: v6.span, seed: seed))
    }
}

@Suite struct FlowTests {
    private static let snapshot = TestWorld.snapshot
    private static let payloads: [TestFrame.Payload] = [.udp(18), .udp(0), .udp(33), .tcp(7), .tcp(0), .echo(9)]

    /// One packet, before and after, made anew with all of its checksums; and the entry that says so.
    private struct Case {
        var entry: FlowEntry
        var before: [UInt8]
        var after: [UInt8]
    }

    private static func packet(
        _ family: IPFamily, _ payload: TestFrame.Payload, _ from: IPAddress, _ to: IPAddress, _ ports: (UInt16, UInt16),
        timeToLive: UInt8
    ) -> [UInt8] {
        let data = [UInt8](1...200)
        let (transport, octets): (IPProtocol, [UInt8]) =
            switch payload {
            case .udp(let count):
                (
                    .udp,
                    UDPHeader(sourcePort: ports.0, destinationPort: ports.1).octets(
                        Array(data.prefix(count)), from: from, to: to)
                )
            case .tcp(let count):
                (
                    .tcp,
                    TCPHeader(sourcePort: ports.0, destinationPort: ports.1).octets(
                        Array(data.prefix(count)), from: from, to: to)
                )
            case .echo(let count):
                (
                    family == .v4 ? .icmp : .icmpv6,
                    ICMPEcho(identifier: ports.0, sequence: 1).octets(Array(data.prefix(count)), from: from, to: to)
                )
            }
        switch (from, to) {
        case (.v4(let from), .v4(let to)):
            return IPv4Header(source: from, destination: to, transport: transport, timeToLive: timeToLive).octets(
                octets)
        case (.v6(let from), .v6(let to)):
            return IPv6Header(source: from, destination: to, nextHeader: transport, hopLimit: timeToLive).octets(octets)
        default: preconditionFailure("one family")
        }
    }

    private static func random(
        _ family: IPFamily, _ payload: TestFrame.Payload, using generator: inout SeededGenerator
    ) throws -> Case {
        func address() -> IPAddress {
            switch family {
            case .v4: .v4(IPv4Address(10 << 24 | UInt32.random(in: 0..<1 << 24, using: &generator)))
            case .v6:
                .v6(IPv6Address(0xfd << 120 | UInt128(generator.next()) << 32 | UInt128(generator.next() >> 40)))
            }
        }
        func port() -> UInt16 {
            [0, 1, .max, .random(in: 0 ... .max, using: &generator)].randomElement(using: &generator)!
        }
        let isEcho = if case .echo = payload { true } else { false }
        let echo: UInt16 = family == .v4 ? 8 << 8 : 128 << 8
        let (from, to, newFrom, newTo) = (address(), address(), address(), address())
        let ports = (port(), isEcho ? echo : port())
        let newPorts = (port(), isEcho ? echo : port())
        let way = try #require(snapshot.way(to: IPAddress(family == .v4 ? "172.16.20.11" : "fd00:20::11")!))
        let transport: IPProtocol =
            switch payload {
            case .udp: .udp
            case .tcp: .tcp
            case .echo: family == .v4 ? .icmp : .icmpv6
            }
        return Case(
            entry: FlowEntry(
                source: from, destination: to, transport: transport, sourcePort: ports.0, destinationPort: ports.1,
                vlan: TestWorld.vlan(100), newSource: newFrom, newDestination: newTo, newSourcePort: newPorts.0,
                newDestinationPort: newPorts.1, way: way.target),
            before: packet(family, payload, from, to, ports, timeToLive: 64),
            after: packet(family, payload, newFrom, newTo, newPorts, timeToLive: 63))
    }

    private static func frame(_ packet: [UInt8], _ family: IPFamily, vlan: UInt16 = 100) -> TestFrame {
        TestFrame(tags: [VLANTag(TestWorld.vlan(vlan))], type: family == .v4 ? .ipv4 : .ipv6, packet: packet)
    }

    /// What comes out is the packet that somebody with the other addresses would have made.
    @Test(arguments: [IPFamily.v4, .v6]) func translated(_ family: IPFamily) throws {
        var generator = SeededGenerator(seed: 3022)
        for round in 0..<3000 {
            let payload = Self.payloads[round % Self.payloads.count]
            let sample = try Self.random(family, payload, using: &generator)
            var table = TestTable()
            table.insert(sample.entry, second: round % 2 == 1, place: round / 2 % 8)
            let frame = Self.frame(sample.before, family)
            var octets = frame.inRing
            let outcome = table.process(&octets, FrameMetadata(tag: frame.tags[0]), Self.snapshot)
            #expect(outcome.verdict == .forward && outcome.vlan == 200 && outcome.flow >= 0)
            let expected = Self.frame(sample.after, family, vlan: 200).with {
                ($0.destination, $0.source) = (MACAddress(0x02_00_00_00_02_11), TestWorld.mac)
            }
            #expect(Array(octets.prefix(outcome.length)) == expected.octets, "\(sample.entry)")
        }
    }

    /// A checksum that the hardware is yet to make covers the pseudo-header: it becomes the other pseudo-header's.
    @Test(arguments: [IPFamily.v4, .v6]) func partialChecksum(_ family: IPFamily) throws {
        var generator = SeededGenerator(seed: 1624)
        let header = family == .v4 ? 20 : 40
        /// Puts the pseudo-header's sum into the packet's checksum.
        func makePartial(_ packet: inout [UInt8], _ offset: Int) {
            let addresses = family == .v4 ? packet[12..<20] : packet[8..<40]
            let transport = UInt64(packet[family == .v4 ? 9 : 6])
            let sum = ~Checksum.of(Array(addresses).span, adding: transport + UInt64(packet.count - header))
            packet[header + offset] = UInt8(sum >> 8)
            packet[header + offset + 1] = UInt8(sum & 0xff)
        }
        for round in 0..<1000 {
            let isTCP = round % 2 == 0
            let sample = try Self.random(family, isTCP ? .tcp(9) : .udp(9), using: &generator)
            var (before, after) = (sample.before, sample.after)
            makePartial(&before, isTCP ? 16 : 6)
            makePartial(&after, isTCP ? 16 : 6)
            var table = TestTable()
            table.insert(sample.entry)
            let frame = Self.frame(before, family)
            var octets = frame.inRing
            let outcome = table.process(
                &octets, FrameMetadata(tag: frame.tags[0], checksumStart: UInt16(14 + header)), Self.snapshot)
            #expect(Array(octets[18..<outcome.length]) == after)
            // Where the hardware is to make another one, of a packet inside, this one is whole.
            octets = Self.frame(sample.before, family).inRing
            _ = table.process(
                &octets, FrameMetadata(tag: frame.tags[0], checksumStart: UInt16(14 + header + 50)), Self.snapshot)
            #expect(Array(octets[18..<outcome.length]) == sample.after)
        }
    }

    @Test func aDatagramWithoutChecksumStaysWithoutOne() throws {
        var generator = SeededGenerator(seed: 768)
        let sample = try Self.random(.v4, .udp(9), using: &generator)
        var (before, after) = (sample.before, sample.after)
        (before[26], before[27], after[26], after[27]) = (0, 0, 0, 0)
        var table = TestTable()
        table.insert(sample.entry)
        var octets = Self.frame(before, .v4).inRing
        let outcome = table.process(&octets, FrameMetadata(tag: VLANTag(TestWorld.vlan(100))), Self.snapshot)
        #expect(Array(octets[18..<outcome.length]) == after)
    }

    /// What is like a flow but for one thing is none.
    @Test(arguments: [IPFamily.v4, .v6]) func strangers(_ family: IPFamily) throws {
        var generator = SeededGenerator(seed: 99)
        var builder = SnapshotBuilder(gateways: [
            Snapshot.Gateway(vlan: TestWorld.vlan(100), mac: TestWorld.mac),
            Snapshot.Gateway(vlan: TestWorld.vlan(300), mac: TestWorld.mac),
        ])
        let tracking = builder.snapshot(isStateless: false)
        for payload in Self.payloads {
            let sample = try Self.random(family, payload, using: &generator)
            let changes: [(inout FlowEntry) -> Void] = [
                { $0.source = $0.newDestination }, { $0.destination = $0.newSource }, { $0.sourcePort ^= 1 },
                { $0.destinationPort ^= 0x100 }, { $0.transport = $0.transport == .tcp ? .udp : .tcp },
                { $0.vlan = TestWorld.vlan(300) },
            ]
            for (number, change) in changes.enumerated() {
                var entry = sample.entry
                change(&entry)
                var table = TestTable()
                table.insert(entry)
                let frame = Self.frame(sample.before, family)
                var octets = frame.inRing
                let outcome = table.process(&octets, FrameMetadata(tag: frame.tags[0]), tracking)
                #expect(outcome.verdict == .punt(.unknownFlow), "\(number): \(outcome)")
                #expect(octets == frame.inRing)
            }
        }
    }

    @Test func wordsThereAndBack() throws {
        var generator = SeededGenerator(seed: 5)
        for family in [IPFamily.v4, .v6] {
            for payload in Self.payloads {
                let entry = try Self.random(family, payload, using: &generator).entry
                #expect(FlowEntry(words: entry.words, family) == entry)
                #expect(entry.words.count == FlowLayout.words(family))
            }
            #expect(FlowEntry(words: [1, 2, 3], family) == nil)
        }
    }

    /// Whatever frame meets whatever table: nothing stops, and what is not forwarded does not change.
    @Test func anyTable() throws {
        var generator = SeededGenerator(seed: 17)
        for _ in 0..<20_000 {
            let family: IPFamily = Bool.random(using: &generator) ? .v4 : .v6
            var sample = try Self.random(
                family, Self.payloads.randomElement(using: &generator)!, using: &generator)
            var table = TestTable(buckets: 1)
            sample.entry.way = [0, 1, 2, 3, 9, .max].randomElement(using: &generator)!
            for place in 0..<FlowLayout.entriesPerBucket { table.insert(sample.entry, place: place) }
            var octets = Self.frame(sample.before, family).inRing
            octets.mutate(packetAt: 18, using: &generator)
            let before = octets
            let outcome = table.process(
                &octets,
                FrameMetadata(
                    tag: VLANTag(TestWorld.vlan(100)),
                    checksumStart: [0, 34, 54, .max].randomElement(using: &generator)!),
                Self.snapshot)
            if outcome.verdict != .forward, octets != before {
                Issue.record("\(outcome.verdict.name) changed \(before)")
            }
        }
        // Sizes that nobody makes.
        var octets = TestFrame.ipv4().inRing
        for count in [0, 1, 15, 16, 17, 48, 160] {
            var span = octets.mutableSpan
            let words = Array(repeating: UInt64.max, count: count)
            let outcome = Pipeline.process(
                &span, FrameMetadata(tag: VLANTag(TestWorld.vlan(100))), Self.snapshot,
                FlowTable(v4: words.span, v6: words.span, seed: 1))
            #expect(outcome.flow < 0)
            octets = TestFrame.ipv4().inRing
        }
    }
}
