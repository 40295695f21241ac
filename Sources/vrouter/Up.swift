import ArgumentParser
import Firewall
import Kernel
import Packets
import Router

struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make this host the router between the VLANs.",
        discussion: """
            Adds a gateway interface for each VLAN (<parent>.<id>), gives it its addresses, switches forwarding on and commits the \
            firewall rules. Repeating it changes nothing; with other options it applies the difference. If a step fails, \
            everything is as it was before.
            """)

    @OptionGroup var options: UpOptions

    @Option(
        help: ArgumentHelp(
            """
            Take the change back by itself, that many seconds after it is complete, unless `vrouter confirm` comes first: \
            whoever has shut himself out cannot say so.
            """, valueName: "seconds"))
    var confirm: Int?

    @Flag(help: "Print the commands that would do the same, and change nothing.")
    var dryRun = false

    @Flag(help: "Print what was done as JSON.")
    var json = false

    func run() throws {
        let (configuration, driver) = try reportingFailure { () throws(Failure) in try options.wanted() }
        let router = Router(
            report: json ? { _ in } : Progress().report,
            program: [ThisProcess.executable],
            fault: try Fault.fromEnvironment())
        let outcome = try reportingFailure { () throws(Failure) in
            try router.up(configuration, driver: driver, dryRun: dryRun, confirmWithin: confirm)
        }
        // What keeps packets from passing although everything is set up: another firewall, above all.
        let blocking =
            dryRun
            ? []
            : (try? Doctor.blocking(configuration)) ?? []
        if json { return try printJSON(OutcomeReport(outcome, dryRun: dryRun, blocking: blocking)) }
        if outcome.steps.isEmpty {
            print("nothing to do")
        } else if dryRun {
            print(outcome.steps.flatMap(\.commands).joined(separator: "\n"))
        } else {
            for vlan in configuration.vlans {
                let addresses = vlan.addresses.map(\.description).joined(separator: ", ")
                print("VLAN \(vlan.id): \(configuration.interfaceName(vlan.id)) is the gateway \(addresses)")
            }
        }
        if let ended = outcome.endedSessions, ended > 0 {
            print("\(ended) session\(ended == 1 ? " that is" : "s that are") no longer allowed ended")
        }
        if let unconfirmed = outcome.unconfirmed { print(unconfirmed.line) }
        // Commands can be piped into a shell, to which a note is a comment.
        for note in outcome.notes + maskingNote { print(dryRun ? "# note: \(note)" : "note: \(note)") }
        for finding in blocking { print(finding.lines.joined(separator: "\n")) }
    }

    private var maskingNote: [String] {
        guard options.routing.masquerade == .vlans || options.routing.masquerade == .all else { return [] }
        return [
            "--masquerade \(options.routing.masquerade.rawValue) hides the hosts of one VLAN from the servers in another; "
                + "--masquerade uplink does not"
        ]
    }
}

/// What is wanted of a host: the same for `up`, `run` and `diff`.
struct UpOptions: ParsableArguments {
    @OptionGroup var routing: RoutingOptions

    @Option(
        help: ArgumentHelp(
            """
            How the gateway interfaces are made: '8021q', VLAN devices of the kernel; 'ebpf', for kernels without them. \
            Default: the first that the kernel has.
            """, valueName: "auto|8021q|ebpf"))
    var vlanDriver: DriverChoice = .auto

    @Option(
        help: ArgumentHelp(
            """
            What forwards between VLANs beside the kernel: 'af-packet', workers in user space that take connections which the \
            kernel has let pass, and what needs no look at its connection, and leave the rest to the kernel; 'none'.
            """, valueName: "none|af-packet"))
    var fastPath: FastPathChoice = .none

    @Option(help: "How many workers the fast path has.")
    var workers: Int?

    @Option(
        help: ArgumentHelp(
            """
            From how many frames a second on, arriving on one processor, the fast path forwards. What comes one by one is forwarded \
            sooner by the kernel, which need wake nobody for it. 0: everything that it can take.
            """, valueName: "frames"))
    var fastPathFrom: UInt32?

    @Option(
        help: ArgumentHelp(
            "How many connections of each family the fast path can carry; those beyond are the kernel's.",
            valueName: "number"))
    var fastPathConnections: Int?

    /// Reads it, with whatever files and interfaces that takes.
    func wanted() throws(Failure) -> (configuration: Configuration, driver: Driver?) {
        var configuration = try routing.read()
        configuration.fastPath = try wantedFastPath()
        return (configuration, vlanDriver.driver)
    }

    private func wantedFastPath() throws(Failure) -> Configuration.FastPath? {
        switch fastPath {
        case .afPacket:
            return try Configuration.FastPath(
                workers: workers ?? 1, threshold: fastPathFrom ?? Configuration.FastPath.defaultThreshold,
                connections: fastPathConnections ?? Configuration.FastPath.defaultConnections)
        case .none:
            let options = [
                workers.map { "--workers \($0)" }, fastPathFrom.map { "--fast-path-from \($0)" },
                fastPathConnections.map { "--fast-path-connections \($0)" },
            ]
            guard let option = options.compactMap(\.self).first else { return nil }
            throw Failure(
                .usage, "\(option): there is no fast path", remedy: "add --fast-path af-packet, or leave it out")
        }
    }
}

/// `--fast-path`.
enum FastPathChoice: String, ExpressibleByArgument, CaseIterable {
    case none
    case afPacket = "af-packet"
}

/// `--vlan-driver`.
enum DriverChoice: String, ExpressibleByArgument, CaseIterable {
    case auto
    case ieee8021q = "8021q"
    case ebpf

    var driver: Driver? { Driver(rawValue: rawValue) }
}

/// What `up` and `down` print with `--json`.
struct OutcomeReport: Encodable {
    var changed: Bool
    var dryRun: Bool
    var driver: Driver?
    var steps: [Router.Step]
    var notes: [String]
    /// How many ended as they are no longer allowed; absent: nothing is denied that was not.
    var endedSessions: Int?
    /// Absent: nothing waits to be confirmed.
    var unconfirmed: Status.Unconfirmed?
    /// What keeps packets from passing all the same.
    var blocking: [Finding]

    init(_ outcome: Router.Outcome, dryRun: Bool, blocking: [Finding] = []) {
        changed = !outcome.steps.isEmpty && !dryRun
        self.dryRun = dryRun
        driver = outcome.driver
        steps = outcome.steps
        notes = outcome.notes
        endedSessions = outcome.endedSessions
        unconfirmed = outcome.unconfirmed
        self.blocking = blocking
    }
}
