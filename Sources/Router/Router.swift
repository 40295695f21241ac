import Firewall
import Kernel
import Packets

/// Turns the host, as the calling thread's network namespace shows it, into the router between VLANs, and back.
public struct Router {
    /// What happens meanwhile, for whoever waits.
    public enum Event: Sendable {
        /// Another vrouter is at work.
        case waiting(holder: String)
        /// A step begins.
        case step(number: Int, of: Int, summary: String)
        /// A step has failed; what was done is being undone.
        case undoing
    }

    public struct Outcome: Sendable {
        /// The driver of the gateway interfaces; nil after `down`.
        public var driver: Driver?
        /// What was done, or with a dry run would be, in order.
        public var steps: [Step]
        public var notes: [String]
        /// How many sessions `up` has ended, as they are no longer allowed; nil: nothing is denied that was not.
        public var endedSessions: Int?
        /// What waits for `vrouter confirm` then; nil: nothing.
        public var unconfirmed: Status.Unconfirmed?
    }

    public struct Step: Sendable, Codable {
        public var summary: String
        /// The commands that a person would type for the same.
        public var commands: [String]
    }

    /// Called before and after each step, to make it fail: for tests.
    public enum Moment: Sendable { case before, after }
    public typealias Fault = (_ step: Int, _ moment: Moment) throws(Failure) -> Void

    let report: (Event) -> Void
    private let fault: Fault?
    private let program: [String]
    private var isUndoing = false
    /// Whether this process is `vrouter revert`.
    private var isReverter = false

    /// - Parameters:
    ///   - report: told what happens.
    ///   - program: a program, perhaps with arguments, that has the subcommands `follow` and `forward`.
    public init(
        report: @escaping (Event) -> Void = { _ in }, program: [String], fault: Fault? = nil
    ) {
        self.report = report
        self.program = program
        self.fault = fault
    }

    init(program: [String], isReverter: Bool) {
        self.init(program: program)
        self.isReverter = isReverter
    }

    /// Reaches the configuration, or puts everything back.
    ///
    /// - Parameters:
    ///   - driver: nil: the one in use, or what the kernel offers.
    ///   - dryRun: change nothing.
    ///   - seconds: so long after, everything goes back, unless `confirm` comes first; nil: the change stays.
    public func up(
        _ configuration: Configuration, driver: Driver?, dryRun: Bool = false, confirmWithin seconds: Int? = nil
    ) throws(Failure) -> Outcome {
        if let seconds, !Confirmation.allowedSeconds.contains(seconds) {
            throw Failure(
                .usage, "--confirm \(seconds): not a time to confirm a change in",
                remedy:
                    "give \(Confirmation.allowedSeconds.lowerBound) to \(Confirmation.allowedSeconds.upperBound) seconds"
            )
        }
        let file = try StateFile()
        guard !dryRun else { return try plan(configuration, driver, file).outcome }
        return try file.locked(report) { () throws(Failure) in
            var (state, plan, outcome) = try plan(configuration, driver, file)
            let unconfirmed = Confirmation.after(
                state, wanted: configuration, seconds: seconds, changes: !plan.actions.isEmpty)
            plan.journal.unconfirmed = unconfirmed
            plan.outcome?.unconfirmed = unconfirmed
            outcome.endedSessions = try carryOut(plan, file: file, former: state)
            if let waiting = try file.load()?.unconfirmed {
                let reverter = try kernel { () throws(KernelError) in try file.reverter.process() }
                outcome.unconfirmed = Status.Unconfirmed(waiting, process: reverter)
            }
            return outcome
        }
    }

    /// The configuration that `up` has applied here; nil where it has not been.
    public static func runningConfiguration() throws(Failure) -> Configuration? {
        try StateFile().load()?.configuration
    }

    /// Puts back whatever `up` has changed.
    public func down(dryRun: Bool = false) throws(Failure) -> Outcome {
        let file = try StateFile()
        func planDown() throws(Failure) -> (State, Plan)? {
            guard let state = try file.load() else {
                try Orphans.check(file)
                return nil
            }
            return (state, try self.plan(from: state, to: nil))
        }
        if dryRun {
            guard let (_, plan) = try planDown() else { return Outcome(driver: nil, steps: [], notes: []) }
            return Outcome(driver: nil, steps: plan.steps, notes: plan.notes)
        }
        return try file.locked(report) { () throws(Failure) in
            guard let (state, planned) = try planDown() else {
                try file.remove()
                return Outcome(driver: nil, steps: [], notes: [])
            }
            var plan = planned
            // Whoever takes everything down wants nothing back.
            plan.journal.unconfirmed = nil
            _ = try carryOut(plan, file: file, former: state)
            return Outcome(driver: nil, steps: plan.steps, notes: plan.notes)
        }
    }

    /// Forgets what was changed in this network namespace, without undoing it: for a namespace that is about to be deleted.
    public static func forgetNamespace() throws(Failure) { try StateFile().forget() }

    func plan(
        _ configuration: Configuration, _ driver: Driver?, _ file: StateFile
    ) throws(Failure) -> (state: State?, plan: Plan, outcome: Outcome) {
        let state = try file.load()
        if let inUse = state?.driver, let driver, driver != inUse {
            throw Failure(
                .usage, "--vlan-driver \(driver.rawValue): the gateway interfaces are made with \(inUse.rawValue)",
                remedy: "take them back first: vrouter down")
        }
        let chosen: Driver
        if let inUse = state?.driver {
            chosen = inUse
        } else {
            chosen = try Driver.choose(driver)
        }
        for vlan in configuration.vlans {
            let wanted = vlan.driver ?? chosen
            guard let state, state.links.contains(vlan.id), state.driver(of: vlan.id) != wanted else { continue }
            throw Failure(
                .usage,
                "--driver \(vlan.id)=\(wanted.rawValue): the gateway interface is made with \(state.driver(of: vlan.id).rawValue)",
                remedy: "take the VLAN out first, and add it then: vrouter up without --vlan \(vlan.id)")
        }
        for driver in Set(configuration.vlans.compactMap(\.driver)) { _ = try Driver.choose(driver) }
        if configuration.fastPath != nil { try FastPath.check() }
        let start = state ?? file.empty(configuration, driver: chosen)
        var host = try read(for: start, configuration)
        if EndedSessions.mayEnd(from: start.applied, to: configuration) {
            host.sessions = Host.readSessions()
        }
        let plan = try Plan(from: start, on: host, to: configuration)
        return (state, plan, Outcome(driver: chosen, steps: plan.steps, notes: plan.notes))
    }

    func plan(from state: State, to wanted: Configuration?) throws(Failure) -> Plan {
        try Plan(from: state, on: try read(for: state, wanted ?? state.configuration), to: wanted)
    }

    private func read(for state: State, _ configuration: Configuration) throws(Failure) -> Host {
        let socket = try kernel { () throws(KernelError) in try NetlinkSocket() }
        return try Host.read(socket, state, configuration)
    }

    /// Journal first, then act; what fails is undone.
    ///
    /// - Returns: how many sessions have ended; nil: no action was about them.
    func carryOut(_ plan: Plan, file: StateFile, former: State?) throws(Failure) -> Int? {
        // Whoever wants this to end gets everything back first, as for any other failure.
        Interruption.catchSignals()
        guard !plan.actions.isEmpty else {
            // Nothing to do, but perhaps something to write down: an interrupted change turns out to be complete.
            if plan.outcome != former { try finish(plan.outcome, file) }
            return nil
        }
        do {
            try file.store(plan.journal)
        } catch {
            // Going down takes on nothing that is not written down already: a full /run does not stop it.
            guard plan.outcome == nil, former != nil else { throw error }
        }
        do {
            // It has to be there before anything can go wrong.
            if plan.journal.unconfirmed != nil { try startReverter(file) }
            let ended = try perform(plan.actions)
            try finish(plan.outcome, file)
            return ended
        } catch {
            report(.undoing)
            do {
                try undo(to: former, from: plan.journal, file)
            } catch let second {
                throw Failure(
                    error.kind, "\(error.message)\nand undoing it failed too: \(second.message)",
                    remedy: "take everything back: vrouter down")
            }
            throw error
        }
    }

    /// - Returns: as `carryOut`.
    private func perform(_ actions: [Action]) throws(Failure) -> Int? {
        var apply = Apply(
            try kernel { () throws(KernelError) in try NetlinkSocket() }, program: program)
        for (number, action) in actions.enumerated() {
            if !isUndoing, let signal = Interruption.signal {
                throw Failure(.interrupted, "interrupted by signal \(signal)")
            }
            report(.step(number: number + 1, of: actions.count, summary: action.summary))
            try fault?(number, .before)
            try kernel { () throws(KernelError) in try apply.perform(action) }
            try fault?(number, .after)
        }
        return apply.endedSessions
    }

    private func finish(_ outcome: State?, _ file: StateFile) throws(Failure) {
        if var outcome {
            if case .present(let fingerprint) = Host.readTable() { outcome.table?.fingerprint = fingerprint }
            // The time to confirm it begins when it is complete.
            if let waiting = outcome.unconfirmed, waiting.process == ThisProcess.identifier {
                outcome.unconfirmed?.deadline = Confirmation.now + UInt64(waiting.seconds) * 1000
            }
            try file.store(outcome)
        } else {
            try file.remove()
        }
        guard outcome?.unconfirmed == nil, !isReverter else { return }
        try kernel { () throws(KernelError) in
            if try file.reverter.process() != nil { try file.reverter.stop() }
        }
    }

    private func startReverter(_ file: StateFile) throws(Failure) {
        guard !isReverter else { return }
        try kernel { () throws(KernelError) in
            guard try file.reverter.process() == nil else { return }
            try file.reverter.start(program + ["revert"]) { true }
        }
    }

    /// Plans back from the journal to what was there before, and does that.
    private func undo(to former: State?, from journal: State, _ file: StateFile) throws(Failure) {
        var quiet = Router(program: program)
        quiet.isUndoing = true
        quiet.isReverter = isReverter
        let goal = former?.applied
        let host = try read(for: journal, goal ?? journal.configuration)
        var back = try Plan(from: journal, on: host, to: goal)
        back.outcome?.unconfirmed = former?.unconfirmed
        _ = try quiet.perform(back.actions)
        try finish(back.outcome, file)
    }
}

extension Plan {
    var steps: [Router.Step] { actions.map { Router.Step(summary: $0.summary, commands: $0.commands) } }
}
