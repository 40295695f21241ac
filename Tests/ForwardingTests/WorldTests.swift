import Forwarding
import Packets
import TestSupport
import Testing

@Suite struct WorldTests {
    private func prefix(_ text: String) -> IPPrefix { TestWorld.prefix(text) }
    private func via(_ address: String, _ vlan: UInt16, _ weight: Int) -> World.NextHop {
        TestWorld.via(address, vlan, weight: weight)
    }

    private func verdict(_ destination: String, _ change: (inout World) -> Void) -> Verdict {
        process(.ipv4(to: destination), in: TestWorld.changed(change)).outcome.verdict
    }

    private func hop(_ destination: String, _ change: (inout World) -> Void) -> IPAddress? {
        let snapshot = TestWorld.changed(change)
        let outcome = process(.ipv4(to: destination), in: snapshot).outcome
        return outcome.verdict == .forward ? snapshot.neighbor(outcome.adjacency)?.address : nil
    }

    /// Whatever the order in which they are given.
    @Test func theLowestMetricWins() {
        let far = World.Route(prefix("10.20.0.0/16"), .unicast([via("172.16.20.3", 200, 1)]), metric: 100)
        let near = World.Route(prefix("10.20.0.0/16"), .unicast([via("172.16.20.2", 200, 1)]), metric: 10)
        let first = World.Route(prefix("10.20.0.0/16"), .blackhole, metric: 10)
        #expect(hop("10.20.0.1") { $0.routes += [far, near] } == IPAddress("172.16.20.2"))
        #expect(hop("10.20.0.1") { $0.routes += [near, far] } == IPAddress("172.16.20.2"))
        #expect(hop("10.20.0.1") { $0.routes += [near, first] } == IPAddress("172.16.20.2"))
        #expect(verdict("10.20.0.1") { $0.routes += [first, near] } == .drop(.blackhole))
    }

    /// `ip route add local 10.21.0.0/16 dev lo` beats 10.21.1.0/24 in the table `main`, and any metric there.
    @Test func theTableLocalComesFirst() {
        let local = World.Route(prefix("10.21.0.0/16"), .local, metric: 1000)
        let main = World.Route(prefix("10.21.1.0/24"), .unicast([via("172.16.20.2", 200, 1)]))
        let same = World.Route(prefix("10.21.0.0/16"), .unicast([via("172.16.20.2", 200, 1)]))
        #expect(verdict("10.21.1.1") { $0.routes += [main, local] } == .punt(.local))
        #expect(verdict("10.21.0.1") { $0.routes += [same, local] } == .punt(.local))
        #expect(verdict("10.21.0.1") { $0.routes += [local, same] } == .punt(.local))
        #expect(verdict("10.21.1.1") { $0.routes += [main] } == .forward)
    }

    /// A neighbor counts only where the kernel would look for it: on the link of the route to its address.
    @Test func neighborsOfOtherRoutes() {
        let elsewhere = World.Route(prefix("172.16.20.11/32"), .unicast([via("172.16.20.2", 200, 1)]))
        #expect(hop("172.16.20.11") { $0.routes.append(elsewhere) } == IPAddress("172.16.20.2"))
        func with(_ address: String, _ vlan: UInt16) -> Verdict {
            verdict(address) { $0.neighbors.append(TestWorld.neighbor(address, vlan, 0x55)) }
        }
        #expect(with("172.16.20.12", 200) == .forward)
        #expect(with("172.16.20.12", 300) == .punt(.unresolved))
        #expect(with("10.11.0.1", 200) == .punt(.unresolved), "behind a router")
        #expect(with("172.16.20.1", 200) == .punt(.local))
        #expect(verdict("172.16.20.11") { $0.neighbors = [] } == .punt(.unresolved))
    }

    /// The way to a router is by the link that the route names.
    @Test func routersOfOtherLinks() {
        let wrongLink = World.Route(prefix("10.22.0.0/16"), .unicast([via("172.16.20.2", 300, 1)]))
        #expect(verdict("10.22.0.1") { $0.routes.append(wrongLink) } == .punt(.unresolved))
        let noGateway = World.Route(prefix("10.22.0.0/16"), .unicast([via("172.16.20.2", 999, 1)]))
        #expect(verdict("10.22.0.1") { $0.routes.append(noGateway) } == .punt(.otherInterface))
        let nowhere = World.Route(prefix("10.22.0.0/16"), .unicast([]))
        #expect(verdict("10.22.0.1") { $0.routes.append(nowhere) } == .punt(.otherRoute))
    }

    @Test(arguments: [0, 0x0100_5e00_0001, 0xffff_ffff_ffff] as [UInt64])
    func addressesThatNoStationHas(_ mac: UInt64) {
        #expect(
            verdict("172.16.20.12") {
                $0.neighbors.append(
                    World.Neighbor(IPAddress("172.16.20.12")!, vlan: TestWorld.vlan(200), mac: MACAddress(mac)))
            } == .punt(.unresolved))
    }

    /// The kernel has something to do for one of the ways, and only it knows which packets take that one.
    @Test func equalCostPathsInPart() {
        for other in [
            via("172.16.20.99", 200, 1), World.NextHop(via: nil, vlan: nil), via("172.16.20.3", 200, 0),
            via("172.16.20.3", 200, -5), via("172.16.20.3", 200, 257),
            World.NextHop(via: nil, vlan: TestWorld.vlan(200)),
        ] {
            for hops in [[via("172.16.20.2", 200, 1), other], [other, via("172.16.20.2", 200, 1)]] {
                let route = World.Route(prefix("10.23.0.0/16"), .unicast(hops))
                #expect(verdict("10.23.0.1") { $0.routes.append(route) } == .punt(.otherRoute), "\(hops)")
            }
        }
    }

    /// Weights with a common divisor need no more adjacencies than their ratio; too many ways are the kernel's.
    @Test func weights() {
        func route(_ one: Int, _ other: Int) -> World.Route {
            World.Route(
                prefix("10.24.0.0/16"), .unicast([via("172.16.20.2", 200, one), via("172.16.20.3", 200, other)]))
        }
        #expect(verdict("10.24.0.1") { $0.routes.append(route(256, 128)) } == .forward)
        #expect(verdict("10.24.0.1") { $0.routes.append(route(128, 128)) } == .forward)
        #expect(verdict("10.24.0.1") { $0.routes.append(route(255, 1)) } == .forward)
        #expect(verdict("10.24.0.1") { $0.routes.append(route(255, 256)) } == .punt(.otherRoute))
    }

    @Test func theRoutesOfAnAddress() throws {
        func implied(_ text: String) throws -> [String] {
            World.Route.implied(by: try InterfaceAddress(text), in: TestWorld.vlan(5)).map { "\($0.prefix) \($0.kind)" }
        }
        let link = World.Route.Kind.unicast([World.NextHop(via: nil, vlan: TestWorld.vlan(5))])
        #expect(
            try implied("10.0.0.1/24") == ["10.0.0.1/32 local", "10.0.0.0/24 \(link)", "10.0.0.255/32 broadcast"])
        #expect(try implied("10.0.0.0/31") == ["10.0.0.0/32 local", "10.0.0.0/31 \(link)"])
        #expect(try implied("fd00::1/64") == ["fd00::1/128 local", "fd00::/64 \(link)"])
        // The router's own address wins over the link of the same length.
        #expect(
            verdict("10.0.0.1") {
                $0.routes += World.Route.implied(by: try! InterfaceAddress("10.0.0.1/32"), in: TestWorld.vlan(200))
            } == .punt(.local))
    }

    /// Against a router that looks at every route for every packet.
    @Test func agreesWithANaiveRouter() {
        var generator = SeededGenerator(seed: 1812)
        var reached: [Verdict: Int] = [:]
        for _ in 0..<150 {
            let world = randomWorld(&generator)
            let snapshot = Snapshot(world)
            for _ in 0..<100 {
                let source = randomAddress(&generator)
                let destination = randomAddress(&generator)
                let frame = TestFrame.ipv4(
                    vlan: [100, 200, 300].randomElement(using: &generator)!, from: "\(source)", to: "\(destination)")
                let outcome = process(frame, in: snapshot).outcome
                let possible = NaiveRouter(world: world).decide(
                    .v4(source), .v4(destination), from: VLANID(frame.tags[0].vid)!)
                let hop = outcome.verdict == .forward ? snapshot.neighbor(outcome.adjacency) : nil
                #expect(
                    possible.contains { $0.verdict == outcome.verdict && $0.hop == hop },
                    "\(source) → \(destination): \(possible) in \(world)")
                reached[outcome.verdict, default: 0] += 1
            }
        }
        #expect(reached[.forward, default: 0] > 500, "\(reached)")
        #expect(reached.count > 10, "\(reached)")
    }

    /// All within 10.0.0.0/27, so that everything meets everything.
    private func randomAddress(_ generator: inout SeededGenerator) -> IPv4Address {
        IPv4Address(0x0a00_0000 | UInt32.random(in: 0..<32, using: &generator))
    }

    private func randomWorld(_ generator: inout SeededGenerator) -> World {
        let vlans = [100, 200, 300].map(TestWorld.vlan)
        func address(_ generator: inout SeededGenerator) -> IPAddress { .v4(randomAddress(&generator)) }
        var world = World()
        world.gateways = vlans.map { vlan in
            Snapshot.Gateway(
                vlan: vlan, mac: TestWorld.mac,
                sourceCheck: [.none, .none, .strict, .loose].randomElement(using: &generator)!)
        }
        for _ in 0..<Int.random(in: 0...12, using: &generator) {
            world.neighbors.append(
                World.Neighbor(
                    address(&generator), vlan: vlans.randomElement(using: &generator)!,
                    mac: MACAddress(0x0200_0000_0000 | UInt64.random(in: 1...99, using: &generator))))
        }
        for _ in 0..<Int.random(in: 1...14, using: &generator) {
            let kind: World.Route.Kind
            switch Int.random(in: 0..<12, using: &generator) {
            case 0: kind = .local
            case 1: kind = .broadcast
            case 2: kind = [.blackhole, .unreachable, .prohibited, .other].randomElement(using: &generator)!
            case 3...6: kind = .unicast([World.NextHop(via: nil, vlan: vlans.randomElement(using: &generator)!)])
            case 7:
                let hops = [World.NextHop(via: nil, vlan: nil), World.NextHop(via: nil, vlan: vlans[1])]
                kind = .unicast(Bool.random(using: &generator) ? [hops[0]] : hops)
            case let number:
                kind = .unicast(
                    (0..<(number == 11 ? 2 : 1)).map { _ in
                        let neighbor = world.neighbors.randomElement(using: &generator)
                        return World.NextHop(
                            via: neighbor?.address ?? address(&generator), vlan: neighbor?.vlan ?? vlans[0],
                            weight: Int.random(in: 1...3, using: &generator))
                    })
            }
            world.routes.append(
                World.Route(
                    IPPrefix(address(&generator), length: Int.random(in: 25...32, using: &generator)), kind,
                    metric: UInt32.random(in: 0...3, using: &generator)))
        }
        if Bool.random(using: &generator) { world.denied = [(vlans[0], vlans[2])] }
        return world
    }
}

/// The same decisions from the same world without a table, in the kernel's order.
struct NaiveRouter {
    var world: World

    /// One possibility for each equal-cost path.
    func decide(_ source: IPAddress, _ destination: IPAddress, from vlan: VLANID) -> [(
        verdict: Verdict, hop: World.Neighbor?
    )] {
        guard let route = best(destination) else { return [(.punt(.noRoute), nil)] }
        switch route.kind {
        case .local: return [(.punt(.local), nil)]
        case .broadcast: return [(.punt(.broadcast), nil)]
        case .blackhole: return [(.drop(.blackhole), nil)]
        case .unreachable: return [(.punt(.unreachable), nil)]
        case .prohibited: return [(.punt(.prohibited), nil)]
        case .other: return [(.punt(.otherRoute), nil)]
        case .unicast(let hops):
            if hops.allSatisfy({ $0.vlan == nil }) { return [(.punt(.otherInterface), nil)] }
            var neighbors: [World.Neighbor] = []
            for hop in hops {
                let address = hop.via ?? destination
                // Of two entries for the same station the last counts.
                guard let found = world.neighbors.last(where: { $0.address == address && $0.vlan == hop.vlan }) else {
                    return [(.punt(hops.count == 1 ? .unresolved : .otherRoute), nil)]
                }
                neighbors.append(found)
            }
            let verdict = checkSource(source, from: vlan)
            return neighbors.map { neighbor in
                if neighbor.vlan == vlan { return (.punt(.sameVLAN), nil) }
                if isDenied(vlan, neighbor.vlan) { return (.punt(.denied), nil) }
                return (verdict, verdict == .forward ? neighbor : nil)
            }
        }
    }

    private func isDenied(_ one: VLANID, _ other: VLANID) -> Bool {
        world.denied.contains { ($0 == one && $1 == other) || ($0 == other && $1 == one) }
    }

    private func checkSource(_ source: IPAddress, from vlan: VLANID) -> Verdict {
        let check = world.gateways.first { $0.vlan == vlan }!.sourceCheck
        let failed: Verdict = check == .none ? .forward : .drop(.sourceUnreachable)
        guard let route = best(source) else { return failed }
        switch route.kind {
        case .local: return .drop(.sourceOwn)
        case .broadcast: return check == .none ? .forward : .drop(.sourceAddress)
        case .blackhole, .unreachable, .prohibited: return failed
        case .other: return check == .none ? .forward : .punt(.sourceUndecided)
        case .unicast(let hops):
            if hops.allSatisfy({ $0.vlan == nil }) { return check == .strict ? failed : .forward }
            let isClear =
                hops.count == 1
                || hops.allSatisfy { hop in
                    world.neighbors.contains { $0.address == hop.via && $0.vlan == hop.vlan }
                }
            if !isClear { return check == .none ? .forward : .punt(.sourceUndecided) }
            return check != .strict || hops.contains { $0.vlan == vlan } ? .forward : failed
        }
    }

    /// The table `local` first, then the longest prefix, then the lowest metric, then the first.
    private func best(_ address: IPAddress) -> World.Route? {
        let matching = world.routes.filter { $0.prefix.contains(address) }
        let local = matching.filter { $0.kind == .local || $0.kind == .broadcast }
        return (local.isEmpty ? matching : local).enumerated().min {
            (-$0.element.prefix.length, $0.element.metric, $0.offset)
                < (-$1.element.prefix.length, $1.element.metric, $1.offset)
        }?.element
    }
}
