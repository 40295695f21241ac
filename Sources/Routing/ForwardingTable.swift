import Packets

/// A longest-prefix match over IPv4 and IPv6 that never changes: workers look up in it without a lock, an allocation or a
/// reference count. It is freed with its last copy.
public struct ForwardingTable: Sendable {
    // Disjoint ranges: the first address of each, ascending from 0, and its target.
    @usableFromInline let starts4: [UInt32]
    @usableFromInline let targets4: [UInt32]
    @usableFromInline let starts6: [UInt128]
    @usableFromInline let targets6: [UInt32]

    init(_ routes: [(prefix: IPPrefix, target: UInt32)]) {
        (starts4, targets4) = ranges(
            routes.compactMap {
                guard case .v4(let address) = $0.prefix.network else { return nil }
                return (address.rawValue, $0.prefix.length, $0.target)
            })
        (starts6, targets6) = ranges(
            routes.compactMap {
                guard case .v6(let address) = $0.prefix.network else { return nil }
                return (address.rawValue, $0.prefix.length, $0.target)
            })
    }

    /// The target of the longest prefix that contains `address` (host byte order: the first octet in bits 31…24); 0: no route.
    @inlinable public func lookup(ipv4 address: UInt32) -> UInt32 { find(address, starts4, targets4) }

    /// The target of the longest prefix that contains the address: `high` its first eight octets, `low` its last, each in
    /// host byte order; 0: no route.
    @inlinable public func lookup(ipv6 high: UInt64, low: UInt64) -> UInt32 {
        find(UInt128(high) << 64 | UInt128(low), starts6, targets6)
    }

    /// Looks up each address, as many as fit into `targets`.
    @inlinable public func lookup(ipv4 addresses: Span<UInt32>, into targets: inout MutableSpan<UInt32>) {
        for i in 0..<min(addresses.count, targets.count) { targets[i] = lookup(ipv4: addresses[i]) }
    }
}

@inlinable func find<T: UnsignedInteger & FixedWidthInteger>(_ address: T, _ starts: [T], _ targets: [UInt32]) -> UInt32
{
    var low = 0
    var high = starts.count
    while low < high {
        let middle = (low + high) / 2
        if starts[middle] <= address { low = middle + 1 } else { high = middle }
    }
    return low == 0 ? 0 : targets[low - 1]
}

/// The ranges that nested prefixes, sorted by address and length, cut the address space into.
private func ranges<T: UnsignedInteger & FixedWidthInteger>(_ routes: [(T, Int, UInt32)]) -> ([T], [UInt32]) {
    var starts: [T] = []
    var targets: [UInt32] = []
    func begin(_ start: T, _ target: UInt32) {
        if starts.last == start {
            targets[targets.count - 1] = target
        } else if targets.last ?? 0 != target {
            starts.append(start)
            targets.append(target)
        }
    }
    var open: [(last: T, target: UInt32)] = []
    func close(before start: T?) {
        while let inner = open.last, start.map({ inner.last < $0 }) ?? true {
            open.removeLast()
            if inner.last != T.max { begin(inner.last + 1, open.last?.target ?? 0) }
        }
    }
    for (network, length, target) in routes {
        close(before: network)
        open.append((network | (length == 0 ? T.max : length == T.bitWidth ? 0 : T.max >> T(length)), target))
        begin(network, target)
    }
    close(before: nil)
    return (starts, targets)
}
