import Forwarding
import Foundation
import Packets

// What is done with one packet, part by part and as a whole. Packets pass through the caches as in a ring: one slot after the other.

private let count = 256
private let hosts = 16

/// Octets from one frame to the next in a ring.
private let slot = 2048

/// Nanoseconds for each packet.
func packetCases() throws -> [Case] {
    let network = try Network()
    let snapshot = network.snapshot
    let v4 = Frames(.v4, connections: count, apart: slot)
    let v6 = Frames(.v6, connections: count, apart: slot)
    let few = Flows(connections: count, network)
    let many = Flows(connections: 1 << 20, network)
    let metadata = FrameMetadata(tag: VLANTag(from))
    return [
        Case(name: "copy of a frame, which is in each of the pipelines below") {
            written(v4) { sink.sum &+= UInt64($0[Pipeline.room]) }
        },
        Case(name: "parse: Ethernet, IPv4, header checksum") {
            timed(of: v4) { slots, start in
                let octets = slots.span.extracting(start + Pipeline.room..<start + Pipeline.room + 60)
                guard let ethernet = EthernetView(octets), let packet = IPv4View(ethernet.payload) else { return }
                sink.sum &+= UInt64(packet.destination.rawValue) &+ (packet.hasValidChecksum ? 1 : 0)
            }
        },
        Case(name: "parse: Ethernet, IPv6") {
            timed(of: v6) { slots, start in
                let octets = slots.span.extracting(start + Pipeline.room..<start + Pipeline.room + 74)
                guard let ethernet = EthernetView(octets), let packet = IPv6View(ethernet.payload) else { return }
                sink.sum &+= packet.destination.low
            }
        },
        Case(name: "checksum of 20 octets") {
            timed(of: v4) { slots, start in
                sink.sum &+= UInt64(Checksum.of(slots.span.extracting(start + 18..<start + 38)))
            }
        },
        Case(name: "checksum of 1,500 octets") {
            timed(of: v4) { slots, start in
                sink.sum &+= UInt64(Checksum.of(slots.span.extracting(start + 18..<start + 1518)))
            }
        },
        Case(name: "checksum updated for one word") {
            timed(of: v4) { slots, start in
                sink.sum &+= UInt64(Checksum.updated(UInt16(truncatingIfNeeded: sink.sum), from: 0x4011, to: 0x3f11))
            }
        },
        Case(name: "pipeline, by the destination, IPv4, \(hosts) × \(hosts) hosts") {
            piped(v4, metadata, snapshot, nil)
        },
        Case(name: "pipeline, by the destination, IPv6, \(hosts) × \(hosts) hosts") {
            piped(v6, metadata, snapshot, nil)
        },
        Case(name: "pipeline, translated connections, IPv4, \(count)") {
            piped(few.frames, metadata, snapshot, few)
        },
        Case(name: "pipeline, translated connections, IPv4, 1,048,576") {
            piped(many.frames, metadata, snapshot, many)
        },
    ]
}

func packetTable(_ results: [Result]) -> String {
    table(
        ["what", "ns/packet", "fastest round"],
        results.map { [$0.name, $0.median.text(1), ($0.rounds.min() ?? 0).text(1)] })
}

/// What the cases make, so that none of it can be left out.
private final class Sink: @unchecked Sendable {
    var sum: UInt64 = 0
}
private let sink = Sink()

private let mac = MACAddress(0x02_00_00_00_00_01)
private let (from, to) = (VLANID(100)!, VLANID(200)!)

private func host(_ family: IPFamily, _ vlan: VLANID, _ number: Int) -> IPAddress {
    let network = vlan == from ? 10 : 20
    return family == .v4
        ? .v4(IPv4Address(0xac10_0000 | UInt32(network) << 8 | UInt32(16 + number)))
        : .v6(IPv6Address(0xfd00 << 112 | UInt128(network) << 96 | UInt128(16 + number)))
}

/// Two VLANs with hosts in them, and the number of the way to each host of the second.
private struct Network {
    let snapshot: Snapshot
    private(set) var ways: [IPAddress: UInt32] = [:]

    init() throws {
        var builder = SnapshotBuilder(gateways: [from, to].map { Snapshot.Gateway(vlan: $0, mac: mac) })
        for (vlan, addresses) in [
            (from, ["172.16.10.1/24", "fd00:a::1/64"]), (to, ["172.16.20.1/24", "fd00:14::1/64"]),
        ] {
            for address in addresses {
                for route in World.Route.implied(by: try InterfaceAddress(address), in: vlan) {
                    builder.setRoute(route.prefix, route.kind)
                }
            }
            for (family, number) in IPFamily.allCases.flatMap({ family in (0..<hosts).map { (family, $0) } }) {
                let address = host(family, vlan, number)
                builder.setNeighbor(address, in: vlan, MACAddress(0x02_00_00_00_01_00 | UInt64(number)))
                ways[address] = builder.setRoute(
                    IPPrefix(address, length: family.width), .unicast([World.NextHop(via: address, vlan: vlan)]))
            }
        }
        snapshot = builder.snapshot()
    }
}

/// Frames beside each other, each with room for its tag in front; 64 octets with their tag and frame check sequence, or what IPv6 needs.
private struct Frames {
    let octets: [UInt8]
    let stride: Int
    /// Without room.
    let length: Int

    init(_ family: IPFamily, connections: Int, apart stride: Int) {
        var all = [UInt8](repeating: 0, count: connections * stride)
        var length = 0
        for number in 0..<connections {
            let source = host(family, from, number % hosts)
            let destination = host(family, to, number / hosts % hosts)
            let datagram = UDPHeader(sourcePort: port(number), destinationPort: 53)
                .octets([UInt8](repeating: 0, count: 12), from: source, to: destination)
            let packet =
                switch (source, destination) {
                case (.v4(let source), .v4(let destination)):
                    IPv4Header(source: source, destination: destination, transport: .udp, timeToLive: 64)
                        .octets(datagram, options: [])
                case (.v6(let source), .v6(let destination)):
                    IPv6Header(source: source, destination: destination, nextHeader: .udp, hopLimit: 64).octets(
                        datagram)
                default: [UInt8]()
                }
            let frame = EthernetHeader(
                destination: mac, source: MACAddress(0x02_00_00_00_01_10), tags: [],
                type: family == .v4 ? .ipv4 : .ipv6
            ).octets(packet)
            length = frame.count
            let start = number * stride + Pipeline.room
            all.replaceSubrange(start..<start + length, with: frame)
        }
        octets = all
        self.stride = stride
        self.length = length
    }
}

private func port(_ connection: Int) -> UInt16 { UInt16(1024 + connection / (hosts * hosts)) }

/// Connections that arrive as the gateway's own, and their first packets.
private struct Flows {
    let frames: Frames
    let table: [UInt64]

    init(connections: Int, _ network: Network) {
        frames = Frames(.v4, connections: connections, apart: 64)
        let (family, perBucket) = (IPFamily.v4, FlowLayout.entriesPerBucket)
        let words = FlowLayout.words(family)
        // As full as the product lets it get.
        let buckets = connections * 100 / 65 / perBucket + 1
        var table = [UInt64](repeating: 0, count: buckets * perBucket * words)
        for number in 0..<connections {
            let destination = host(family, to, number / hosts % hosts)
            var entry = FlowEntry(
                source: host(family, from, number % hosts), destination: destination, transport: .udp,
                sourcePort: port(number), destinationPort: 53, vlan: from,
                newSource: .v4(IPv4Address(0xac10_1401)), newDestination: destination,
                newSourcePort: UInt16(truncatingIfNeeded: 1024 + number), newDestinationPort: 53,
                way: network.ways[destination] ?? 0
            ).words
            entry[1] |= FlowLayout.ownedState.bigEndian
            let (first, second) = FlowLayout.buckets(of: entry, family, count: buckets, seed: 1)
            // Into the emptier of the two.
            let free = [first, second].map { bucket in
                (bucket * perBucket..<(bucket + 1) * perBucket).filter { table[$0 * words] == 0 }
            }
            guard let place = free.max(by: { $0.count < $1.count })?.first else {
                fatalError("no place for connection \(number)")
            }
            table.replaceSubrange(place * words..<(place + 1) * words, with: entry)
        }
        self.table = table
    }
}

private func timed(of frames: Frames, _ body: ([UInt8], Int) -> Void) -> Double {
    let operations = 1 << 18
    return timed(operations) {
        var start = 0
        for _ in 0..<operations {
            body(frames.octets, start)
            start += frames.stride
            if start == frames.octets.count { start = 0 }
        }
    }
}

private func piped(_ frames: Frames, _ metadata: FrameMetadata, _ snapshot: Snapshot, _ flows: Flows?) -> Double {
    let none: [UInt64] = []
    let words = flows?.table ?? none
    var forwarded = 0
    let time = written(frames) { frame in
        let table = FlowTable(v4: words.span, v6: none.span, seed: 1)
        let outcome = Pipeline.process(&frame, metadata, snapshot, table)
        if case .forward = outcome.verdict { forwarded &+= 1 }
    }
    // Once to warm up, once measured.
    precondition(
        forwarded == 2 * operations(frames), "\(forwarded) of 2 × \(operations(frames)) packets were forwarded")
    return time
}

private func operations(_ frames: Frames) -> Int { max(1 << 18, frames.octets.count / frames.stride) }

/// Every packet is written anew, long before it goes through: what has just been written octet by octet is slow to read as words.
@inline(__always)
private func written(_ frames: Frames, _ body: (inout MutableSpan<UInt8>) -> Void) -> Double {
    let operations = operations(frames)
    let length = Pipeline.room + frames.length
    var ring = [UInt8](repeating: 0, count: count * slot)
    let ahead = count / 2
    return timed(operations) {
        var (start, written, place) = (0, 0, 0)
        let source = frames.octets.span
        var target = ring.mutableSpan
        for turn in 0..<operations + ahead {
            var next = target._mutatingExtracting(written..<written + length)
            for index in Pipeline.room..<length { next[index] = source[start + index] }
            start += frames.stride
            if start == source.count { start = 0 }
            written += slot
            if written == target.count { written = 0 }
            guard turn >= ahead else { continue }
            var frame = target._mutatingExtracting(place..<place + length)
            body(&frame)
            place += slot
            if place == target.count { place = 0 }
        }
    }
}
