import Firewall
import Packets
import SystemPackage
import Testing

@testable import Kernel
@testable import Router

/// Plans are made from values: no kernel, no privileges.
@Suite struct PlanTests {
    private let article: Configuration
    private let hundred: VLANID
    private let twoHundred: VLANID

    init() throws {
        article = try Configuration(parent: "enp0s8", vlans: ["100=172.16.10.1/24", "200=172.16.20.1/24"])
        hundred = try #require(VLANID(100))
        twoHundred = try #require(VLANID(200))
    }

    private func state(_ configuration: Configuration, links: Set<VLANID> = []) -> State {
        var state = State(
            bootID: "boot", namespaceInode: 1, namespaceCookie: 1, configuration: configuration, driver: .ieee8021q)
        state.links = links
        return state
    }

    /// A host with the trunk enp0s8 (index 2), and what the test adds.
    private func host(
        _ more: [Link] = [], addresses: [Address] = [], sysctls: [String: String] = [:], table: Host.Table = .absent
    ) -> Host {
        let defaults = [
            "net/ipv4/ip_forward": "0", "net/ipv4/conf/default/arp_ignore": "0",
            "net/ipv4/conf/default/forwarding": "0",
        ]
        let values = defaults.merging(sysctls) { $1 }
        return Host(
            links: [
                Link(index: 1, name: "lo", flags: 0x9, hardwareType: 772), Link(index: 2, name: "enp0s8", flags: 0x1),
            ] + more,
            addresses: addresses, routes: [], sysctl: { values[$0.path] },
            configuredInterfaces: { _ in ["all", "default", "enp0s8"] },
            table: table)
    }

    private func vlan(
        _ id: UInt16, index: UInt32, name: String? = nil, up: Bool = true, mtu: UInt32 = 1500
    ) -> Link {
        Link(
            index: index, name: name ?? "enp0s8.\(id)", kind: "vlan", flags: up ? 0x1 : 0, lowerIndex: 2,
            vlan: Link.VLAN(id: id, etherType: 0x8100, reordersHeader: true), mtu: mtu)
    }

    private func words(_ plan: Plan) -> [String] {
        plan.actions.flatMap(\.commands).map { String($0.prefix { $0 != "\n" }) }
    }

    @Test func rulesComeFirstAndForwardingLast() throws {
        let plan = try Plan(from: state(article), on: host(), to: article)
        #expect(
            words(plan) == [
                "nft -f - <<'END'",
                "ip link add link enp0s8 name enp0s8.100 group 30322 type vlan id 100 reorder_hdr on",
                "ip link add link enp0s8 name enp0s8.200 group 30322 type vlan id 200 reorder_hdr on",
                "ip address add 172.16.10.1/24 brd + dev enp0s8.100",
                "ip address add 172.16.20.1/24 brd + dev enp0s8.200",
                "sysctl -w net.ipv4.conf.enp0s8/100.arp_ignore=1", "sysctl -w net.ipv4.conf.enp0s8/200.arp_ignore=1",
                "ip link set dev enp0s8.100 up", "ip link set dev enp0s8.200 up", "sysctl -w net.ipv4.ip_forward=1",
            ])
    }

    /// Whatever of the plan has happened when it is cut short, the journal has it.
    @Test func theJournalHoldsAllThatMayHaveHappened() throws {
        let plan = try Plan(from: state(article), on: host(), to: article)
        #expect(plan.journal.phase == .applying && plan.journal.applied == nil)
        #expect(plan.journal.links == [hundred, twoHundred] && plan.journal.table != nil)
        #expect(plan.journal.addresses[hundred] == article.vlans[0].addresses)
        #expect(plan.journal.sysctls.contains { $0.sysctl.path == "net/ipv4/ip_forward" && $0.value == "0" })
        #expect(plan.outcome?.phase == .applied && plan.outcome?.applied == article)
    }

    @Test func goingDownStopsForwardingFirstAndDeletesTheRulesLast() throws {
        let up = try Plan(from: state(article), on: host(), to: article)
        let now = host(
            [vlan(100, index: 3), vlan(200, index: 4)], sysctls: ["net/ipv4/ip_forward": "1"],
            table: .present(fingerprint: "x"))
        let down = try Plan(from: try #require(up.outcome), on: now, to: nil)
        #expect(words(down).first == "sysctl -w net.ipv4.ip_forward=0")
        #expect(words(down).last == "nft delete table inet vrouter")
        #expect(words(down).contains("ip link del dev enp0s8.100"))
        #expect(down.outcome == nil)
    }

    @Test func goingDownAfterNothingHappenedDoesNothing() throws {
        let up = try Plan(from: state(article), on: host(), to: article)
        #expect(try Plan(from: up.journal, on: host(), to: nil).actions == [])
    }

    @Test func whatWasThereStays() throws {
        let found = host([vlan(100, index: 3)])
        let up = try Plan(from: state(article), on: found, to: article)
        #expect(!words(up).contains { $0.hasPrefix("ip link add") && $0.contains("enp0s8.100") })
        let now = host([vlan(100, index: 3), vlan(200, index: 4)], table: .present(fingerprint: "x"))
        let down = try Plan(from: try #require(up.outcome), on: now, to: nil)
        #expect(words(down).filter { $0.hasPrefix("ip link del") } == ["ip link del dev enp0s8.200"])
    }

    /// The kernel deletes the later addresses of a subnet with its first one.
    @Test func laterAddressesOfASubnetComeBack() throws {
        let before = try Configuration(parent: "enp0s8", vlans: ["100=172.16.10.1/24,172.16.10.2/24"])
        var held = state(before, links: [hundred])
        held.addresses = [hundred: before.vlans[0].addresses]
        let after = try Configuration(parent: "enp0s8", vlans: ["100=172.16.10.2/24"])
        let now = host(
            [vlan(100, index: 3)], addresses: before.vlans[0].addresses.map { Address(linkIndex: 3, value: $0) })
        #expect(
            words(try Plan(from: held, on: now, to: after)).filter { $0.hasPrefix("ip address") } == [
                "ip address del 172.16.10.1/24 dev enp0s8.100",
                "ip address replace 172.16.10.2/24 brd + dev enp0s8.100",
            ])
    }

    /// Cut short, the journal's configuration is the new one, and the old gateway still has the address.
    @Test func anAddressMovesBetweenVLANsAlsoAfterAnInterruption() throws {
        let after = try Configuration(parent: "enp0s8", vlans: ["100=172.16.10.1/24", "300=172.16.20.1/24"])
        var held = state(article, links: [hundred, twoHundred])
        held.addresses = [hundred: article.vlans[0].addresses, twoHundred: article.vlans[1].addresses]
        held.table = State.Table(ruleset: "", fingerprint: "x")
        let now = host(
            [vlan(100, index: 3), vlan(200, index: 4)],
            addresses: [Address(linkIndex: 4, value: article.vlans[1].addresses[0])], table: .present(fingerprint: "x"))
        let journal = try Plan(from: held, on: now, to: after).journal
        let again = try Plan(from: journal, on: now, to: after)
        #expect(words(again).contains("ip address add 172.16.20.1/24 brd + dev enp0s8.300"))
        #expect(words(again).contains("ip link del dev enp0s8.200"))
    }

    @Test func aLinkUnderAnotherNameIsStillOurs() throws {
        let held = state(article, links: [hundred])
        let down = try Plan(from: held, on: host([vlan(100, index: 3, name: "other")]), to: nil)
        #expect(words(down) == ["ip link del dev other"])
    }

    @Test func others() throws {
        let foreign = try InterfaceAddress("172.16.10.9/24")
        let overlapping = host(
            [Link(index: 9, name: "eth1", flags: 0x1)], addresses: [Address(linkIndex: 9, value: foreign)])
        let failure = #expect(throws: Failure.self) { try Plan(from: state(article), on: overlapping, to: article) }
        #expect(failure?.message == "the subnet of VLAN 100 overlaps 172.16.10.0/24, which eth1 is in")
        let port = #expect(throws: Failure.self) {
            let enslaved = Configuration(moving: article, to: "eth1")
            _ = try Plan(
                from: state(enslaved), on: host([Link(index: 9, name: "eth1", flags: 0x1, masterIndex: 2)]),
                to: enslaved)
        }
        #expect(port?.message == "eth1 is a port of enp0s8, which gets its frames")
    }

    /// Names, MTUs and routes of the configuration's own.
    private func ownWay(mtu: UInt32? = 1400) throws -> Configuration {
        var wanted = article
        wanted.vlans[0].name = "lan0"
        wanted.vlans[1].mtu = mtu
        wanted.routes = [
            .init(
                destination: try InterfaceAddress("10.0.0.0/8").prefix,
                gateway: try #require(IPAddress("172.16.20.254"))
            )
        ]
        return wanted
    }

    private func way(_ gateway: String) throws -> Route {
        var properties = Route.Properties(kind: .unicast, routingProtocol: 4, scope: 0)
        properties.nextHops = [Route.NextHop(linkIndex: 4, gateway: IPAddress(gateway))]
        return Route(
            destination: try InterfaceAddress("10.0.0.0/8").prefix, table: Route.mainTable, priority: 0,
            typeOfService: 0, properties: properties)
    }

    @Test func namesMTUsAndRoutes() throws {
        let wanted = try ownWay()
        let up = try Plan(from: state(wanted), on: host(), to: wanted)
        let commands = words(up)
        #expect(commands.contains("ip link add link enp0s8 name lan0 group 30322 type vlan id 100 reorder_hdr on"))
        let mtu = try #require(commands.firstIndex(of: "ip link set dev enp0s8.200 mtu 1400"))
        let route = try #require(commands.firstIndex(of: "ip route add 10.0.0.0/8 via 172.16.20.254"))
        let raised = try #require(commands.firstIndex(of: "ip link set dev enp0s8.200 up"))
        #expect(mtu < raised && raised < route, "a route needs an interface that is up")
        #expect(up.journal.routes == Set(wanted.routes) && up.journal.mtus.isEmpty, "the MTU goes with the interface")

        var applied = try #require(up.outcome)
        applied.table?.fingerprint = "as committed"
        var now = host(
            [vlan(100, index: 3, name: "lan0"), vlan(200, index: 4, mtu: 1400)],
            addresses: wanted.vlans.map {
                Address(linkIndex: $0.id.rawValue / 100 == 1 ? 3 : 4, value: $0.addresses[0])
            },
            sysctls: [
                "net/ipv4/ip_forward": "1", "net/ipv4/conf/lan0/arp_ignore": "1",
                "net/ipv4/conf/enp0s8.200/arp_ignore": "1",
            ], table: .present(fingerprint: "as committed"))
        now.routes = [try way("172.16.20.254")]
        let down = words(try Plan(from: applied, on: now, to: nil))
        #expect(down.contains("ip route del 10.0.0.0/8 via 172.16.20.254") && down.contains("ip link del dev lan0"))
        // Without one of its own, it has its parent's again.
        #expect(
            words(try Plan(from: applied, on: now, to: try ownWay(mtu: nil))).contains(
                "ip link set dev enp0s8.200 mtu 1500"))
    }

    @Test func whatWasThereIsPutBack() throws {
        let wanted = try ownWay()
        var there = host([vlan(200, index: 4)])
        there.routes = [try way("172.16.20.254")]
        let plan = try Plan(from: state(wanted), on: there, to: wanted)
        #expect(plan.journal.routes.isEmpty, "a route that was there is not ours")
        #expect(plan.journal.mtus == [twoHundred: 1500])
        let applied = try #require(plan.outcome)
        var now = host([vlan(200, index: 4, mtu: 1400)])
        now.routes = there.routes
        let down = words(try Plan(from: applied, on: now, to: nil))
        #expect(down.contains("ip link set dev enp0s8.200 mtu 1500") && !down.contains { $0.contains("route") })
    }

    @Test func aRouteThatLeadsElsewhereIsNotReplaced() throws {
        let wanted = try ownWay()
        var there = host()
        there.routes = [try way("172.16.20.253")]
        #expect(throws: Failure.self) { try Plan(from: state(wanted), on: there, to: wanted) }
    }

    @Test func severalTrunks() throws {
        var wanted = article
        wanted.vlans[1].parent = "enp0s9"
        let second = Link(index: 9, name: "enp0s9", flags: 0)
        let up = try Plan(from: state(wanted), on: host([second]), to: wanted)
        let commands = words(up)
        #expect(
            commands.contains("ip link add link enp0s8 name enp0s8.100 group 30322 type vlan id 100 reorder_hdr on"))
        #expect(
            commands.contains("ip link add link enp0s9 name enp0s9.200 group 30322 type vlan id 200 reorder_hdr on"))
        #expect(commands.contains("ip link set dev enp0s9 up") && up.journal.raised.contains("enp0s9"))
        #expect(up.journal.parents.mapValues(\.index) == ["enp0s8": 2, "enp0s9": 9])

        // Without its VLANs, the second one is as it was; the first one is not touched.
        var applied = try #require(up.outcome)
        applied.table?.fingerprint = "as committed"
        var fewer = article
        fewer.vlans.removeLast()
        let raised = Link(index: 9, name: "enp0s9", flags: 0x1)
        let gateways = [
            vlan(100, index: 3),
            Link(
                index: 4, name: "enp0s9.200", kind: "vlan", flags: 0x1, lowerIndex: 9,
                vlan: Link.VLAN(id: 200, etherType: 0x8100, reordersHeader: true)),
        ]
        let less = try Plan(
            from: applied, on: host([raised] + gateways, table: .present(fingerprint: "as committed")), to: fewer)
        #expect(words(less).contains("ip link del dev enp0s9.200") && words(less).last == "ip link set dev enp0s9 down")
        #expect(less.outcome?.parents.keys.sorted() == ["enp0s8"])

        // It does not move at once: its interface would have to be in both places.
        #expect(throws: Failure.self) {
            try Plan(
                from: applied, on: host([raised] + gateways, table: .present(fingerprint: "as committed")), to: article)
        }
    }

    @Test func oneVLANWithinAnother() throws {
        var wanted = article
        wanted.vlans[0].addresses = []
        wanted.vlans[1].outer = hundred
        #expect(wanted.parents == ["enp0s8", "enp0s8.100"] && wanted.interfaceName(twoHundred) == "enp0s8.100.200")
        let commands = words(try Plan(from: state(wanted), on: host(), to: wanted))
        let links = [
            "ip link add link enp0s8 name enp0s8.100 group 30322 type vlan id 100 reorder_hdr on",
            "ip link add link enp0s8.100 name enp0s8.100.200 group 30322 type vlan id 200 reorder_hdr on",
            "ip link set dev enp0s8.100 up", "ip link set dev enp0s8.100.200 up",
        ]
        #expect(commands.filter(links.contains) == links, "each on one that is there already")
    }

    /// A flow table takes only interfaces that are there: the rules come without it first where one is yet to be made.
    @Test func theFlowtableComesWithItsInterfaces() throws {
        var wanted = article
        wanted.flowtable = .auto
        var before = host()
        before.flowtables = .available
        let up = try Plan(from: state(wanted), on: before, to: wanted)
        let commits = up.actions.compactMap { if case .commit(let ruleset) = $0 { ruleset } else { nil } }
        #expect(commits.map(\.flowtable) == [nil, ["enp0s8.100", "enp0s8.200"]])
        #expect(up.actions.first == .commit(commits[0]) && up.actions.last == .commit(commits[1]))
        let outcome = try #require(up.outcome)
        #expect(outcome.usesFlowtable && outcome.table?.ruleset == commits[1].nftText)

        // Nothing to do; one that has gone: without, then with.
        var settled = outcome
        settled.table?.fingerprint = "x"
        var after = host(
            [vlan(100, index: 3), vlan(200, index: 4)],
            addresses: [3, 4].map { index in
                Address(linkIndex: index, value: article.vlans[Int(index) - 3].addresses[0])
            },
            sysctls: ["net/ipv4/ip_forward": "1"], table: .present(fingerprint: "x"))
        after.flowtables = .available
        let again = try Plan(from: settled, on: after, to: wanted).actions.filter {
            if case .commit = $0 { true } else { false }
        }
        #expect(again.isEmpty)
        after.table = .present(fingerprint: "y")
        let drift = try Plan(from: settled, on: after, to: wanted)
        #expect(drift.actions.first == .commit(commits[1]), "all are there: once")
        #expect(drift.complaints.filter { $0.contains("table inet") }.count == 1)

        // Where the kernel has none.
        before.flowtables = .missing(KernelError("add nftables flowtable flows", .notSupported))
        let without = try Plan(from: state(wanted), on: before, to: wanted)
        #expect(without.outcome?.usesFlowtable == false && !words(without).contains { $0.contains("flow") })
        wanted.flowtable = .on
        #expect(throws: Failure.self) { try Plan(from: state(wanted), on: before, to: wanted) }
    }

    /// Rules in another firewall's chain come behind our own, and go before them.
    @Test func acceptsAreThereOnlyWhereOurRulesAre() throws {
        var wanted = article
        wanted.coexists = true
        let place = Nftables.ChainName(family: .ip, table: "filter", name: "DOCKER-USER")
        var before = host()
        before.otherFirewalls = OtherFirewalls(places: [place])
        before.otherFirewalls?.survey.ends[place] = .init(number: 3, handle: 9)
        let up = try Plan(from: state(wanted), on: before, to: wanted)
        #expect(
            words(up)[...4] == [
                "nft -f - <<'END'",
                "iptables -I DOCKER-USER 3 -i enp0s8.100 -m comment --comment 'vrouter up --coexist' -j ACCEPT",
                "iptables -I DOCKER-USER 4 -o enp0s8.100 -m comment --comment 'vrouter up --coexist' -j ACCEPT",
                "iptables -I DOCKER-USER 5 -i enp0s8.200 -m comment --comment 'vrouter up --coexist' -j ACCEPT",
                "iptables -I DOCKER-USER 6 -o enp0s8.200 -m comment --comment 'vrouter up --coexist' -j ACCEPT",
            ])
        #expect(up.journal.accepts.count == 4 && up.outcome?.accepts == up.journal.accepts)

        var after = host(
            [vlan(100, index: 3), vlan(200, index: 4)], sysctls: ["net/ipv4/ip_forward": "1"],
            table: .present(fingerprint: "x"))
        let held = try #require(up.outcome)
        after.otherFirewalls = OtherFirewalls(places: [place])
        for accept in held.accepts { after.otherFirewalls?.survey.accepts[accept] = [1] }
        // One that is there and that we have not made.
        let other = Nftables.Accept(chain: place, direction: .input, interface: "enp0s8.300")
        after.otherFirewalls?.survey.accepts[other] = [2]
        let down = try Plan(from: held, on: after, to: nil)
        let commands = words(down)
        let deletions = commands.indices.filter { commands[$0].hasPrefix("iptables -D DOCKER-USER ") }
        #expect(deletions.count == 4)
        #expect(commands[(deletions.last ?? 0)...].contains("nft delete table inet vrouter"))
        #expect(!commands.contains { $0.contains("enp0s8.300") })
        // Who may not look at rules leaves them alone, and remembers them.
        after.otherFirewalls = nil
        let blind = try Plan(from: held, on: after, to: wanted)
        #expect(!words(blind).contains { $0.hasPrefix("iptables") } && blind.outcome?.accepts == held.accepts)
    }
}

extension Configuration {
    fileprivate init(moving other: Configuration, to parent: String) {
        self = other
        self.parent = parent
    }
}

extension Link {
    init(
        index: UInt32, name: String, kind: String? = nil, flags: UInt32, hardwareType: UInt16 = 1,
        lowerIndex: UInt32? = nil,
        masterIndex: UInt32? = nil, vlan: VLAN? = nil, mtu: UInt32 = 1500
    ) {
        self.init(
            index: index, name: name, kind: kind, hardwareType: hardwareType, flags: flags, mtu: mtu, macAddress: nil,
            lowerIndex: lowerIndex, isLowerElsewhere: false, masterIndex: masterIndex, group: 0, operationalState: "up",
            vlan: vlan, ipv4: Link.IPv4Settings(), ipv6Forwarding: 0, statistics: nil)
    }
}
