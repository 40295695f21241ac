import Kernel
import Packets
import Router

/// The article in network namespaces: builds it, makes host3 the router with `vrouter up`, and shows by pings what that changes.
public struct Lab {
    /// What happens meanwhile, for whoever watches.
    public enum Event: Sendable {
        case building(Topology, Driver)
        case phase(Check.Phase)
        case checked(Check)
        /// A command starts on a host.
        case running(host: String, command: String)
        /// What that has printed.
        case output(String)
        /// A ping that must be answered was not, and is repeated.
        case repeating(Check)
        case removingLeftovers
    }

    /// What `vrouter lab --json` prints. Keys are only ever added.
    public struct Report: Sendable, Encodable {
        /// Of the VLAN interfaces on all hosts.
        public let driver: Driver
        /// As `uname -r` prints it.
        public let kernel: String
        public internal(set) var checks: [Check] = []
        /// By host, as `ip route` prints them: the router's and one container's.
        public internal(set) var routes: [String: [String]] = [:]
        public internal(set) var passed = false
    }

    private static let lockPath = "/run/vrouter/lab.lock"
    /// There while a lab is kept: so that one that was kept is told from one that was killed.
    private static let keptPath = "/run/vrouter/lab.kept"

    private let topology = Topology.article
    /// The path of `vrouter`.
    private let executable: String
    private let report: (Event) -> Void

    public init(executable: String, report: @escaping (Event) -> Void = { _ in }) {
        self.executable = executable
        self.report = report
    }

    /// The whole sequence. Whatever happens, nothing of the lab is left, unless it is to be kept and was built.
    ///
    /// Signals that ask the process to end are caught from here on; one that came makes this fail, with everything removed.
    public func run(driver wanted: Driver?, keep: Bool) throws(Failure) -> Report {
        do throws(KernelError) {
            try Ping.checkInstalled()
        } catch {
            throw Failure(.unavailable, "\(error)", remedy: "install ping: apt-get install iputils-ping")
        }
        let driver = try Driver.choose(wanted)
        Interruption.catchSignals()
        let lock = try Self.lock()
        return try withExtendedLifetime(lock) { () throws(Failure) in
            guard !Self.isKept else {
                throw Failure(.busy, "there is a lab that was kept", remedy: "remove it first: vrouter lab down")
            }
            if !LabNamespace.present.isEmpty {
                report(.removingLeftovers)
                try LabNamespace.deleteAll()
            }
            do throws(Failure) {
                let result = try perform(driver, optionFor: wanted)
                if keep {
                    try kernel { () throws(KernelError) in try SmallFile.replace(Self.keptPath, with: []) }
                } else {
                    try LabNamespace.deleteAll()
                }
                return result
            } catch {
                try? LabNamespace.deleteAll()
                throw error
            }
        }
    }

    /// Removes a lab that was kept or killed.
    ///
    /// - Returns: whether there was one.
    public static func down() throws(Failure) -> Bool {
        let lock = try lock()
        return try withExtendedLifetime(lock) { () throws(Failure) in
            let found = !LabNamespace.present.isEmpty
            try LabNamespace.deleteAll()
            _ = try kernel { () throws(KernelError) in try SmallFile.delete(keptPath) }
            return found
        }
    }

    /// Replaces this process by a program in the namespace of a host. Returns the reason only if there is no such program.
    public static func execute(_ arguments: [String], on host: String) throws(Failure) -> KernelError {
        let names = Topology.article.names
        guard names.contains(host) else {
            throw Failure(
                .usage, "there is no host '\(host)' in the lab",
                remedy: "choose one of: \(names.joined(separator: ", "))")
        }
        guard Namespace.exists(LabNamespace.name(host)) else {
            throw Failure(.usage, "no lab is running", remedy: "build one that stays: vrouter lab --keep")
        }
        try kernel { () throws(KernelError) in try Namespace.enter(LabNamespace.name(host)) }
        return ChildProcess.replaceThisProcess(arguments)
    }

    private static func lock() throws(Failure) -> FileLock {
        SmallFile.makeDirectory("/run/vrouter")
        let lock = try kernel { () throws(KernelError) in try FileLock(lockPath) }
        guard lock.tryLock(holder: ThisProcess.description) else {
            throw Failure(
                .busy, "another lab is running: \(lock.holder)", remedy: "wait for it to end, or end it, and try again")
        }
        return lock
    }

    private static var isKept: Bool { SmallFile.owner(keptPath) != nil && !LabNamespace.present.isEmpty }

    private func perform(_ driver: Driver, optionFor wanted: Driver?) throws(Failure) -> Report {
        var result = Report(
            driver: driver, kernel: (try? Sysctl("kernel/osrelease").read()) ?? "unknown")
        report(.building(topology, driver))
        try topology.build(driver: driver)
        result.checks += try perform(topology.checks(.before))
        result.checks += try becomeRouter(wanted)
        result.checks += try perform(topology.checks(.after))
        for host in [topology.router, "d1"] {
            result.routes[host] = try kernel { () throws(KernelError) in try topology.routes(of: host) }
        }
        result.passed = result.checks.allSatisfy(\.passed)
        return result
    }

    /// Runs `vrouter up` on the router, as a person would, while those without a VLAN ping each other.
    private func becomeRouter(_ driver: Driver?) throws(Failure) -> [Check] {
        try stopIfInterrupted()
        var checks = topology.checks(.during)
        let pings = try checks.map { check throws(Failure) in try start(check, Ping.endless) }
        // So that they see the time before and behind it too.
        ThisProcess.sleep(milliseconds: 50)
        let arguments =
            ["up"] + topology.gateways.flatMap { ["--vlan", "\($0.vlan)=\($0.address)"] }
            + (driver.map { ["--vlan-driver", $0.rawValue] } ?? [])
        let command = (["vrouter"] + arguments).joined(separator: " ")
        report(.running(host: topology.router, command: command))
        let run = Result { () throws(KernelError) in
            try Namespace.run(in: LabNamespace.name(topology.router)) { () throws(KernelError) in
                try ChildProcess.run([executable] + arguments)
            }
        }
        ThisProcess.sleep(milliseconds: 50)
        for index in checks.indices { checks[index].outcome = pings[index].outcome() }
        try stopIfInterrupted()
        let outcome = try kernel { () throws(KernelError) in try run.get() }
        guard outcome.status == 0 else {
            throw Failure(
                Failure.Kind(rawValue: outcome.status) ?? .software,
                "\(command), on \(topology.router), has failed with exit status \(outcome.status):\n\(outcome.errors)")
        }
        report(.output(outcome.output))
        report(.phase(.during))
        for check in checks { report(.checked(check)) }
        return checks
    }

    /// The checks in their order; those that wait for nothing to happen do so together.
    private func perform(_ checks: [Check]) throws(Failure) -> [Check] {
        if let first = checks.first { report(.phase(first.phase)) }
        let silent = try checks.map { check throws(Failure) in
            check.expectedTTL == nil ? try start(check, Ping.once) : nil
        }
        var result: [Check] = []
        for (var check, ping) in zip(checks, silent) {
            check.outcome = if let ping { ping.outcome() } else { try outcome(of: check) }
            try stopIfInterrupted()
            report(.checked(check))
            result.append(check)
        }
        return result
    }

    /// Interfaces and switch ports may need a moment to come up: a ping that must be answered gets three seconds.
    private func outcome(of check: Check) throws(Failure) -> Check.Outcome {
        let deadline = ContinuousClock.now + .seconds(3)
        while true {
            let outcome = try start(check, Ping.once).outcome()
            guard outcome.received == 0, ContinuousClock.now < deadline else { return outcome }
            try stopIfInterrupted()
            report(.repeating(check))
            ThisProcess.sleep(milliseconds: 50)
        }
    }

    private func start(
        _ check: Check, _ ping: (String, String) throws(KernelError) -> Ping
    ) throws(Failure) -> Ping {
        try kernel { () throws(KernelError) in try ping(check.address, LabNamespace.name(check.source)) }
    }

    private func stopIfInterrupted() throws(Failure) {
        if Interruption.signal != nil { throw Failure(.busy, "interrupted") }
    }
}
