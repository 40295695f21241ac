// Flows: packets of connections that the kernel has let pass. What it does with them is known, translation included, and is repeated.
//
// The table is one that the filter reads too (Kernel/BPF/ownership.bpf.c), in words of 64 bits, each in network order: buckets of eight
// entries. An entry is
//
//     addresses   source, destination       1 word, or 4 for IPv6
//     id          source port, destination port, VLAN that it comes from, protocol, state
//     addresses   those that it gets
//     way         source port and destination port that it gets, number of a target
//
// The source port of an ICMP echo is its identifier, the destination port its type and code.

import Packets

/// Where workers look up flows.
public struct FlowTable: ~Escapable {
    let v4: Span<UInt64>
    let v6: Span<UInt64>
    let seed: UInt64

    /// - Parameters:
    ///   - v4: whole buckets, or nothing.
    ///   - seed: so that nobody can make flows that all fall into one bucket.
    @_lifetime(copy v4, copy v6)
    public init(v4: Span<UInt64>, v6: Span<UInt64>, seed: UInt64) {
        self.v4 = v4
        self.v6 = v6
        self.seed = seed
    }
}

/// What one direction of a connection looks like, and what becomes of it.
public struct FlowEntry: Hashable, Sendable {
    /// As it arrives.
    public var source: IPAddress
    public var destination: IPAddress
    public var transport: IPProtocol
    public var sourcePort: UInt16
    public var destinationPort: UInt16
    public var vlan: VLANID
    /// As it leaves; of the same family.
    public var newSource: IPAddress
    public var newDestination: IPAddress
    public var newSourcePort: UInt16
    public var newDestinationPort: UInt16
    /// The number of a snapshot's target.
    public var way: UInt32

    public init(
        source: IPAddress, destination: IPAddress, transport: IPProtocol, sourcePort: UInt16, destinationPort: UInt16,
        vlan: VLANID, newSource: IPAddress, newDestination: IPAddress, newSourcePort: UInt16,
        newDestinationPort: UInt16, way: UInt32
    ) {
        self.source = source
        self.destination = destination
        self.transport = transport
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.vlan = vlan
        self.newSource = newSource
        self.newDestination = newDestination
        self.newSourcePort = newSourcePort
        self.newDestinationPort = newDestinationPort
        self.way = way
    }

    public var family: IPFamily { source.family }
}

/// The words of an entry.
public enum FlowLayout {
    public static let entriesPerBucket = 8
    public static let freeState: UInt64 = 0
    /// Workers know it, and the filter gives them none of it.
    public static let knownState: UInt64 = 1
    /// It is the workers'.
    public static let ownedState: UInt64 = 2
    /// A packet that ends connections has passed: the rest is the kernel's.
    public static let endedState: UInt64 = 3
    /// It has no packets; the next one makes it a known one.
    public static let restingState: UInt64 = 4

    /// What of an `id` word is compared: not the VLAN and the state.
    @inlinable @inline(__always)
    static var identity: UInt64 { 0xffff_ffff_0000_ff00 }
    /// The octets of the state within the word, from its end.
    public static let stateMask: UInt64 = 0xff

    @inlinable @inline(__always)
    public static func addressWords(_ family: IPFamily) -> Int { family == .v4 ? 1 : 4 }
    @inlinable @inline(__always)
    public static func words(_ family: IPFamily) -> Int { 2 &* addressWords(family) &+ 2 }

    @inlinable @inline(__always)
    static func mix(_ hash: UInt64, _ word: UInt64) -> UInt64 {
        let product = (hash ^ word) &* 0x9e37_79b9_7f4a_7c15
        return product ^ product >> 32
    }

    /// Names two buckets: by its lower half, and by its upper one.
    @inlinable @inline(__always)
    static func hash(_ address: UInt64, _ id: UInt64, seed: UInt64) -> UInt64 {
        mix(mix(mix(seed, address), id & identity), 0)
    }

    @inlinable @inline(__always)
    static func hash(_ source: IPv6Halves, _ destination: IPv6Halves, _ id: UInt64, seed: UInt64) -> UInt64 {
        let hash = mix(mix(mix(mix(seed, source.high), source.low), destination.high), destination.low)
        return mix(mix(hash, id & identity), 0)
    }

    /// The bucket that one half of a hash names.
    ///
    /// - Parameter count: of all buckets.
    @inlinable @inline(__always)
    static func bucket(_ hash: UInt64, count: Int) -> Int {
        Int(truncatingIfNeeded: ((hash & 0xffff_ffff) &* UInt64(truncatingIfNeeded: count)) >> 32)
    }

    /// The two buckets in which a flow may be.
    ///
    /// - Parameter count: of all buckets.
    public static func buckets(of words: [UInt64], _ family: IPFamily, count: Int, seed: UInt64) -> (Int, Int) {
        let words = words.map(UInt64.init(bigEndian:))
        let hash =
            family == .v4
            ? hash(words[0], words[1], seed: seed)
            : hash(
                IPv6Halves(high: words[0], low: words[1]), IPv6Halves(high: words[2], low: words[3]), words[4],
                seed: seed)
        return (bucket(hash, count: count), bucket(hash >> 32, count: count))
    }

    /// Whether an entry's words, as they stand in memory, are of the same flow.
    public static func isSame(_ one: [UInt64], _ other: [UInt64], _ family: IPFamily) -> Bool {
        let id = addressWords(family)
        return one[..<id] == other[..<id] && (one[id] ^ other[id]) & identity.bigEndian == 0
    }
}

extension FlowEntry {
    /// As they stand in memory, with a state of 0.
    public var words: [UInt64] {
        let ports = UInt64(sourcePort) << 48 | UInt64(destinationPort) << 32
        let newPorts = UInt64(newSourcePort) << 48 | UInt64(newDestinationPort) << 32
        let words =
            Self.words(source, destination) + [ports | UInt64(vlan.rawValue) << 16 | UInt64(transport.rawValue) << 8]
            + Self.words(newSource, newDestination) + [newPorts | UInt64(way)]
        return words.map(\.bigEndian)
    }

    private static func words(_ source: IPAddress, _ destination: IPAddress) -> [UInt64] {
        let octets = source.octets + destination.octets
        return stride(from: 0, to: octets.count, by: 8).map { start in
            octets[start..<start + 8].reduce(0) { $0 << 8 | UInt64($1) }
        }
    }

    /// - Parameter words: as they stand in memory; nil: they are none of an entry.
    public init?(words: [UInt64], _ family: IPFamily) {
        let count = FlowLayout.addressWords(family)
        guard words.count == 2 * count + 2 else { return nil }
        let words = words.map(UInt64.init(bigEndian:))
        func addresses(from start: Int) -> (IPAddress, IPAddress)? {
            let octets = words[start..<start + count].flatMap { word in
                (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) }
            }
            guard let source = IPAddress(octets: Array(octets[..<(octets.count / 2)])),
                let destination = IPAddress(octets: Array(octets[(octets.count / 2)...]))
            else { return nil }
            return (source, destination)
        }
        let (id, way) = (words[count], words[2 * count + 1])
        guard let old = addresses(from: 0), let new = addresses(from: count + 1),
            let vlan = VLANID(UInt16(truncatingIfNeeded: id >> 16))
        else { return nil }
        self.init(
            source: old.0, destination: old.1, transport: IPProtocol(UInt8(truncatingIfNeeded: id >> 8)),
            sourcePort: UInt16(truncatingIfNeeded: id >> 48), destinationPort: UInt16(truncatingIfNeeded: id >> 32),
            vlan: vlan, newSource: new.0, newDestination: new.1, newSourcePort: UInt16(truncatingIfNeeded: way >> 48),
            newDestinationPort: UInt16(truncatingIfNeeded: way >> 32), way: UInt32(truncatingIfNeeded: way))
    }
}

// MARK: - On the packet's way

extension FlowTable {
    /// The number of this flow's entry; negative: there is none.
    @inline(__always)
    func find(_ source: IPv4Address, _ destination: IPv4Address, _ id: UInt64) -> Int {
        let address = UInt64(source.rawValue) << 32 | UInt64(destination.rawValue)
        let buckets = Self.buckets(v4.count, .v4)
        guard buckets > 0 else { return -1 }
        var hash = FlowLayout.hash(address, id, seed: seed)
        for _ in 0..<2 {
            let first = FlowLayout.bucket(hash, count: buckets) &* FlowLayout.entriesPerBucket
            for entry in first..<first &+ FlowLayout.entriesPerBucket {
                let at = entry &* FlowLayout.words(.v4)
                if v4[at] == address.bigEndian, Self.isSame(v4[at &+ 1], id) { return entry }
            }
            hash >>= 32
        }
        return -1
    }

    @inline(__always)
    func find(_ source: IPv6Halves, _ destination: IPv6Halves, _ id: UInt64) -> Int {
        let buckets = Self.buckets(v6.count, .v6)
        guard buckets > 0 else { return -1 }
        var hash = FlowLayout.hash(source, destination, id, seed: seed)
        for _ in 0..<2 {
            let first = FlowLayout.bucket(hash, count: buckets) &* FlowLayout.entriesPerBucket
            for entry in first..<first &+ FlowLayout.entriesPerBucket {
                let at = entry &* FlowLayout.words(.v6)
                if v6[at] == source.high.bigEndian, v6[at &+ 1] == source.low.bigEndian,
                    v6[at &+ 2] == destination.high.bigEndian, v6[at &+ 3] == destination.low.bigEndian,
                    Self.isSame(v6[at &+ 4], id)
                {
                    return entry
                }
            }
            hash >>= 32
        }
        return -1
    }

    @inline(__always)
    private static func buckets(_ words: Int, _ family: IPFamily) -> Int {
        words / (FlowLayout.words(family) &* FlowLayout.entriesPerBucket)
    }

    @inline(__always)
    private static func isSame(_ word: UInt64, _ id: UInt64) -> Bool {
        (word ^ id.bigEndian) & FlowLayout.identity.bigEndian == 0
    }
}

extension Pipeline {
    /// As the word that is looked for; nil: no such packet is of a flow.
    @inline(__always)
    static func flowID(_ transport: IPProtocol, _ payload: Span<UInt8>) -> UInt64? {
        guard let ports = Translation.ports(transport, payload) else { return nil }
        return UInt64(ports) << 32 | UInt64(transport.rawValue) << 8
    }

    /// The way of a frame that is of a flow.
    @inline(__always)
    static func follow(
        _ flow: Int, isIPv4: Bool, _ classified: Classified, from vlan: UInt16, _ snapshot: borrowing Snapshot,
        _ flows: borrowing FlowTable
    ) -> Outcome {
        let id: UInt64
        let way: UInt64
        if isIPv4 {
            let at = flow &* FlowLayout.words(.v4)
            (id, way) = (UInt64(bigEndian: flows.v4[at &+ 1]), UInt64(bigEndian: flows.v4[at &+ 3]))
        } else {
            let at = flow &* FlowLayout.words(.v6)
            (id, way) = (UInt64(bigEndian: flows.v6[at &+ 4]), UInt64(bigEndian: flows.v6[at &+ 9]))
        }
        guard UInt16(truncatingIfNeeded: id >> 16) == vlan else { return Outcome(.punt(.unknownFlow)) }
        let number = Int(UInt32(truncatingIfNeeded: way))
        let targets = snapshot.targets.span
        guard number < targets.count, case .forward(let first, let count) = targets[number], count > 0 else {
            return Outcome(.punt(.unresolved))
        }
        let adjacencies = snapshot.adjacencies.span
        let index = Int(first) &+ (count > 1 ? share(of: id, among: count) : 0)
        guard index < adjacencies.count else { return Outcome(.punt(.unknownTarget)) }
        let adjacency = adjacencies[index]
        guard classified.largest <= Int(adjacency.mtu) else { return Outcome(.punt(.tooBig)) }
        return Outcome(
            length: room &+ EthernetHeader.length &+ classified.length, adjacency: index,
            vlan: adjacency.vlan.rawValue, flow: flow, isIPv4: isIPv4)
    }

    /// Gives a packet the addresses and ports that its flow gets, if those are others.
    ///
    /// - Parameters:
    ///   - start: where the IP header begins.
    ///   - checksumStart: where what a partial checksum is to cover begins.
    @inline(__always)
    static func translate(
        _ frame: inout MutableSpan<UInt8>, at start: Int, checksumStart: Int, _ outcome: Outcome,
        _ flows: borrowing FlowTable
    ) {
        guard outcome.flow >= 0 else { return }
        if outcome.isIPv4 {
            let table = flows.v4
            let at = outcome.flow &* FlowLayout.words(.v4)
            guard at &+ 3 < table.count,
                table[at] != table[at &+ 2] || (table[at &+ 1] ^ table[at &+ 3]) & portsMask.bigEndian != 0
            else { return }
            frame.translate(
                ipv4At: start, addresses: UInt64(bigEndian: table[at &+ 2]),
                ports: UInt32(truncatingIfNeeded: UInt64(bigEndian: table[at &+ 3]) >> 32),
                isPartial: checksumStart == start &+ IPv4Header.length)
        } else {
            translateIPv6(&frame, at: start, checksumStart: checksumStart, outcome, flows)
        }
    }

    @inline(never)
    private static func translateIPv6(
        _ frame: inout MutableSpan<UInt8>, at start: Int, checksumStart: Int, _ outcome: Outcome,
        _ flows: borrowing FlowTable
    ) {
        let table = flows.v6
        let at = outcome.flow &* FlowLayout.words(.v6)
        guard at &+ 9 < table.count,
            table[at] != table[at &+ 5] || table[at &+ 1] != table[at &+ 6] || table[at &+ 2] != table[at &+ 7]
                || table[at &+ 3] != table[at &+ 8] || (table[at &+ 4] ^ table[at &+ 9]) & portsMask.bigEndian != 0
        else { return }
        frame.translate(
            ipv6At: start,
            source: IPv6Halves(high: UInt64(bigEndian: table[at &+ 5]), low: UInt64(bigEndian: table[at &+ 6])),
            destination: IPv6Halves(high: UInt64(bigEndian: table[at &+ 7]), low: UInt64(bigEndian: table[at &+ 8])),
            ports: UInt32(truncatingIfNeeded: UInt64(bigEndian: table[at &+ 9]) >> 32),
            isPartial: checksumStart == start &+ IPv6Header.length)
    }

    private static var portsMask: UInt64 { 0xffff_ffff_0000_0000 }
}
