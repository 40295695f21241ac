import ArgumentParser
import Router

struct Follow: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Keep the gateway interfaces' carrier, MTU and address like the parent's; `up` starts it with the ebpf driver.",
        shouldDisplay: false)

    func run() throws {
        try reportingFailure { () throws(Failure) in try Follower.run() }
    }
}
