import ArgumentParser
import Kernel

@main
struct VRouter: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vrouter",
        abstract: "Turns a Linux host into the router between VLANs.",
        discussion: """
            The host has one interface on a trunk port, and carries the VLANs' frames between its tag and the other:

              vrouter up --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24

            gives it a gateway address in each VLAN, switches forwarding on and installs the firewall rules. `vrouter up \
            --dry-run …` shows the commands that would do the same, and changes nothing. `vrouter down` puts everything back. \
            `vrouter lab` shows all of it in network namespaces.

            Exit status: 0 done; 1 what was looked at is not as it should be (status, diff, doctor, lab); 3 vrouter is not up (status, flows); \
            64 usage or configuration; 69 the kernel lacks something; 70 a mistake of vrouter's own; 74 what it printed could not \
            be written; 75 another vrouter is at work; 77 not permitted; 130 interrupted.
            """,
        version: version,
        subcommands: [
            Up.self, DiffCommand.self, Confirm.self, Down.self, Run.self, StatusCommand.self, FlowsCommand.self,
            Rules.self, PolicyCommand.self, Hosts.self,
            Forward.self, DoctorCommand.self, ConfigCommand.self, Install.self,
            Follow.self, Revert.self, LabCommand.self, BenchCommand.self,
        ])

    static let version = "0.1.0"

    static func main() {
        StandardOutput.reportLoss()
        main(joined(Array(CommandLine.arguments.dropFirst())))
    }

    /// All `--vlan ID=ADDRESS` of a command as one, a line each, and so what else is said for each VLAN: the time that ArgumentParser takes
    /// for a repeated option grows with the square of its number, to a second with 4,094.
    static func joined(_ arguments: [String]) -> [String] {
        guard arguments.first != "lab" else { return arguments }
        var result: [String] = []
        var values: [String: [String]] = [:]
        var index = 0
        while index < arguments.count, arguments[index] != "--" {
            if Self.ofEachVLAN.contains(arguments[index]), index + 1 < arguments.count {
                values[arguments[index], default: []].append(arguments[index + 1])
                index += 2
            } else {
                result.append(arguments[index])
                index += 1
            }
        }
        for option in Self.ofEachVLAN {
            if let lines = values[option] { result += [option, lines.joined(separator: "\n")] }
        }
        return result + arguments[index...]
    }

    private static let ofEachVLAN = ["--vlan", "--trunk", "--outer", "--driver", "--zone", "--name", "--mtu"]
}
