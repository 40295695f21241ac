import ArgumentParser
import Kernel
import Router

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make this host the router, and keep it so until told to end: for a service manager.",
        discussion: """
            Does what `up` does, stays, and puts back what others undo: an interface that was unplugged, an address or a gateway that \
            was deleted, rules that were flushed, forwarding that was switched off. It waits for a trunk that is not there. `vrouter up` \
            by hand changes what it keeps; after `vrouter down` by hand it keeps nothing.

            SIGHUP: read the configuration again; where that is bad, the one before goes on. SIGTERM: take everything down and end. What it \
            does goes to standard error, a line each. It tells systemd when it is ready (Type=notify).
            """)

    @OptionGroup var routing: RoutingOptions

    @OptionGroup var path: PathOptions

    @Flag(help: "Leave everything up when it ends.")
    var keep = false

    func run() throws {
        let hasPriorities = ServiceManager.readsPriorities
        let daemon = Daemon(program: [ThisProcess.executable]) { priority, text in
            for line in text.split(separator: "\n") {
                complain(hasPriorities ? "<\(priority.rawValue)>\(line)" : "vrouter: \(line)")
            }
        } source: { () throws(Failure) in
            let file = try path.read(routing)
            return (file.configuration, file.driver)
        }
        try reportingFailure { () throws(Failure) in try daemon.run(keep: keep) }
    }
}
