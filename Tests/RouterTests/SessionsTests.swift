import Packets
import SystemPackage
import Testing

@testable import Kernel
@testable import Router

/// Which sessions a change ends: from values, without a kernel.
@Suite struct SessionsTests {
    private static let vlans = [
        "100=172.16.10.1/24,fd00:10::1/64", "200=172.16.20.1/24,fd00:20::1/64", "300=172.16.30.1/24",
    ]

    private func configuration(_ denied: String...) throws -> Configuration {
        try Configuration(parent: "enp0s8", vlans: Self.vlans, denied: denied)
    }

    /// Behind 172.16.30.9 is 10.0.0.0/8, of which 10.1.0.0/16 is behind the uplink (index 9), as everything else.
    private func host(_ sessions: Host.Sessions = .notPermitted) -> Host {
        func route(_ text: String, _ link: UInt32, priority: UInt32 = 0, table: UInt32 = Route.mainTable) -> Route {
            var properties = Route.Properties(kind: .unicast, routingProtocol: 4, scope: 0)
            properties.nextHops = [Route.NextHop(linkIndex: link)]
            let prefix = try! InterfaceAddress(text).prefix
            return Route(
                destination: prefix, table: table, priority: priority, typeOfService: 0, properties: properties)
        }
        let links: [(UInt32, String)] = [
            (2, "enp0s8"), (3, "enp0s8.100"), (4, "enp0s8.200"), (5, "enp0s8.300"), (9, "uplink0"),
        ]
        var host = Host(
            links: links.map { index, name in
                let vlan = name.split(separator: ".").dropFirst().first.flatMap { UInt16($0) }
                return Link(
                    index: index, name: name, kind: vlan == nil ? nil : "vlan", flags: 1,
                    lowerIndex: vlan == nil ? nil : 2,
                    vlan: vlan.map { Link.VLAN(id: $0, etherType: 0x8100, reordersHeader: true) })
            },
            addresses: [Address(linkIndex: 9, value: try! InterfaceAddress("192.0.2.1/24"))],
            routes: [
                route("10.0.0.0/8", 5), route("10.1.0.0/16", 9), route("0.0.0.0/0", 9), route("192.0.2.0/24", 9),
                // Worse, and of another table.
                route("10.0.0.0/8", 3, priority: 100), route("10.2.0.0/16", 3, table: 77),
            ],
            sysctl: { _ in nil }, configuredInterfaces: { _ in [] }, table: .absent)
        host.sessions = sessions
        return host
    }

    /// - Parameter answering: whoever answers, if it is not the one who was asked.
    private func connection(
        _ from: String, _ to: String, answering: String? = nil, seenAs: String? = nil, number: UInt8 = 6
    ) throws -> Connection {
        func tuple(_ source: String, _ sourcePort: UInt16, _ destination: String, _ port: UInt16) throws -> FlowTuple {
            FlowTuple(
                source: try #require(IPAddress(source)), destination: try #require(IPAddress(destination)),
                protocolNumber: number, sourcePort: sourcePort, destinationPort: port)
        }
        return Connection(
            original: try tuple(from, 40000, to, 80), reply: try tuple(answering ?? to, 80, seenAs ?? from, 40000),
            status: 0xe, id: 7)
    }

    @Test func whoBeginsAndWhereItLeadsDecides() throws {
        let sessions = try #require(
            EndedSessions(from: try configuration("300:200"), to: try configuration("100:200", "300:200"), on: host()))
        func ends(_ connection: Connection) -> Bool { sessions.contains(connection) }
        #expect(try ends(connection("172.16.10.10", "172.16.20.10")))
        #expect(try ends(connection("fd00:10::10", "fd00:20::10", number: 17)))
        // Masqueraded: the other host sees the gateway.
        #expect(try ends(connection("172.16.10.10", "172.16.20.10", seenAs: "172.16.20.1")))
        // A forwarded port leads into the VLAN, or out of it.
        #expect(try ends(connection("172.16.10.10", "192.0.2.1", answering: "172.16.20.10")))
        #expect(try !ends(connection("172.16.10.10", "172.16.20.10", answering: "172.16.30.10")))
        // The other way, other pairs, one that was denied before, and what stays in its VLAN.
        for (from, to) in [(20, 10), (10, 30), (30, 10), (30, 20), (20, 20)] {
            #expect(try !ends(connection("172.16.\(from).10", "172.16.\(to).10")), "\(from) \(to)")
        }
        // The router's own, and those of other networks.
        for (from, to) in [
            ("172.16.10.10", "172.16.20.1"), ("172.16.10.1", "172.16.20.10"), ("198.51.100.1", "172.16.20.10"),
            ("172.16.10.10", "198.51.100.1"), ("2001:db8::1", "fd00:20::10"),
        ] {
            #expect(try !ends(connection(from, to)), "\(from) \(to)")
        }
    }

    @Test func theLongestRouteTellsTheVLAN() throws {
        let networks = VLANNetworks(try configuration(), on: host())
        let expected: [(String, UInt16?)] = [
            ("10.0.0.1", 300), ("10.2.0.1", 300), ("10.1.0.1", nil), ("172.16.30.9", 300), ("172.16.30.1", nil),
            ("192.0.2.1", nil), ("192.0.2.2", nil), ("198.51.100.1", nil), ("fd00:20::9", 200), ("fd00:20::1", nil),
            ("fe80::9", nil),
        ]
        for (address, vlan) in expected {
            #expect(networks.vlan(of: try #require(IPAddress(address)))?.rawValue == vlan, "\(address)")
        }
    }

    @Test func sessionsEndLastAndOnce() throws {
        let before = try configuration()
        let after = try configuration("100:200")
        var state = State(
            bootID: "boot", namespaceInode: 1, namespaceCookie: 1, configuration: before, driver: .ieee8021q)
        state.applied = before
        let connections = try [
            connection("172.16.10.10", "172.16.20.10"), connection("172.16.10.10", "172.16.30.10"),
            connection("fd00:10::10", "fd00:20::10", number: 17),
            connection("172.16.10.11", "172.16.20.11", number: 1), connection("fd00:10::11", "fd00:20::11", number: 58),
        ]
        let plan = try Plan(from: state, on: host(.listed(connections)), to: after)
        guard case .endSessions? = plan.actions.last else {
            Issue.record("the last action is \(String(describing: plan.actions.last))")
            return
        }
        #expect(
            plan.actions.last?.commands == [
                "conntrack -D --orig-src 172.16.10.10 --orig-dst 172.16.20.10 -p tcp --orig-port-src 40000 --orig-port-dst 80",
                "conntrack -D -f ipv6 --orig-src fd00:10::10 --orig-dst fd00:20::10 -p udp --orig-port-src 40000 "
                    + "--orig-port-dst 80",
                "conntrack -D --orig-src 172.16.10.11 --orig-dst 172.16.20.11 -p icmp --icmp-id 40000 --icmp-type 0 "
                    + "--icmp-code 80",
                "conntrack -D -f ipv6 --orig-src fd00:10::11 --orig-dst fd00:20::11 -p icmpv6 --icmpv6-id 40000 "
                    + "--icmpv6-type 0 --icmpv6-code 80",
            ])
        func endsSessions(_ plan: Plan) -> Bool {
            plan.actions.contains { if case .endSessions = $0 { true } else { false } }
        }
        // Cut short, it is done again; done, it is not.
        #expect(try endsSessions(Plan(from: plan.journal, on: host(.listed([])), to: after)))
        #expect(try !endsSessions(Plan(from: try #require(plan.outcome), on: host(.listed(connections)), to: after)))
        // Neither on the way back, nor where something is allowed again.
        #expect(try !endsSessions(Plan(from: plan.journal, on: host(.listed(connections)), to: before)))
        #expect(try !endsSessions(Plan(from: plan.journal, on: host(.listed(connections)), to: nil)))
    }

    @Test func whoCannotSeeThemSaysSo() throws {
        let after = try configuration("100:200")
        let state = State(
            bootID: "boot", namespaceInode: 1, namespaceCookie: 1, configuration: after, driver: .ieee8021q)
        let plan = try Plan(from: state, on: host(.notPermitted), to: after)
        let commands = try #require(plan.actions.last?.commands)
        #expect(commands.count == 1 && commands[0].hasPrefix("# ") && commands[0].contains("CAP_NET_ADMIN"))
        let without = try Plan(
            from: state, on: host(.unsupported(KernelError("list connections", .invalidArgument))), to: after)
        #expect(without.notes.contains { $0.contains("sessions") })
    }
}
