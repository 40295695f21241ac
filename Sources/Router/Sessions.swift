// Sessions that a change of the configuration ends. The rules accept what belongs to a connection that was let through: one that
// would not be let through any more has to be forgotten.

import Kernel
import Packets

/// Which sessions end: those whose first packet would be dropped now, and was not before.
struct EndedSessions: Hashable {
    /// Pairs that are denied now and were not before.
    let denied: Set<Configuration.DeniedPair>
    private let networks: VLANNetworks
    /// Those that were there when the plan was made; nil: nobody without CAP_NET_ADMIN sees them.
    private let seen: [Connection]?

    /// nil: nothing is denied that was not.
    ///
    /// - Parameter applied: what was applied completely before; nil: nothing.
    init?(from applied: Configuration?, to wanted: Configuration, on host: Host) {
        denied = Self.newlyDenied(from: applied, to: wanted)
        guard !denied.isEmpty else { return nil }
        networks = VLANNetworks(wanted, on: host)
        seen = nil
    }

    private init(_ sessions: EndedSessions, seen: [Connection]) {
        denied = sessions.denied
        networks = sessions.networks
        self.seen = seen
    }

    /// The same, knowing which ones these are of `connections`.
    func seeing(_ connections: [Connection]) -> EndedSessions {
        EndedSessions(self, seen: connections.filter(contains))
    }

    static func newlyDenied(
        from applied: Configuration?, to wanted: Configuration
    ) -> Set<Configuration.DeniedPair> { Set(wanted.denied).subtracting(applied?.denied ?? []) }

    /// Who begins counts, and where that leads after translation: as the rules see the first packet.
    func contains(_ connection: Connection) -> Bool {
        guard let from = networks.vlan(of: connection.original.source),
            let to = networks.vlan(of: connection.reply.source)
        else { return false }
        return denied.contains(Configuration.DeniedPair(from: from, to: to))
    }

    var commands: [String] {
        seen?.map(\.deletion)
            ?? denied.sorted().map {
                "# conntrack -D: the sessions from VLAN \($0.from) to \($0.to), which only CAP_NET_ADMIN lets see"
            }
    }
}

extension Connection {
    /// The command that a person would type to delete it.
    var deletion: String {
        let ports: String
        switch IPProtocol(original.protocolNumber) {
        case .icmp, .icmpv6:
            let name = original.source.isV4 ? "icmp" : "icmpv6"
            ports =
                "-p \(name) --\(name)-id \(original.sourcePort) --\(name)-type \(original.destinationPort >> 8) "
                + "--\(name)-code \(original.destinationPort & 0xff)"
        case let other:
            ports =
                "-p \(other == .tcp ? "tcp" : "udp") --orig-port-src \(original.sourcePort) "
                + "--orig-port-dst \(original.destinationPort)"
        }
        return "conntrack -D\(original.source.isV4 ? "" : " -f ipv6")\(zone == 0 ? "" : " --zone \(zone)") "
            + "--orig-src \(original.source) --orig-dst \(original.destination) \(ports)"
    }
}

/// In which VLAN an address is: by the longest prefix among the routes and the gateways' subnets.
struct VLANNetworks: Hashable {
    /// nil: in none of ours; the router itself, or behind another interface.
    private var vlans: [IPPrefix: VLANID?] = [:]
    /// Of the prefixes, the longest first.
    private let lengths: [IPFamily: [Int]]

    init(_ configuration: Configuration, on host: Host) {
        let byInterface = Dictionary(
            configuration.vlans.map { (configuration.interfaceName($0.id), $0.id) },
            uniquingKeysWith: { first, _ in first })
        // Of several routes to one prefix, the one with the lowest metric stays.
        for route in host.routes.sorted(by: { $0.priority > $1.priority })
        where route.table == Route.mainTable && route.typeOfService == 0 {
            let interface = route.linkIndex.flatMap { host.link(index: $0)?.name }
            vlans.updateValue(interface.flatMap { byInterface[$0] }, forKey: route.destination)
        }
        let gateways = configuration.vlans.flatMap { vlan in vlan.addresses.map { (vlan.id, $0) } }
            .filter { !$0.1.address.isLinkLocal }
        for (id, address) in gateways { vlans.updateValue(id, forKey: address.prefix) }
        for address in host.addresses.map(\.value.address) + gateways.map(\.1.address) {
            vlans.updateValue(nil, forKey: IPPrefix(address, length: address.family.width))
        }
        lengths = Dictionary(
            grouping: Set(vlans.keys.map { Block(family: $0.family, length: $0.length) }), by: \.family
        )
        .mapValues { $0.map(\.length).sorted(by: >) }
    }

    private struct Block: Hashable {
        var family: IPFamily
        var length: Int
    }

    func vlan(of address: IPAddress) -> VLANID? {
        for length in lengths[address.family] ?? [] {
            if let found = vlans[IPPrefix(address, length: length)] { return found }
        }
        return nil
    }
}
