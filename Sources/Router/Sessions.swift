// Sessions that a change of the configuration ends. The rules accept what belongs to a connection that was let through: one that
// would not be let through any more has to be forgotten.

import Firewall
import Kernel
import Packets

/// Which sessions end: those whose first packet would be refused now, and was not before. Those of the router itself go on, so that a change
/// does not cut off who makes it.
struct EndedSessions: Hashable {
    /// nil: nothing was applied.
    private let before: Verdicts?
    private let now: Verdicts
    private let networks: VLANNetworks
    /// Those that were there when the plan was made; nil: nobody without CAP_NET_ADMIN sees them.
    private let seen: [Connection]?

    /// nil: nothing is refused that was not.
    ///
    /// - Parameter applied: what was applied completely before; nil: nothing.
    init?(from applied: Configuration?, to wanted: Configuration, on host: Host) throws(Failure) {
        guard Self.mayEnd(from: applied, to: wanted) else { return nil }
        before = try applied.map { (applied) throws(Failure) in Verdicts(try applied.policy()) }
        now = Verdicts(try wanted.policy())
        networks = VLANNetworks(wanted, on: host)
        seen = nil
    }

    private init(_ sessions: EndedSessions, seen: [Connection]) {
        before = sessions.before
        now = sessions.now
        networks = sessions.networks
        self.seen = seen
    }

    /// The same, knowing which ones these are of `connections`.
    func seeing(_ connections: [Connection]) -> EndedSessions {
        EndedSessions(self, seen: connections.filter(contains))
    }

    /// Whether it is worth a look at all sessions.
    static func mayEnd(from applied: Configuration?, to wanted: Configuration) -> Bool {
        func zones(_ configuration: Configuration) -> [VLANID: Zone] {
            Dictionary(configuration.vlans.map { ($0.id, $0.zone) }, uniquingKeysWith: { first, _ in first })
        }
        let isNewlyDenied = !Set(wanted.denied).isSubset(of: applied?.denied ?? [])
        guard let applied else { return isNewlyDenied || wanted.matrix != ZoneMatrix() || !wanted.uplinks.isEmpty }
        return isNewlyDenied || applied.matrix != wanted.matrix || applied.uplinks != wanted.uplinks
            || wanted.matrix != ZoneMatrix() && zones(applied) != zones(wanted)
    }

    /// Who begins counts, and where that leads after translation: as the rules see the first packet.
    func contains(_ connection: Connection) -> Bool {
        let packet = FirstPacket(
            from: networks.place(of: connection.original.source), to: networks.place(of: connection.reply.source),
            source: connection.original.source, destination: connection.reply.source,
            transport: IPProtocol(connection.original.protocolNumber), destinationPort: connection.reply.sourcePort,
            isTranslated: connection.original.destination != connection.reply.source)
        guard packet.from != .router, packet.to != .router else { return false }
        return now.verdict(on: packet) != .accept && before.map { $0.verdict(on: packet) == .accept } ?? true
    }

    var commands: [String] {
        seen?.map(\.deletion)
            ?? ["# conntrack -D: the sessions that could not begin any more, which only CAP_NET_ADMIN lets see"]
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

/// Behind which interface an address is: by the longest prefix among the routes and the gateways' subnets.
struct VLANNetworks: Hashable {
    private var places: [IPPrefix: FirstPacket.Place] = [:]
    /// The VLAN of each gateway's interface.
    private let gateways: [String: VLANID]
    /// Of the prefixes, the longest first.
    private let lengths: [IPFamily: [Int]]

    init(_ configuration: Configuration, on host: Host) {
        gateways = Dictionary(
            configuration.vlans.map { (configuration.interfaceName($0.id), $0.id) },
            uniquingKeysWith: { first, _ in first })
        // Of several routes to one prefix, the one with the lowest metric stays.
        for route in host.routes.sorted(by: { $0.priority > $1.priority })
        where route.table == Route.mainTable && route.typeOfService == 0 {
            let interface = route.linkIndex.flatMap { host.link(index: $0)?.name } ?? ""
            places[route.destination] =
                gateways[interface] == nil ? .interface(interface) : .gateway(interface)
        }
        let addresses = configuration.vlans.flatMap { vlan in
            vlan.addresses.map { (configuration.interfaceName(vlan.id), $0) }
        }.filter { !$0.1.address.isLinkLocal }
        for (name, address) in addresses { places[address.prefix] = .gateway(name) }
        for address in host.addresses.map(\.value.address) + addresses.map(\.1.address) {
            places[IPPrefix(address, length: address.family.width)] = .router
        }
        lengths = Dictionary(
            grouping: Set(places.keys.map { Block(family: $0.family, length: $0.length) }), by: \.family
        )
        .mapValues { $0.map(\.length).sorted(by: >) }
    }

    private struct Block: Hashable {
        var family: IPFamily
        var length: Int
    }

    /// Where no route leads, behind an interface without a name.
    func place(of address: IPAddress) -> FirstPacket.Place {
        for length in lengths[address.family] ?? [] {
            if let found = places[IPPrefix(address, length: length)] { return found }
        }
        return .interface("")
    }

    /// nil: in no VLAN of ours.
    func vlan(of address: IPAddress) -> VLANID? {
        if case .gateway(let name) = place(of: address) { gateways[name] } else { nil }
    }
}
