import ArgumentParser
import Kernel
import Router

struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff",
        abstract: "Show what `up` would change on this host as it is now.",
        discussion: """
            The difference from the rules that the kernel has to the wanted ones, then the commands that would do the rest. Without \
            options and file, the wanted ones are those that `up` has applied here: what differs is what others have changed since. \
            Changes nothing, and needs no privileges; without, it cannot see rules, BPF programs and processes, and says so.

            Exit status: 0 nothing differs; 1 something does; others for errors.
            """)

    @OptionGroup var routing: RoutingOptions

    @OptionGroup var path: PathOptions

    @Flag(help: "Print it as JSON.")
    var json = false

    func run() throws {
        let isGiven = routing.isGiven || path.firstOption != nil
        let file = isGiven ? try path.file(routing) : nil
        let difference = try reportingFailure { () throws(Failure) in
            try Router(program: [ThisProcess.executable]).difference(to: file?.configuration, driver: file?.driver)
        }
        if json {
            try printJSON(difference)
        } else {
            print(difference.ruleset, terminator: "")
            for command in difference.steps.flatMap(\.commands) { print(command) }
            for note in difference.notes { print("# note: \(note)") }
        }
        if difference.differs { throw ExitCode(1) }
    }
}
