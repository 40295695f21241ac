import ArgumentParser
import Kernel
import Router

struct Confirm: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Let a change stay that `up --confirm` has made.",
        discussion: "Exit status: 0 it stays; 1 nothing waits to be confirmed.")

    func run() throws {
        let wasThere = try reportingFailure { () throws(Failure) in try Router.confirm() }
        guard wasThere else {
            complain("vrouter: nothing waits to be confirmed")
            throw ExitCode(1)
        }
        print("confirmed: the change stays")
    }
}

struct Revert: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Take a change back when its time is over; `up --confirm` starts it.", shouldDisplay: false)

    func run() throws {
        try reportingFailure { () throws(Failure) in try Reverter.run(program: [ThisProcess.executable]) }
    }
}
