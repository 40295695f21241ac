import DataPlane
import Forwarding
import Kernel
import PacketIO
import Packets
import SystemPackage

/// The process that forwards between VLANs beside the kernel (`vrouter forward`): workers that move frames, and a loop that mirrors
/// what the kernel knows to them. The kernel forwards whatever they do not, and everything as soon as they do not answer.
public enum FastPath {
    /// Frames that wait for a worker at most.
    private static let slots = 2048
    /// How long workers have to finish what they hold before they are ended.
    private static let drainMilliseconds: UInt32 = 20
    /// From one look at what has happened to the next. A port scan makes tens of thousands of events a second, and to wake somebody for
    /// each takes more of the processors than to forward what made it.
    private static let pause = Duration.milliseconds(4)

    /// Of the calling thread's network namespace.
    static var companion: Companion? { (try? StateFile()).map { Companion(lockPath: $0.fastPathLockPath) } }

    /// Whether there are workers and they forward.
    static func isForwarding() throws(KernelError) -> Bool {
        guard let file = try? StateFile(), try companion?.process() != nil,
            let counters = try CounterFile(reading: file.countersPath)
        else { return false }
        return counters.isForwarding
    }

    /// Starts it and waits until it forwards.
    ///
    /// - Parameter command: of this program, in the words that begin each command of it.
    static func start(_ command: [String]) throws(KernelError) {
        // One that was killed has left its own behind, which says that it forwards.
        if let file = try? StateFile(), try companion?.process() == nil { try SmallFile.delete(file.countersPath) }
        try companion?.start(command + ["forward"]) { () throws(KernelError) in try isForwarding() }
    }

    /// Whether this kernel can do it, and lets us: that there is an error before anything has changed.
    static func check() throws(Failure) {
        do {
            _ = try Ownership(workers: 1, longestFrame: 0, threshold: 0, connections: 1)
        } catch {
            // A dry run without privileges cannot tell.
            guard !error.isPermission else { return }
            throw Failure(
                .unavailable, "--fast-path af-packet: this kernel cannot do that: \(error)",
                remedy: "it takes Linux 5.11 or later with BPF; without the fast path the kernel forwards everything")
        }
        do {
            _ = try PacketSocket(toReceive: 1500, slots: 64)
        } catch {
            throw Failure(
                error.isPermission ? .notPermitted : .unavailable, "--fast-path af-packet: \(error)",
                remedy: error.isPermission
                    ? "run it as root, or with CAP_NET_RAW" : "without the fast path the kernel forwards everything")
        }
    }

    /// Forwards until vrouter is down, the trunk has gone, or a signal comes.
    ///
    /// - Parameter ready: called once the workers forward.
    public static func run(ready: () -> Void) throws(Failure) {
        let file = try StateFile()
        guard let state = try file.load(), let fastPath = state.configuration.fastPath else {
            throw Failure(
                .usage, "the fast path is not wanted here",
                remedy: "say so first: vrouter up --vlan … --fast-path af-packet")
        }
        let lock = try kernel { () throws(KernelError) in try ProcessLock(file.fastPathLockPath) }
        guard lock.tryLock() else {
            throw Failure(
                .busy, "another vrouter forward is at work here", remedy: "see `vrouter status`; end it with `kill`")
        }
        Interruption.catchSignals()
        try kernel { () throws(KernelError) in
            try run(file, state, fastPath, ready: ready)
        }
    }

    private static func run(
        _ file: StateFile, _ state: State, _ wanted: Configuration.FastPath, ready: () -> Void
    ) throws(KernelError) {
        let requests = try NetlinkSocket()
        guard let trunk = try requests.links().first(where: { $0.index == state.parentIndex }) else {
            throw KernelError("look up \(state.configuration.parent)", .operationNotSupportedByDevice)
        }
        // First the events, then the look: what changes in between is an event.
        let events = try PolicyEvents()
        var mirror = try Mirror()
        let counters = try CounterFile(creating: file.countersPath, workers: wanted.workers)
        var line = try Line(trunk, wanted)
        var state = state
        var owning = Mirror.Owning()
        // Rules that somebody has put into our table; looked for when something has happened to rules.
        var isOurTableAsLeft = true
        var rulesHaveChanged = true
        var nextLook = ContinuousClock.now
        var snapshot = Snapshot(World())
        while Interruption.signal == nil {
            let began = ContinuousClock.now
            if began >= nextLook {
                // By the clock, too: programs on hooks, rules of legacy iptables and the state file are not announced.
                guard let loaded = try? file.load(), loaded.configuration.fastPath != nil else { break }
                state = loaded
                var obstacles = try Obstacles.find(state, requests)
                if rulesHaveChanged { isOurTableAsLeft = Obstacles.isTableAsLeft(state) }
                rulesHaveChanged = false
                if !isOurTableAsLeft { obstacles.ofFlows.append(Obstacles.changedTable) }
                owning = Mirror.Owning(stateless: obstacles.isEmpty, flows: obstacles.ofFlows.isEmpty)
                try mirror.use(counters.takeUsed(), snapshot, requests)
                line.keepFlowsAlive()
                nextLook = .now + (state.phase == .applied ? .seconds(1) : .milliseconds(20))
            }
            guard let view = try mirror.look(state, owning) else { break }
            try line.show(view, counters, requests)
            guard line.isSound else { break }
            snapshot = view.snapshot
            if !counters.isForwarding {
                counters.setForwarding()
                ready()
            }
            let rest = pause - (.now - began)
            if rest > .zero { ThisProcess.sleep(milliseconds: UInt32(rest / .milliseconds(1)) + 1) }
            let left = (min(nextLook, line.nextTurn ?? nextLook) - .now) / .milliseconds(1) + 1
            // Where nothing comes of them, events of connections need wake nobody.
            let others = owning.flows ? [mirror.descriptor, line.flowDescriptor] : [mirror.descriptor]
            if events.wait(milliseconds: Int32(max(0, left)), others: others) {
                nextLook = .now
                rulesHaveChanged = true
            }
        }
        try line.end(requests)
        try SmallFile.delete(file.countersPath)
    }

    /// The workers and the filter before them: both are there only where there is something for them, as also a filter that takes
    /// nothing costs every frame some time.
    private struct Line: ~Copyable {
        private let trunk: Link
        private var ownership: Ownership
        private let publication = Publication(Snapshot(World()))
        private var crew: Crew?
        private var flows: FlowBook
        private var lastOwned = ContinuousClock.now

        /// So long they wait for something to do.
        private static let patience = Duration.seconds(5)

        init(_ trunk: Link, _ wanted: Configuration.FastPath) throws(KernelError) {
            self.trunk = trunk
            let ownership = try Ownership(
                workers: wanted.workers, longestFrame: PacketSocket.longestFrame(mtu: Int(trunk.mtu)),
                threshold: wanted.threshold, connections: wanted.connections)
            flows = try FlowBook(ownership)
            self.ownership = ownership
            crew = nil
        }

        /// Whether no worker has ended by itself.
        var isSound: Bool {
            switch crew {
            case .some(let crew): crew.isRunning
            case .none: true
            }
        }

        /// Readable where something has happened to a connection.
        var flowDescriptor: Int32 { flows.descriptor }
        /// When there is more to do; nil: nothing that is known.
        var nextTurn: ContinuousClock.Instant? { flows.nextTurn }

        mutating func keepFlowsAlive() { flows.keepAlive() }

        mutating func show(
            _ view: Mirror.View, _ counters: borrowing CounterFile, _ socket: borrowing NetlinkSocket
        ) throws(KernelError) {
            if !view.mayOwnFlows || view.isRenumbered { flows.leaveAll() }
            if view.isRenumbered, crew != nil {
                // Nothing that is on its way may meet other numbers.
                try ownership.withdraw(notIn: Ownership.Contents())
                ThisProcess.sleep(milliseconds: drainMilliseconds)
            }
            if view.mayOwnFlows {
                if view.hasOtherWays { flows.followRoutes(view.snapshot) }
                try flows.update(view.snapshot, view.families)
            }
            let contents = flows.count > 0 ? view.contentsWithFlows : view.contents
            if !contents.ingress.isEmpty {
                lastOwned = .now
                if crew == nil { try begin(counters, socket) }
            } else if crew != nil, ContinuousClock.now - lastOwned > Self.patience {
                try end(socket)
            }
            // What a worker may not forward any more is taken from it before it forgets the way, and given after it knows it.
            if try ownership.withdraw(notIn: contents, prefixes: view.prefixes) {
                switch crew {
                case .some(let crew): crew.drain()
                case .none: break
                }
            }
            let start = ContinuousClock.now
            let generation = publication.publish(view.snapshot)
            let isKnown =
                switch crew {
                case .some(let crew): crew.wait(for: generation)
                case .none: true
                }
            try ownership.grant(contents)
            if isKnown { flows.settle(since: start) }
            counters.setConnections(flows.carried)
        }

        private mutating func begin(
            _ counters: borrowing CounterFile, _ socket: borrowing NetlinkSocket
        ) throws(KernelError) {
            crew = try Crew(
                linkIndex: trunk.index, mtu: Int(trunk.mtu), slots: slots, ownership: ownership, counters: counters,
                publication: publication, flows: flows.table)
            try ownership.attach(
                linkIndex: trunk.index, clsactPreference: Host.ownershipPreference, socket: socket)
        }

        mutating func end(_ socket: borrowing NetlinkSocket) throws(KernelError) {
            guard crew != nil else { return }
            // Nothing new for the workers; what they hold they send.
            try ownership.withdraw(notIn: Ownership.Contents())
            ThisProcess.sleep(milliseconds: drainMilliseconds)
            crew = nil
            try ownership.detach(
                linkIndex: trunk.index, clsactPreference: Host.ownershipPreference, socket: socket)
        }
    }
}
