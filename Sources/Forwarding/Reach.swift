import Packets
import Routing

extension Snapshot {
    /// The next hops of the target with this number; empty: what goes there is the kernel's.
    public func adjacencies(ofTarget number: Int) -> ArraySlice<Adjacency> {
        guard targets.indices.contains(number), case .forward(let first, let count) = targets[number] else { return [] }
        let range = Int(first)..<Int(first) + Int(count)
        return adjacencies.indices.contains(range.upperBound - 1) ? adjacencies[range] : []
    }

    /// Where packets to this address go, as a flow has it; nil: not into one VLAN, or to nobody whose MAC address is known.
    public func way(to address: IPAddress) -> (target: UInt32, vlan: VLANID)? {
        let number: UInt32
        switch address {
        case .v4(let address): number = routes.lookup(ipv4: address.rawValue)
        case .v6(let address):
            number = routes.lookup(
                ipv6: UInt64(truncatingIfNeeded: address.rawValue >> 64),
                low: UInt64(truncatingIfNeeded: address.rawValue))
        }
        let adjacencies = adjacencies(ofTarget: Int(number))
        guard number != 0, let first = adjacencies.first, adjacencies.allSatisfy({ $0.vlan == first.vlan }) else {
            return nil
        }
        return (number, first.vlan)
    }
}
