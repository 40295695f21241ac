import ArgumentParser
import Kernel
import Router

struct Forward: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Forward between VLANs in user space, beside the kernel, until told to end.",
        discussion: """
            `vrouter up … --fast-path af-packet` starts this by itself, detached. A service manager can run it instead, in the \
            foreground, before `up` or after: it says when it is ready (sd_notify). However it ends, the kernel forwards on.
            """)

    func run() throws {
        try reportingFailure { () throws(Failure) in
            try FastPath.run { ServiceManager.tellReady() }
        }
    }
}
