import Kernel
import Router

/// A router under test.
final class Subject {
    let name: String
    let network: BenchNetwork
    /// In its table.
    private(set) var routes = BenchNetwork.vlans.count
    private var meter: Meter
    let flows: Int
    private var frameBytes = 0
    /// Somebody else's forwarder, which is stopped while it is not measured: it may be one that never sleeps.
    private let command: ChildProcess?
    private let hasFastPath: Bool
    private var byFastPath: UInt64 = 0
    private var rates: [Double] = []
    private var costs: [Double] = []
    private var searching: LossFreeSearch?
    private var latency: (rate: Double, Latencies)?
    private var sent: UInt64 = 0
    private var received: UInt64 = 0
    /// Connection tracking forgets flows that nobody answers after two minutes (nf_conntrack_udp_timeout_stream).
    private var nextReminder = ContinuousClock.now

    init(_ forwarder: Forwarder, _ rules: BenchRules, flows: Int, executable: String) throws(Failure) {
        name = forwarder.name
        self.flows = flows
        let network = try BenchNetwork(name: forwarder.name)
        self.network = network
        switch forwarder {
        case .vrouter(let datapath):
            try network.becomeRouter(executable, datapath, rules, flows: flows)
            hasFastPath = datapath == .afPacket
            command = nil
        case .command(_, let line):
            hasFastPath = false
            command = try kernel { () throws(KernelError) in try network.start(line) }
        }
        meter = try Meter(network, flows: BenchNetwork.flows(flows), checksTTL: command == nil)
    }

    /// Whether real hosts can be behind it: somebody else's forwarder knows one MAC address only.
    var hasHosts: Bool { command == nil }
    var hasRoutes: Bool { command == nil }

    /// From here on flows go to destinations behind all of these.
    func addRoutes(upTo count: Int) throws(Failure) {
        try kernel { () throws(KernelError) in try network.addRoutes(routes..<count) }
        routes = count
        meter.flows = BenchNetwork.flows(flows, routes: count)
    }

    /// Sees to it that connection tracking knows the flows, and the fast path the way of each.
    func open(frameBytes: Int) throws(Failure) {
        try meter.use(frameBytes: frameBytes)
        guard command != nil else {
            try meter.openFlows()
            if hasFastPath { try waitForFastPath() }
            return
        }
        let deadline = ContinuousClock.now + .seconds(20)
        while true {
            do throws(Failure) {
                try meter.exchange(tries: 1)
                return try signal(SignalNumber.stop)
            } catch {
                guard ContinuousClock.now < deadline, Interruption.signal == nil, try isRunning() else {
                    let said = end().map { $0.output + $0.errors } ?? ""
                    throw Failure(.unavailable, "\(name): \(error.message)\n\(said)")
                }
            }
        }
    }

    /// A million routes take it some seconds. If it never takes all of the frames, its share of them is in the result.
    private func waitForFastPath() throws(Failure) {
        let deadline = ContinuousClock.now + .seconds(60)
        repeat {
            let before = try network.framesByFastPath()
            let trial = try meter.measure(.init(framesPerSecond: 100_000, seconds: 0.3))
            let share = Double(try network.framesByFastPath() &- before) / Double(max(trial.received, 1))
            // The first ones are the kernel's, until they are known to come densely.
            if share > 0.9 { return }
        } while ContinuousClock.now < deadline && Interruption.signal == nil
    }

    /// Gives somebody else's forwarder the time to clean up. Whatever still runs then is ended with its namespace.
    @discardableResult
    func end() -> ChildProcess.Result? {
        guard let command else { return nil }
        try? signal(SignalNumber.terminate)
        try? signal(SignalNumber.resume)
        let deadline = ContinuousClock.now + .seconds(2)
        while (try? isRunning()) == true, ContinuousClock.now < deadline { ThisProcess.sleep(milliseconds: 10) }
        try? signal(SignalNumber.kill)
        return command.wait()
    }

    private func isRunning() throws(Failure) -> Bool {
        try kernel { () throws(KernelError) in !(try Namespace.processes(in: network.router).isEmpty) }
    }

    private func signal(_ number: Int32) throws(Failure) {
        try kernel { () throws(KernelError) in try network.signal(number) }
    }

    /// A new cell.
    func begin(frameBytes: Int) throws(Failure) {
        self.frameBytes = frameBytes
        try meter.use(frameBytes: frameBytes)
        (rates, costs, searching, latency, sent, received) = ([], [], nil, nil, 0, 0)
        byFastPath = hasFastPath ? try network.framesByFastPath() : 0
    }

    /// - Parameter generator: nanoseconds that a frame costs it.
    func overload(seconds: Double, generator: Double) throws(Failure) {
        let trial = try measure(.init(seconds: seconds))
        rates.append(trial.framesPerSecond)
        let own = Double(trial.window.processorTime) - Double(trial.window.sent) * generator
        costs.append(max(own, 0) / Double(max(trial.window.received, 1)))
    }

    var isSearching: Bool { !(searching?.isDone ?? false) }

    /// One try. A rate counts as lossy if frames are lost twice: once may be somebody else's doing.
    func search(seconds: Double) throws(Failure) {
        var search = searching ?? LossFreeSearch(largest: median(rates))
        var forwarded: Double?
        for _ in 0..<2 where forwarded == nil {
            let trial = try measure(.init(framesPerSecond: search.next, seconds: seconds))
            if trial.lost == 0 { forwarded = trial.framesPerSecond }
        }
        search.note(forwarded: forwarded)
        searching = search
    }

    /// At half of the loss-free rate.
    func measureLatency(seconds: Double) throws(Failure) {
        guard let rate = searching?.found, rate > 0 else { return }
        let trial = try measure(.init(framesPerSecond: rate / 2, seconds: seconds, isTimed: true))
        latency = (trial.framesPerSecond, trial.latencies)
    }

    private func measure(_ load: Meter.Load) throws(Failure) -> Meter.Trial {
        if command == nil {
            if ContinuousClock.now >= nextReminder {
                try meter.remindOfFlows()
                nextReminder = .now + .seconds(60)
            }
        } else {
            try signal(SignalNumber.resume)
        }
        let trial = try meter.measure(load)
        if command != nil { try signal(SignalNumber.stop) }
        guard trial.wrong == 0 else {
            throw Failure(
                .software,
                "\(name): \(trial.wrong) of \(trial.sent) frames came back otherwise than a router forwards them")
        }
        sent += trial.sent
        received += trial.received
        return trial
    }

    func cell(_ rules: BenchRules) throws(Failure) -> BenchReport.Cell {
        var cell = BenchReport.Cell(
            datapath: name, rules: rules, frameBytes: frameBytes, flows: flows, routes: routes,
            maxMpps: median(rates) / 1e6, cpuNanosecondsPerPacket: median(costs), sent: sent, received: received)
        if hasFastPath, received > 0 {
            // With those that only remind of the flows there may be more than were measured.
            cell.fastPathShare = min(Double(try network.framesByFastPath() &- byFastPath) / Double(received), 1)
        }
        cell.lossFreeMpps = searching.map { $0.found / 1e6 }
        if let latency, let p50 = latency.1.percentile(0.5), let p99 = latency.1.percentile(0.99),
            let p999 = latency.1.percentile(0.999)
        {
            cell.latencyMicroseconds = .init(p50: p50, p99: p99, p999: p999, atMpps: latency.rate / 1e6)
        }
        return cell
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return 0 }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}
