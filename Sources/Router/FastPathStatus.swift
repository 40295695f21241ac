import DataPlane
import Forwarding
import Kernel
import Packets

/// What the fast path does, and what it has counted since it began.
public struct FastPathStatus: Sendable, Encodable {
    /// `vrouter forward`; absent: it does not run, and the kernel forwards everything.
    public var process: Int32?
    /// Why the kernel forwards everything all the same; empty: it does not.
    public var obstacles: [String]
    /// Why nothing but connections that the kernel knows is the workers'; empty: the destination decides where it can.
    public var onlyKnownConnections: [String]
    /// How many connections that the kernel tracks are the workers'.
    public var connections: Int
    public var workers: [Worker]

    public struct Worker: Sendable, Encodable {
        public var number: Int
        public var forwarded: Status.Counter
        /// Frames that ended here; reasons that did not occur are left out.
        public var ended: [Reason]
    }

    public struct Reason: Sendable, Encodable {
        public var name: String
        public var description: String
        public var packets: UInt64
    }

    /// The counters at one moment.
    struct Reading {
        var workers: [CounterFile.Totals]
        var vlans: [VLANID: Link.Statistics]
    }

    /// nil: there is to be no fast path.
    static func read(_ state: State) throws(Failure) -> (FastPathStatus?, Reading?) {
        guard state.configuration.fastPath != nil else { return (nil, nil) }
        return try kernel { () throws(KernelError) in
            var obstacles = try Obstacles.find(state, NetlinkSocket())
            if !Obstacles.isTableAsLeft(state) { obstacles.ofFlows.append(Obstacles.changedTable) }
            var status = FastPathStatus(
                process: try FastPath.companion?.process(), obstacles: obstacles.ofFlows,
                onlyKnownConnections: obstacles.ofStateless, connections: 0, workers: [])
            guard let file = try? StateFile(), let counters = try CounterFile(reading: file.countersPath) else {
                return (status, nil)
            }
            var reading = Reading(workers: [], vlans: [:])
            for worker in 0..<counters.workers { reading.workers.append(counters.totals(worker: worker)) }
            for vlan in state.configuration.vlans { reading.vlans[vlan.id] = counters.statistics(vlan.id) }
            status.connections = counters.connections
            status.workers = reading.workers.enumerated().map(Worker.init)
            return (status, reading)
        }
    }
}

extension FastPathStatus.Worker {
    fileprivate init(_ number: Int, _ totals: CounterFile.Totals) {
        self.number = number
        forwarded = Status.Counter(packets: totals.forwardedPackets, bytes: totals.forwardedBytes)
        let verdicts = Verdict.allCases.map {
            FastPathStatus.Reason(
                name: $0.name, description: $0.description, packets: totals.verdicts[$0] ?? 0)
        }
        let others = [
            FastPathStatus.Reason(
                name: "drop_ring_full", description: "the worker was behind, and the ring full",
                packets: totals.ringDrops),
            FastPathStatus.Reason(
                name: "drop_refused", description: "the kernel did not take it to be sent", packets: totals.refused),
        ]
        ended = (others + verdicts).filter { $0.packets > 0 }
    }
}

extension Link.Statistics {
    mutating func add(_ other: Link.Statistics) {
        receivedPackets &+= other.receivedPackets
        receivedBytes &+= other.receivedBytes
        sentPackets &+= other.sentPackets
        sentBytes &+= other.sentBytes
    }
}
