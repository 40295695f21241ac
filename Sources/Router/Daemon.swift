import Kernel
import Packets

/// `vrouter run`: brings everything up, and keeps it so until it is told to end. It knows nothing that is not in the state file:
/// killed and started again it finds everything in place, and `vrouter up` by hand changes what it keeps.
public struct Daemon {
    /// As syslog numbers them.
    public enum Priority: Int, Sendable {
        case error = 3
        case warning, notice, info
    }

    public typealias Log = (Priority, String) -> Void
    /// Reads what is wanted, again each time.
    public typealias Source = () throws(Failure) -> (configuration: Configuration, driver: Driver?)

    private let program: [String]
    private let log: Log
    private let source: Source

    /// What is not announced is looked for so often, in milliseconds.
    private static let lookInterval = 10_000
    /// Changes come in bursts: so long after one, in milliseconds, there may be more.
    private static let burst: Int32 = 100

    public init(program: [String], log: @escaping Log, source: @escaping Source) {
        self.program = program
        self.log = log
        self.source = source
    }

    /// Runs until it is told to end, and takes everything down then.
    ///
    /// - Parameter keep: leave everything up.
    public func run(keep: Bool) throws(Failure) {
        let file = try StateFile()
        SmallFile.makeDirectory(StateFile.directory)
        let lock = try kernel { () throws(KernelError) in try ProcessLock(file.daemonLockPath) }
        guard lock.tryLock() else {
            throw Failure(.busy, "another vrouter run is at work here", remedy: "see `vrouter status`")
        }
        let signals = try kernel { () throws(KernelError) in try Interruption.catchSignalsOfService() }
        // First the events, then the look: what changes in between is an event.
        let events = try kernel { () throws(KernelError) in try HostEvents() }
        var keeper = Keeper(file: file, router: Router(program: program), log: log)
        let first = try source()
        keeper.want(first.configuration, first.driver)
        var isReady = false
        var said = ""
        while !Interruption.isServiceToEnd {
            if Interruption.takeReload() { reload(&keeper, events) }
            let started = ContinuousClock.now
            let pause = try keeper.look(events, isFirst: !isReady)
            if keeper.status != said {
                said = keeper.status
                lock.note(said)
                ServiceManager.tellStatus(said)
            }
            // Also where it has to wait for the trunk: a host must not wait for it to boot.
            if !isReady { ServiceManager.tellReady() }
            isReady = true
            // Looking takes time where there are thousands of VLANs: most of it is left to others.
            let rest = (ContinuousClock.now - started) * 4
            wait(events, signals, min(pause, Self.lookInterval), &keeper)
            if rest > .milliseconds(Int(Self.burst)), !Interruption.isServiceToEnd {
                ThisProcess.sleep(milliseconds: UInt32(clamping: rest.milliseconds))
            }
        }
        ServiceManager.tellStopping()
        lock.note("ends")
        guard !keep else { return log(.info, "ends, and leaves everything up") }
        let outcome = try Router(program: program).down()
        log(.info, outcome.steps.isEmpty ? "ends; nothing was up" : "ends; everything is as it was before")
    }

    private func reload(_ keeper: inout Keeper, _ events: borrowing HostEvents) {
        ServiceManager.tellReloading()
        do {
            let wanted = try source()
            log(.info, "reads its configuration again")
            keeper.want(wanted.configuration, wanted.driver)
            _ = try keeper.look(events, isFirst: true)
        } catch {
            keeper.forgetWanted()
            log(.error, "the new configuration is not taken, the one before goes on: \(error)")
        }
        ServiceManager.tellReady()
    }

    /// Until something has happened that asks for a look, or the time is over.
    private func wait(_ events: borrowing HostEvents, _ signals: Int32, _ milliseconds: Int, _ keeper: inout Keeper) {
        let deadline = ContinuousClock.now + .milliseconds(milliseconds)
        while !Interruption.isServiceToEnd {
            let left = (deadline - .now).milliseconds
            guard left > 0 else { return }
            events.wait(milliseconds: Int32(left) + 1, others: [signals])
            Interruption.drain(signals)
            let isAny = keeper.take(events)
            // What comes now belongs to it.
            if isAny { ThisProcess.sleep(milliseconds: UInt32(Self.burst)) }
            if isAny || Interruption.isReloadWaiting { return }
        }
    }
}

extension StateFile {
    /// Held by the namespace's `vrouter run`; it says what that does.
    var daemonLockPath: String { "\(path).run" }
}

/// What the daemon knows from one look to the next.
private struct Keeper {
    let file: StateFile
    let router: Router
    let log: Daemon.Log

    /// To be applied; nil: what is applied is kept.
    private var wanted: (configuration: Configuration, driver: Driver?)?
    /// What was applied when it was last looked; nil: nothing.
    private var kept: Configuration?
    private var backoff = Backoff()
    /// What could not be done, since when it is tried, and when it is tried again.
    private var trouble: (message: String, attempts: Int, next: ContinuousClock.Instant)?
    private var waitsFor: String?
    private var lastCommit: HostEvents.Commit?
    private let beginning = ContinuousClock.now
    /// For a person, in a line.
    private(set) var status = "begins"

    init(file: StateFile, router: Router, log: @escaping Daemon.Log) {
        self.file = file
        self.router = router
        self.log = log
    }

    mutating func want(_ configuration: Configuration, _ driver: Driver?) {
        wanted = (configuration, driver)
        trouble = nil
    }

    mutating func forgetWanted() { wanted = nil }

    /// Takes what has been announced, and remembers who has changed rules.
    ///
    /// - Returns: whether there was anything to look at.
    @discardableResult
    mutating func take(_ events: borrowing HostEvents) -> Bool {
        let (isAny, commits) = events.take()
        lastCommit = commits.last { $0.process != ThisProcess.identifier } ?? lastCommit
        return isAny
    }

    /// Puts back what has to be.
    ///
    /// - Parameter isFirst: whether a refusal is for the caller, and not only logged.
    /// - Returns: in how many milliseconds to look again at the latest.
    mutating func look(_ events: borrowing HostEvents, isFirst: Bool) throws(Failure) -> Int {
        // Whatever was announced until now, the look sees.
        take(events)
        if let trouble, trouble.next > .now, !isFirst {
            return max(1, (trouble.next - .now).milliseconds)
        }
        do {
            let pause = try look(events)
            if trouble != nil { log(.info, "it works again") }
            trouble = nil
            return pause
        } catch {
            guard !isFirst else { throw error }
            let attempts = (trouble?.attempts ?? 0) + 1
            if trouble?.message != error.message { log(.error, "\(error)") }
            let delay = Backoff.delay(after: attempts + Backoff.patience - 1)
            trouble = (error.message, attempts, .now + delay)
            status = "cannot put everything back: \(error.message)"
            return max(1, delay.milliseconds)
        }
    }

    private mutating func look(_ events: borrowing HostEvents) throws(Failure) -> Int {
        let state = try file.load()
        if let waiting = state?.unconfirmed, waiting.isOver {
            // Whatever was to take it back has been ended.
            if try kernel({ () throws(KernelError) in try file.reverter.process() }) == nil,
                try router.revert() != nil
            {
                log(.notice, "an unconfirmed change was over its time: all is back to \(waiting.target)")
                return 0
            }
        }
        if state?.phase == .applying {
            // Somebody is at it; or was, and what an unconfirmed change has left half-way is taken back by its reverter.
            guard file.lockHolder() == nil, state?.unconfirmed == nil else { return 500 }
        }
        if let wanted {
            guard areThere(wanted.configuration) else { return .max }
            let outcome = try router.up(wanted.configuration, driver: wanted.driver)
            log(
                .info,
                outcome.steps.isEmpty
                    ? "finds everything in place"
                    : "\(describe(wanted.configuration)) set up, with \(outcome.driver?.rawValue ?? "?")")
            for note in outcome.notes { log(.info, "note: \(note)") }
            for finding in (try? Doctor.blocking(wanted.configuration)) ?? [] {
                log(.warning, "\(finding.text): `vrouter doctor` says what to do")
            }
            kept = wanted.configuration
            self.wanted = nil
            status = "keeps \(describe(wanted.configuration))"
            return .max
        }
        guard let state else {
            if kept != nil {
                log(.notice, "`vrouter down` by hand: keeps nothing until `vrouter up` or a reload")
                status = "keeps nothing: `vrouter down` by hand"
            }
            kept = nil
            return .max
        }
        if state.phase == .applying {
            // A change that was cut short, by hand or by us.
            guard let goal = state.applied ?? kept else { return .max }
            guard areThere(goal) else { return .max }
            _ = try router.up(goal, driver: state.driver)
            log(.notice, "a change was cut short: back at \(describe(goal))")
            return 0
        }
        if let applied = state.applied, applied != kept {
            log(.notice, "`vrouter up` by hand: keeps \(describe(applied)) from now on")
            kept = applied
            status = "keeps \(describe(applied))"
        }
        let pause = try putBack(state, events)
        return state.unconfirmed.map { min(pause, 1000 * $0.secondsLeft) } ?? pause
    }

    private mutating func putBack(_ state: State, _ events: borrowing HostEvents) throws(Failure) -> Int {
        guard areThere(state.configuration) else { return .max }
        let complaints = try router.plan(from: state, to: state.applied).complaints
        guard !complaints.isEmpty else { return .max }
        let now = ContinuousClock.now - beginning
        let next = backoff.nextRepair(of: complaints)
        guard next <= now else { return (next - now).milliseconds + 1 }
        take(events)
        guard let outcome = try router.restore(), !outcome.steps.isEmpty else { return 0 }
        let by = suspects(complaints).map { " (\($0))" } ?? ""
        log(.notice, "put back: \(Self.summary(complaints))\(by)")
        if let contested = backoff.repaired(complaints, at: ContinuousClock.now - beginning) {
            log(
                .warning,
                "somebody undoes it again and again\(by): \(Self.summary(contested.things)); not put back for \(contested.delay.milliseconds / 1000) s"
            )
        }
        lastCommit = nil
        // What came meanwhile.
        return 0
    }

    /// Whether all trunks are there; says so where that changes.
    private mutating func areThere(_ configuration: Configuration) -> Bool {
        let trunks = configuration.parents.filter { !configuration.carriers.contains($0) }
        guard let missing = trunks.first(where: { Link.index(of: $0) == nil }) else {
            if let waitsFor { log(.notice, "\(waitsFor) is there") }
            if waitsFor != nil, let kept { status = "keeps \(describe(kept))" }
            waitsFor = nil
            return true
        }
        if waitsFor != missing { log(.warning, "there is no interface \(missing): waits for it") }
        waitsFor = missing
        status = "waits for \(missing)"
        return false
    }

    /// Who may have undone it.
    private func suspects(_ complaints: [String]) -> String? {
        var words: [String] = []
        if let lastCommit, complaints.contains(where: { $0.contains("table inet") || $0.contains("the chain ") }) {
            words.append("\(lastCommit.name), process \(lastCommit.process), has changed rules")
        }
        let others = OtherManagers.running()
        if !others.isEmpty { words.append("running here: \(others.joined(separator: ", "))") }
        return words.isEmpty ? nil : words.joined(separator: "; ")
    }

    private static func summary(_ complaints: [String]) -> String {
        complaints.prefix(20).joined(separator: "; ")
            + (complaints.count > 20 ? "; and \(complaints.count - 20) more" : "")
    }

    private func describe(_ configuration: Configuration) -> String {
        let ids = configuration.vlans.map { "\($0.id)" }
        return "VLAN\(ids.count == 1 ? "" : "s") \(ids.prefix(8).joined(separator: ", "))\(ids.count > 8 ? ", …" : "")"
            + " on \(configuration.parent)"
    }
}

extension Router {
    /// Puts back what is no longer as it was left.
    ///
    /// - Returns: nil: nothing is up.
    func restore() throws(Failure) -> Outcome? {
        let file = try StateFile()
        return try file.locked(report) { () throws(Failure) in
            guard let state = try file.load(), let applied = state.applied, state.phase == .applied else { return nil }
            let plan = try self.plan(from: state, to: applied)
            _ = try carryOut(plan, file: file, former: state)
            return Outcome(driver: state.driver, steps: plan.steps, notes: plan.notes)
        }
    }
}

extension Duration {
    fileprivate var milliseconds: Int { Int(self / .milliseconds(1)) }
}
