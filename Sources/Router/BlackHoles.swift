// Ways on which small packets arrive and large ones vanish: ping works and TCP does not.

import Kernel
import Packets

extension Doctor {
    /// Of so many hosts of each VLAN, and in all.
    private static let hostsOfEach = 2
    private static let hosts = 64

    /// Asks hosts that the router knows, once with a small packet and once with one of the gateway's MTU, neither of which may be
    /// fragmented. Whoever answers the small one only is behind something that carries less.
    static func blackHoles(_ configuration: Configuration, _ host: Host, _ neighbors: [Neighbor]) -> [Finding] {
        var pairs: [(vlan: VLANID, small: Echo, large: Echo)] = []
        for vlan in configuration.vlans {
            guard let link = host.link(configuration.interfaceName(vlan.id)), link.isUp else { continue }
            for family in [IPFamily.v4, .v6] {
                let known = neighbors.filter {
                    $0.key.linkIndex == link.index && $0.isValid && $0.key.address.family == family
                }.map(\.key.address).sorted { $0.octets.lexicographicallyPrecedes($1.octets) }
                for address in known.filter({ !$0.isLinkLocal }).prefix(hostsOfEach) {
                    guard let gateway = vlan.addresses.first(where: { $0.prefix.contains(address) }) else { continue }
                    func echo(_ size: Int) -> Echo {
                        Echo(link: link.name, source: gateway.address, destination: address, size: size)
                    }
                    pairs.append((vlan.id, echo(100), echo(Int(link.mtu))))
                }
            }
        }
        pairs = Array(pairs.prefix(hosts))
        // A single packet may get lost anywhere.
        for milliseconds in [300, 600] where !pairs.isEmpty {
            // Without the right to ask, the missing permission is a finding of its own.
            guard
                let answered = try? Echo.answered(
                    pairs.flatMap { [$0.small, $0.large] }, milliseconds: milliseconds)
            else { return [] }
            pairs.removeAll { !answered.contains($0.small) || answered.contains($0.large) }
        }
        return pairs.map { vlan, _, large in
            Finding(
                "black-hole", .blocking,
                "\(large.destination) in VLAN \(vlan) answers small packets, but not those of \(large.size) octets, the MTU of \(large.link): "
                    + "ping works and large packets vanish",
                remedy: [
                    "let everything on the way carry \(large.size) octets and the tag, \(large.size + VLANTag.length + EthernetHeader.length) in all",
                    "or find out what it carries (ping -M do -s SIZE \(large.destination)) and give the VLAN that: --mtu \(vlan)=OCTETS",
                ])
        }
    }

    /// Where hosts have to be told that a packet is too big, and what helps where they are not.
    static func unequalSizes(_ configuration: Configuration, _ host: Host) -> [Finding] {
        let sizes = configuration.vlans.compactMap { vlan in
            host.link(configuration.interfaceName(vlan.id)).map { (id: vlan.id, mtu: $0.mtu) }
        }
        guard !configuration.clampsMSS, let least = sizes.min(by: { $0.mtu < $1.mtu }),
            let most = sizes.max(by: { $0.mtu < $1.mtu }), least.mtu < most.mtu
        else { return [] }
        return [
            Finding(
                "mtu", .warning,
                "VLAN \(least.id) carries \(least.mtu) octets and VLAN \(most.id) \(most.mtu): what is too big depends on ICMP errors that "
                    + "reach its sender",
                remedy: ["vrouter up --mss-clamp … with the same options as before, so that TCP does not need them"])
        ]
    }
}
