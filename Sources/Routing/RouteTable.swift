import Packets

/// The routes of both families, as the control plane keeps them: prefix → target. One owner changes it; workers look up in
/// what it publishes.
///
/// A target is whatever the caller numbers with it (an adjacency, say), from 1 to `maxTarget`.
///
/// Each family is a trie of octets (`RouteNode`), and what is published mirrors it: a block of memory for each node, but one for the
/// first two octets' together. A change replaces the blocks from its node up to that one, so that it costs the same however many
/// routes there are.
@safe public struct RouteTable: ~Copyable {
    /// The largest target.
    public static let maxTarget: UInt32 = 0x3fff_ffff

    private var ipv4 = RouteTrie(width: 32)
    private var ipv6 = RouteTrie(width: 128)
    private var memory = BlockMemory()
    private var current: ForwardingTable

    public init() { current = memory.publish(ipv4: .init(), ipv6: .init()) }

    public var count: Int { ipv4.count + ipv6.count }

    /// Adds a route, or gives the one that is there another target. Returns the former target, 0 for none.
    @discardableResult
    public mutating func insert(_ prefix: IPPrefix, target: UInt32) -> UInt32 {
        precondition((1...Self.maxTarget).contains(target), "a route's target is 1 … maxTarget")
        return switch prefix.family {
        case .v4: ipv4.insert(Key(prefix), target, &memory)
        case .v6: ipv6.insert(Key(prefix), target, &memory)
        }
    }

    /// Returns the target that the route had, 0 where there was no such route.
    @discardableResult
    public mutating func remove(_ prefix: IPPrefix) -> UInt32 {
        switch prefix.family {
        case .v4: ipv4.remove(Key(prefix), &memory)
        case .v6: ipv6.remove(Key(prefix), &memory)
        }
    }

    /// The target of exactly this prefix; 0: no such route.
    public subscript(prefix: IPPrefix) -> UInt32 {
        let key = Key(prefix)
        guard let found = (prefix.family == .v4 ? ipv4 : ipv6).match(key), found.length == key.length else { return 0 }
        return found.target
    }

    /// The longest prefix that contains `address`.
    public func match(_ address: IPAddress) -> (prefix: IPPrefix, target: UInt32)? {
        let key = Key(IPPrefix(address, length: address.family.width))
        guard let found = (address.family == .v4 ? ipv4 : ipv6).match(key) else { return nil }
        return (IPPrefix(address, length: found.length), found.target)
    }

    /// All routes: IPv4 before IPv6, by address, the shorter prefix first.
    public var routes: [(prefix: IPPrefix, target: UInt32)] {
        ipv4.routes.map { (prefix: $0.v4, target: $1) } + ipv6.routes.map { (prefix: $0.v6, target: $1) }
    }

    /// What workers look up in: the routes as they are now. Readers of earlier ones are not disturbed; what only they still
    /// use is used again after they have let go.
    public mutating func publish() -> ForwardingTable {
        guard ipv4.isStale || ipv6.isStale else { return current }
        memory.reclaim()
        // Built before the publication is made: building may move the memory.
        let root4 = ipv4.build(&memory)
        let root6 = ipv6.build(&memory)
        current = memory.publish(ipv4: root4, ipv6: root6)
        return current
    }

    /// Octets of what is published: in use, and reserved (with what awaits its next use, and what was never touched).
    public var publishedSize: (used: Int, reserved: Int) { memory.size }
}

// SAFETY: all that it refers to and that changes is reachable from nowhere else; it cannot be copied.
extension RouteTable: @unchecked Sendable {}

/// A prefix of either family, its first bit in bit 127.
struct Key: Equatable {
    var bits: UInt128
    var length: Int

    init(bits: UInt128, length: Int) {
        self.bits = bits
        self.length = length
    }

    init(_ prefix: IPPrefix) {
        length = prefix.length
        bits =
            switch prefix.network {
            case .v4(let address): UInt128(address.rawValue) << 96
            case .v6(let address): address.rawValue
            }
    }

    /// The octet at `depth` octets from the first.
    func octet(_ depth: Int) -> UInt8 { UInt8(truncatingIfNeeded: bits &>> UInt128(120 &- 8 &* depth)) }

    /// The first `length` bits of each are the same. A shift by 128 gives zero: that is the prefix /0.
    func contains(_ other: Key) -> Bool { length <= other.length && (bits ^ other.bits) >> (128 - length) == 0 }

    var v4: IPPrefix { IPPrefix(.v4(IPv4Address(UInt32(truncatingIfNeeded: bits >> 96))), length: length) }
    var v6: IPPrefix { IPPrefix(.v6(IPv6Address(bits)), length: length) }
}
