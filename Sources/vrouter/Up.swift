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

    @OptionGroup var routing: RoutingOptions

    @OptionGroup var path: PathOptions

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
        let file = try path.file(routing)
        let configuration = file.configuration
        let router = Router(
            report: json ? { _ in } : Progress().report,
            program: [ThisProcess.executable],
            fault: try Fault.fromEnvironment())
        let outcome = try reportingFailure { () throws(Failure) in
            try router.up(configuration, driver: file.driver, dryRun: dryRun, confirmWithin: confirm)
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
                let role = addresses.isEmpty ? "carries other VLANs" : "is the gateway \(addresses)"
                print("VLAN \(vlan.id): \(configuration.interfaceName(vlan.id)) \(role)")
            }
        }
        if let ended = outcome.endedSessions, ended > 0 {
            print("\(ended) session\(ended == 1 ? " that is" : "s that are") no longer allowed ended")
        }
        if let unconfirmed = outcome.unconfirmed { print(unconfirmed.line) }
        // Commands can be piped into a shell, to which a note is a comment.
        for note in outcome.notes + maskingNote(configuration) {
            print(dryRun ? "# note: \(note)" : "note: \(note)")
        }
        for finding in blocking { print(finding.lines.joined(separator: "\n")) }
    }

    private func maskingNote(_ configuration: Configuration) -> [String] {
        guard let masquerade = configuration.vlans.map(configuration.masquerade(of:)).first(where: \.isBetweenVLANs)
        else { return [] }
        return [
            "--masquerade \(masquerade.rawValue) hides the hosts of one VLAN from the servers in another; "
                + "--masquerade uplink does not"
        ]
    }
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
