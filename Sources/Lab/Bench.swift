import Kernel
import Packets
import Router

/// Measures how fast this machine routes between VLANs, in namespaces that it makes and removes.
public struct Bench {
    public struct Settings: Sendable {
        public var datapaths: [Datapath] = [.kernel]
        public var rules: [BenchRules] = [.none, .article]
        /// With the frame check sequence, without the tag.
        public var frameBytes = [64, 128, 256, 512, 1024, 1280, 1518]
        public var flows = 256
        /// Of one measurement.
        public var seconds = 1.0
        /// How often the largest rate is measured, each datapath in turn.
        public var rounds = 3

        public init() {}

        /// Says what cannot be measured.
        public func check() throws(Failure) {
            for size in frameBytes where !(Traffic.smallestFrame...Traffic.largestFrame).contains(size) {
                throw Failure(
                    .usage,
                    "--sizes \(size): the generator makes frames of \(Traffic.smallestFrame) to \(Traffic.largestFrame) octets",
                    remedy: "use sizes in between, for example 64,512,1518")
            }
            guard (1...1 << 20).contains(flows) else {
                throw Failure(.usage, "--flows \(flows): not from 1 to \(1 << 20)", remedy: "use the default, 256")
            }
            guard seconds >= 0.05, seconds <= 600 else {
                throw Failure(
                    .usage, "--duration \(seconds): not from 0.05 to 600 seconds", remedy: "use the default, 1")
            }
        }
    }

    /// What happens meanwhile, for whoever waits.
    public enum Event: Sendable {
        case starting(expected: Duration)
        case removingLeftovers
        /// A measurement begins. `done` is the share of the time that lies behind.
        case measuring(String, done: Double, remaining: Duration)
    }

    private static let lockPath = "/run/vrouter/bench.lock"

    private let settings: Settings
    private let executable: String
    private let report: (Event) -> Void

    /// - Parameter executable: the path of `vrouter`.
    public init(_ settings: Settings, executable: String, report: @escaping (Event) -> Void = { _ in }) {
        self.settings = settings
        self.executable = executable
        self.report = report
    }

    /// The whole of it. Whatever happens, nothing of it is left.
    ///
    /// Signals that ask the process to end are caught from here on; one that came makes this fail, with everything removed.
    public func run(version: String, date: String) throws(Failure) -> BenchReport {
        let driver = try Driver.choose(nil)
        Interruption.catchSignals()
        SmallFile.makeDirectory("/run/vrouter")
        let lock = try kernel { () throws(KernelError) in try FileLock(Self.lockPath) }
        guard lock.tryLock(holder: ThisProcess.description) else {
            throw Failure(
                .busy, "another benchmark is running: \(lock.holder)",
                remedy: "wait for it to end, or end it, and try again")
        }
        return try withExtendedLifetime(lock) { () throws(Failure) in
            if BenchNetwork.isPresent { report(.removingLeftovers) }
            try BenchNetwork.deleteAll()
            do throws(Failure) {
                var result = BenchReport(machine: .this(vrouter: version, date: date, driver: driver))
                var schedule = Schedule(settings)
                report(.starting(expected: .seconds(schedule.remaining)))
                try measure(&result, &schedule)
                try BenchNetwork.deleteAll()
                return result
            } catch {
                try? BenchNetwork.deleteAll()
                throw error
            }
        }
    }

    private func measure(_ result: inout BenchReport, _ schedule: inout Schedule) throws(Failure) {
        try measureGenerator(&result, &schedule)
        for rules in settings.rules {
            try measure(rules, &result, &schedule)
            try BenchNetwork.deleteAll()
        }
    }

    /// What the generator makes by itself, and what that costs: it is taken off what is measured with it.
    private func measureGenerator(_ result: inout BenchReport, _ schedule: inout Schedule) throws(Failure) {
        let network = try BenchNetwork(name: "limit")
        var meter = try Meter(network, flows: BenchNetwork.flows(settings.flows), withoutRouter: true)
        for size in settings.frameBytes {
            try meter.use(frameBytes: size)
            try announce("the generator alone, \(size) bytes", &schedule, seconds: settings.seconds)
            let window = try meter.measure(.init(seconds: settings.seconds)).window
            result.machine.generator.append(
                .init(
                    frameBytes: size, maxMpps: Double(window.received) / window.seconds / 1e6,
                    cpuNanosecondsPerPacket: Double(window.processorTime) / Double(max(window.sent, 1))))
        }
        try BenchNetwork.deleteAll()
    }

    /// All datapaths side by side, so that what else the machine does meets them alike.
    private func measure(
        _ rules: BenchRules, _ result: inout BenchReport, _ schedule: inout Schedule
    ) throws(Failure) {
        var subjects: [Subject] = []
        for datapath in settings.datapaths {
            try announce(
                "\(datapath.rawValue), rules \(rules.rawValue): building", &schedule, seconds: Schedule.building)
            let network = try BenchNetwork(name: datapath.rawValue)
            try network.becomeRouter(executable, datapath, rules)
            let subject = Subject(
                name: datapath.rawValue, meter: try Meter(network, flows: BenchNetwork.flows(settings.flows)))
            try subject.meter.use(frameBytes: settings.frameBytes[0])
            try subject.meter.openFlows()
            subjects.append(subject)
        }
        for size in settings.frameBytes {
            let generator = result.machine.generator.first { $0.frameBytes == size }?.cpuNanosecondsPerPacket ?? 0
            for subject in subjects {
                try subject.meter.use(frameBytes: size)
                subject.begin()
            }
            func what(_ subject: Subject) -> String { "\(subject.name), rules \(rules.rawValue), \(size) bytes" }
            for round in 1...settings.rounds {
                for subject in subjects {
                    try announce(
                        "\(what(subject)): as much as it can, round \(round)", &schedule, seconds: settings.seconds)
                    try subject.overload(seconds: settings.seconds, generator: generator)
                }
            }
            for subject in subjects {
                result.results.append(subject.cell(rules, size, flows: settings.flows))
            }
        }
    }

    private func announce(_ text: String, _ schedule: inout Schedule, seconds: Double) throws(Failure) {
        if let signal = Interruption.signal { throw Failure(.interrupted, "interrupted by signal \(signal)") }
        report(.measuring(text, done: schedule.done, remaining: .seconds(schedule.remaining)))
        schedule.spend(seconds)
    }
}

/// How long it takes: what is measured is what takes time.
private struct Schedule {
    /// Building a network, opening its flows.
    static let building = 3.0
    private let total: Double
    private var spent = 0.0

    init(_ settings: Bench.Settings) {
        let routers = Double(settings.datapaths.count * settings.rules.count)
        let sizes = Double(settings.frameBytes.count)
        total =
            sizes * settings.seconds + routers * (Self.building + sizes * Double(settings.rounds) * settings.seconds)
    }

    var done: Double { total > 0 ? min(spent / total, 1) : 1 }
    var remaining: Double { max(total - spent, 0) }
    mutating func spend(_ seconds: Double) { spent += seconds }
}

/// A router under test.
private final class Subject {
    let name: String
    var meter: Meter
    private var rates: [Double] = []
    private var costs: [Double] = []
    private var sent: UInt64 = 0
    private var received: UInt64 = 0

    init(name: String, meter: consuming Meter) {
        self.name = name
        self.meter = meter
    }

    func begin() {
        (rates, costs, sent, received) = ([], [], 0, 0)
    }

    /// - Parameter generator: nanoseconds that a frame costs it.
    func overload(seconds: Double, generator: Double) throws(Failure) {
        try meter.exchange()
        let trial = try measure(.init(seconds: seconds))
        rates.append(trial.framesPerSecond)
        let own = Double(trial.window.processorTime) - Double(trial.window.sent) * generator
        costs.append(max(own, 0) / Double(max(trial.window.received, 1)))
    }

    private func measure(_ load: Meter.Load) throws(Failure) -> Meter.Trial {
        let trial = try meter.measure(load)
        guard trial.wrong == 0 else {
            throw Failure(
                .software,
                "\(name): \(trial.wrong) of \(trial.sent) frames came back otherwise than a router forwards them")
        }
        sent += trial.sent
        received += trial.received
        return trial
    }

    func cell(_ rules: BenchRules, _ frameBytes: Int, flows: Int) -> BenchReport.Cell {
        BenchReport.Cell(
            datapath: name, rules: rules, frameBytes: frameBytes, flows: flows, routes: BenchNetwork.vlans.count,
            maxMpps: median(rates) / 1e6, cpuNanosecondsPerPacket: median(costs), sent: sent, received: received)
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return 0 }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}

extension BenchReport.Machine {
    static func this(vrouter: String, date: String, driver: Driver) -> Self {
        func value(_ key: String, in file: String) -> String? {
            SmallFile.lines(in: file).first { $0.hasPrefix(key) }.flatMap { line in
                line.firstIndex(of: ":").map { String(line[line.index(after: $0)...].drop { $0 == " " || $0 == "\t" }) }
            }
        }
        let kilobytes = value("MemTotal", in: "/proc/meminfo")?.split(separator: " ").first.flatMap { UInt64($0) }
        return Self(
            cpu: value("model name", in: "/proc/cpuinfo") ?? "unknown",
            cores: SmallFile.lines(in: "/proc/cpuinfo").count { $0.hasPrefix("processor") },
            kernel: (try? Sysctl("kernel/osrelease").read()) ?? "unknown", vrouter: vrouter, date: date,
            memoryBytes: (kilobytes ?? 0) * 1024, driver: driver, generatorCore: Int(Meter.generatorCore))
    }
}
