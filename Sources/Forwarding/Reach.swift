extension Snapshot {
    /// The next hops of the target with this number; empty: what goes there is the kernel's.
    public func adjacencies(ofTarget number: Int) -> ArraySlice<Adjacency> {
        guard targets.indices.contains(number), case .forward(let first, let count) = targets[number] else { return [] }
        let range = Int(first)..<Int(first) + Int(count)
        return adjacencies.indices.contains(range.upperBound - 1) ? adjacencies[range] : []
    }
}
