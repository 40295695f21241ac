import Forwarding
import Packets
import TestSupport
import Testing

/// Two VLANs and one host in each, a router in VLAN 200 with networks behind it, a subnet on another interface.
///
///     172.16.10.10 ── VLAN 100 ── vrouter ── VLAN 200 ── 172.16.20.11
///                                    │           └────── 172.16.20.2 ── 10.9.0.0/16
///                                  uplink ── 0.0.0.0/0
let world: World = {
    let mac = MACAddress(0x02_00_00_00_00_01)
    func vlan(_ id: UInt16) -> VLANID { VLANID(id)! }
    func prefix(_ text: String) -> IPPrefix { (try! InterfaceAddress(text)).prefix }
    var world = World()
    world.gateways = [100, 200, 300].map { Snapshot.Gateway(vlan: vlan($0), mac: mac) }
    for (id, address) in [
        (100, "172.16.10.1/24"), (200, "172.16.20.1/24"), (300, "172.16.30.1/24"), (100, "fd00:10::1/64"),
        (200, "fd00:20::1/64"), (300, "fd00:30::1/64"),
    ] as [(UInt16, String)] {
        world.routes += World.Route.implied(by: try! InterfaceAddress(address), in: vlan(id))
    }
    world.neighbors = [
        ("172.16.10.10", 100, 0x10), ("172.16.20.11", 200, 0x11), ("172.16.20.2", 200, 2), ("172.16.20.3", 200, 3),
        ("172.16.30.12", 300, 0x12), ("fd00:10::10", 100, 0x10), ("fd00:20::11", 200, 0x11), ("fe80::2", 200, 2),
        ("172.16.10.3", 100, 0x33),
    ].map { World.Neighbor(IPAddress($0)!, vlan: vlan($1), mac: MACAddress(0x02_00_00_00_02_00 | $2)) }
    func via(_ address: String, _ id: UInt16, weight: Int = 1) -> World.NextHop {
        World.NextHop(via: IPAddress(address)!, vlan: vlan(id), weight: weight)
    }
    world.routes += [
        World.Route(prefix("10.9.0.0/16"), .unicast([via("172.16.20.2", 200)])),
        World.Route(prefix("10.10.0.0/16"), .unicast([via("172.16.20.2", 200), via("172.16.20.3", 200, weight: 3)])),
        World.Route(prefix("10.11.0.0/16"), .unicast([via("172.16.20.99", 200)])),
        World.Route(prefix("10.12.0.0/16"), .blackhole), World.Route(prefix("10.13.0.0/16"), .unreachable),
        World.Route(prefix("10.14.0.0/16"), .prohibited), World.Route(prefix("10.15.0.0/16"), .other),
        World.Route(prefix("10.16.0.0/16"), .unicast([World.NextHop(via: nil, vlan: nil)])),
        World.Route(prefix("fd00:9::/32"), .unicast([via("fe80::2", 200)])),
        World.Route(prefix("fd00:12::/32"), .blackhole),
    ]
    world.denied = [(vlan(300), vlan(200))]
    return world
}()

let snapshot = Snapshot(world)

/// Runs one frame; the octets afterwards, up to the outcome's length, or as they were.
func process(
    _ frame: TestFrame, gsoSize: UInt16 = 0, tag: VLANTag? = nil, in snapshot: Snapshot = snapshot
) -> (outcome: Outcome, octets: [UInt8]) {
    var octets = frame.inRing
    let metadata = FrameMetadata(tag: tag ?? frame.tags.first ?? .none, gsoSize: gsoSize)
    let outcome = process(&octets, metadata, snapshot)
    return (outcome, outcome.verdict == .forward ? Array(octets.prefix(outcome.length)) : octets)
}

func process(_ octets: inout [UInt8], _ metadata: FrameMetadata, _ snapshot: Snapshot) -> Outcome {
    var span = octets.mutableSpan
    return Pipeline.process(&span, metadata, snapshot)
}

func changed(_ change: (inout World) -> Void) -> Snapshot {
    var result = world
    change(&result)
    return Snapshot(result)
}

@Suite struct PipelineTests {
    @Test func forwardsIPv4() {
        let result = process(.ipv4())
        let expected = TestFrame.ipv4(vlan: 200, timeToLive: 63).with {
            $0.destination = MACAddress(0x02_00_00_00_02_11)
            $0.source = MACAddress(0x02_00_00_00_00_01)
        }
        #expect(result.outcome.verdict == .forward && result.outcome.vlan == 200)
        #expect(result.octets == expected.octets)
        #expect(snapshot.neighbor(result.outcome.adjacency)?.address == IPAddress("172.16.20.11"))
    }

    @Test func forwardsIPv6() {
        let result = process(.ipv6())
        let expected = TestFrame.ipv6(vlan: 200, hopLimit: 63).with {
            $0.destination = MACAddress(0x02_00_00_00_02_11)
            $0.source = MACAddress(0x02_00_00_00_00_01)
        }
        #expect(result.outcome.verdict == .forward && result.outcome.vlan == 200)
        #expect(result.octets == expected.octets)
    }
}
