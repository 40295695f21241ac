import ArgumentParser
import Kernel
import Lab
import Router
import SystemPackage

/// `vrouter lab`
struct LabCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab",
        abstract: "Build hosts with containers in two VLANs, route between them, and show it.",
        discussion: """
            In network namespaces of this host, which are removed afterwards: a switch, two hosts with containers in VLAN 100, in \
            VLAN 200 and in none, and a third host that becomes the router with `vrouter up`. Needs root and `ping`.

              vrouter lab                            build, check, remove
              vrouter lab --keep                     build, check, and leave it running
              vrouter lab exec d1 -- ping 172.16.20.11
              vrouter lab down                       remove it

            Exit status: 0 every check has passed; 1 one has not; otherwise as for all of vrouter.
            """,
        subcommands: [Run.self, Exec.self, Down.self], defaultSubcommand: Run.self)

    struct Run: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Build, check and remove it.",
            discussion: """
                With --json it prints one object: "passed", "driver", "kernel" (as uname -r), "routes" (lists of text by host), and \
                "checks", each with "name" (unique), "phase" (before, during or after `vrouter up`), "source" and "destination" (host \
                names), "address", "expectedTTL" (null: no answer is right), "receivedTTL" and "milliseconds" (null: no answer came), \
                "sent" and "received" (packets), "passed".
                """)

        @Flag(help: "Leave it running.")
        var keep = false

        @Flag(help: "Print the result as JSON.")
        var json = false

        @Option(
            help: ArgumentHelp(
                "How the VLAN interfaces of all hosts are made, as for `vrouter up`.", valueName: "auto|8021q|ebpf"))
        var vlanDriver: DriverChoice = .auto

        func run() throws {
            try requireRoot("vrouter lab")
            let start = ContinuousClock.now
            let output = LabOutput(quiet: json)
            let lab = Lab(executable: "/proc/self/exe", report: output.report)
            let result: Lab.Report
            do {
                result = try lab.run(driver: vlanDriver.driver, keep: keep)
            } catch {
                if let signal = Interruption.signal {
                    complain("vrouter: interrupted; the lab is removed")
                    Interruption.end(by: signal)
                }
                complain("vrouter: \(error)")
                throw ExitCode(error.kind.rawValue)
            }
            if json {
                try printJSON(result)
            } else {
                output.summary(result, took: ContinuousClock.now - start, kept: keep)
            }
            if !result.passed { throw ExitCode(1) }
        }
    }

    struct Exec: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run a command on one of its hosts.",
            discussion: "The exit status is that of the command; 127 if there is no such command.")

        @Argument(help: "The switch, a host or a container.")
        var host: String

        @Argument(parsing: .postTerminator, help: "The command and its arguments, after --.")
        var command: [String] = []

        func run() throws {
            guard !command.isEmpty else {
                throw ValidationError("No command given, for example: vrouter lab exec \(host) -- ping 172.16.20.11")
            }
            try requireRoot("vrouter lab exec")
            let error = try reportingFailure { () throws(Failure) in try Lab.execute(command, on: host) }
            complain("vrouter: \(error)")
            throw ExitCode(error.errno == .noSuchFileOrDirectory ? 127 : 126)
        }
    }

    struct Down: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Remove a lab that was kept.",
            discussion: "Programs that still run on its hosts are ended.")

        func run() throws {
            try requireRoot("vrouter lab down")
            let found = try reportingFailure { () throws(Failure) in try Lab.down() }
            print(found ? "the lab is removed" : "there is no lab")
        }
    }
}

/// What a person sees.
private struct LabOutput {
    /// Standard output is for JSON: only what takes long is told, on standard error.
    let quiet: Bool
    private let start = ContinuousClock.now
    private let colours = StandardOutput.isTerminal && (ThisProcess.environment["NO_COLOR"] ?? "").isEmpty

    init(quiet: Bool) { self.quiet = quiet }

    func report(_ event: Lab.Event) {
        switch event {
        case .repeating(let check):
            complain("\(check.name): no answer yet, trying again …")
        case .removingLeftovers:
            complain("removing what a lab that was killed has left …")
        case .building(let topology, let driver):
            say("\(topology.drawing)\n\nVLAN interfaces: \(driver.rawValue)")
        case .phase(let phase):
            switch phase {
            case .before: say("\nBefore: hosts of one VLAN reach each other, those of different VLANs do not.")
            case .during: say("\nMeanwhile: those without a VLAN have noticed nothing.")
            case .after: say("\nAfter: the router takes one off the TTL between VLANs, and only there.")
            }
        case .running(let host, let command):
            say("\n\(host)# \(command)")
        case .output(let text):
            say(text.split(separator: "\n").map { "  \($0)" }.joined(separator: "\n"))
        case .checked(let check):
            say(line(check))
        }
    }

    func summary(_ result: Lab.Report, took: Duration, kept: Bool) {
        for (host, routes) in result.routes.sorted(by: { $0.key > $1.key }) {
            say("\nRoutes of \(host):\n" + routes.map { "  \($0)" }.joined(separator: "\n"))
        }
        let failed = result.checks.count { !$0.passed }
        let seconds = (took / .milliseconds(1) / 100).rounded() / 10
        let verdict =
            failed == 0
            ? coloured("✓ all \(result.checks.count) checks passed", .green)
            : coloured("✗ \(failed) of \(result.checks.count) checks failed", .red)
        say("\n\(verdict) in \(seconds) s, on Linux \(result.kernel) with \(result.driver.rawValue)")
        guard kept else { return }
        say(
            """

            The lab stays. Its hosts are the network namespaces \(LabNamespace.name("…")):
              vrouter lab exec d1 -- ping 172.16.20.11
              ip netns exec \(LabNamespace.name("host3")) tcpdump -eni enp0s8
              vrouter lab down
            """)
    }

    private func line(_ check: Check) -> String {
        let mark = check.passed ? coloured("✓", .green) : coloured("✗", .red)
        let outcome = check.outcome
        var text = "\(check.source) → \(check.destination)"
        text += String(repeating: " ", count: max(1, 12 - text.count)) + check.address
        text += String(repeating: " ", count: max(1, 26 - text.count))
        if let ttl = outcome.ttl, let milliseconds = outcome.milliseconds {
            text += "ttl=\(ttl)  \(decimal(milliseconds)) ms"
        } else {
            text += "no answer"
        }
        if outcome.sent > 1 { text += "  \(outcome.received) of \(outcome.sent) answered" }
        if !check.passed {
            text += check.expectedTTL.map { ", where ttl=\($0) is right" } ?? ", where no answer is right"
        }
        return "  \(mark) \(text)"
    }

    /// With three decimals, so that columns align.
    private func decimal(_ value: Double) -> String {
        let thousandths = Int((value * 1000).rounded())
        return "\(thousandths / 1000)." + String(String(1000 + thousandths % 1000).dropFirst())
    }

    private enum Colour: Int {
        case red = 31
        case green = 32
    }

    private func coloured(_ text: String, _ colour: Colour) -> String {
        colours ? "\u{1b}[\(colour.rawValue)m\(text)\u{1b}[0m" : text
    }

    private func say(_ text: String) { if !quiet { print(text) } }
}
