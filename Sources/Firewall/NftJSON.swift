import Packets

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
        for set in addressSets {
            let types: [(String, JSON)] = [("type", .string(set.family.nftType)), ("flags", ["interval"])]
            commands.append(
                ["add": ["set": .object(named(set.name) + types + list(set.elements.map(\.nftJSON)))]])
        }
        for map in maps {
            let elements = map.elements.map { element -> JSON in
                [concatenation(element.key.map(JSON.string)), element.verdict.nftJSON]
            }
            let type = Array(repeating: JSON.string("ifname"), count: map.keyParts)
            let types: [(String, JSON)] = [("type", type.count == 1 ? type[0] : .array(type)), ("map", "verdict")]
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

/// Of one part: that part.
private func concatenation(_ parts: [JSON]) -> JSON { parts.count == 1 ? parts[0] : ["concat": .array(parts)] }

extension IPPrefix {
    /// Of one address: that address.
    fileprivate var nftJSON: JSON {
        let address = JSON.string(network.description)
        return length == family.width ? address : ["prefix": ["addr": address, "len": .number(length)]]
    }
}

extension Ruleset.Match {
    var nftJSON: JSON {
        switch self {
        case .family(let family): match(meta("nfproto"), "==", family == .v4 ? "ipv4" : "ipv6")
        case .input(let set): match(meta("iifname"), "==", .string("@\(set)"))
        case .inputNot(let set): match(meta("iifname"), "!=", .string("@\(set)"))
        case .inputNotLoopback: match(meta("iifname"), "!=", "lo")
        case .output(let set): match(meta("oifname"), "==", .string("@\(set)"))
        case .outputNot(let set): match(meta("oifname"), "!=", .string("@\(set)"))
        case .outputNotLoopback: match(meta("oifname"), "!=", "lo")
        case .routed(let interfaces):
            match(
                ["fib": ["result": "oifname", "flags": ["daddr"]]], "==",
                ["set": .array(interfaces.map(JSON.string))])
        case .toThisHost: match(["fib": ["result": "type", "flags": ["daddr"]]], "==", "local")
        case .toInputInterface: match(["fib": ["result": "type", "flags": ["daddr", "iif"]]], "==", "local")
        case .address(let side, let family, let set):
            match(payload(family == .v4 ? "ip" : "ip6", side.field), "==", .string("@\(set)"))
        case .addressNot(let side, let family, let set):
            match(payload(family == .v4 ? "ip" : "ip6", side.field), "!=", .string("@\(set)"))
        case .transport(.icmp): match(meta("l4proto"), "==", ["set": ["icmp", "ipv6-icmp"]])
        case .transport(let transport): match(meta("l4proto"), "==", .string(transport.rawValue))
        case .ports(let transport, let ports):
            match(
                payload(transport.rawValue, "dport"), "==",
                ports.count == 1
                    ? .number(Int(ports.lowerBound))
                    : ["range": [.number(Int(ports.lowerBound)), .number(Int(ports.upperBound))]])
        case .icmpv6(let types):
            match(payload("icmpv6", "type"), "==", ["set": .array(types.map { .number(Int($0)) })])
        case .state(let states):
            match(["ct": ["key": "state"]], "in", .array(states.map { .string($0.rawValue) }))
        case .destinationTranslated: match(["ct": ["key": "status"]], "in", "dnat")
        case .tcpWithoutSYN: match(["&": [payload("tcp", "flags"), "syn"]], "==", .number(0))
        case .tcpBeginning: match(["&": [payload("tcp", "flags"), ["|": ["syn", "rst"]]]], "==", "syn")
        case .limit(let rate, let burst):
            ["limit": ["rate": .number(Int(rate)), "burst": .number(Int(burst)), "per": "second"]]
        }
    }
}

private func payload(_ header: String, _ field: String) -> JSON {
    ["payload": ["protocol": .string(header), "field": .string(field)]]
}

extension Ruleset.Side {
    fileprivate var field: String { self == .source ? "saddr" : "daddr" }
}

extension Ruleset.Action {
    var nftJSON: JSON {
        switch self {
        case .verdict(let verdict): verdict.nftJSON
        case .verdictMap(let keys, let map):
            ["vmap": ["key": concatenation(keys.map { meta($0.nftText) }), "data": .string("@\(map)")]]
        case .reject(.reset): ["reject": ["type": "tcp reset"]]
        case .reject(.prohibited): ["reject": ["type": "icmpx", "expr": "admin-prohibited"]]
        case .log(let prefix): ["log": ["prefix": .string(prefix)]]
        case .notrack: ["notrack": .null]
        case .masquerade: ["masquerade": .null]
        case .translate(let address, let port):
            [
                "dnat": [
                    "family": address.isV4 ? "ip" : "ip6", "addr": .string(address.description),
                    "port": .number(Int(port)),
                ]
            ]
        case .clampMSS:
            [
                "mangle": [
                    "key": ["tcp option": ["name": "maxseg", "field": "size"]], "value": ["rt": ["key": "mtu"]],
                ]
            ]
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
