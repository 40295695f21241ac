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
            With --from and --to it also says whether that connection is let through, and if not, why. \
            Exit status: 0 nothing blocks; 1 something does.
            """)

    @OptionGroup var routing: RoutingOptions

    @Option(help: ArgumentHelp("The address of a host that does not reach another one.", valueName: "address"))
    var from: String?

    @Option(help: ArgumentHelp("The address of the other one.", valueName: "address"))
    var to: String?

    @Option(help: ArgumentHelp("What for: tcp/443, udp/53, icmp.", valueName: "service"))
    var service = "icmp"

    func validate() throws {
        guard (from == nil) == (to == nil) else { throw ValidationError("--from and --to belong together") }
    }

    @Flag(help: "Print the findings as JSON.")
    var json = false

    func run() throws {
        let planned = routing.isGiven ? try routing.configuration() : nil
        let findings = try reportingFailure { () throws(Failure) in
            var asked: AskedConnection?
            if let from, let to { asked = try AskedConnection(from: from, to: to, service: service) }
            return try Doctor.examine(planned, asked: asked)
        }
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
