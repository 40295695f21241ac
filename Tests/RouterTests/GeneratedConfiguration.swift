import Firewall
import Packets
import TestSupport

@testable import Router

/// Configurations that are right, of everything that one can say.
enum GeneratedConfiguration {
    static func file(using generator: inout SeededGenerator) -> ConfigurationFile {
        var configuration = Configuration(parent: ["enp0s8", "null", "7", "on"].pick(&generator))
        let zones = [Zone.vlans] + ["iot", "servers", "no", "Y"].compactMap { Zone($0) }.some(&generator)
        let ids = Set(
            (0..<Int.random(in: 1...6, using: &generator)).map { _ in UInt16.random(in: 1...4094, using: &generator) })
        for id in ids.sorted().compactMap({ VLANID($0) }) {
            var vlan = Configuration.VLAN(id: id, addresses: [gateway(id, .v4)], zone: zones.pick(&generator))
            if Bool.random(using: &generator) { vlan.addresses.append(gateway(id, .v6)) }
            if Bool.random(using: &generator) { vlan.name = ["vlan\(id)", "\(id)", "lan-\(id)_x"].pick(&generator) }
            if Bool.random(using: &generator) { vlan.mtu = UInt32.random(in: 1280...65535, using: &generator) }
            if Int.random(in: 0..<4, using: &generator) == 0 { vlan.parent = "trunk9" }
            configuration.vlans.append(vlan)
        }
        if let inner = configuration.vlans.indices.dropFirst().last, Bool.random(using: &generator) {
            configuration.vlans[inner].outer = configuration.vlans[0].id
            configuration.vlans[inner].parent = nil
            if Bool.random(using: &generator) { configuration.vlans[0].addresses = [] }
        }
        configuration.uplinks = ["eth0", "1e3", "true", configuration.parent].some(&generator)
        configuration.masquerade = Policy.Masquerade.allCases.pick(&generator)
        for zone in Set(configuration.vlans.map(\.zone)).sorted().some(&generator) {
            configuration.zoneMasquerades[zone] = Policy.Masquerade.allCases.pick(&generator)
        }
        configuration.masqueradeIPv6 = Policy.Masquerade.allCases.pick(&generator)
        configuration.clampsMSS = Bool.random(using: &generator)
        configuration.coexists = Bool.random(using: &generator)
        if Bool.random(using: &generator) {
            configuration.fastPath = Configuration.FastPath(
                workers: Int.random(in: 1...64, using: &generator), threshold: [0, 7, .max].pick(&generator),
                connections: [1, Configuration.FastPath.mostConnections].pick(&generator))
        } else {
            configuration.flowtable = Configuration.Flowtable.allCases.pick(&generator)
        }
        if configuration.fastPath == nil, Bool.random(using: &generator) {
            for index in configuration.vlans.indices { configuration.vlans[index].driver = .ebpf }
            if let last = configuration.vlans.indices.last, configuration.vlans[last].outer == nil {
                let isAround = configuration.vlans.contains { $0.outer == configuration.vlans[last].id }
                if !isAround { configuration.vlans[last].driver = [nil, .ieee8021q].pick(&generator) }
            }
        }
        let vlans = configuration.vlans.map(\.id)
        configuration.denied = Set(
            vlans.some(&generator).flatMap { from in
                vlans.filter { $0 != from }.map { Configuration.DeniedPair(from: from, to: $0) }
            }
        ).sorted()
        configuration.matrix = .generated(Set(configuration.vlans.map(\.zone)), &generator)
        for (index, vlan) in configuration.vlans.some(&generator).enumerated() {
            for address in vlan.addresses {
                configuration.portForwards.append(
                    PortForward(
                        [.tcp, .udp].pick(&generator), port: UInt16(index + 1), host: neighbor(address),
                        hostPort: UInt16.random(in: 1 ... .max, using: &generator)))
                let network: IPAddress =
                    address.address.isV4
                    ? .v4(IPv4Address(0xac00_0000 | UInt32(vlan.id.rawValue) << 8))
                    : .v6(IPv6Address(0xfe00 << 112 | UInt128(vlan.id.rawValue) << 64))
                configuration.routes.append(
                    .init(
                        destination: IPPrefix(network, length: address.address.isV4 ? 24 : 64),
                        gateway: neighbor(address)))
            }
        }
        return ConfigurationFile(configuration.normalized(), driver: [nil, .ieee8021q, .ebpf].pick(&generator))
    }

    /// 10.ID.1/24 or fd00:ID::1/64, one VLAN a subnet.
    private static func gateway(_ id: VLANID, _ family: IPFamily) -> InterfaceAddress {
        switch family {
        case .v4: InterfaceAddress(.v4(IPv4Address(0x0a00_0001 | UInt32(id.rawValue) << 8)), prefixLength: 24)
        case .v6:
            InterfaceAddress(.v6(IPv6Address(0xfd00 << 112 | UInt128(id.rawValue) << 96 | 1)), prefixLength: 64)
        }
    }

    private static func neighbor(_ gateway: InterfaceAddress) -> IPAddress {
        switch gateway.address {
        case .v4(let address): .v4(IPv4Address(address.rawValue + 8))
        case .v6(let address): .v6(IPv6Address(address.rawValue + 8))
        }
    }
}
