import Packets
import Routing

extension Snapshot {
    /// Where the routes lead that match this address; nil: there is none.
    public func target(of address: IPAddress) -> Target? {
        let number =
            switch address {
            case .v4(let address): routes.lookup(ipv4: address.rawValue)
            case .v6(let address):
                routes.lookup(
                    ipv6: UInt64(truncatingIfNeeded: address.rawValue >> 64),
                    low: UInt64(truncatingIfNeeded: address.rawValue))
            }
        return number != 0 && targets.indices.contains(Int(number)) ? targets[Int(number)] : nil
    }

    /// The next hops of the target with this number; empty: what goes there is the kernel's.
    public func adjacencies(ofTarget number: Int) -> ArraySlice<Adjacency> {
        guard targets.indices.contains(number), case .forward(let first, let count) = targets[number] else { return [] }
        let range = Int(first)..<Int(first) + Int(count)
        return adjacencies.indices.contains(range.upperBound - 1) ? adjacencies[range] : []
    }

    /// The next hops to this address, all with known MAC addresses; empty: it is the kernel's to send there.
    public func adjacencies(to address: IPAddress) -> ArraySlice<Adjacency> {
        guard case .forward(let first, let count) = target(of: address) else { return [] }
        let range = Int(first)..<Int(first) + Int(count)
        return adjacencies.indices.contains(range.upperBound - 1) ? adjacencies[range] : []
    }
}
