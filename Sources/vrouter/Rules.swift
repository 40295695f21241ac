import ArgumentParser
import Firewall
import Packets
import Router

struct Rules: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print the firewall rules that `up` would commit.",
        discussion: """
            Needs no privileges and changes nothing. The same options give the same text.

              vrouter rules --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 | nft -f -
            """)

    enum Format: String, ExpressibleByArgument, CaseIterable { case nft, json, iptables, ip6tables }

    @OptionGroup var routing: RoutingOptions

    @Option(
        help: ArgumentHelp(
            "The program that is to load them: 'nft' for nft -f, 'json' for nft -j -f, 'iptables' or 'ip6tables' for its -restore.",
            valueName: "nft|json|iptables|ip6tables"))
    var format: Format = .nft

    func run() throws {
        let configuration = try routing.configuration()
        let ruleset = try reportingFailure { () throws(Failure) in
            // Whether 'auto' means a flow table depends on the kernel.
            let ruleset = Ruleset(
                try configuration.policy(),
                flowtable: configuration.flowtable == .on ? configuration.flowtableInterfaces : nil)
            guard [.nft, .json].contains(format) || ruleset.beyondIptables.isEmpty else {
                throw Failure(
                    .usage,
                    "--format \(format.rawValue): there are no iptables rules for \(ruleset.beyondIptables.joined(separator: ", "))",
                    remedy: "use --format nft or json")
            }
            return ruleset
        }
        switch format {
        case .nft: print(ruleset.nftText, terminator: "")
        case .json: print(ruleset.nftJSON, terminator: "")
        case .iptables: try printRestore(ruleset, .v4, other: configuration.usesIPv6 ? .ip6tables : nil)
        case .ip6tables: try printRestore(ruleset, .v6, other: configuration.usesIPv4 ? .iptables : nil)
        }
    }

    private func printRestore(_ ruleset: Ruleset, _ family: IPFamily, other: Format?) throws {
        guard let text = ruleset.iptablesRestore(family: family) else {
            throw ValidationError("no VLAN has an \(family == .v4 ? "IPv4" : "IPv6") address")
        }
        print(text, terminator: "")
        // A file for one program cannot hold the other's rules.
        if let other { complain("note: the other family's rules are printed by --format \(other.rawValue)") }
    }
}
