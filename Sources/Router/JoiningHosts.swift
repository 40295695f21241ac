import Packets

/// What the hosts on the VLANs run to join them. Addresses of theirs are examples: the first free one behind the gateway's.
public enum JoiningHosts {
    public enum Format: String, Sendable, CaseIterable {
        /// `docker network create`, a macvlan network for each VLAN.
        case docker
        /// A VLAN sub-interface and a default route.
        case ip
        /// A file for /etc/netplan.
        case netplan
    }

    public static func text(_ configuration: Configuration, _ format: Format) -> String {
        switch format {
        case .docker: configuration.vlans.map { docker($0, configuration) }.joined()
        case .ip:
            configuration.vlans.enumerated().map { ip($1, configuration, isFirst: $0 == 0) }.joined(separator: "\n")
        case .netplan: netplan(configuration)
        }
    }

    private static func docker(_ vlan: Configuration.VLAN, _ configuration: Configuration) -> String {
        var words = ["docker", "network", "create", "-d", "macvlan"]
        if vlan.addresses.contains(where: { !$0.address.isV4 }) { words.append("--ipv6") }
        var subnets: Set<IPPrefix> = []
        for address in vlan.addresses where subnets.insert(address.prefix).inserted {
            words += ["--subnet", "\(address.prefix)", "--gateway", "\(address.address)"]
        }
        words += ["-o", "parent=\(hostInterface(vlan, configuration))", "mac\(vlan.id)"]
        return words.joined(separator: " ") + "\n"
    }

    private static func ip(_ vlan: Configuration.VLAN, _ configuration: Configuration, isFirst: Bool) -> String {
        let name = hostInterface(vlan, configuration)
        var lines = [
            "# VLAN \(vlan.id)", "ip link add link \(configuration.parent) name \(name) type vlan id \(vlan.id)",
        ]
        lines += vlan.addresses.compactMap(exampleHost).map { "ip address add \($0) dev \(name)" }
        lines += ["ip link set dev \(name) up"]
        // A host has one default route: one that is in several VLANs takes the first.
        lines += gateways(vlan).map { "\(isFirst ? "" : "# ")ip \($0.isV4 ? "" : "-6 ")route add default via \($0)" }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func netplan(_ configuration: Configuration) -> String {
        var lines = ["network:", "  version: 2", "  ethernets:", "    \(configuration.parent): {}", "  vlans:"]
        for (position, vlan) in configuration.vlans.enumerated() {
            let addresses = vlan.addresses.compactMap(exampleHost).map { "\"\($0)\"" }
            lines += [
                "    \(hostInterface(vlan, configuration)):", "      id: \(vlan.id)",
                "      link: \(configuration.parent)",
                "      addresses: [\(addresses.joined(separator: ", "))]",
            ]
            let routes = gateways(vlan).map {
                "        - {to: \"\($0.isV4 ? "0.0.0.0/0" : "::/0")\", via: \"\($0)\"}"
            }
            // One default route, as above.
            lines +=
                position == 0
                ? ["      routes:"] + routes : ["      # routes:"] + routes.map { "      # " + $0.dropFirst(6) }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// A host's own interface in a VLAN: how the router calls its gateway there is no matter to it.
    private static func hostInterface(_ vlan: Configuration.VLAN, _ configuration: Configuration) -> String {
        Configuration.interfaceName(vlan.id, on: configuration.parent)
    }

    /// One gateway a family.
    private static func gateways(_ vlan: Configuration.VLAN) -> [IPAddress] {
        [vlan.addresses.first { $0.address.isV4 }, vlan.addresses.first { !$0.address.isV4 }].compactMap { $0?.address }
    }

    /// The address ten above the gateway's, or the next one above or below that the subnet has; nil where it has no other.
    private static func exampleHost(_ gateway: InterfaceAddress) -> InterfaceAddress? {
        for offset in [9, 1, -1] {
            let address: IPAddress =
                switch gateway.address {
                case .v4(let v4): .v4(IPv4Address(UInt32(truncatingIfNeeded: Int64(v4.rawValue) + Int64(offset))))
                case .v6(let v6):
                    .v6(
                        IPv6Address(
                            UInt128(truncatingIfNeeded: Int128(truncatingIfNeeded: v6.rawValue) + Int128(offset))))
                }
            let host = InterfaceAddress(address, prefixLength: gateway.prefixLength)
            guard gateway.prefix.contains(address), !host.isNetworkAddress,
                host.broadcast.map({ .v4($0) != address }) ?? true
            else { continue }
            return host
        }
        return nil
    }
}
