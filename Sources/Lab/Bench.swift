import Kernel
import Packets
import Router

/// Measures how fast this machine routes between VLANs, in namespaces that it makes and removes.
public struct Bench {
    public struct Settings: Sendable {
        public var forwarders: [Forwarder] = [.vrouter(.kernel)]
        public var rules: [BenchRules] = [.none, .article]
        /// With the frame check sequence, without the tag.
        public var frameBytes = [64, 128, 256, 512, 1024, 1280, 1518]
        /// The ones behind the first are measured with the first frame size.
        public var flows = [256]
        /// In the router's table; tables that are larger than the smallest are measured with the first frame size.
        public var routes = [2]
        /// Of one measurement.
        public var seconds = 1.0
        /// How many TCP connections at once; none: TCP is left out.
        public var connections = [1, 8]
        /// How often the largest rate and TCP are measured, each datapath in turn.
        public var rounds = 7

        public init() {}

        fileprivate var tcpSeconds: Int { max(1, Int(seconds.rounded())) }

        /// Says what cannot be measured.
        public func check() throws(Failure) {
            for size in frameBytes where !(Traffic.smallestFrame...Traffic.largestFrame).contains(size) {
                throw Failure(
                    .usage,
                    "--sizes \(size): the generator makes frames of \(Traffic.smallestFrame) to \(Traffic.largestFrame) octets",
                    remedy: "use sizes in between, for example 64,512,1518")
            }
            for count in flows where !(1...1 << 20).contains(count) {
                throw Failure(
                    .usage, "--flows \(count): not from 1 to \(1 << 20)",
                    remedy: "use the default, 256, or for example 256,4096,65536")
            }
            for count in routes where !(2...BenchNetwork.mostRoutes).contains(count) {
                throw Failure(
                    .usage, "--routes \(count): not from 2 to \(BenchNetwork.mostRoutes)",
                    remedy: "use the default, 2, or for example 2,1000,100000,1000000")
            }
            guard routes == routes.sorted() else {
                throw Failure(.usage, "--routes: a table only grows", remedy: "give them in ascending order")
            }
            for count in connections where !(1...128).contains(count) {
                throw Failure(
                    .usage, "--tcp \(count): iperf3 makes 1 to 128 connections", remedy: "use the default, 1,8")
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
        if !settings.connections.isEmpty { try Goodput.check() }
        try checkConnectionTable()
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

    /// The kernel's limit holds for each namespace, and is set for all of them at once.
    private func checkConnectionTable() throws(Failure) {
        let limit = Sysctl("net/netfilter/nf_conntrack_max")
        guard let text = try? limit.read(), let most = Int(text), let flows = settings.flows.max(), flows > most else {
            return
        }
        throw Failure(
            .usage, "--flows \(flows): connection tracking holds no more than \(most) here",
            remedy:
                "sysctl -w net.netfilter.nf_conntrack_max=\(flows), and as many nf_conntrack_buckets; or fewer flows")
    }

    private func measure(_ result: inout BenchReport, _ schedule: inout Schedule) throws(Failure) {
        try measureGenerator(&result, &schedule)
        for rules in settings.rules {
            for (number, flows) in settings.flows.enumerated() {
                try measure(rules, flows: flows, isFirst: number == 0, &result, &schedule)
                try BenchNetwork.deleteAll()
            }
        }
    }

    /// What the generator makes by itself, and what that costs: it is taken off what is measured with it.
    private func measureGenerator(_ result: inout BenchReport, _ schedule: inout Schedule) throws(Failure) {
        let network = try BenchNetwork(name: "limit")
        var meter = try Meter(network, flows: BenchNetwork.flows(settings.flows[0]), withoutRouter: true)
        for size in settings.frameBytes {
            try meter.use(frameBytes: size)
            try announce("the generator alone, \(size) bytes", &schedule, seconds: settings.seconds)
            let window = try meter.measure(.init(seconds: settings.seconds)).window
            result.machine.generator.append(
                .init(
                    frameBytes: size, maxMpps: Double(window.received) / window.seconds / 1e6,
                    cpuNanosecondsPerPacket: Double(window.processorTime) / Double(max(window.sent, 1)),
                    coreShare: min(Double(window.processorTime) / (window.seconds * 1e9), 1)))
        }
        try BenchNetwork.deleteAll()
    }

    /// All forwarders side by side, so that what else the machine does meets them alike.
    private func measure(
        _ rules: BenchRules, flows: Int, isFirst: Bool, _ result: inout BenchReport, _ schedule: inout Schedule
    ) throws(Failure) {
        var subjects: [Subject] = []
        defer { for subject in subjects { subject.end() } }
        for forwarder in settings.forwarders where forwarder.isMeasured(with: rules, onlyRouters: !isFirst) {
            try announce(
                "\(forwarder.name), rules \(rules.rawValue), \(flows) flows: building", &schedule,
                seconds: Schedule.building(flows: flows))
            let subject = try Subject(forwarder, rules, flows: flows, executable: executable)
            try subject.open(frameBytes: settings.frameBytes[0])
            subjects.append(subject)
        }
        guard isFirst else {
            return try measure(subjects, rules, frameBytes: settings.frameBytes[0], &result, &schedule)
        }
        for size in settings.frameBytes {
            try measure(subjects, rules, frameBytes: size, &result, &schedule)
        }
        for routes in settings.routes where routes > BenchNetwork.vlans.count {
            let routers = subjects.filter(\.hasRoutes)
            for subject in routers {
                try announce(
                    "\(subject.name), rules \(rules.rawValue): adding routes up to \(routes)", &schedule,
                    seconds: Schedule.building(flows: flows) + Double(routes) * Schedule.addingRoute)
                try subject.addRoutes(upTo: routes)
                try subject.open(frameBytes: settings.frameBytes[0])
            }
            try measure(routers, rules, frameBytes: settings.frameBytes[0], &result, &schedule)
        }
        try measureTCP(subjects.filter(\.hasHosts), rules, &result, &schedule)
    }

    private func measure(
        _ subjects: [Subject], _ rules: BenchRules, frameBytes: Int, _ result: inout BenchReport,
        _ schedule: inout Schedule
    ) throws(Failure) {
        let generator = result.machine.generator.first { $0.frameBytes == frameBytes }?.cpuNanosecondsPerPacket ?? 0
        for subject in subjects { try subject.begin(frameBytes: frameBytes) }
        func what(_ subject: Subject) -> String {
            "\(subject.name), rules \(rules.rawValue), \(frameBytes) bytes, \(subject.flows) flows, \(subject.routes) routes"
        }
        for round in 1...settings.rounds {
            for subject in subjects {
                try announce(
                    "\(what(subject)): as much as it can, round \(round)", &schedule, seconds: settings.seconds)
                try subject.overload(seconds: settings.seconds, generator: generator)
            }
        }
        for number in 0..<LossFreeSearch.most {
            let seconds = settings.seconds * Schedule.searchShare
            for subject in subjects {
                guard subject.isSearching else {
                    schedule.spend(seconds)
                    continue
                }
                try announce("\(what(subject)): without loss, try \(number + 1)", &schedule, seconds: seconds)
                try subject.search(seconds: seconds)
            }
        }
        for subject in subjects {
            try announce("\(what(subject)): latency", &schedule, seconds: settings.seconds)
            try subject.measureLatency(seconds: settings.seconds)
            result.results.append(try subject.cell(rules))
        }
    }

    private func measureTCP(
        _ subjects: [Subject], _ rules: BenchRules, _ result: inout BenchReport, _ schedule: inout Schedule
    ) throws(Failure) {
        guard !settings.connections.isEmpty else { return }
        let goodputs = try subjects.map { subject throws(Failure) in try Goodput(subject.network) }
        for connections in settings.connections {
            var rates: [[Double]] = subjects.map { _ in [] }
            for round in 1...settings.rounds {
                for (number, goodput) in goodputs.enumerated() {
                    try announce(
                        "\(subjects[number].name), rules \(rules.rawValue): TCP, connections: \(connections), round \(round)",
                        &schedule, seconds: Double(settings.tcpSeconds))
                    rates[number].append(try goodput.measure(connections: connections, seconds: settings.tcpSeconds))
                }
            }
            for (subject, rates) in zip(subjects, rates) {
                result.tcp.append(
                    .init(
                        datapath: subject.name, rules: rules, connections: connections,
                        gbitPerSecond: median(rates) / 1e9))
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
    static func building(flows: Int) -> Double { 3 + Double(flows) / 25_000 }
    /// Of the time of a measurement, for one try of a search.
    static let searchShare = 0.5
    /// Of one route.
    static let addingRoute = 10e-6
    private let total: Double
    private var spent = 0.0

    init(_ settings: Bench.Settings) {
        let cell =
            Double(settings.rounds + 1) * settings.seconds
            + Double(LossFreeSearch.most) * settings.seconds * Self.searchShare
        let sizes = Double(settings.frameBytes.count)
        var total = sizes * settings.seconds
        for rules in settings.rules {
            for forwarder in settings.forwarders where forwarder.isMeasured(with: rules) {
                total += Self.building(flows: settings.flows[0]) + sizes * cell
                guard case .vrouter = forwarder else { continue }
                for routes in settings.routes where routes > BenchNetwork.vlans.count {
                    total += Self.building(flows: settings.flows[0]) + Double(routes) * Self.addingRoute + cell
                }
                for flows in settings.flows.dropFirst() { total += Self.building(flows: flows) + cell }
                total += Double(settings.connections.count * settings.rounds * settings.tcpSeconds)
            }
        }
        self.total = total
    }

    var done: Double { total > 0 ? min(spent / total, 1) : 1 }
    var remaining: Double { max(total - spent, 0) }
    mutating func spend(_ seconds: Double) { spent += seconds }
}

extension Forwarder {
    /// Only vrouter has rules.
    func isMeasured(with rules: BenchRules, onlyRouters: Bool = false) -> Bool {
        if case .command = self { rules == .none && !onlyRouters } else { true }
    }
}
