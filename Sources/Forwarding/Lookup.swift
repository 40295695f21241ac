// Where a packet goes, and whether it may have come from where it came.

import Packets
import Routing

extension Pipeline {
    // MARK: IPv4

    @inline(__always)
    static func lookUp(
        _ source: IPv4Address, _ destination: IPv4Address, _ classified: Classified, from vlan: UInt16,
        _ gateway: GatewayEntry, _ snapshot: borrowing Snapshot
    ) -> Outcome {
        guard snapshot.isStateless else { return Outcome(.punt(.unknownFlow)) }
        let flow = UInt64(source.rawValue) << 32 | UInt64(destination.rawValue)
        let route = snapshot.routes.lookup(ipv4: destination.rawValue)
        let outcome = choose(route, flow, classified, from: vlan, gateway, snapshot)
        // The kernel looks for the destination first, and says at once that there is no way to it.
        guard case .forward = outcome.verdict else { return outcome }
        let verdict = checkSource(
            snapshot.routes.lookup(ipv4: source.rawValue), gateway.sourceCheck, from: vlan, snapshot)
        guard case .forward = verdict else { return Outcome(verdict) }
        return snapshot.masquerades ? Outcome(.punt(.masqueraded)) : outcome
    }

    /// The checks of a source that Linux does in `fib_validate_source`; `rp_filter` chooses among them (RFC 3704).
    ///
    /// - Parameter route: of the way back; 0: none.
    @inline(__always)
    private static func checkSource(
        _ route: UInt32, _ check: Snapshot.SourceCheck, from vlan: UInt16, _ snapshot: borrowing Snapshot
    ) -> Verdict {
        let targets = snapshot.targets.span
        guard route != 0, Int(route) < targets.count else {
            return check == .none ? .forward : .drop(.sourceUnreachable)
        }
        switch targets[Int(route)] {
        case .local: return .drop(.sourceOwn)
        // Without rp_filter, Linux does not look whether it is one.
        case .broadcast: return check == .none ? .forward : .drop(.sourceAddress)
        case .forward(let first, let count):
            guard check == .strict else { return .forward }
            let adjacencies = snapshot.adjacencies.span
            var index = Int(first)
            let end = min(index &+ Int(count), adjacencies.count)
            while index < end {
                if adjacencies[index].vlan.rawValue == vlan { return .forward }
                index &+= 1
            }
            return .drop(.sourceUnreachable)
        case .connected(let back):
            return check != .strict || back.rawValue == vlan ? .forward : .drop(.sourceUnreachable)
        case .otherInterface: return check == .strict ? .drop(.sourceUnreachable) : .forward
        case .blackhole, .unreachable, .prohibited:
            return check == .none ? .forward : .drop(.sourceUnreachable)
        case .kernel: return check == .none ? .forward : .punt(.sourceUndecided)
        }
    }

    // MARK: IPv6

    /// Linux checks no source of IPv6 against its routes.
    @inline(__always)
    static func lookUp(
        _ source: IPv6Halves, _ destination: IPv6Halves, _ classified: Classified, from vlan: UInt16,
        _ gateway: GatewayEntry, _ snapshot: borrowing Snapshot
    ) -> Outcome {
        guard snapshot.isStateless else { return Outcome(.punt(.unknownFlow)) }
        let flow = source.high &+ source.low ^ (destination.high &+ destination.low) &* 0x9e37_79b9_7f4a_7c15
        let route = snapshot.routes.lookup(ipv6: destination.high, low: destination.low)
        return choose(route, flow, classified, from: vlan, gateway, snapshot)
    }

    // MARK: Both

    /// - Parameters:
    ///   - route: the number of the target; 0: none.
    ///   - flow: the same for all packets between the same addresses.
    @inline(__always)
    private static func choose(
        _ route: UInt32, _ flow: UInt64, _ classified: Classified, from vlan: UInt16, _ gateway: GatewayEntry,
        _ snapshot: borrowing Snapshot
    ) -> Outcome {
        guard route != 0 else { return Outcome(.punt(.noRoute)) }
        let targets = snapshot.targets.span
        guard Int(route) < targets.count else { return Outcome(.punt(.unknownTarget)) }
        switch targets[Int(route)] {
        case .forward(let first, let count):
            let adjacencies = snapshot.adjacencies.span
            let index = Int(first) &+ (count > 1 ? share(of: flow, among: count) : 0)
            guard index < adjacencies.count, count > 0 else { return Outcome(.punt(.unknownTarget)) }
            let adjacency = adjacencies[index]
            guard adjacency.vlan.rawValue != vlan else { return Outcome(.punt(.sameVLAN)) }
            guard !isDenied(gateway, adjacency.vlan.rawValue, snapshot) else { return Outcome(.punt(.denied)) }
            guard classified.largest <= Int(adjacency.mtu) else { return Outcome(.punt(.tooBig)) }
            return Outcome(
                length: room &+ EthernetHeader.length &+ classified.length, adjacency: index,
                vlan: adjacency.vlan.rawValue)
        case .connected: return Outcome(.punt(.unresolved))
        case .local: return Outcome(.punt(.local))
        case .broadcast: return Outcome(.punt(.broadcast))
        case .blackhole: return Outcome(.drop(.blackhole))
        case .unreachable: return Outcome(.punt(.unreachable))
        case .prohibited: return Outcome(.punt(.prohibited))
        case .otherInterface: return Outcome(.punt(.otherInterface))
        case .kernel: return Outcome(.punt(.otherRoute))
        }
    }

    /// One of `count` ways: 0 ..< count, each for about the same share of all flows (RFC 2992).
    @inline(__always)
    static func share(of flow: UInt64, among count: UInt32) -> Int {
        // The finalizer of MurmurHash3: every bit of the flow changes half of the result's.
        var hash = flow
        hash = (hash ^ hash >> 33) &* 0xff51_afd7_ed55_8ccd
        hash = (hash ^ hash >> 33) &* 0xc4ce_b9fe_1a85_ec53
        hash ^= hash >> 33
        return Int(((hash >> 32) &* UInt64(count)) >> 32)
    }

    /// Whether the firewall decides about what passes between two VLANs.
    @inline(__always)
    private static func isDenied(_ from: GatewayEntry, _ to: UInt16, _ snapshot: borrowing Snapshot) -> Bool {
        let denied = snapshot.denied.span
        var low = Int(from.deniedFirst)
        var high = min(Int(from.deniedEnd), denied.count)
        while low < high {
            let middle = (low &+ high) >> 1
            if denied[middle] == to { return true }
            if denied[middle] < to { low = middle &+ 1 } else { high = middle }
        }
        return false
    }
}
