import Kernel
import PacketIO
import SystemPackage

/// The workers of one trunk, with what they share. They end with it, and what they hold is lost: the filter is to give them nothing any
/// more, a moment before.
public struct Crew: ~Copyable {
    private let workers: [Worker]
    private let publication: Publication
    // The workers write to it until they have ended.
    private let heartbeats: Mapping

    /// Frames that a worker has sent and that have not left: as many as network cards hold, and so few that they stay in a processor's cache.
    private static let outgoingSlots = 512

    /// Starts them. They get frames once the filter gives them some.
    ///
    /// - Parameters:
    ///   - mtu: IP MTU of the trunk, in octets.
    ///   - slots: frames that wait for a worker at most; a power of two.
    ///   - counters: lives longer than this.
    public init(
        linkIndex: UInt32, mtu: Int, slots: Int, ownership: borrowing Ownership, counters: borrowing CounterFile,
        publication: Publication, flows: FlowMemory
    ) throws(KernelError) {
        let heartbeats = try Mapping(
            try ownership.heartbeats, count: Ownership.mostWorkers * Ownership.heartbeatStride)
        let processors = ThisProcess.processors
        var workers: [Worker] = []
        do throws(KernelError) {
            for number in 0..<counters.workers {
                let outgoing = try PacketSocket(toSend: mtu, slots: Self.outgoingSlots, linkIndex: linkIndex)
                let socket = try PacketSocket(toReceive: mtu, slots: slots)
                try socket.setFilter(ownership.filter(worker: number))
                try socket.bind(linkIndex: linkIndex)
                if counters.workers > 1 {
                    try socket.join(group: UInt16(truncatingIfNeeded: ThisProcess.identifier))
                }
                // From the last one on: interrupts and the first programs are mostly on the first.
                let processor =
                    processors.isEmpty ? nil : processors[processors.count - 1 - number % processors.count]
                workers.append(
                    try Worker.start(
                        number: number, processor: processor, socket: socket, outgoing: outgoing,
                        heartbeats: heartbeats, counters: counters.block(worker: number), publication: publication,
                        flows: flows))
            }
        } catch {
            Self.end(workers)
            throw error
        }
        self.workers = workers
        self.publication = publication
        self.heartbeats = heartbeats
    }

    /// Whether all of them work.
    public var isRunning: Bool { workers.allSatisfy(\.isRunning) }

    /// Waits until the workers have sent what the filter gave them before it was told otherwise. One that does not answer for so long
    /// loses what it holds.
    public func drain() {
        // What a processor was about to put into a ring is in there by then.
        ThisProcess.sleep(milliseconds: 1)
        let request = publication.requestDrain()
        for _ in 0..<20 where !workers.allSatisfy({ $0.hasDrained(request) }) { ThisProcess.sleep(milliseconds: 1) }
    }

    /// Waits until no worker goes by anything older than this generation. One that does not answer for so long gets no frames any
    /// more until its heart beats again, and looks for the newest before it beats.
    ///
    /// - Returns: whether all of them have answered.
    @discardableResult
    public func wait(for generation: UInt64) -> Bool {
        for _ in 0..<50 where !hasSeen(generation) { ThisProcess.sleep(milliseconds: 1) }
        return hasSeen(generation)
    }

    private func hasSeen(_ generation: UInt64) -> Bool { workers.allSatisfy { $0.hasSeen(generation) } }

    private static func end(_ workers: [Worker]) {
        for worker in workers { worker.stop() }
        for _ in 0..<5000 where workers.contains(where: \.isRunning) { ThisProcess.sleep(milliseconds: 1) }
    }

    deinit { Self.end(workers) }
}
