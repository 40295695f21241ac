import ArgumentParser
import Router

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Look for what keeps packets between the VLANs from arriving.",
        discussion: """
            Looks at the kernel, the firewalls of others, and the running VLANs, or those that the options name. Changes nothing, \
            but asking for VLAN devices may load the kernel's module for them. Two hosts of each running VLAN (64 in all) get a small \
            and a large echo request, to find what does not carry whole packets. \
            Exit status: 0 nothing blocks; 1 something does.
            """)

    @OptionGroup var routing: RoutingOptions

    @Flag(help: "Print the findings as JSON.")
    var json = false

    func run() throws {
        let planned = routing.isGiven ? try routing.configuration() : nil
        let findings = try reportingFailure { () throws(Failure) in try Doctor.examine(planned) }
        if json {
            try printJSON(findings)
        } else {
            for finding in findings { print(finding.lines.joined(separator: "\n")) }
        }
        if findings.contains(where: { $0.severity == .blocking }) { throw ExitCode(1) }
    }
}

extension Finding {
    /// For people: a mark, the text, what to do.
    var lines: [String] {
        let mark =
            switch severity {
            case .ok: "✓"
            case .info: "·"
            case .warning: "!"
            case .blocking: "✗"
            }
        return ["\(mark) \(check): \(text)"] + remedy.map { "    → \($0)" }
    }
}
