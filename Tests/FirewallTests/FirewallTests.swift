import Packets
import Testing

@testable import Firewall

/// The article's router: two VLANs on enp0s8.
private func article() throws -> Policy { try policy(["enp0s8": [100, 200]]) }

private func policy(
    _ parents: KeyValuePairs<String, [UInt16]>, _ masquerade: Policy.Masquerade = .vlans,
    denied: [(String, String)] = []
) throws -> Policy {
    try Policy(
        gateways: parents.flatMap { parent, vlans in vlans.map { gateway(parent, $0) } }, masquerade: masquerade,
        denied: denied.map { Policy.Pair(from: $0.0, to: $0.1) })
}

private func gateway(_ parent: String, _ number: UInt16) -> Policy.Gateway {
    guard let vlan = VLANID(number) else { fatalError("\(number) is not a VLAN") }
    let address = IPAddress.v4(IPv4Address(0xac10_0000 | UInt32(number / 10 % 256) << 8))
    return Policy.Gateway(
        interface: "\(parent).\(number)", vlan: vlan, addresses: [InterfaceAddress(address, prefixLength: 24)])
}

/// Exact texts. They were written by hand from the article's rules and then loaded, each with the program that it is for:
/// `nft -f`, `nft -j -f` (nftables 1.0.6) and `iptables-restore --noflush` (1.8.9). KernelTests do that again.
@Suite("Golden rulesets")
struct GoldenTests {
    @Test("nft: the article's two VLANs, as a whole")
    func nft() throws {
        #expect(
            try Ruleset(article()).nftText == """
                add table inet vrouter
                delete table inet vrouter

                table inet vrouter {
                \tset vlans {
                \t\ttype ifname
                \t\telements = {
                \t\t\t"enp0s8.100",
                \t\t\t"enp0s8.200",
                \t\t}
                \t}
                \tmap pairs {
                \t\ttype ifname . ifname : verdict
                \t}
                \tchain forward {
                \t\ttype filter hook forward priority filter; policy accept;
                \t\tiifname @vlans counter goto decide comment "comes from a VLAN"
                \t\toifname @vlans counter goto decide comment "goes into a VLAN"
                \t}
                \tchain decide {
                \t\tct state established,related counter accept comment "belongs to a connection that was let through"
                \t\tct state invalid counter drop comment "belongs to no connection"
                \t\tcounter iifname . oifname vmap @pairs comment "new: VLAN pairs with a verdict of their own"
                \t\tiifname @vlans counter accept comment "new: from a VLAN"
                \t\tct status dnat counter accept comment "new: from outside to a forwarded port"
                \t\tcounter drop comment "new: from outside into a VLAN"
                \t}
                \tchain denied {
                \t\tcounter drop comment "new: this pair of VLANs is denied"
                \t}
                \tchain postrouting {
                \t\ttype nat hook postrouting priority srcnat; policy accept;
                \t\tmeta nfproto ipv4 oifname @vlans counter masquerade comment "into a VLAN: seen as its gateway"
                \t}
                }

                """)
    }

    @Test("nft: a denied pair is one element of a map, and the other direction is one, too, unless it is denied")
    func denied() throws {
        let ruleset = try Ruleset(policy(["enp0s8": [100, 200]], denied: [("enp0s8.100", "enp0s8.200")]))
        #expect(
            ruleset.nftText.contains(
                """
                \tmap pairs {
                \t\ttype ifname . ifname : verdict
                \t\telements = {
                \t\t\t"enp0s8.100" . "enp0s8.200" : goto denied,
                \t\t\t"enp0s8.200" . "enp0s8.100" : goto opposite,
                \t\t}
                \t}
                """))
        #expect(
            ruleset.nftText.contains(
                """
                \tchain opposite {
                \t\ttcp flags & syn == 0x0 counter drop comment "belongs to a connection that is denied the other way"
                \t\tiifname @vlans counter accept comment "new: from a VLAN"
                \t}
                """))
        let both = [("enp0s8.100", "enp0s8.200"), ("enp0s8.200", "enp0s8.100")]
        #expect(try !Ruleset(policy(["enp0s8": [100, 200]], denied: both)).nftText.contains("opposite"))
    }

    @Test(
        "nft: what is masqueraded",
        arguments: [
            (Policy.Masquerade.vlans, ["meta nfproto ipv4 oifname @vlans counter masquerade"]),
            (.uplink, ["meta nfproto ipv4 iifname @vlans oifname != @vlans counter masquerade"]),
            (
                .all,
                [
                    "meta nfproto ipv4 oifname @vlans counter masquerade",
                    "meta nfproto ipv4 iifname @vlans oifname != @vlans counter masquerade",
                ]
            ),
            (.none, []),
        ])
    func masquerade(mode: Policy.Masquerade, rules: [String]) throws {
        let text = try Ruleset(policy(["enp0s8": [100, 200]], mode)).nftText
        let found = text.split(separator: "\n").filter { $0.contains("masquerade") }
            .map { $0.drop { $0 == "\t" }.prefix { $0 != "\"" }.dropLast(" comment ".count) }
        #expect(found.map(String.init) == rules)
        // No rule, no chain: a nat chain alone already changes what the kernel does.
        #expect(text.contains("type nat") == !rules.isEmpty)
    }

    /// Loaded with nftables 1.0.6 on Linux 6.1, as KernelTests do again where the kernel has flow tables.
    @Test("nft and json: a flow table is one object and one rule more, and in parts where it has many interfaces")
    func flowtable() throws {
        let plain = try Ruleset(article())
        let ruleset = try Ruleset(article(), flowtable: ["enp0s8.100", "enp0s8.200"])
        let more = ruleset.nftText.split(separator: "\n").difference(from: plain.nftText.split(separator: "\n"))
        #expect(more.removals.isEmpty)
        #expect(
            more.insertions.map { change in if case .insert(_, let line, _) = change { String(line) } else { "" } } == [
                "\tflowtable flows {", "\t\thook ingress priority filter;",
                "\t\tdevices = { \"enp0s8.100\", \"enp0s8.200\" };", "\t\tcounter;", "\t}",
                "\t\tct state established counter flow add @flows comment \"belongs to a connection: from here on by the flow table\"",
            ])
        #expect(ruleset.chains.first { $0.name == "decide" }?.rules.first?.action == .offload)
        #expect(
            ruleset.nftJSON.contains(
                #"{"add": {"flowtable": {"family": "inet", "table": "vrouter", "name": "flows", "hook": "ingress", "prio": 0, "dev": ["enp0s8.100", "enp0s8.200"]}}}"#
            ))
        #expect(ruleset.nftJSON.contains(#"{"flow": {"op": "add", "flowtable": "@flows"}}"#))
        // iptables has none.
        #expect(ruleset.iptablesRestore(family: .v4) == plain.iptablesRestore(family: .v4))

        let many = Ruleset(try article(), flowtable: (1...600).map { "d\($0)" })
        #expect(many.flowtableParts.map(\.count) == [250, 250, 100])
        #expect(
            many.nftText.split(separator: "\n").filter { $0.hasPrefix("add flowtable inet vrouter flows { hook ") }
                .count == 2)
    }

    @Test("json: the article's two VLANs, as a whole")
    func json() throws {
        #expect(
            try Ruleset(article()).nftJSON == #"""
                {"nftables": [
                {"metainfo": {"json_schema_version": 1}},
                {"add": {"table": {"family": "inet", "name": "vrouter"}}},
                {"delete": {"table": {"family": "inet", "name": "vrouter"}}},
                {"add": {"table": {"family": "inet", "name": "vrouter"}}},
                {"add": {"chain": {"family": "inet", "table": "vrouter", "name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}},
                {"add": {"chain": {"family": "inet", "table": "vrouter", "name": "decide"}}},
                {"add": {"chain": {"family": "inet", "table": "vrouter", "name": "denied"}}},
                {"add": {"chain": {"family": "inet", "table": "vrouter", "name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}}},
                {"add": {"set": {"family": "inet", "table": "vrouter", "name": "vlans", "type": "ifname", "elem": ["enp0s8.100", "enp0s8.200"]}}},
                {"add": {"map": {"family": "inet", "table": "vrouter", "name": "pairs", "type": ["ifname", "ifname"], "map": "verdict"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "forward", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@vlans"}}, {"counter": null}, {"goto": {"target": "decide"}}], "comment": "comes from a VLAN"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "forward", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "@vlans"}}, {"counter": null}, {"goto": {"target": "decide"}}], "comment": "goes into a VLAN"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"counter": null}, {"accept": null}], "comment": "belongs to a connection that was let through"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid"]}}, {"counter": null}, {"drop": null}], "comment": "belongs to no connection"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"counter": null}, {"vmap": {"key": {"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]}, "data": "@pairs"}}], "comment": "new: VLAN pairs with a verdict of their own"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@vlans"}}, {"counter": null}, {"accept": null}], "comment": "new: from a VLAN"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"counter": null}, {"accept": null}], "comment": "new: from outside to a forwarded port"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "decide", "expr": [{"counter": null}, {"drop": null}], "comment": "new: from outside into a VLAN"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "denied", "expr": [{"counter": null}, {"drop": null}], "comment": "new: this pair of VLANs is denied"}}},
                {"add": {"rule": {"family": "inet", "table": "vrouter", "chain": "postrouting", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}, {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "@vlans"}}, {"counter": null}, {"masquerade": null}], "comment": "into a VLAN: seen as its gateway"}}}
                ]}

                """#)
    }

    @Test("iptables: the article's two VLANs, as a whole, with its six rules")
    func iptables() throws {
        #expect(
            try Ruleset(article()).iptablesRestore(family: .v4) == """
                # Load once, with iptables-restore --noflush: without it, all other rules in these tables are lost;
                # twice, and the rules in the built-in chains stand there twice. Rules that are there already come first.
                *nat
                -A POSTROUTING -o enp0s8.100 -j MASQUERADE
                -A POSTROUTING -o enp0s8.200 -j MASQUERADE
                COMMIT
                *filter
                :VROUTER - [0:0]
                -A FORWARD -i enp0s8.100 -o enp0s8.200 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                -A FORWARD -i enp0s8.200 -o enp0s8.100 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                -A FORWARD -i enp0s8.100 -m conntrack --ctstate INVALID -j DROP
                -A FORWARD -i enp0s8.200 -m conntrack --ctstate INVALID -j DROP
                -A FORWARD -i enp0s8.100 -o enp0s8.200 -j ACCEPT
                -A FORWARD -i enp0s8.200 -o enp0s8.100 -j ACCEPT
                -A FORWARD -i enp0s8.100 -g VROUTER
                -A FORWARD -i enp0s8.200 -g VROUTER
                -A FORWARD -o enp0s8.100 -g VROUTER
                -A FORWARD -o enp0s8.200 -g VROUTER
                -A VROUTER -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "belongs to a connection that was let through" -j ACCEPT
                -A VROUTER -m conntrack --ctstate INVALID -m comment --comment "belongs to no connection" -j DROP
                -A VROUTER -i enp0s8.100 -m comment --comment "new: from a VLAN" -j ACCEPT
                -A VROUTER -i enp0s8.200 -m comment --comment "new: from a VLAN" -j ACCEPT
                -A VROUTER -m conntrack --ctstate DNAT -m comment --comment "new: from outside to a forwarded port" -j ACCEPT
                -A VROUTER -m comment --comment "new: from outside into a VLAN" -j DROP
                COMMIT

                """)
        #expect(try Ruleset(article()).iptablesRestore(family: .v6) == nil)
    }

    @Test("iptables: towards the uplink, by source, since POSTROUTING does not know the input interface")
    func iptablesUplink() throws {
        let text = try #require(try Ruleset(policy(["enp0s8": [100, 200]], .uplink)).iptablesRestore(family: .v4))
        #expect(
            text.contains(
                """
                *nat
                :VROUTER - [0:0]
                -A POSTROUTING -s 172.16.10.0/24 -j VROUTER
                -A POSTROUTING -s 172.16.20.0/24 -j VROUTER
                -A VROUTER -o enp0s8.100 -j RETURN
                -A VROUTER -o enp0s8.200 -j RETURN
                -A VROUTER -j MASQUERADE
                COMMIT

                """))
    }

    @Test("iptables: a denied pair is never accepted before it is dropped")
    func iptablesDenied() throws {
        let ruleset = try Ruleset(policy(["enp0s8": [100, 200]], denied: [("enp0s8.100", "enp0s8.200")]))
        let lines = try #require(ruleset.iptablesRestore(family: .v4)).split(separator: "\n")
        #expect(!lines.contains { $0.hasPrefix("-A FORWARD -i enp0s8.100 -o enp0s8.200") })
        // The other direction: as in the table, nothing but what begins a connection.
        #expect(!lines.contains("-A FORWARD -i enp0s8.200 -o enp0s8.100 -j ACCEPT"))
        let middle = try #require(
            lines.firstIndex {
                $0.hasPrefix("-A VROUTER -i enp0s8.200 -o enp0s8.100 -p tcp -m tcp --tcp-flags SYN NONE ")
                    && $0.hasSuffix(" -j DROP")
            })
        let drop = try #require(lines.firstIndex { $0.hasPrefix("-A VROUTER -i enp0s8.100 -o enp0s8.200") })
        let accept = try #require(lines.firstIndex { $0.hasPrefix("-A VROUTER -i enp0s8.100 -m comment") })
        let established = try #require(lines.firstIndex { $0.hasPrefix("-A VROUTER -m conntrack --ctstate RELATED") })
        #expect(established < drop && drop < accept && established < middle && middle < accept)
    }

    @Test("ip6tables: filter rules only, where a gateway has IPv6")
    func ip6tables() throws {
        let address = try InterfaceAddress("fd00:100::1/64")
        let gateways = try article().gateways
        let first = Policy.Gateway(
            interface: gateways[0].interface, vlan: gateways[0].vlan, addresses: gateways[0].addresses + [address])
        let text = try #require(Ruleset(Policy(gateways: [first, gateways[1]])).iptablesRestore(family: .v6))
        #expect(!text.contains("*nat"))
        #expect(text.contains("\n*filter\n"))
        #expect(text.contains("ip6tables-restore"))
        #expect(!text.contains("172.16"))
        #expect(text.contains("-A FORWARD -i enp0s8.100 -o enp0s8.200 -j ACCEPT"))
    }
}

@Suite("Rulesets of any size")
struct PropertyTests {
    @Test("The number of rules does not depend on the number of VLANs", arguments: Policy.Masquerade.allCases)
    func ruleCount(masquerade: Policy.Masquerade) throws {
        let two = try Ruleset(policy(["eth0": [1, 2]], masquerade, denied: [("eth0.1", "eth0.2")]))
        let many = try Ruleset(policy(["eth0": Array(1...1000)], masquerade, denied: [("eth0.1", "eth0.2")]))
        #expect(two.ruleCount == 11 + [.vlans: 1, .uplink: 1, .all: 2, .none: 0][masquerade]!)
        #expect(two.ruleCount == many.ruleCount)
        #expect(two.chains.flatMap(\.rules) == many.chains.flatMap(\.rules))
        #expect(many.sets.map(\.elements.count) == [1000])
        #expect(many.maps.map(\.elements.count) == [2])
    }

    @Test("All VLANs there are take one line each in every format, and a few in iptables'")
    func largest() throws {
        let ruleset = try Ruleset(policy(["eth0": Array(VLANID.range)], .all))
        func lines(_ text: String) -> Int { text.split(separator: "\n").count }
        #expect(lines(ruleset.nftText) < 4094 + 50)
        #expect(lines(ruleset.nftJSON) < 50)
        let iptables = try #require(ruleset.iptablesRestore(family: .v4))
        #expect(lines(iptables) < 6 * 4094 + 50)
    }

    @Test("Pairs are written out up to 16 VLANs, and decided in the same way beyond", arguments: [16, 17])
    func spelledOut(count: UInt16) throws {
        let text = try #require(try Ruleset(policy(["eth0": Array(1...count)])).iptablesRestore(family: .v4))
        let pairs = text.split(separator: "\n").filter { $0.hasPrefix("-A FORWARD -i ") && $0.contains(" -o ") }
        #expect(pairs.count == (count == 16 ? 2 * 16 * 15 : 0))
        for vlan in 1...count {
            #expect(text.contains("-A FORWARD -i eth0.\(vlan) -g VROUTER\n"))
            #expect(text.contains("-A VROUTER -i eth0.\(vlan) -m comment"))
        }
    }

    @Test("The order in which a policy was given does not matter")
    func order() throws {
        let denied = [("eth0.1", "eth0.2"), ("eth0.2", "eth0.1"), ("eth0.10", "eth0.2")]
        let one = try Ruleset(policy(["eth0": [1, 2, 10]], .all, denied: denied))
        let other = try Ruleset(policy(["eth0": [10, 2, 1]], .all, denied: denied.reversed() + denied))
        #expect(one == other)
        #expect(one.nftText == other.nftText)
        #expect(one.nftJSON == other.nftJSON)
        #expect(one.iptablesRestore(family: .v4) == other.iptablesRestore(family: .v4))
        #expect(one.sets[0].elements == ["eth0.1", "eth0.2", "eth0.10"])
    }

    @Test(
        "A comment fits into what nft and iptables keep, and needs no escaping", arguments: Policy.Masquerade.allCases)
    func comments(masquerade: Policy.Masquerade) throws {
        for rule in try Ruleset(policy(["eth0": [1, 2]], masquerade)).chains.flatMap(\.rules) {
            #expect((1...127).contains(rule.comment.utf8.count))
            #expect(rule.comment.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f && !#""\"#.utf8.contains($0) })
        }
    }

    @Test("Text in JSON is escaped")
    func escaping() {
        #expect(JSON.string("a\"b\\c\u{1}\n\u{e9}").text == #""a\"b\\c\u0001\u000a"# + "\u{e9}\"")
        #expect(JSON.array([.null, .number(-1), ["a": []]]).text == #"[null, -1, {"a": []}]"#)
    }
}

@Suite("Policies that are not")
struct PolicyTests {
    @Test(
        "Names that a loader would misread",
        arguments: [
            "", ".", "..", "sixteen-octets-x", "a b", "a\tb", "a/b", "a:b", "eth*", "eth+", "!eth", "@vlans", "a\"b",
            #"a\b"#, "a'b", "a\nb", "a\u{7f}",
        ])
    func names(name: String) throws {
        let vlan = try #require(VLANID(1))
        #expect(throws: PolicyError.unusableName(name)) {
            try Policy(gateways: [.init(interface: name, vlan: vlan, addresses: [])])
        }
    }

    @Test(
        "Names that are fine",
        arguments: ["enp0s8.100", "vlan4094", "fifteen-octets.", "a$b{c};#", "-x", "\u{fc}.5"])
    func usable(name: String) throws {
        let vlan = try #require(VLANID(1))
        let policy = try Policy(gateways: [.init(interface: name, vlan: vlan, addresses: [])])
        #expect(Ruleset(policy).sets[0].elements == [name])
    }

    @Test("Parts that do not belong together")
    func parts() throws {
        let gateways = try article().gateways
        #expect(throws: PolicyError.repeatedInterface("enp0s8.100")) {
            try Policy(gateways: gateways + [gateways[0]])
        }
        #expect(throws: PolicyError.notAGateway("eth0")) {
            try Policy(gateways: gateways, denied: [.init(from: "enp0s8.100", to: "eth0")])
        }
        for error in [PolicyError.unusableName("x"), .repeatedInterface("x"), .notAGateway("x")] {
            #expect(error.description.contains("x"))
        }
    }
}
