import Kernel
import Packets

/// A change that goes back by itself unless somebody says in time that it may stay: whoever has shut himself out cannot say so.
struct Confirmation: Hashable, Codable {
    /// Until when, on the kernel's clock since boot (CLOCK_MONOTONIC), in milliseconds.
    var deadline: UInt64
    /// How long there is to confirm it, from its end on. The change itself may take as long.
    var seconds: Int
    /// Who made the change.
    var process: Int32
    /// Where it goes back to: what was confirmed last. nil: nothing was up.
    var confirmed: Configuration?

    static let allowedSeconds = 1...3600

    static var now: UInt64 { MonotonicClock.nanoseconds / 1_000_000 }

    var isOver: Bool { Self.now >= deadline }
    /// Rounded up; 0: it is over.
    var secondsLeft: Int { isOver ? 0 : Int((deadline - Self.now + 999) / 1000) }

    /// What waits for confirmation once `wanted` is applied; nil: nothing.
    ///
    /// - Parameters:
    ///   - seconds: nil: the change itself needs no confirmation.
    ///   - changes: whether there is anything to do.
    static func after(
        _ state: State?, wanted: Configuration, seconds: Int?, changes: Bool, process: Int32 = ThisProcess.identifier
    ) -> Confirmation? {
        func begin(_ confirmed: Configuration?, _ seconds: Int) -> Confirmation {
            Confirmation(
                deadline: now + UInt64(seconds) * 1000, seconds: seconds, process: process, confirmed: confirmed)
        }
        if let former = state?.unconfirmed {
            // Back at what is known to be good.
            if former.confirmed == wanted { return nil }
            if let seconds, changes { return begin(former.confirmed, seconds) }
            // Nobody took that one back: whoever comes now has seen that it can stay.
            return former.isOver && changes ? nil : former
        }
        guard let seconds, changes, wanted != state?.applied else { return nil }
        return begin(state?.applied, seconds)
    }

    /// In words, where it goes back to.
    var target: String {
        guard let confirmed else { return "nothing being set up" }
        let ids = confirmed.vlans.map { "\($0.id)" }
        return
            "the VLAN\(ids.count == 1 ? "" : "s") \(ids.prefix(8).joined(separator: ", "))\(ids.count > 8 ? ", …" : "")"
            + " as they were"
    }
}

extension StateFile {
    /// Held by the process that takes an unconfirmed change back.
    var reverterLockPath: String { "\(path).revert" }

    var reverter: Companion { Companion(lockPath: reverterLockPath) }
}

/// The process that takes a change back (`vrouter revert`). It goes by the state file alone: neither the terminal nor whoever made the
/// change has to be there any more.
public enum Reverter {
    /// How long a change that is over its time has to undo itself, and how long it is tried again after, in milliseconds.
    private static let patience = 5000

    /// Waits until the change is confirmed, or its time is over, and then takes it back.
    public static func run(program: [String]) throws(Failure) {
        let file = try StateFile()
        let lock = try kernel { () throws(KernelError) in try ProcessLock(file.reverterLockPath) }
        guard lock.tryLock() else { return }
        var looks = 0
        while let waiting = try file.load()?.unconfirmed {
            guard waiting.isOver else {
                ThisProcess.sleep(milliseconds: UInt32(clamping: min(1000, waiting.deadline - Confirmation.now + 1)))
                looks += 1
                // A process keeps its namespace alive. Where nobody else has it any more, it is to end.
                guard looks % 10 != 0 || Namespace.isUsedByOthers() else { return }
                continue
            }
            end(waiting.process, file)
            do {
                _ = try Router(program: program, isReverter: true).revert()
            } catch {
                // Whatever it was may pass: another change, an interface that comes back.
                ThisProcess.sleep(milliseconds: UInt32(patience))
            }
        }
    }

    /// Ends the change itself, where it hangs.
    private static func end(_ process: Int32, _ file: StateFile) {
        for attempt in 0..<(2 * patience / 50) {
            guard let holder = file.lockHolder(), holder.hasPrefix("process \(process) ") else { return }
            let isPatient = attempt < patience / 50
            ChildProcess.signal(isPatient ? SignalNumber.terminate : SignalNumber.kill, to: process)
            ThisProcess.sleep(milliseconds: 50)
        }
    }
}

extension Router {
    /// Takes back a change whose time to be confirmed is over.
    ///
    /// - Returns: nil: there is none.
    func revert() throws(Failure) -> Outcome? {
        let file = try StateFile()
        return try file.locked(report) { () throws(Failure) in
            guard let state = try file.load(), let waiting = state.unconfirmed, waiting.isOver else { return nil }
            var plan = try self.plan(from: state, to: waiting.confirmed)
            // As long as it is on its way back, it still has to go there.
            plan.journal.unconfirmed = waiting
            plan.outcome?.unconfirmed = nil
            _ = try carryOut(plan, file: file, former: state)
            return Outcome(
                driver: plan.outcome?.driver, steps: plan.steps, notes: plan.notes)
        }
    }

    /// Lets an unconfirmed change stay.
    ///
    /// - Returns: whether there was one.
    public static func confirm() throws(Failure) -> Bool {
        let file = try StateFile()
        let report: (Router.Event) -> Void = { _ in }
        return try file.locked(report) { () throws(Failure) in
            guard var state = try file.load(), state.unconfirmed != nil else { return false }
            guard state.phase == .applied else {
                throw Failure(
                    .usage, "the change that waits to be confirmed was cut short",
                    remedy: "finish it with `vrouter up …`, or wait: it is taken back")
            }
            state.unconfirmed = nil
            try file.store(state)
            try kernel { () throws(KernelError) in try file.reverter.stop() }
            return true
        }
    }
}

extension Status {
    /// A change that waits for `vrouter confirm`.
    public struct Unconfirmed: Sendable, Encodable {
        /// Until it is taken back; 0: that is over, and nobody has done it.
        public var seconds: Int
        /// The time of day of that.
        public var until: String
        /// What is then again: the VLANs; absent: vrouter is down then.
        public var vlans: [UInt16]?
        /// `vrouter revert`; absent: it does not run.
        public var process: Int32?
        /// For a person.
        var target: String

        private enum CodingKeys: CodingKey { case seconds, until, vlans, process }

        init(_ confirmation: Confirmation, process: Int32?) {
            seconds = confirmation.secondsLeft
            until = LocalTime.text(secondsFromNow: seconds)
            vlans = confirmation.confirmed?.vlans.map(\.id.rawValue)
            target = confirmation.target
            self.process = process
        }

        /// Nobody takes it back any more, though it is time.
        public var isForgotten: Bool { seconds == 0 && process == nil }

        public var line: String {
            isForgotten
                ? "unconfirmed: the time for `vrouter confirm` is over, and what was to take the change back has been ended: "
                    + "confirm it, or `vrouter up …` or `vrouter down`"
                : "unconfirmed: at \(until), in \(seconds) s, all goes back to \(target), unless you run: vrouter confirm"
        }
    }
}
