// What several subcommands ask for, and how all of them speak.

import ArgumentParser
import Firewall
import FoundationEssentials
import Kernel
import Router

extension Policy.Masquerade: ExpressibleByArgument {}
extension Driver: ExpressibleByArgument {}

/// The VLANs and the policy.
struct RoutingOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "The interface on the trunk port. Default: the only Ethernet interface that is hardware and does not carry the default route.",
            valueName: "interface"))
    var parent: String?

    @Option(
        name: .customLong("vlan"), parsing: .singleValue,
        help: ArgumentHelp(
            "A VLAN and the router's addresses in it, IPv4 or IPv6; once for each VLAN. For example 100=172.16.10.1/24,fd00:10::1/64",
            valueName: "id=address/length,…"))
    var vlans: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            Which IPv4 packets get the router's own address as their source: 'vlans', those that leave into a VLAN; 'uplink', those \
            that leave from a VLAN to the outside; 'all', both; 'none'.
            """, valueName: "vlans|uplink|all|none"))
    var masquerade: Policy.Masquerade = .vlans

    @Option(
        name: .customLong("deny"), parsing: .singleValue,
        help: ArgumentHelp(
            "Hosts of the first VLAN may not open connections to hosts of the second. Can be repeated.",
            valueName: "from:to"))
    var denied: [String] = []

    func configuration() throws -> Configuration { try reportingFailure { () throws(Failure) in try read() } }

    func read() throws(Failure) -> Configuration {
        let parent = if let parent { parent } else { try Parent.find() }
        // See VRouter.joined.
        let vlans = vlans.flatMap { $0.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) }
        return try Configuration(parent: parent, vlans: vlans, masquerade: masquerade, denied: denied)
    }
}

/// Failures end the command: their text on standard error, their kind as exit status.
func reportingFailure<Result>(_ body: () throws(Failure) -> Result) throws -> Result {
    do {
        return try body()
    } catch {
        complain("vrouter: \(error)")
        throw ExitCode(error.kind.rawValue)
    }
}

/// For commands that make network namespaces.
func requireRoot(_ command: String) throws {
    guard !ThisProcess.isRoot else { return }
    complain("vrouter: network namespaces are made by root only\n  remedy: sudo \(command)")
    throw ExitCode(Failure.Kind.notPermitted.rawValue)
}

func complain(_ line: String) { StandardError.write(line + "\n") }

/// For machines: two-space indentation, sorted keys.
func printJSON(_ value: some Encodable) throws { print(try jsonText(value)) }

func jsonText(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
