import CNftnl
import Packets
import SystemPackage
import TestSupport
import Testing

@testable import Firewall
@testable import Kernel

// Each test works in a network namespace of its own, which has no interfaces but a loopback that is down. Whatever is
// to be expected is returned from there: an expectation that fails on another thread would not know its test.

/// Whether this is the virtual machine of `make test`: ten times slower than a real one.
private var isEmulated: Bool { ThisProcess.environment["VROUTER_TEST_IN_VM"] == "1" }

/// Two VLANs on enp0s8, as in the article.
private func article(
    _ masquerade: Policy.Masquerade = .vlans, denied: [(String, String)] = []
) throws -> Policy {
    try generated(parent: "enp0s8", vlans: [100, 200], masquerade, denied: denied)
}

@Suite("nftables over netlink")
struct NftablesTests {
    // MARK: Encoders agree

    @Test(
        "The kernel lists our transaction, our text and our JSON alike: the article's VLANs",
        arguments: Policy.Masquerade.allCases)
    func articleAgrees(masquerade: Policy.Masquerade) throws {
        try expectAgreement([article(masquerade), article(masquerade, denied: [("enp0s8.200", "enp0s8.100")])])
    }

    /// VROUTER_TEST_CONFIGURATIONS: how many, where 300 take too long.
    @Test("The kernel lists our transaction, our text and our JSON alike: generated configurations")
    func generatedAgree() throws {
        let setting = ThisProcess.environment["VROUTER_TEST_CONFIGURATIONS"]
        let count = try #require(setting.map { Int($0) } ?? 300, "VROUTER_TEST_CONFIGURATIONS is not a number")
        try #require(count > 0)
        var random = SeededGenerator(seed: 4_094)
        let policies = try (0..<count).map { _ in try randomPolicy(&random) }
        if count >= 100 {
            // The generator reaches what it is meant to.
            #expect(Set(policies.map(\.masquerade)).count == Policy.Masquerade.allCases.count)
            #expect(policies.contains { $0.gateways.isEmpty } && policies.contains { $0.gateways.count > 100 })
            #expect(policies.contains { $0.denied.count > 10 } && policies.contains { $0.denied.isEmpty })
            #expect(policies.contains { $0.uses(.v6) && !$0.uses(.v4) })
            let words = policies.map { Ruleset($0).nftText }
            for word in [
                "reject with tcp", "icmpx", "log prefix", "limit rate", "@printers.v6", "/to", "/open", "/closed",
                "dnat ip6",
            ] {
                #expect(words.contains { $0.contains(word) }, "\(word)")
            }
        }
        try expectAgreement(policies)
    }

    private static let hasFlowtables: Bool = {
        let answer = try? Namespace.runInNew { () throws(KernelError) in Nftables.flowtableAvailability() }
        return answer == .available
    }()

    /// The kernel takes at most 255 interfaces at once.
    @Test(
        "The kernel lists our transaction, our text and our JSON alike: a flow table",
        .enabled(if: hasFlowtables, "this kernel has no flow tables"), arguments: [2, 300])
    func flowtableAgrees(count: UInt16) throws {
        let policy = try generated(parent: "enp0s8", vlans: Array(1...count))
        let interfaces = policy.gateways.map(\.interface)
        let ruleset = Ruleset(policy, flowtable: interfaces)
        let (ours, text, json, without) = try Namespace.runInNew { () throws(KernelError) in
            try run("ip", "-batch", "-", input: interfaces.map { "link add \($0) type dummy\n" }.joined())
            func listing() throws(KernelError) -> Listing {
                Listing(
                    fingerprint: try Nftables().fingerprint(), text: try nft("list", "table", "inet", "vrouter"),
                    json: try nft("-j", "list", "table", "inet", "vrouter").replacing(#/"handle": \d+(, )?/#, with: ""))
            }
            try Nftables().replace(with: ruleset)
            let ours = try listing()
            try nft("-f", "-", input: ruleset.nftText)
            let text = try listing()
            try nft("-j", "-f", "-", input: ruleset.nftJSON)
            let json = try listing()
            try Nftables().replace(with: ruleset)
            try run("ip", "link", "del", interfaces[0])
            return (ours, text, json, try listing())
        }
        #expect(ours == text)
        #expect(ours.text.contains("flow add @flows") && ours.text.contains("\t\tcounter\n"))
        for interface in interfaces { #expect(ours.json.contains("\"\(interface)\"")) }
        // All but the counter, for which JSON has no word.
        #expect(ours.json == json.json && ours.text.replacing("\t\tcounter\n", with: "") == json.text)
        #expect(without.fingerprint != ours.fingerprint, "an interface that has gone is missed")
    }

    @Test("The order in which a policy was given does not matter")
    func order() throws {
        var random = SeededGenerator(seed: 1)
        let policy = try generated(parent: "eth0", vlans: Array(1...50))
        let orders = try (0..<5).map { _ in try Policy(gateways: policy.gateways.shuffled(using: &random)) }
        let prints = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            var prints: Set<String?> = []
            for policy in orders {
                try nftables.replace(with: Ruleset(policy))
                prints.insert(try nftables.fingerprint())
            }
            return prints
        }
        #expect(prints.count == 1 && prints != [nil])
    }

    @Test("iptables-restore takes what we print, twice, and leaves other rules and policies alone")
    func iptables() throws {
        var random = SeededGenerator(seed: 6)
        var policies = try [article()] + (0..<(isEmulated ? 8 : 20)).map { _ in try randomPolicy(&random) }
        for masquerade in Policy.Masquerade.allCases {
            policies.append(
                try generated(parent: "enp0s8", vlans: [100, 200], masquerade, families: [.v4, .v6]))
        }
        var checked: [IPFamily: Int] = [:]
        for policy in policies {
            for family in IPFamily.allCases {
                guard let text = Ruleset(policy).iptablesRestore(family: family) else { continue }
                let name = family == .v4 ? "iptables" : "ip6tables"
                let rules = try Namespace.runInNew { () throws(KernelError) in
                    try run(name, "-P", "FORWARD", "DROP")
                    try run(name, "-A", "FORWARD", "-i", "foreign0", "-j", "ACCEPT")
                    try run("\(name)-restore", "--noflush", "--test", input: text)
                    let untouched = try run(name, "-S")
                    try run("\(name)-restore", "--noflush", input: text)
                    let once = try run(name, "-S")
                    try run("\(name)-restore", "--noflush", input: text)
                    return (untouched: lines(untouched), once: lines(once), twice: lines(try run(name, "-S")))
                }
                #expect(rules.untouched.allSatisfy { !$0.contains("VROUTER") })
                #expect(rules.once.starts(with: ["-P INPUT ACCEPT", "-P FORWARD DROP", "-P OUTPUT ACCEPT"]))
                #expect(rules.once.contains("-A FORWARD -i foreign0 -j ACCEPT"))
                // The kernel has every filter rule that we printed, and no rule of our own chain twice.
                let printed = lines(text).drop { $0 != "*filter" }.filter { $0.hasPrefix("-A") }
                #expect(Set(printed).isSubset(of: rules.once), "\(policy)")
                #expect(
                    rules.twice.filter { $0.hasPrefix("-A VROUTER") } == printed.filter { $0.hasPrefix("-A VROUTER") })
                checked[family, default: 0] += 1
            }
        }
        #expect(checked[.v4, default: 0] > 4 && checked[.v6, default: 0] > 4)
    }

    // MARK: Replacing and deleting

    @Test("A new table takes the place of the old one, and of nothing else")
    func replaces() throws {
        let foreign = """
            table inet docker { chain forward { type filter hook forward priority 0; policy drop; counter accept; }; }
            table ip vrouter { set vlans { type ipv4_addr; elements = { 10.0.0.1 }; }; }
            """
        let policies = try [article(), generated(parent: "eth0", vlans: [1, 2, 3])]
        let (before, after, tables, deleted) = try Namespace.runInNew { () throws(KernelError) in
            try nft("-f", "-", input: foreign)
            let before = try nft("list", "ruleset")
            let nftables = try Nftables()
            try nft(
                "-f", "-",
                input: "table inet vrouter { chain old { tcp dport 1 drop; }; set vlans { type inet_service; }; }")
            var tables: [String] = []
            for policy in policies {
                try nftables.replace(with: Ruleset(policy))
                tables.append(try nft("list", "table", "inet", "vrouter"))
            }
            let deleted = try nftables.delete(table: "vrouter")
            return (before, try nft("list", "ruleset"), tables, deleted)
        }
        #expect(deleted)
        #expect(before == after)
        #expect(before.contains("docker") && before.contains("10.0.0.1"))
        #expect(tables.allSatisfy { !$0.contains("old") && !$0.contains("dport") })
        #expect(tables[0].contains("enp0s8.100") && !tables[0].contains("eth0"))
        #expect(tables[1].contains("eth0.3") && !tables[1].contains("enp0s8"))
    }

    @Test("Replacing is one transaction, whatever its size: there is no instant between the old table and the new one")
    func oneTransaction() throws {
        let rulesets = try [
            Ruleset(article()), Ruleset(article(.all)), Ruleset(generated(parent: "eth0", vlans: Array(1...4094))),
        ]
        let generations = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            // The kernel numbers its transactions.
            func generation() throws(KernelError) -> UInt64? {
                try nftables.get(NFT_MSG_GETGEN, .inet, "ask for the generation")?.attributes
                    .networkInteger(NFTA_GEN_ID.rawValue)
            }
            var generations = [try generation()]
            for ruleset in rulesets {
                try nftables.replace(with: ruleset)
                generations.append(try generation())
            }
            try nftables.check(rulesets[0])
            generations.append(try generation())
            return generations
        }
        let first = try #require(generations[0])
        // Verifying only is none.
        #expect(generations == [first, first + 1, first + 2, first + 3, first + 3])
    }

    @Test("A transaction that fails leaves the table as it was, and the error says what failed")
    func fails() throws {
        let valid = try Ruleset(article())
        let broken = Ruleset(
            policy: valid.policy, sets: valid.sets, addressSets: valid.addressSets, maps: valid.maps,
            chains: valid.chains + [
                .init(name: "more", hook: nil, rules: [.init(then: .verdict(.goto("nowhere")), comment: "a dead end")])
            ])
        let (errors, before, after) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            try nftables.replace(with: valid)
            let before = try nft("list", "ruleset")
            var errors: [KernelError] = []
            do throws(KernelError) { try nftables.replace(with: broken) } catch { errors.append(error) }
            do throws(KernelError) { try nftables.check(broken) } catch { errors.append(error) }
            let after = try nft("list", "ruleset")
            // What is left of the failed ones does not disturb the next.
            try nftables.replace(with: valid)
            return (errors, before, after)
        }
        #expect(errors.map(\.errno) == [.noSuchFileOrDirectory, .noSuchFileOrDirectory])
        #expect(errors.allSatisfy { $0.operation == "add nftables rule 'a dead end' to chain more" })
        #expect(before == after && before.contains("enp0s8.100"))
    }

    @Test("Deleting says whether there was something to delete, in which family")
    func deletes() throws {
        let ruleset = try Ruleset(article())
        let (answers, rest) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            try nft("-f", "-", input: "table ip vrouter { }\ntable ip6 other { }\n")
            try nftables.replace(with: ruleset)
            var answers: [Bool] = []
            answers.append(try nftables.delete(table: "vrouter"))
            answers.append(try nftables.delete(table: "vrouter"))
            answers.append(try nftables.delete(table: "other"))
            answers.append(try nftables.delete(table: "other", family: .ip6))
            // Names that no table can have: too long for a message, or ended early by a zero.
            for name in [String(repeating: "x", count: 1 << 20), "vrouter\0x", ""] {
                answers.append(try nftables.delete(table: name, family: .ip))
                answers.append(try nftables.fingerprint(table: name, family: .ip) != nil)
                answers.append(try !nftables.counters(table: name, family: .ip).isEmpty)
            }
            return (answers, try nft("list", "ruleset"))
        }
        #expect(answers == [true, false, false, true] + Array(repeating: false, count: 9))
        #expect(rest == "table ip vrouter {\n}\n")
    }

    @Test("Verifying a ruleset changes nothing")
    func checks() throws {
        let ruleset = try Ruleset(article())
        let other = try Ruleset(generated(parent: "eth0", vlans: [1]))
        let (before, after, empty) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            try nftables.check(ruleset)
            let empty = try nft("list", "ruleset")
            try nftables.replace(with: ruleset)
            let before = try nft("list", "ruleset")
            try nftables.check(other)
            return (before, try nft("list", "ruleset"), empty)
        }
        #expect(empty.isEmpty)
        #expect(before == after && before.contains("enp0s8.100"))
    }

    @Test("All VLANs there are, in one transaction", arguments: isEmulated ? [1_000] : [1_000, 4_094])
    func large(count: UInt16) throws {
        // As many exceptions as gateways, so that the map takes several messages, too.
        let policy = try generated(
            parent: "eth0", vlans: Array(1...count), denied: (1..<count).map { ("eth0.\($0)", "eth0.\($0 + 1)") })
        let ruleset = Ruleset(policy)
        let text = ruleset.nftText
        let (listing, prints) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            var prints: Set<String?> = []
            for _ in 0..<(isEmulated ? 1 : 3) {
                try nft("-f", "-", input: text)
                prints.insert(try nftables.fingerprint())
                try nftables.replace(with: ruleset)
                // Which waits until the kernel lists large sets completely: nft does not.
                prints.insert(try nftables.fingerprint())
            }
            return (try nft("list", "table", "inet", "vrouter"), prints)
        }
        #expect(prints.count == 1 && prints != [nil])
        let sets = try #require(listing.split(separator: "map pairs").first)
        #expect(sets.split(separator: "\"").filter { $0.hasPrefix("eth0.") }.count == Int(count))
        #expect(listing.split(separator: "goto denied").count - 1 == Int(count) - 1)
    }

    // MARK: Drift

    @Test("The fingerprint changes with whatever someone changes, and comes back with it")
    func drift() throws {
        let ruleset = try Ruleset(article())
        let changes: [(change: String, back: String?)] = [
            ("add rule inet vrouter forward counter", nil),
            ("insert rule inet vrouter forward counter drop", nil),
            ("flush chain inet vrouter decide", nil),
            ("flush chain inet vrouter denied", nil),
            ("flush table inet vrouter", nil),
            ("add chain inet vrouter extra", "delete chain inet vrouter extra"),
            ("add set inet vrouter extra { type ifname; }", "delete set inet vrouter extra"),
            (
                "add element inet vrouter vlans { \"eth9\" }",
                "delete element inet vrouter vlans { \"eth9\" }"
            ),
            (
                "delete element inet vrouter vlans { \"enp0s8.100\" }",
                "add element inet vrouter vlans { \"enp0s8.100\" }"
            ),
            (
                "add element inet vrouter pairs { \"a\" . \"b\" : drop }",
                "delete element inet vrouter pairs { \"a\" . \"b\" }"
            ),
            (
                "add chain inet vrouter forward { policy drop; }",
                "add chain inet vrouter forward { policy accept; }"
            ),
            (
                "add table inet vrouter { flags dormant; }",
                "add table inet vrouter"
            ),
        ]
        for (change, back) in changes {
            let prints = try Namespace.runInNew { () throws(KernelError) in
                let nftables = try Nftables()
                try nftables.replace(with: ruleset)
                var prints = [try nftables.fingerprint()]
                try nft(change)
                prints.append(try nftables.fingerprint())
                if let back {
                    try nft(back)
                } else {
                    try nftables.replace(with: ruleset)
                }
                prints.append(try nftables.fingerprint())
                return prints
            }
            #expect(prints[0] != nil && prints[0] != prints[1], "\(change)")
            #expect(prints[0] == prints[2], "\(back ?? change)")
        }
    }

    @Test("The fingerprint does not see foreign tables, and there is none without a table")
    func fingerprintOfNothing() throws {
        let ruleset = try Ruleset(article())
        let prints = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            var prints = [try nftables.fingerprint()]
            try nft("add", "table", "ip", "vrouter")
            prints.append(try nftables.fingerprint())
            try nftables.replace(with: ruleset)
            prints.append(try nftables.fingerprint())
            try nft("-f", "-", input: "table inet vrouter2 { chain forward { counter; }; }\ndelete table ip vrouter")
            prints.append(try nftables.fingerprint())
            return prints
        }
        #expect(prints[0] == nil && prints[1] == nil)
        #expect(prints[2]?.count == 32 && prints[2] == prints[3])
    }

    @Test("Every masquerade mode and every pair makes another fingerprint")
    func fingerprintsDiffer() throws {
        let policies =
            try Policy.Masquerade.allCases.map { try article($0) } + [
                article(denied: [("enp0s8.100", "enp0s8.200")]), article(denied: [("enp0s8.200", "enp0s8.100")]),
                generated(parent: "enp0s8", vlans: [100, 201]),
            ]
        let prints = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            var prints: Set<String?> = []
            for policy in policies {
                try nftables.replace(with: Ruleset(policy))
                prints.insert(try nftables.fingerprint())
            }
            return prints
        }
        #expect(prints.count == policies.count && !prints.contains(nil))
    }

    @Test("Counters count, in the order of the rules, and do not change the fingerprint")
    func counters() throws {
        let policy = try Policy(gateways: [gateway("v1", 1, [])], masquerade: .vlans)
        let (before, after, prints, none) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            let none = try nftables.counters()
            try nftables.replace(with: Ruleset(policy))
            let before = try nftables.counters()
            var prints = [try nftables.fingerprint()]
            // The first packet of a connection meets the postrouting chain; that nobody answers is no matter.
            try run("ip", "link", "add", "v1", "type", "veth", "peer", "v2")
            try run("ip", "link", "set", "v2", "up")
            try run("ip", "link", "set", "v1", "up")
            try run("ip", "address", "add", "10.0.0.1/24", "dev", "v1")
            try run("ip", "neighbor", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "v1")
            _ = try ChildProcess.run(["ping", "-c", "1", "-W", "0.1", "-s", "72", "10.0.0.2"])
            prints.append(try nftables.fingerprint())
            return (before, try nftables.counters(), prints, none)
        }
        #expect(none.isEmpty)
        let rules = Ruleset(policy).chains.flatMap { chain in chain.rules.map { (chain.name, $0.comment) } }
        #expect(before.map(\.chain) == rules.map(\.0) && before.map(\.comment) == rules.map(\.1))
        #expect(before.allSatisfy { $0.packets == 0 && $0.bytes == 0 })
        let masquerade = try #require(after.last)
        // IPv4 header, ICMP header, payload.
        #expect(masquerade.chain == "postrouting" && masquerade.packets == 1 && masquerade.bytes == 20 + 8 + 72)
        #expect(after.dropLast().allSatisfy { $0.packets == 0 })
        #expect(prints[0] != nil && prints[0] == prints[1])
    }

    // MARK: Rules in other programs' chains

    @Test("A rule is added and removed once, and only as what it is; another transaction in between is noticed")
    func accepts() throws {
        let chain = Nftables.ChainName(family: .ip, table: "filter", name: "USER")
        let gone = Nftables.ChainName(family: .ip, table: "filter", name: "GONE")
        let accepts = [Nftables.Accept.Direction.input, .output].map {
            Nftables.Accept(chain: chain, direction: $0, interface: "enp0s8.100")
        }
        let nowhere = Nftables.Accept(chain: gone, direction: .input, interface: "enp0s8.100")
        let theirs = """
            table ip filter { chain USER {
            iifname "enp0s8.100" ip daddr 10.0.0.1 accept comment "\(Nftables.Accept.comment)"
            iifname "enp0s8.1*" accept comment "\(Nftables.Accept.comment)"
            iifname "enp0s8.100" accept comment "another"
            iifname != "enp0s8.100" accept comment "\(Nftables.Accept.comment)"
            return
            }; }
            """
        let (before, during, after, ours, refused) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            try nft("-f", "-", input: theirs)
            let before = try nft("list", "ruleset")
            try nftables.change(adding: accepts + [nowhere], removing: [])
            try nftables.change(adding: accepts, removing: [nowhere])
            let during = try nft("list", "ruleset")
            let ours = try nftables.acceptSurvey().accepts
            let generation = try nftables.generation()
            try nft("add table ip other")
            var late = NftablesBatch(generation: UInt32(truncatingIfNeeded: generation))
            for accept in accepts { late.delete(accept, handle: ours[accept]?.first ?? 0) }
            var refused: KernelError?
            do throws(KernelError) { try nftables.send(late, commit: true) } catch { refused = error }
            try nft("delete table ip other")
            try nftables.change(adding: [], removing: accepts)
            return (before, during, try nft("list", "ruleset"), ours, refused)
        }
        #expect(Set(ours.keys) == Set(accepts) && ours.values.allSatisfy { $0.count == 1 })
        #expect(lines(during).count == lines(before).count + 2)
        #expect(
            lines(during).firstIndex { $0.contains("oifname \"enp0s8.100\"") }
                == lines(during).firstIndex { $0.contains("return") }.map { $0 - 1 })
        #expect(refused?.errno.rawValue == 85, "ERESTART")
        #expect(after == before)
    }

    // MARK: Looking around

    @Test("Base chains of all tables and families, with what they do by default")
    func baseChains() throws {
        let ruleset = try Ruleset(article())
        let foreign = """
            table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; counter; accept; }; }
            table arp a { chain in { type filter hook input priority -5; }; }
            table bridge b { chain f { type filter hook forward priority 7; drop; }; }
            table ip6 c { chain regular { accept; }; chain o { type route hook output priority mangle; }; }
            table netdev d { chain i { type filter hook ingress device lo priority 1; }; }
            """
        let (chains, support) = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            try nft("-f", "-", input: foreign)
            try nftables.replace(with: ruleset)
            return (try nftables.baseChains(), Nftables.availability())
        }
        let described = Set(
            chains.map {
                "\($0.family) \($0.table) \($0.name) \($0.type) \($0.hook) \($0.priority) \($0.acceptsByDefault) "
                    + "\($0.ruleCount)"
            })
        #expect(
            described == [
                "inet vrouter forward filter forward 0 true 2",
                "inet vrouter postrouting nat postrouting 100 true 1",
                "ip filter FORWARD filter forward 0 false 2",
                "arp a in filter input -5 true 0",
                "bridge b f filter forward 7 true 1",
                "ip6 c o route output -150 true 0",
                "netdev d i filter ingress 1 true 0",
            ])
        #expect(support == .available)
    }
}

@Suite("Malformed nftables messages")
struct NftablesMessageTests {
    /// The message that names a table, as the kernel sends it, with each octet changed and cut at each length.
    @Test("Nothing traps, whatever the octets")
    func malformed() throws {
        let request = nftablesRequest(NFT_MSG_NEWTABLE, .inet, .elements(table: "vrouter", set: "vlans"), flags: 0)
        let message = try #require(NetlinkMessage.parse(request[...]).first)
        #expect(message.isA(NFT_MSG_NEWTABLE) && message.family == .inet && !message.isReport)
        #expect(message.attributes.string(NFTA_SET_ELEM_LIST_TABLE.rawValue) == "vrouter")
        #expect(message.attributes.string(NFTA_SET_ELEM_LIST_SET.rawValue) == "vlans")

        var read = 0
        func readAll(_ octets: [UInt8]) {
            for message in NetlinkMessage.parse(octets[...]) {
                _ = (message.family, message.isReport, message.attributes.string(1))
                _ = (message.attributes.networkInteger(1), message.attributes.nested(2)?.networkInteger(1))
                read += listedValues(message.payload.dropFirst(4)).count
            }
        }
        for length in 0...request.count { readAll(Array(request.prefix(length))) }
        for index in request.indices {
            for value in UInt8.min...UInt8.max {
                var octets = request
                octets[index] = value
                readAll(octets)
            }
        }
        #expect(read > 1000)
    }

    @Test("A list ends where a length does not fit")
    func lists() {
        func list(_ lengths: [UInt16]) -> [Int] {
            listedValues(lengths.flatMap { $0.nativeBytes + [0, 0] + [UInt8](repeating: 7, count: 4) }[...]).map(
                \.count)
        }
        #expect(list([8, 8, 8]) == [4, 4, 4])
        #expect(list([8, 6, 8]) == [4, 2, 4])
        #expect(list([8, 3, 8]) == [4])
        #expect(list([8, 0, 8]) == [4])
        #expect(list([8, 17]) == [4])
        #expect(list([8, .max]) == [4])
        #expect(list([]) == [])
    }

    @Test("Numbers are in network byte order, of any length")
    func numbers() {
        func number(_ octets: [UInt8]) -> UInt64? {
            Attributes((UInt16(4 + octets.count).nativeBytes + UInt16(1).nativeBytes + octets)[...]).networkInteger(1)
        }
        #expect(number([0, 0, 0, 100]) == 100)
        #expect(number([1, 2, 3, 4, 5, 6, 7, 8]) == 0x0102_0304_0506_0708)
        #expect(number([1]) == 1)
        #expect(number([]) == 0)
        #expect(number([UInt8](repeating: 0xff, count: 9)) == .max)
        #expect(Attributes([]).networkInteger(1) == nil)
    }
}

// MARK: Agreement

/// What the kernel shows after a ruleset was loaded in one of three ways.
private struct Listing: Equatable, Sendable {
    let fingerprint: String?
    let text: String
    let json: String
}

private func expectAgreement(_ policies: [Policy], sourceLocation: SourceLocation = #_sourceLocation) throws {
    for policy in policies {
        let ruleset = Ruleset(policy)
        let listings = try Namespace.runInNew { () throws(KernelError) in
            let nftables = try Nftables()
            var listings: [Listing] = []
            for way in 0..<3 {
                switch way {
                case 0: try nftables.replace(with: ruleset)
                case 1: try nft("-f", "-", input: ruleset.nftText)
                default: try nft("-j", "-f", "-", input: ruleset.nftJSON)
                }
                listings.append(
                    Listing(
                        fingerprint: try nftables.fingerprint(), text: try nft("list", "table", "inet", "vrouter"),
                        json: try nft("-j", "list", "table", "inet", "vrouter").replacing(
                            #/"handle": \d+(, )?/#, with: "")))
                // So that what comes next cannot be what was there before.
                guard try nftables.delete(table: "vrouter") else {
                    throw KernelError("delete the table that was just loaded", .noSuchFileOrDirectory)
                }
            }
            return listings
        }
        #expect(listings[0] == listings[1], "text: \(policy)", sourceLocation: sourceLocation)
        #expect(listings[0] == listings[2], "JSON: \(policy)", sourceLocation: sourceLocation)
        // Not three times nothing.
        let text = listings[0].text
        #expect(listings[0].fingerprint != nil)
        #expect(text.split(separator: "counter packets 0 bytes 0").count - 1 == ruleset.ruleCount)
        #expect(policy.gateways.allSatisfy { text.contains("\"\($0.interface)\"") })
        #expect(text.split(separator: ": goto denied").count - 1 == policy.denied.count)
        #expect(text.split(separator: ": goto opposite").count - 1 == policy.opposite.count)
        #expect(listings[0].json.split(separator: "\"comment\"").count - 1 == ruleset.ruleCount)
    }
}

// MARK: Programs

@discardableResult
private func nft(_ arguments: String..., input: String = "") throws(KernelError) -> String {
    try checked(["nft"] + arguments, input)
}

@discardableResult
private func run(_ arguments: String..., input: String = "") throws(KernelError) -> String {
    try checked(arguments, input)
}

private func checked(_ arguments: [String], _ input: String) throws(KernelError) -> String {
    let result = try ChildProcess.run(arguments, input: input)
    guard result.status == 0 else {
        throw KernelError(arguments.joined(separator: " "), .invalidArgument, detail: result.errors + input)
    }
    return result.output
}

private func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }

// MARK: Policies

private func gateway(
    _ interface: String, _ number: UInt16, _ families: [IPFamily], _ zone: Zone = .vlans
) -> Policy.Gateway {
    guard let vlan = VLANID(number) else { fatalError("\(number) is not a VLAN") }
    let addresses = families.map { family in
        switch family {
        case .v4: InterfaceAddress(.v4(IPv4Address(10 << 24 | UInt32(number) << 8)), prefixLength: 24)
        case .v6: InterfaceAddress(.v6(IPv6Address(0xfd << 120 | UInt128(number) << 64)), prefixLength: 64)
        }
    }
    return Policy.Gateway(interface: interface, vlan: vlan, addresses: addresses, zone: zone)
}

private func generated(
    parent: String, vlans: [UInt16], _ masquerade: Policy.Masquerade = .vlans, denied: [(String, String)] = [],
    families: [IPFamily] = [.v4]
) throws -> Policy {
    try Policy(
        gateways: vlans.map { gateway("\(parent).\($0)", $0, families) }, masquerade: masquerade,
        denied: denied.map { .init(from: $0.0, to: $0.1) })
}

/// nil: the gateway has no address.
private func portForward(to gateway: Policy.Gateway) -> PortForward? {
    gateway.addresses.last.map {
        PortForward(gateway.vlan.rawValue % 2 == 0 ? .tcp : .udp, port: 8080, host: $0.address, hostPort: 80)
    }
}

private func randomPolicy(_ random: inout SeededGenerator) throws -> Policy {
    let sizes = [0...0, 1...1, 2...2, 3...8, 3...8, 9...40, 120...1200]
    let size = Int.random(in: sizes.randomElement(using: &random) ?? 2...2, using: &random)
    let parents = ["enp0s8", "eth0", "vlan", "br-lan", "a_b", "-x", "a$b{c};#", "\u{fc}ml"]
    let families: [[IPFamily]] = [[.v4], [.v6], [.v4, .v6]]
    let family = families.randomElement(using: &random) ?? [.v4]
    let parent = parents.randomElement(using: &random) ?? "eth0"
    let vlans = Array(VLANID.range).shuffled(using: &random).prefix(size)
    // Half of them have zones, and of these half a policy.
    let hasZones = Bool.random(using: &random)
    let zones =
        hasZones ? ["iot", "a-B_9", "drop", "ip", "x"].compactMap { Zone($0) }.some(&random) + [.vlans] : [.vlans]
    let gateways = vlans.map {
        gateway(parent == "vlan" ? "vlan\($0)" : "\(parent).\($0)", $0, family, zones.pick(&random))
    }
    var denied: [Policy.Pair] = []
    for _ in 0..<Int.random(in: 0...20, using: &random) where Bool.random(using: &random) {
        if let from = gateways.randomElement(using: &random), let to = gateways.randomElement(using: &random) {
            denied.append(Policy.Pair(from: from.interface, to: to.interface))
        }
    }
    return try Policy(
        gateways: gateways, masquerade: Policy.Masquerade.allCases.randomElement(using: &random) ?? .vlans,
        denied: denied, isUntracked: Bool.random(using: &random),
        uplinks: hasZones ? ["wan0", "wan1"].some(&random) : [],
        masqueradeIPv6: Policy.Masquerade.allCases.pick(&random),
        matrix: hasZones ? .generated(Set(gateways.map(\.zone)), &random) : ZoneMatrix(),
        portForwards: hasZones ? gateways.prefix(3).compactMap(portForward).some(&random) : [],
        clampsMSS: Bool.random(using: &random),
        zoneMasquerades: Dictionary(
            uniqueKeysWithValues: zones.some(&random).map { ($0, Policy.Masquerade.allCases.pick(&random)) }))
}
