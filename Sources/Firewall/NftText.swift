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
        for map in maps {
            let entries = map.elements.map { "\(quoted($0.pair.from)) . \(quoted($0.pair.to)) : \($0.verdict.nftText)" }
            lines += block("map \(map.name)", ["type ifname . ifname : verdict"] + elements(entries))
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

extension Ruleset.Match {
    var nftText: String {
        switch self {
        case .ipv4: "meta nfproto ipv4"
        case .input(let set): "iifname @\(set)"
        case .output(let set): "oifname @\(set)"
        case .outputNot(let set): "oifname != @\(set)"
        case .routed(let interfaces):
            "fib daddr oifname { \(interfaces.map(quoted).joined(separator: ", ")) }"
        case .state(let states): "ct state \(states.map(\.rawValue).joined(separator: ","))"
        case .destinationTranslated: "ct status dnat"
        case .tcpWithoutSYN: "tcp flags & syn == 0x0"
        }
    }
}

extension Ruleset.Action {
    var nftText: String {
        switch self {
        case .verdict(let verdict): verdict.nftText
        case .verdictMap(let map): "iifname . oifname vmap @\(map)"
        case .notrack: "notrack"
        case .masquerade: "masquerade"
        case .offload: "flow add @\(Ruleset.flows)"
        }
    }
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
