import Kernel

/// A base chain on the forward hook that somebody else has made, and that drops by default.
struct ForeignFirewall: CustomStringConvertible {
    let chain: Nftables.BaseChain
    /// The names of all chains of its table.
    let chains: Set<String>

    enum Owner: String {
        case docker = "Docker's"
        case firewalld = "firewalld's"
        case ufw = "ufw's"
        case iptables = "made with iptables"
        case administrator = "an administrator's own"
    }

    /// Who makes chains like this, as far as the names tell.
    var owner: Owner {
        if chains.contains("DOCKER-USER") { return .docker }
        if chain.table == "firewalld" { return .firewalld }
        if chains.contains(where: { $0.hasPrefix("ufw-") || $0.hasPrefix("ufw6-") }) { return .ufw }
        return chain.name == "FORWARD" && chain.family != .inet ? .iptables : .administrator
    }

    var description: String { "the chain \(chain.family) \(chain.table) \(chain.name) (\(owner.rawValue))" }

    /// What lets new connections from this gateway, and the answers to it, pass here. Our own table still has its say.
    func commandsToPass(_ gateway: String) -> [String] {
        let iptables = chain.family == .ip6 ? "ip6tables" : "iptables"
        switch owner {
        case .firewalld:
            return ["firewall-cmd --permanent --zone=trusted --add-interface=\(gateway) && firewall-cmd --reload"]
        case .ufw:
            return ["ufw route allow in on \(gateway)"]
        case .docker, .iptables:
            let place = owner == .docker ? "DOCKER-USER" : chain.name
            return [
                "\(iptables) -I \(place) -i \(gateway) -j ACCEPT",
                "\(iptables) -I \(place) -o \(gateway) -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ]
        case .administrator:
            let place = "nft insert rule \(chain.family) \(chain.table) \(chain.name)"
            return [
                "\(place) iifname \(gateway) accept", "\(place) oifname \(gateway) ct state related,established accept",
            ]
        }
    }
}
