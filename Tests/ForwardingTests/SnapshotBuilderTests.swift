import Forwarding
import Packets
import TestSupport
import Testing

@Suite struct SnapshotBuilderTests {
    private static let gateways = [100, 200, 300].map {
        Snapshot.Gateway(vlan: TestWorld.vlan($0), mac: TestWorld.mac, mtu: 1500)
    }

    private static let prefixes = [
        "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "172.16.0.0/12", "172.16.10.0/24", "172.16.20.0/24",
        "172.16.20.0/30", "172.16.20.11/32", "172.16.20.1/32", "172.16.20.128/25", "172.16.30.0/24",
    ].map { TestWorld.prefix($0) }

    private static let hosts: [(address: String, vlan: UInt16)] = [
        ("172.16.10.10", 100), ("172.16.20.2", 200), ("172.16.20.3", 200), ("172.16.20.11", 200), ("172.16.20.11", 300),
        ("172.16.20.130", 200), ("172.16.30.12", 300), ("10.1.2.3", 200),
    ]

    private static let kinds: [World.Route.Kind?] = [
        nil, nil, .local, .blackhole, .unreachable, .other,
        .unicast([TestWorld.via("172.16.20.2", 200)]), .unicast([TestWorld.via("172.16.20.3", 200)]),
        .unicast([TestWorld.via("172.16.20.2", 200), TestWorld.via("172.16.30.12", 300, weight: 3)]),
        .unicast([World.NextHop(via: nil, vlan: TestWorld.vlan(200))]),
        .unicast([World.NextHop(via: nil, vlan: TestWorld.vlan(300))]),
        .unicast([World.NextHop(via: nil, vlan: nil)]),
    ]

    /// What becomes of a packet from VLAN 100 to each of many addresses, and where it goes.
    private func ways(_ snapshot: Snapshot) -> [String] {
        let destinations =
            Self.hosts.map(\.address) + [
                "10.1.2.4", "10.1.3.1", "10.2.0.1", "172.16.20.1", "172.16.20.200", "192.0.2.1",
            ]
        return destinations.map { destination in
            let outcome = process(.ipv4(to: destination), in: snapshot).outcome
            guard outcome.verdict == .forward else { return "\(destination): \(outcome.verdict)" }
            return "\(destination): \(snapshot.neighbor(outcome.adjacency).map { "\($0)" } ?? "?")"
        }
    }

    /// However it came to be, the same world gives the same ways.
    @Test func anyOrderOfChanges() {
        var generator = SeededGenerator(seed: 7)
        var builder = SnapshotBuilder(gateways: Self.gateways)
        var routes: [IPPrefix: World.Route.Kind] = [:]
        var neighbors: [Int: MACAddress] = [:]
        var forwarded = 0
        for round in 0..<400 {
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                if Bool.random(using: &generator), let prefix = Self.prefixes.randomElement(using: &generator) {
                    let kind = Self.kinds[Int.random(in: 0..<Self.kinds.count, using: &generator)]
                    routes[prefix] = kind
                    builder.setRoute(prefix, kind)
                } else {
                    let index = Int.random(in: 0..<Self.hosts.count, using: &generator)
                    let mac = Int.random(in: 0...2, using: &generator)
                    neighbors[index] = mac == 0 ? nil : MACAddress(0x02_00_00_00_00_40 + UInt64(mac))
                    let host = Self.hosts[index]
                    guard let address = IPAddress(host.address) else { continue }
                    builder.setNeighbor(address, in: TestWorld.vlan(host.vlan), neighbors[index])
                }
            }
            var fresh = SnapshotBuilder(gateways: Self.gateways)
            for (prefix, kind) in routes { fresh.setRoute(prefix, kind) }
            for (index, mac) in neighbors {
                guard let address = IPAddress(Self.hosts[index].address) else { continue }
                fresh.setNeighbor(address, in: TestWorld.vlan(Self.hosts[index].vlan), mac)
            }
            let found = ways(builder.snapshot())
            #expect(found == ways(fresh.snapshot()), "round \(round)")
            forwarded += found.filter { $0.contains("mac") }.count
        }
        #expect(forwarded > 500, "packets were forwarded at all: \(forwarded)")
    }

    /// A router that goes and comes back changes what the targets mean, not the numbers that prefixes have.
    @Test func targetsKeepTheirNumbers() throws {
        var builder = SnapshotBuilder(gateways: Self.gateways)
        let hop = World.Route.Kind.unicast([TestWorld.via("172.16.20.2", 200)])
        let first = builder.setRoute(TestWorld.prefix("10.1.0.0/16"), hop)
        let second = builder.setRoute(TestWorld.prefix("10.2.0.0/16"), hop)
        let isRoute = builder.isRoute(Int(first))
        #expect(second == first && isRoute)
        let before = builder.snapshot()
        #expect(before.adjacencies(ofTarget: Int(first)).isEmpty)
        let router = try #require(IPAddress("172.16.20.2"))
        builder.setNeighbor(router, in: TestWorld.vlan(200), MACAddress(0x02_00_00_00_00_42))
        let snapshot = builder.snapshot()
        #expect(snapshot.adjacencies(ofTarget: Int(first)).map(\.destination) == [MACAddress(0x02_00_00_00_00_42)])
        #expect(process(.ipv4(to: "10.2.3.4"), in: snapshot).outcome.verdict == .forward)
        // Behind no link's route, a neighbor has none of its own.
        let hosts = builder.hostTargets
        #expect(hosts.isEmpty)
        builder.setNeighbor(router, in: TestWorld.vlan(200), nil)
        let after = builder.snapshot()
        #expect(after.adjacencies(ofTarget: Int(first)).isEmpty)
        let again = builder.setRoute(TestWorld.prefix("10.1.0.0/16"), hop)
        #expect(again == first)
    }
}
