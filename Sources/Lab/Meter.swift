import Kernel
import Packets
import Router

/// Sends frames through a network and counts what comes back.
struct Meter: ~Copyable {
    /// What is sent.
    struct Load {
        /// nil: as much as the generator makes.
        var framesPerSecond: Double?
        var seconds: Double
        /// Whether latencies are measured, too.
        var isTimed = false
    }

    struct Trial {
        /// All frames, until the last one had time to come back.
        var sent: UInt64 = 0
        var received: UInt64 = 0
        var wrong: UInt64 = 0
        /// In the middle of it, with the caches warm: frames and nanoseconds of all processors.
        var window = Window()
        var latencies = Latencies(counts: [])

        struct Window {
            var seconds = 0.0
            var sent: UInt64 = 0
            var received: UInt64 = 0
            var processorTime: UInt64 = 0
        }

        var lost: UInt64 { sent > received ? sent - received : 0 }
        var framesPerSecond: Double { window.seconds > 0 ? Double(window.received) / window.seconds : 0 }
    }

    /// `struct counters` of traffic.bpf.c.
    private struct Counters {
        let sent: UInt64
        let received: UInt64
        let answered: UInt64
        let wrong: UInt64

        init(_ values: [UInt64]) {
            sent = values[0]
            received = values[2]
            answered = values[3]
            wrong = values[4]
        }
    }

    /// Where the generator runs. The kernel delivers what it sends on the same processor.
    static let generatorCore: UInt32 = 0

    private let program: TrafficProgram
    private let network: BenchNetwork
    /// As many as there were at first.
    var flows: [Traffic.Flow] { didSet { frameBytes = 0 } }
    private let expectedTTL: UInt32
    private let firstHop: MACAddress
    private var frameBytes = 0

    /// - Parameters:
    ///   - withoutRouter: frames are counted where the router would receive them.
    ///   - checksTTL: frames must have come through one router. Somebody else's forwarder need not be one.
    init(
        _ network: BenchNetwork, flows: [Traffic.Flow], withoutRouter: Bool = false, checksTTL: Bool = true
    ) throws(Failure) {
        let (namespace, link) =
            withoutRouter ? (network.router, network.routerLinkIndex) : (network.wire, network.linkIndex)
        program = try Self.load(flows: flows.count, sinkOn: link, in: namespace)
        self.network = network
        // Nobody changes the tag there.
        self.flows = withoutRouter ? flows.map(\.unrouted) : flows
        expectedTTL = !checksTTL ? 0 : withoutRouter ? 64 : 63
        firstHop = withoutRouter ? Traffic.hostAddress : network.routerAddress
    }

    private static func load(
        flows: Int, sinkOn link: UInt32, in namespace: String
    ) throws(Failure) -> TrafficProgram {
        do throws(KernelError) {
            let program = try TrafficProgram(object: trafficObject, sizes: ["flows": UInt32(flows)])
            try Namespace.run(in: namespace) { () throws(KernelError) in
                try program.attach("sink", linkIndex: link)
            }
            return program
        } catch {
            throw Failure(
                error.isPermission ? .notPermitted : .unavailable, "\(error)",
                remedy: "the generator needs Linux 5.18 or later, with BPF and XDP on veth")
        }
    }

    /// From here on frames have this size.
    mutating func use(frameBytes: Int) throws(Failure) {
        guard frameBytes != self.frameBytes else { return }
        try kernel { () throws(KernelError) in
            try program.set("patterns", to: Traffic.pattern(frameBytes: frameBytes, router: firstHop))
            try program.setAll("flows", to: flows.flatMap { Traffic.bytes(of: $0, frameBytes: frameBytes) })
        }
        self.frameBytes = frameBytes
    }

    func measure(_ load: Load) throws(Failure) -> Trial {
        let tasks = try ProcessorTime(of: network.router)
        return try kernel { () throws(KernelError) in
            try reset(
                Traffic.parameters(
                    frameBytes: frameBytes, flows: flows.count, framesPerSecond: load.framesPerSecond,
                    isTimed: load.isTimed, expectedTTL: expectedTTL))
            if load.isTimed { try program.clear("latencies") }
            var trial = Trial()
            // More in a batch cost less; fewer leave sooner after they are written.
            let generator = try start(batch: load.isTimed ? 8 : 64)
            do throws(KernelError) {
                ThisProcess.sleep(milliseconds: UInt32(load.seconds * 100))
                let first = (try counters(), tasks.nanoseconds + generator.processorTime, MonotonicClock.nanoseconds)
                ThisProcess.sleep(milliseconds: UInt32(load.seconds * 1000))
                let last = (try counters(), tasks.nanoseconds + generator.processorTime, MonotonicClock.nanoseconds)
                trial.window.sent = last.0.sent - first.0.sent
                trial.window.received = last.0.received - first.0.received
                trial.window.processorTime = last.1 > first.1 ? last.1 - first.1 : 0
                trial.window.seconds = Double(last.2 - first.2) / 1e9
            } catch {
                try? generator.stop()
                throw error
            }
            try generator.stop()
            let end = try settled()
            (trial.sent, trial.received, trial.wrong) = (end.sent, end.received, end.wrong)
            if load.isTimed { trial.latencies = Latencies(counts: try program.histogram("latencies")) }
            return trial
        }
    }

    /// One frame of each flow, and an answer to each, so that connection tracking has seen both directions. Of many flows, one in a
    /// thousand may be left out.
    ///
    /// - Parameter tries: a frame that is lost to a full queue is lost to a flow; the next try takes twice the time.
    func exchange(tries: Int = 8) throws(Failure) {
        var end = Counters(Array(repeating: 0, count: 5))
        var framesPerSecond = 50_000.0
        for _ in 0..<tries {
            end = try kernel { () throws(KernelError) in try exchange(framesPerSecond: framesPerSecond) }
            if end.answered >= UInt64(flows.count - flows.count / 1000) || Interruption.signal != nil { return }
            framesPerSecond /= 2
        }
        throw Failure(
            .software,
            "of \(flows.count) flows, \(end.received) came through the router, \(end.answered) were answered, and "
                + "\(end.wrong) came back otherwise than a router forwards them")
    }

    /// So that no flow is forgotten for want of answers. Here one that is lost does no harm.
    func remindOfFlows() throws(Failure) {
        _ = try kernel { () throws(KernelError) in try exchange(framesPerSecond: 50_000) }
    }

    private func exchange(framesPerSecond: Double) throws(KernelError) -> Counters {
        try reset(
            Traffic.parameters(
                frameBytes: frameBytes, flows: flows.count, framesPerSecond: framesPerSecond, limit: flows.count,
                isAnswering: true, expectedTTL: expectedTTL))
        let generator = try start(batch: 8)
        let allowance = 200 + 1000 * 1.2 * Double(flows.count) / framesPerSecond
        for _ in 0..<Int(allowance) {
            if try counters().answered >= UInt64(flows.count) || Interruption.signal != nil { break }
            ThisProcess.sleep(milliseconds: 1)
        }
        try generator.stop()
        return try settled()
    }

    /// Connection tracking calls a flow assured that has answers and is older than two seconds (nf_conntrack_proto_udp.c).
    func openFlows() throws(Failure) {
        try exchange()
        for _ in 0..<21 where Interruption.signal == nil { ThisProcess.sleep(milliseconds: 100) }
        try exchange()
    }

    private func reset(_ parameters: [UInt8]) throws(KernelError) {
        try program.set("parameters", to: parameters)
        try program.set("progress", to: [UInt8](repeating: 0, count: 24))
        try program.clear("counters")
    }

    private func start(batch: UInt32) throws(KernelError) -> TrafficGenerator {
        try program.start(
            "generate", bytes: frameBytes, linkIndex: network.linkIndex, namespace: network.wire,
            processor: Self.generatorCore, batch: batch)
    }

    private func counters() throws(KernelError) -> Counters { Counters(try program.sums("counters")) }

    /// When nothing more comes back.
    private func settled() throws(KernelError) -> Counters {
        var last = try counters()
        while true {
            ThisProcess.sleep(milliseconds: 10)
            let now = try counters()
            if now.received == last.received && now.answered == last.answered { return now }
            last = now
        }
    }
}
