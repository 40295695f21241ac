import Forwarding
import Synchronization

/// How a snapshot comes from the control plane to the workers: neither ever waits for the other.
public final class Publication: Sendable {
    /// Tells that there is a new one.
    private let generation = Atomic<UInt64>(1)
    private let current: Mutex<Snapshot>
    /// How often workers have been asked to finish what they hold.
    private let drains = Atomic<UInt64>(0)

    public init(_ snapshot: Snapshot) { current = Mutex(snapshot) }

    /// - Returns: the generation that workers have seen once they use it.
    public func publish(_ snapshot: Snapshot) -> UInt64 {
        current.withLock { $0 = snapshot }
        return generation.add(1, ordering: .releasing).newValue
    }

    /// The number of the newest.
    @inline(__always)
    var newest: UInt64 { generation.load(ordering: .acquiring) }

    /// The newest snapshot.
    func take() -> Snapshot { current.withLock { $0 } }

    /// Asks the workers to send all frames that they hold now as the snapshot says that they have.
    ///
    /// - Returns: the number of this request.
    func requestDrain() -> UInt64 { drains.add(1, ordering: .releasing).newValue }

    /// The number of the newest request.
    @inline(__always)
    var newestDrain: UInt64 { drains.load(ordering: .acquiring) }
}
