import Forwarding
import Packets

/// A host in each of three VLANs, two routers in one of them, and every kind of route behind those.
///
///     172.16.10.10 ── VLAN 100 ── vrouter ── VLAN 200 ── 172.16.20.11
///     172.16.30.12 ── VLAN 300 ──╱   │           ├────── 172.16.20.2 ── 10.9.0.0/16, 10.10.0.0/16
///                                    │           └────── 172.16.20.3 ── 10.10.0.0/16
///                                 another interface ──────────────────── 10.16.0.0/16
public enum TestWorld {
    public static let mac = MACAddress(0x02_00_00_00_00_01)

    public static func vlan(_ id: UInt16) -> VLANID { VLANID(id)! }
    public static func prefix(_ text: String) -> IPPrefix { (try! InterfaceAddress(text)).prefix }
    public static func via(_ address: String, _ id: UInt16, weight: Int = 1) -> World.NextHop {
        World.NextHop(via: IPAddress(address)!, vlan: vlan(id), weight: weight)
    }
    public static func neighbor(_ address: String, _ id: UInt16, _ number: UInt64) -> World.Neighbor {
        World.Neighbor(IPAddress(address)!, vlan: vlan(id), mac: MACAddress(0x02_00_00_00_02_00 | number))
    }

    public static let world: World = {
        var world = World()
        world.gateways = [100, 200, 300].map { Snapshot.Gateway(vlan: vlan($0), mac: mac) }
        for (id, address) in [
            (100, "172.16.10.1/24"), (200, "172.16.20.1/24"), (300, "172.16.30.1/24"), (100, "fd00:10::1/64"),
            (200, "fd00:20::1/64"), (300, "fd00:30::1/64"),
        ] as [(UInt16, String)] {
            world.routes += World.Route.implied(by: try! InterfaceAddress(address), in: vlan(id))
        }
        world.neighbors = [
            neighbor("172.16.10.10", 100, 0x10), neighbor("172.16.10.13", 100, 0x13),
            neighbor("172.16.20.11", 200, 0x11), neighbor("172.16.20.2", 200, 0x02), neighbor("172.16.20.3", 200, 0x03),
            neighbor("172.16.30.12", 300, 0x12), neighbor("fd00:10::10", 100, 0x10),
            neighbor("fd00:20::11", 200, 0x11), neighbor("fe80::2", 200, 0x02),
        ]
        world.routes += [
            World.Route(prefix("10.9.0.0/16"), .unicast([via("172.16.20.2", 200)])),
            World.Route(
                prefix("10.10.0.0/16"), .unicast([via("172.16.20.2", 200), via("172.16.20.3", 200, weight: 3)])),
            World.Route(prefix("10.11.0.0/16"), .unicast([via("172.16.20.99", 200)])),
            World.Route(prefix("10.12.0.0/16"), .blackhole),
            World.Route(prefix("10.13.0.0/16"), .unreachable),
            World.Route(prefix("10.14.0.0/16"), .prohibited),
            World.Route(prefix("10.15.0.0/16"), .other),
            World.Route(prefix("10.16.0.0/16"), .unicast([World.NextHop(via: nil, vlan: nil)])),
            World.Route(prefix("fd00:9::/32"), .unicast([via("fe80::2", 200)])),
            World.Route(prefix("fd00:12::/32"), .blackhole),
        ]
        world.denied = [(vlan(300), vlan(200))]
        return world
    }()

    public static let snapshot = Snapshot(world)

    public static func changed(_ change: (inout World) -> Void) -> Snapshot {
        var result = world
        change(&result)
        return Snapshot(result)
    }

    public static func checkingSources(_ check: Snapshot.SourceCheck) -> Snapshot {
        changed { world in
            for index in world.gateways.indices { world.gateways[index].sourceCheck = check }
        }
    }
}

extension TestFrame {
    /// Changes octets of the packet, and makes the checksum of IPv4 right again.
    public func patched(_ change: (inout [UInt8]) -> Void) -> TestFrame {
        with {
            change(&$0.packet)
            if $0.type == .ipv4 { $0.packet.repairChecksum() }
        }
    }
}

extension [UInt8] {
    public mutating func repairChecksum(at start: Int = 0) {
        guard count >= start + 20 else { return }
        self[start + 10] = 0
        self[start + 11] = 0
        let checksum = Checksum.of(Array(self[start..<start + 20]).span)
        self[start + 10] = UInt8(checksum >> 8)
        self[start + 11] = UInt8(checksum & 0xff)
    }
}
