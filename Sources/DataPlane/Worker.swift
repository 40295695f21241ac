// The loop that moves frames: receive, process, send, give the slots back; and beat, so that the kernel knows it is alive.

import CLinux
import Forwarding
import Kernel
import PacketIO
import Packets
import Synchronization
import SystemPackage

/// A thread that forwards what its packet socket receives.
public final class Worker: Sendable {
    public let number: Int
    private let publication: Publication
    private let flows: FlowMemory
    private let isStopping = Atomic(false)
    private let hasEnded = Atomic(false)
    /// The generation that it works with, and has sent everything of older ones.
    private let seen = Atomic<UInt64>(0)
    /// The newest request to finish what it held, that it has fulfilled.
    private let drained = Atomic<UInt64>(0)

    /// A heart that beats every few milliseconds is fresh for thirty (ownership.bpf.c).
    private static let idleMilliseconds: Int32 = 4
    /// Turns between two looks at how many frames found no slot.
    private static let turnsBetweenStatistics = 256

    private init(number: Int, publication: Publication, flows: FlowMemory) {
        self.number = number
        self.publication = publication
        self.flows = flows
    }

    /// Starts the thread.
    ///
    /// - Parameters:
    ///   - socket: to receive, with its filter, bound.
    ///   - outgoing: to send.
    ///   - processor: to run on; nil: wherever the kernel likes.
    ///   - heartbeats: lives until the worker has ended, as does `counters`.
    public static func start(
        number: Int, processor: Int32?, socket: consuming PacketSocket, outgoing: consuming PacketSocket,
        heartbeats: borrowing Mapping, counters: consuming CounterFile.Counters, publication: Publication,
        flows: FlowMemory
    ) throws(KernelError) -> Worker {
        let worker = Worker(number: number, publication: publication, flows: flows)
        let ring = ReceiveRing(socket)
        // SAFETY: the mapping has a heartbeat for each worker that there may be.
        let heartbeat = unsafe (heartbeats.base + number * Ownership.heartbeatStride).assumingMemoryBound(
            to: UInt64.self)
        let handoff = Handoff(
            unsafe WorkerState(
                socket: socket, ring: ring, transmit: TransmitRing(outgoing), counters: counters, heartbeat: heartbeat))
        try startThread("worker \(number)") {
            if let processor { _ = vr_pin_thread(UInt32(bitPattern: processor)) }
            if let state = handoff.take() { worker.run(state) }
            worker.hasEnded.store(true, ordering: .releasing)
        }
        return worker
    }

    /// Asks the thread to end.
    public func stop() { isStopping.store(true, ordering: .relaxed) }

    /// Whether the thread works with this generation, so that no frame goes an older one's way any more, or does not work at all.
    public func hasSeen(_ generation: UInt64) -> Bool {
        seen.load(ordering: .acquiring) >= generation || hasEnded.load(ordering: .acquiring)
    }

    /// Whether the thread has sent all that it held when it was asked to, or does not work at all.
    public func hasDrained(_ request: UInt64) -> Bool {
        drained.load(ordering: .acquiring) >= request || hasEnded.load(ordering: .acquiring)
    }

    public var isRunning: Bool { !hasEnded.load(ordering: .acquiring) }

    private func run(_ state: consuming WorkerState) {
        var snapshot = publication.take()
        var generation: UInt64 = 0
        var (request, turnsToDrain) = (UInt64(0), 0)
        var turns = 0
        while !isStopping.load(ordering: .relaxed) {
            let newest = publication.newest
            if newest != generation {
                snapshot = publication.take()
                generation = newest
                seen.store(newest, ordering: .releasing)
            }
            let newestRequest = publication.newestDrain
            if newestRequest != request {
                request = newestRequest
                // As many as a full ring takes; frames may go on to come.
                turnsToDrain = state.ring.slotCount / TransmitRing.batch &+ 1
            }
            // Only then: who has been silent is not to get frames that he would send an old way.
            state.beat()
            turns &+= 1
            var isQuiet = turns & (Self.turnsBetweenStatistics - 1) == 0
            let isEmpty = flows.withTable { state.turn(snapshot, $0, flows) }
            if turnsToDrain > 0 {
                turnsToDrain = isEmpty ? 0 : turnsToDrain &- 1
                if turnsToDrain == 0 { drained.store(request, ordering: .releasing) }
            }
            if isEmpty { isQuiet = !state.socket.wait(milliseconds: Self.idleMilliseconds) }
            if isQuiet {
                let drops = state.socket.takeDrops()
                if drops > 0 { state.counters.countRingDrops(drops) }
            }
        }
        state.rest()
    }
}

/// Carries what a worker needs to its thread.
private final class Handoff: Sendable {
    private let state: Mutex<WorkerState?>

    init(_ state: consuming sending WorkerState) { self.state = Mutex(state) }

    func take() -> WorkerState? { state.withLock { $0.take() } }
}

/// What one worker alone has.
@safe struct WorkerState: ~Copyable, @unchecked Sendable {
    let socket: PacketSocket
    var ring: ReceiveRing
    var transmit: TransmitRing
    let counters: CounterFile.Counters
    // SAFETY: eight octets of a mapping that outlives the worker; nobody else writes them.
    private let heartbeat: UnsafeMutablePointer<UInt64>

    init(
        socket: consuming PacketSocket, ring: consuming ReceiveRing, transmit: consuming TransmitRing,
        counters: consuming CounterFile.Counters, heartbeat: UnsafeMutablePointer<UInt64>
    ) {
        self.socket = socket
        self.ring = ring
        self.transmit = transmit
        self.counters = counters
        unsafe self.heartbeat = unsafe heartbeat
    }

    /// Says that the worker is alive.
    @inline(__always)
    func beat() {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
        unsafe vr_store_relaxed64(heartbeat, UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec))
    }

    /// Says that the worker forwards no more: everything is the kernel's at once.
    func rest() { unsafe vr_store_relaxed64(heartbeat, 0) }

    /// Moves what has arrived, as much as goes with one call.
    ///
    /// - Returns: whether nothing had.
    @inline(never)
    mutating func turn(
        _ snapshot: borrowing Snapshot, _ table: borrowing FlowTable, _ flows: FlowMemory
    ) -> Bool {
        var received = 0
        while received < TransmitRing.batch, let frame = ring.receive() {
            received &+= 1
            let offload = frame.offload
            let metadata = FrameMetadata(
                tag: VLANTag(identifier: EtherType(frame.tagType), control: frame.tag),
                gsoSize: offload.gso_type == UInt8(VIRTIO_NET_HDR_GSO_NONE) ? 0 : offload.gso_size,
                checksumStart: offload.flags & UInt8(VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0 ? 0 : offload.csum_start)
            let outcome = frame.withOctets { Pipeline.process(&$0, metadata, snapshot, table) }
            if case .forward = outcome.verdict {
                if outcome.flow >= 0 {
                    flows.count(
                        outcome.flow, isIPv4: outcome.isIPv4, bytes: outcome.length &- ReceiveRing.room)
                }
                transmit.add(frame, length: outcome.length, offload: offload)
                counters.countForwarded(
                    from: frame.tag, to: outcome.vlan, adjacency: outcome.adjacency,
                    bytes: outcome.length &- ReceiveRing.room)
            } else {
                // What the kernel should have kept came here by a way that has gone since.
                counters.count(outcome.verdict)
            }
        }
        if received == 0 { return true }
        let refused = transmit.send()
        if refused > 0 { counters.countRefused(refused) }
        ring.release()
        return false
    }
}
