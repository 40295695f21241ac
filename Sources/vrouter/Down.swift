import ArgumentParser
import Kernel
import Router

struct Down: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put back everything that `up` has changed.",
        discussion: """
            Links, addresses, kernel parameters, rules and BPF programs are then as `up` found them; what others have made is not \
            touched. Also cleans up behind an `up` that was killed.
            """)

    @Flag(help: "Print the commands that would do the same, and change nothing.")
    var dryRun = false

    @Flag(help: "Print what was done as JSON.")
    var json = false

    func run() throws {
        let router = Router(
            report: json ? { _ in } : Progress().report,
            program: [ThisProcess.executable],
            fault: try Fault.fromEnvironment())
        let outcome = try reportingFailure { () throws(Failure) in try router.down(dryRun: dryRun) }
        if json { return try printJSON(OutcomeReport(outcome, dryRun: dryRun)) }
        if outcome.steps.isEmpty {
            print("nothing to do")
        } else if dryRun {
            print(outcome.steps.flatMap(\.commands).joined(separator: "\n"))
        } else {
            print("everything is as it was before `vrouter up`")
        }
        for note in outcome.notes { print("note: \(note)") }
    }
}
