extension Ruleset {
    /// For `nft -j -f`: the same table as `nftText`, in the schema of libnftables-json(5), one command a line.
    public var nftJSON: String {
        let table: JSON = ["table": ["family": "inet", "name": .string(Self.table)]]
        var commands: [JSON] = [
            ["metainfo": ["json_schema_version": .number(1)]],
            ["add": table], ["delete": table], ["add": table],
        ]
        // Commands run in order here: chains before the maps that go to them, rules after everything they name.
        for chain in chains {
            var members = named(chain.name)
            if let words = chain.hook?.words {
                members += [
                    ("type", .string(words.type)), ("hook", .string(words.hook)), ("prio", .number(words.number)),
                    ("policy", "accept"),
                ]
            }
            commands.append(["add": ["chain": .object(members)]])
        }
        for set in sets {
            let elements = set.elements.map(JSON.string)
            commands.append(["add": ["set": .object(named(set.name) + [("type", "ifname")] + list(elements))]])
        }
        for map in maps {
            let elements = map.elements.map { element -> JSON in
                [["concat": [.string(element.pair.from), .string(element.pair.to)]], element.verdict.nftJSON]
            }
            let types: [(String, JSON)] = [("type", ["ifname", "ifname"]), ("map", "verdict")]
            commands.append(["add": ["map": .object(named(map.name) + types + list(elements))]])
        }
        // The schema has no word for the counter.
        for part in flowtableParts {
            let members: [(String, JSON)] = [
                ("hook", "ingress"), ("prio", .number(0)), ("dev", .array(part.map(JSON.string))),
            ]
            commands.append(["add": ["flowtable": .object(named(Self.flows) + members)]])
        }
        for chain in chains {
            commands += chain.rules.map { ["add": ["rule": $0.nftJSON(in: chain.name)]] }
        }
        return "{\"nftables\": [\n" + commands.map(\.text).joined(separator: ",\n") + "\n]}\n"
    }

    private func named(_ name: String) -> [(String, JSON)] {
        [("family", "inet"), ("table", .string(Self.table)), ("name", .string(name))]
    }

    private func list(_ elements: [JSON]) -> [(String, JSON)] {
        elements.isEmpty ? [] : [("elem", .array(elements))]
    }
}

private func match(_ left: JSON, _ operation: String, _ right: JSON) -> JSON {
    ["match": ["op": .string(operation), "left": left, "right": right]]
}

private func meta(_ key: String) -> JSON { ["meta": ["key": .string(key)]] }

extension Ruleset.Rule {
    func nftJSON(in chain: String) -> JSON {
        [
            "family": "inet", "table": .string(Ruleset.table), "chain": .string(chain),
            "expr": .array(matches.map(\.nftJSON) + [["counter": .null], action.nftJSON]),
            "comment": .string(comment),
        ]
    }
}

extension Ruleset.Match {
    var nftJSON: JSON {
        switch self {
        case .ipv4: match(meta("nfproto"), "==", "ipv4")
        case .input(let set): match(meta("iifname"), "==", .string("@\(set)"))
        case .output(let set): match(meta("oifname"), "==", .string("@\(set)"))
        case .outputNot(let set): match(meta("oifname"), "!=", .string("@\(set)"))
        case .routed(let interfaces):
            match(
                ["fib": ["result": "oifname", "flags": ["daddr"]]], "==",
                ["set": .array(interfaces.map(JSON.string))])
        case .state(let states):
            match(["ct": ["key": "state"]], "in", .array(states.map { .string($0.rawValue) }))
        case .destinationTranslated: match(["ct": ["key": "status"]], "in", "dnat")
        case .tcpWithoutSYN:
            match(["&": [["payload": ["protocol": "tcp", "field": "flags"]], "syn"]], "==", .number(0))
        }
    }
}

extension Ruleset.Action {
    var nftJSON: JSON {
        switch self {
        case .verdict(let verdict): verdict.nftJSON
        case .verdictMap(let map):
            ["vmap": ["key": ["concat": [meta("iifname"), meta("oifname")]], "data": .string("@\(map)")]]
        case .notrack: ["notrack": .null]
        case .masquerade: ["masquerade": .null]
        case .offload: ["flow": ["op": "add", "flowtable": .string("@\(Ruleset.flows)")]]
        }
    }
}

extension Ruleset.Verdict {
    var nftJSON: JSON {
        switch self {
        case .accept: ["accept": .null]
        case .drop: ["drop": .null]
        case .goto(let chain): ["goto": ["target": .string(chain)]]
        }
    }
}
