import Packets

/// The routes of both families, as the control plane keeps them: prefix → target. One owner changes it; workers read what
/// it publishes.
///
/// A target is whatever the caller numbers with it (an adjacency, say), from 1 to `maxTarget`.
public struct RouteTable: ~Copyable {
    /// The largest target.
    public static let maxTarget: UInt32 = 0x7fff_ffff

    private var targets: [IPPrefix: UInt32] = [:]

    public init() {}

    public var count: Int { targets.count }

    /// Adds a route, or gives the one that is there another target. Returns the former target, 0 for none.
    @discardableResult
    public mutating func insert(_ prefix: IPPrefix, target: UInt32) -> UInt32 {
        precondition((1...Self.maxTarget).contains(target), "a route's target is 1 … maxTarget")
        return targets.updateValue(target, forKey: prefix) ?? 0
    }

    /// Returns the target that the route had, 0 where there was no such route.
    @discardableResult
    public mutating func remove(_ prefix: IPPrefix) -> UInt32 { targets.removeValue(forKey: prefix) ?? 0 }

    /// The target of exactly this prefix; 0: no such route.
    public subscript(prefix: IPPrefix) -> UInt32 { targets[prefix] ?? 0 }

    /// The longest prefix that contains `address`.
    public func match(_ address: IPAddress) -> (prefix: IPPrefix, target: UInt32)? {
        for length in (0...address.family.width).reversed() {
            let prefix = IPPrefix(address, length: length)
            if let target = targets[prefix] { return (prefix, target) }
        }
        return nil
    }

    /// All routes: IPv4 before IPv6, by address, the shorter prefix first.
    public var routes: [(prefix: IPPrefix, target: UInt32)] {
        targets.map { (prefix: $0.key, target: $0.value) }.sorted { sortKey($0.prefix) < sortKey($1.prefix) }
    }

    /// What workers look up in: the routes as they are now.
    public mutating func publish() -> ForwardingTable { ForwardingTable(routes) }
}

func sortKey(_ prefix: IPPrefix) -> (Int, UInt128, Int) {
    switch prefix.network {
    case .v4(let address): (0, UInt128(address.rawValue), prefix.length)
    case .v6(let address): (1, address.rawValue, prefix.length)
    }
}
