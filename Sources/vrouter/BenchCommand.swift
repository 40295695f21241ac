import ArgumentParser
import FoundationEssentials
import Kernel
import Lab
import Router

extension Datapath: ExpressibleByArgument {}

/// `vrouter bench`
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure how fast this machine routes between VLANs.",
        discussion: """
            In network namespaces of this host, which are removed afterwards: a generator that sends tagged frames of one VLAN, a \
            router made with `vrouter up`, and a sink that counts what arrives in the other VLAN. Needs root, Linux 5.18 and, for TCP, \
            iperf3. Nothing else should run meanwhile.

              vrouter bench --quick
              vrouter bench --json result.json --plot result.svg
              vrouter bench --sizes 64 --rules article --routes 2,1000,1000000

            Frames come back at most ("max Mpps", more is offered than can be forwarded; the median of the rounds) or all of them \
            ("without loss", the largest rate of those tried). CPU time is that of all processors for a frame that is forwarded at the \
            largest rate, without the generator's. Latency is measured at half of the rate without loss. Kernel work is done on the \
            generator's core; a program that forwards has another one.

            With --json it writes one object: "machine", with "generator", the generator's own limit by frame size, and "coreShare", \
            less than 1 where other programs disturbed; "results", each with "datapath", "rules", "frameBytes", "flows", "routes", \
            "maxMpps", "lossFreeMpps", "cpuNanosecondsPerPacket", "latencyMicroseconds" ("p50", "p99", "p999", "atMpps"; absent where no \
            rate was without loss), "fastPathShare" (of the frames, forwarded by the fast path), "sent" and "received" (frames of all \
            measurements); "tcp", each with "datapath", "rules", "connections", "gbitPerSecond".
            """)

    @Option(help: ArgumentHelp("Who forwards, measured side by side.", valueName: "kernel,af-packet"))
    var datapath: String = "kernel,af-packet"

    @Option(
        name: .customLong("forwarder"), parsing: .singleValue,
        help: ArgumentHelp(
            """
            Something else to measure beside it, without rules: a shell command that forwards on the interface $TRUNK between VLAN \
            $VLAN_1 and VLAN $VLAN_2, to $HOST_MAC. Can be repeated.
            """, valueName: "name=command", visibility: .hidden))
    var forwarders: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            Frame sizes in octets, with the frame check sequence and without the tag. Default: those of RFC 2544, \
            64,128,256,512,1024,1280,1518.
            """, valueName: "size,…")
    )
    var sizes: String?

    @Option(
        help: ArgumentHelp(
            "Firewall rules: 'none', no masquerading; 'article', masquerading as is the default of `up`; 'both'.",
            valueName: "none|article|both"))
    var rules: RulesChoice = .both

    @Option(
        help: ArgumentHelp(
            "Senders, receivers and ports: how many flows, the ones behind the first with the first frame size only.",
            valueName: "number,…"))
    var flows: String = "256"

    @Option(
        help: ArgumentHelp(
            "Sizes of the routing table, the ones behind the first with the first frame size only.",
            valueName: "number,…"))
    var routes: String = "2"

    @Option(help: ArgumentHelp("TCP connections at once, measured with iperf3.", valueName: "number,…|none"))
    var tcp: String = "1,8"

    @Option(help: ArgumentHelp("Of one measurement.", valueName: "seconds"))
    var duration: Double?

    @Flag(help: "A rougher result in less than a minute.")
    var quick = false

    @Option(help: ArgumentHelp("Write the result there as JSON; '-' is standard output.", valueName: "file"))
    var json: String?

    @Option(help: ArgumentHelp("Write an image of the result there, as SVG.", valueName: "file"))
    var plot: String?

    enum RulesChoice: String, ExpressibleByArgument, CaseIterable {
        case none, article, both

        var rules: [BenchRules] { self == .both ? [.none, .article] : [self == .none ? .none : .article] }
    }

    func run() throws {
        let settings = try settings()
        try requireRoot("vrouter bench")
        let progress = BenchProgress()
        let bench = Bench(settings, executable: "/proc/self/exe", report: progress.report)
        let result: BenchReport
        do {
            result = try bench.run(version: VRouter.version, date: Date.now.formatted(.iso8601))
            progress.end()
        } catch {
            progress.end()
            if let signal = Interruption.signal {
                complain("vrouter: interrupted; everything is removed")
                Interruption.end(by: signal)
            }
            complain("vrouter: \(error)")
            throw ExitCode(error.kind.rawValue)
        }
        if json != "-" { printTable(result) }
        if let json { try write(try jsonText(result), to: json) }
        if let plot { try write(result.plot, to: plot) }
    }

    private func settings() throws -> Bench.Settings {
        var settings = Bench.Settings()
        if quick {
            settings.seconds = 0.2
            settings.rounds = 1
            settings.frameBytes = [64, 512, 1518]
        }
        if let duration { settings.seconds = duration }
        settings.rules = rules.rules
        settings.routes = try list(routes, "--routes") { Int($0) }
        settings.connections = tcp == "none" ? [] : try list(tcp, "--tcp") { Int($0) }
        settings.flows = try list(flows, "--flows") { Int($0) }
        settings.forwarders =
            try list(datapath, "--datapath") { Datapath(rawValue: $0).map(Forwarder.vrouter) }
            + forwarders.map { text in
                guard let equals = text.firstIndex(of: "=") else {
                    throw ValidationError("--forwarder \(text): no '='")
                }
                return .command(name: String(text[..<equals]), String(text[text.index(after: equals)...]))
            }
        if let sizes { settings.frameBytes = try list(sizes, "--sizes") { Int($0) } }
        try reportingFailure { () throws(Failure) in try settings.check() }
        return settings
    }

    private func list<Value>(_ text: String, _ option: String, _ parse: (String) -> Value?) throws -> [Value] {
        try text.split(separator: ",", omittingEmptySubsequences: false).map { part in
            guard let value = parse(String(part)) else {
                throw ValidationError("\(option) \(text): what is '\(part)'?")
            }
            return value
        }
    }

    private func write(_ text: String, to file: String) throws {
        guard file != "-" else { return print(text) }
        try reportingFailure { () throws(Failure) in
            do throws(KernelError) {
                try SmallFile.replace(file, with: Array("\(text)\n".utf8))
            } catch {
                throw Failure(.usage, "\(error)")
            }
        }
    }

    private func printTable(_ result: BenchReport) {
        let machine = result.machine
        print(machine.line)
        print("the generator, and what the kernel does with its frames at once, run on core \(machine.generatorCore)")
        if machine.coreShare < 0.95 {
            let share = decimal(100 * machine.coreShare, 0)
            print(
                "note: other programs run here: the generator got \(share) % of its core, and all rates are lower for it"
            )
        }
        print("")
        var generator = Table(["generator alone: bytes", "Mpps", "ns a frame"])
        generator.rightAligned = [0, 1, 2]
        for row in machine.generator {
            generator.add([String(row.frameBytes), decimal(row.maxMpps, 3), decimal(row.cpuNanosecondsPerPacket, 0)])
        }
        print(generator.text)
        var table = Table([
            "datapath", "rules", "bytes", "flows", "routes", "max Mpps", "without loss", "CPU ns a frame", "µs: p50",
            "p99",
            "p99.9",
        ])
        table.rightAligned = [2, 3, 4, 5, 6, 7, 8, 9, 10]
        for cell in result.results {
            table.add(
                [
                    cell.datapath, cell.rules.rawValue, String(cell.frameBytes), String(cell.flows),
                    String(cell.routes), decimal(cell.maxMpps, 3),
                    cell.lossFreeMpps.map { decimal($0, 3) } ?? "-", decimal(cell.cpuNanosecondsPerPacket, 0),
                ]
                    + [cell.latencyMicroseconds?.p50, cell.latencyMicroseconds?.p99, cell.latencyMicroseconds?.p999].map
                {
                    $0.map { decimal($0, 1) } ?? "-"
                })
        }
        print(table.text)
        for cell in result.results {
            guard let share = cell.fastPathShare, share < 0.99 else { continue }
            print(
                "note: \(cell.datapath), rules \(cell.rules.rawValue), \(cell.frameBytes) bytes, \(cell.flows) flows: the fast path forwarded "
                    + "\(decimal(100 * share, 0)) % of the frames, the kernel the rest")
        }
        var tcp = Table(["datapath", "rules", "TCP connections", "Gbit/s"])
        tcp.rightAligned = [2, 3]
        for row in result.tcp {
            tcp.add([row.datapath, row.rules.rawValue, String(row.connections), decimal(row.gbitPerSecond, 2)])
        }
        if !result.tcp.isEmpty { print(tcp.text) }
    }
}

/// With so many decimals, so that columns align.
func decimal(_ value: Double, _ places: Int) -> String {
    guard value.isFinite, abs(value) < 1e12 else { return "-" }
    let scale = (0..<places).reduce(1) { scale, _ in scale * 10 }
    let units = Int((abs(value) * Double(scale)).rounded())
    let fraction = places == 0 ? "" : "." + String(String(scale + units % scale).dropFirst())
    return (value < 0 ? "-" : "") + "\(units / scale)\(fraction)"
}

/// What is measured, and how long it still takes: one line that changes on a terminal, else a line for each.
private final class BenchProgress {
    private let isTerminal = StandardError.isTerminal

    func report(_ event: Bench.Event) {
        switch event {
        case .starting(let expected): complain("this takes \(Self.text(expected))")
        case .removingLeftovers: complain("removing what a benchmark that was killed has left …")
        case .measuring(let what, let done, let remaining):
            let line = "[\(decimal(done * 100, 0)) %, \(Self.text(remaining)) left] \(what)"
            if isTerminal { StandardError.write("\r\u{1b}[K\(line)") } else { complain(line) }
        }
    }

    func end() { if isTerminal { StandardError.write("\r\u{1b}[K") } }

    private static func text(_ duration: Duration) -> String {
        let seconds = Int((duration / .seconds(1)).rounded(.up))
        return seconds < 120 ? "\(seconds) s" : "\((seconds + 59) / 60) min"
    }
}
