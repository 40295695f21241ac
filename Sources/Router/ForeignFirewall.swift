import Kernel

/// A base chain on the forward hook that somebody else has made, and that drops by default.
struct ForeignFirewall: CustomStringConvertible {
    let chain: Nftables.BaseChain
    /// The names of the chains that it leads to, and its own.
    let chains: Set<String>

    /// All that there are.
    static func all(_ nftables: borrowing Nftables) throws(KernelError) -> [ForeignFirewall] {
        let families: [Nftables.Family] = [.ip, .ip6, .inet]
        let dropping = try nftables.baseChains().filter {
            $0.hook == "forward" && $0.dropsTheRest && families.contains($0.family)
                && !($0.family == .inet && $0.table == Host.tableName)
        }
        var result: [ForeignFirewall] = []
        for chain in dropping {
            result.append(ForeignFirewall(chain: chain, chains: try nftables.chainsReached(from: chain.fullName)))
        }
        return result
    }

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

    /// The chain in which its maker expects rules of others, and that packets come to before they are dropped; nil: there is none.
    ///
    /// Docker and ufw have one for that. firewalld has none: each of its zones ends with a verdict for whatever comes there, and so
    /// the only place is in the base chain, before the zones. What an administrator has made himself is left alone.
    var placeForOthers: Nftables.ChainName? {
        // iptables' tables are owned by nobody, and so are those of older versions of firewalld.
        guard !chain.isOwned else { return nil }
        let name: String? =
            switch owner {
            case .docker: "DOCKER-USER"
            case .ufw: chain.family == .ip6 ? "ufw6-user-forward" : "ufw-user-forward"
            case .firewalld: chain.name
            case .iptables, .administrator: nil
            }
        guard let name, chains.contains(name) else { return nil }
        return Nftables.ChainName(family: chain.family, table: chain.table, name: name)
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
