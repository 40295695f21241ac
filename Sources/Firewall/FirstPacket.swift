import Packets

/// A packet that may begin a connection, as the rules see it: after its destination was translated.
public struct FirstPacket: Hashable, Sendable {
    /// Where a packet comes from or goes to.
    public enum Place: Hashable, Sendable {
        /// Hosts behind the gateway that has this interface.
        case gateway(String)
        /// Hosts behind another interface.
        case interface(String)
        case router
    }

    public var from: Place
    public var to: Place
    public var source: IPAddress
    public var destination: IPAddress
    public var transport: IPProtocol
    /// Of TCP and UDP.
    public var destinationPort: UInt16
    /// Whether it was sent to a forwarded port.
    public var isTranslated: Bool

    public init(
        from: Place, to: Place, source: IPAddress, destination: IPAddress, transport: IPProtocol,
        destinationPort: UInt16,
        isTranslated: Bool = false
    ) {
        self.from = from
        self.to = to
        self.source = source
        self.destination = destination
        self.transport = transport
        self.destinationPort = destinationPort
        self.isTranslated = isTranslated
    }
}

/// What a policy says of connections, one by one: the same as the rules of the `Ruleset` that is compiled from it.
public struct Verdicts: Hashable, Sendable {
    private let matrix: ZoneMatrix
    private let denied: Set<Policy.Pair>
    private let uplinks: [String]
    /// Of each gateway's interface.
    private let zones: [String: Zone]
    /// The interface that has a gateway's address.
    private let owners: [IPAddress: String]

    public init(_ policy: Policy) {
        matrix = policy.matrix
        denied = Set(policy.denied)
        uplinks = policy.uplinks
        zones = Dictionary(
            policy.gateways.map { ($0.interface, $0.zone) }, uniquingKeysWith: { first, _ in first })
        owners = Dictionary(
            policy.gateways.flatMap { gateway in gateway.addresses.map { ($0.address, gateway.interface) } },
            uniquingKeysWith: { first, _ in first })
    }

    /// How a connection is treated that begins with `packet`. Limits of how many begin are not counted.
    public func verdict(on packet: FirstPacket) -> Treatment.Verdict {
        guard let from = zone(packet.from), let to = zone(packet.to) else {
            // What neither comes from a VLAN nor goes into one is not ours.
            if case .gateway = packet.from { return .drop }
            if case .gateway = packet.to { return .drop }
            return .accept
        }
        if !from.hasVLANs, from == to { return .accept }
        if case .gateway(let one) = packet.from, case .gateway(let other) = packet.to,
            denied.contains(Policy.Pair(from: one, to: other))
        {
            return .drop
        }
        if from == .uplink, to.hasVLANs, packet.isTranslated { return .accept }
        if to == .router, case .gateway(let name) = packet.from, let owner = owners[packet.destination], owner != name,
            let zone = zones[owner], !matrix.treatment(from: from, to: zone).isUnconditionalAccept
        {
            return .drop
        }
        let treatment = matrix.treatment(from: from, to: to)
        return treatment.services.contains { accepts(packet, as: $0) } ? .accept : treatment.verdict
    }

    /// nil: none.
    private func zone(_ place: FirstPacket.Place) -> Zone? {
        switch place {
        case .gateway(let name): zones[name]
        case .interface(let name): uplinks.isEmpty || uplinks.contains(name) ? .uplink : nil
        case .router: .router
        }
    }

    private func accepts(_ packet: FirstPacket, as service: Service) -> Bool {
        let isIts =
            switch service.transport {
            case .any: true
            case .tcp: packet.transport == .tcp
            case .udp: packet.transport == .udp
            case .icmp: packet.transport == .icmp || packet.transport == .icmpv6
            }
        func isIn(_ set: String?, _ address: IPAddress) -> Bool {
            guard let set else { return true }
            return matrix.addressSets[set]?.contains { $0.contains(address) } ?? false
        }
        return isIts && (service.ports.isEmpty || service.ports.contains { $0.contains(packet.destinationPort) })
            && isIn(service.source, packet.source) && isIn(service.destination, packet.destination)
    }
}
