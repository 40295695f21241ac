import Packets

extension Ruleset {
    /// For `nft -f`. Loading it replaces the whole table in one transaction, however often.
    ///
    /// The first line lets the second one succeed where there is no table yet.
    public var nftText: String {
        var lines = [
            "add table inet \(Self.table)",
            "delete table inet \(Self.table)",
            "",
            "table inet \(Self.table) {",
        ]
        for set in sets {
            lines += block("set \(set.name)", ["type ifname"] + elements(set.elements.map(quoted)))
        }
        for set in addressSets {
            lines += block(
                "set \(set.name)",
                ["type \(set.family.nftType)", "flags interval"] + elements(set.elements.map(\.nftText)))
        }
        for map in maps {
            let entries = map.elements.map {
                "\($0.key.map(quoted).joined(separator: " . ")) : \($0.verdict.nftText)"
            }
            let type = Array(repeating: "ifname", count: map.keyParts).joined(separator: " . ")
            lines += block("map \(map.name)", ["type \(type) : verdict"] + elements(entries))
        }
        let parts = flowtableParts.map(flowtableMembers)
        if let first = parts.first { lines += block("flowtable \(Self.flows)", first) }
        for chain in chains {
            let hook = chain.hook.map(\.words).map {
                ["type \($0.type) hook \($0.hook) priority \($0.priority); policy accept;"]
            }
            lines += block("chain \(chain.name)", (hook ?? []) + chain.rules.map(\.nftText))
        }
        lines.append("}")
        for part in parts.dropFirst() {
            lines.append("add flowtable inet \(Self.table) \(Self.flows) { \(part.joined(separator: " ")) }")
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// With a counter for each connection, as connection tracking would count it.
private func flowtableMembers(_ devices: [String]) -> [String] {
    let names = devices.map(quoted).joined(separator: ", ")
    return ["hook ingress priority filter;"] + (devices.isEmpty ? [] : ["devices = { \(names) };"]) + ["counter;"]
}

private func block(_ head: String, _ body: [String]) -> [String] {
    ["\t\(head) {"] + body.map { "\t\t\($0)" } + ["\t}"]
}

/// One element a line, so that what changed between two rulesets is what `diff` shows.
private func elements(_ entries: [String]) -> [String] {
    if entries.isEmpty { return [] }
    return ["elements = {"] + entries.map { "\t\($0)," } + ["}"]
}

private func quoted(_ text: String) -> String { "\"\(text)\"" }

extension Ruleset.Rule {
    var nftText: String {
        (matches.map(\.nftText) + ["counter", action.nftText, "comment", quoted(comment)]).joined(separator: " ")
    }
}

extension IPFamily {
    /// nft's word for the family's header.
    fileprivate var nftHeader: String { self == .v4 ? "ip" : "ip6" }
    var nftType: String { self == .v4 ? "ipv4_addr" : "ipv6_addr" }
}

extension IPPrefix {
    /// Of one address: without its length, as nft prints it.
    fileprivate var nftText: String { length == family.width ? network.description : description }
}

extension Ruleset.Side {
    fileprivate var nftText: String { self == .source ? "saddr" : "daddr" }
}

extension Ruleset.Match {
    var nftText: String {
        switch self {
        case .family(let family): "meta nfproto \(family == .v4 ? "ipv4" : "ipv6")"
        case .input(let set): "iifname @\(set)"
        case .inputNot(let set): "iifname != @\(set)"
        case .inputNotLoopback: "iifname != \"lo\""
        case .output(let set): "oifname @\(set)"
        case .outputNot(let set): "oifname != @\(set)"
        case .outputNotLoopback: "oifname != \"lo\""
        case .routed(let interfaces):
            "fib daddr oifname { \(interfaces.map(quoted).joined(separator: ", ")) }"
        case .toThisHost: "fib daddr type local"
        case .toInputInterface: "fib daddr . iif type local"
        case .address(let side, let family, let set): "\(family.nftHeader) \(side.nftText) @\(set)"
        case .addressNot(let side, let family, let set): "\(family.nftHeader) \(side.nftText) != @\(set)"
        case .transport(.any): ""
        case .transport(.icmp): "meta l4proto { icmp, ipv6-icmp }"
        case .transport(let transport): "meta l4proto \(transport.rawValue)"
        case .ports(let transport, let ports):
            "\(transport.rawValue) dport "
                + (ports.count == 1 ? "\(ports.lowerBound)" : "\(ports.lowerBound)-\(ports.upperBound)")
        case .icmpv6(let types): "icmpv6 type { \(types.map(String.init).joined(separator: ", ")) }"
        case .state(let states): "ct state \(states.map(\.rawValue).joined(separator: ","))"
        case .destinationTranslated: "ct status dnat"
        case .tcpWithoutSYN: "tcp flags & syn == 0x0"
        case .tcpBeginning: "tcp flags & (syn | rst) == syn"
        case .limit(let rate, let burst): "limit rate \(rate)/second burst \(burst) packets"
        }
    }
}

extension Ruleset.Action {
    var nftText: String {
        switch self {
        case .verdict(let verdict): verdict.nftText
        case .verdictMap(let keys, let map): "\(keys.map(\.nftText).joined(separator: " . ")) vmap @\(map)"
        case .reject(.reset): "reject with tcp reset"
        case .reject(.prohibited): "reject with icmpx admin-prohibited"
        case .log(let prefix): "log prefix \(quoted(prefix))"
        case .notrack: "notrack"
        case .masquerade: "masquerade"
        case .translate(.v4(let address), let port): "dnat ip to \(address):\(port)"
        case .translate(.v6(let address), let port): "dnat ip6 to [\(address)]:\(port)"
        case .clampMSS: "tcp option maxseg size set rt mtu"
        case .offload: "flow add @\(Ruleset.flows)"
        }
    }
}

extension Ruleset.Key {
    var nftText: String { self == .input ? "iifname" : "oifname" }
}

extension Ruleset.Verdict {
    var nftText: String {
        switch self {
        case .accept: "accept"
        case .drop: "drop"
        case .goto(let chain): "goto \(chain)"
        }
    }
}
