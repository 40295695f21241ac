import Packets

/// What may pass between the VLANs, and under which address: everything that the firewall needs to know.
///
/// A policy is valid by construction, does not depend on the order in which its parts were given, and compiles to a
/// `Ruleset`.
public struct Policy: Hashable, Sendable {
    /// In ascending order of VLAN, then of name.
    public let gateways: [Gateway]
    public let masquerade: Masquerade
    /// Instead of `masquerade`, for what goes into the VLANs of these zones, or leaves them for other networks.
    public let zoneMasquerades: [Zone: Masquerade]
    /// Whose new connections are dropped. In ascending order of names, without repetition.
    public let denied: [Pair]
    /// Pairs whose other direction is denied, and not they themselves. Ascending.
    ///
    /// Connection tracking takes any TCP segment that it knows nothing of for the beginning of a connection. One whose connection
    /// has been forgotten because it is denied now would otherwise begin again with the next segment of whoever answers.
    public let opposite: [Pair]
    /// Gateways between which packets pass without connection tracking, ascending: what forwards a part of them beside the kernel
    /// would leave it with half of each connection. None where packets are translated between VLANs, and of the others those of which
    /// every two accept everything from each other: elsewhere it takes a connection to tell an answer from a beginning.
    public private(set) var untracked: [String]

    /// Interfaces behind which the outside is; empty: all that are no gateways. Ascending.
    public let uplinks: [String]
    /// Whose IPv6 source address is replaced.
    public let masqueradeIPv6: Masquerade
    /// Who may open connections to whom, by the gateways' zones. A denied pair of gateways is denied, whatever this says.
    public let matrix: ZoneMatrix
    /// Ports of the router's addresses that are no gateways', in the order in which they were given.
    public let portForwards: [PortForward]
    /// Whether TCP connections into and out of the VLANs are told of a smaller MTU on their way when they begin.
    public let clampsMSS: Bool

    /// - Throws: `PolicyError` where the tools that load a ruleset would misread a name, or where the parts do not
    ///   belong together.
    public init(
        gateways: [Gateway], masquerade: Masquerade = .vlans, denied: [Pair] = [], isUntracked: Bool = false,
        uplinks: [String] = [], masqueradeIPv6: Masquerade = .none, matrix: ZoneMatrix = ZoneMatrix(),
        portForwards: [PortForward] = [], clampsMSS: Bool = false, zoneMasquerades: [Zone: Masquerade] = [:]
    ) throws(PolicyError) {
        var names: Set<String> = []
        for gateway in gateways {
            guard isExpressible(gateway.interface) else { throw .unusableName(gateway.interface) }
            guard names.insert(gateway.interface).inserted else { throw .repeatedInterface(gateway.interface) }
        }
        for uplink in uplinks {
            guard isExpressible(uplink) else { throw .unusableName(uplink) }
            guard names.insert(uplink).inserted else { throw .repeatedInterface(uplink) }
        }
        names.subtract(uplinks)
        for pair in denied {
            for name in [pair.from, pair.to] where !names.contains(name) { throw .notAGateway(name) }
        }
        self.gateways = gateways.sorted { ($0.vlan, $0.interface) < ($1.vlan, $1.interface) }
        self.masquerade = masquerade
        self.zoneMasquerades = zoneMasquerades
        self.masqueradeIPv6 = masqueradeIPv6
        self.uplinks = uplinks.sorted()
        self.matrix = matrix.normalized()
        self.portForwards = portForwards
        self.clampsMSS = clampsMSS
        let doomed = Set(denied)
        self.denied = doomed.sorted { ($0.from, $0.to) < ($1.from, $1.to) }
        opposite = Set(denied.map { Pair(from: $0.to, to: $0.from) }).subtracting(doomed)
            .sorted { ($0.from, $0.to) < ($1.from, $1.to) }
        let tracked = Set(denied.flatMap { [$0.from, $0.to] })
        let joined = Self.joinedZones(self.gateways, matrix)
        let others = self.gateways.filter { !tracked.contains($0.interface) && joined.contains($0.zone) }
            .map(\.interface)
        untracked = isUntracked && others.count > 1 ? others : []
        if !reasonsToTrack.isEmpty { untracked = [] }
    }

    /// What holds for a zone's VLANs, of IPv4.
    public func masquerade(of zone: Zone) -> Masquerade { zoneMasquerades[zone] ?? masquerade }

    /// Why every packet between VLANs needs its connection, in words: where there is none, only some may.
    public var reasonsToTrack: [String] {
        var reasons: [String] = []
        if let mode = gateways.map({ masquerade(of: $0.zone) }).first(where: \.isBetweenVLANs) {
            reasons.append("masquerade \(mode.rawValue): what passes between VLANs is translated")
        }
        if masqueradeIPv6.isBetweenVLANs {
            reasons.append("masquerade-ipv6 \(masqueradeIPv6.rawValue): what passes between VLANs is translated")
        }
        if !portForwards.isEmpty { reasons.append("forwarded ports: their connections are translated") }
        if clampsMSS { reasons.append("mss-clamp: the kernel rewrites how connections begin") }
        return reasons
    }

    /// A router without VLANs.
    public init(masquerade: Masquerade) {
        gateways = []
        self.masquerade = masquerade
        zoneMasquerades = [:]
        denied = []
        opposite = []
        untracked = []
        uplinks = []
        masqueradeIPv6 = .none
        matrix = ZoneMatrix()
        portForwards = []
        clampsMSS = false
    }

    /// Zones of which every two, and each with itself, accept everything from each other: the largest ones first.
    private static func joinedZones(_ gateways: [Gateway], _ matrix: ZoneMatrix) -> Set<Zone> {
        var sizes: [Zone: Int] = [:]
        for gateway in gateways { sizes[gateway.zone, default: 0] += 1 }
        var joined: Set<Zone> = []
        for (zone, _) in sizes.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
            let isJoined = joined.union([zone]).allSatisfy { other in
                matrix.treatment(from: zone, to: other).isUnconditionalAccept
                    && matrix.treatment(from: other, to: zone).isUnconditionalAccept
            }
            if isJoined { joined.insert(zone) }
        }
        return joined
    }

    /// The router's interface in one VLAN.
    public struct Gateway: Hashable, Sendable {
        /// As `ip link` shows it: `enp0s8.100`.
        public let interface: String
        public let vlan: VLANID
        /// Of either family.
        public let addresses: [InterfaceAddress]
        public let zone: Zone

        public init(interface: String, vlan: VLANID, addresses: [InterfaceAddress], zone: Zone = .vlans) {
            self.interface = interface
            self.vlan = vlan
            self.addresses = addresses
            self.zone = zone
        }

        /// The subnets on it.
        public var prefixes: [IPPrefix] { addresses.map(\.prefix) }
    }

    /// Two gateways' interfaces and a direction: from where a connection starts, to where.
    public struct Pair: Hashable, Sendable {
        public let from: String
        public let to: String

        public init(from: String, to: String) {
            self.from = from
            self.to = to
        }
    }

    /// Whose source address is replaced by that of the interface through which a packet leaves.
    public enum Masquerade: String, Hashable, Sendable, CaseIterable, Codable {
        /// Whatever enters a VLAN. Hosts there see the gateway instead of the client, and need no route back.
        case vlans
        /// What leaves the VLANs for other networks. Between VLANs, hosts see each other's addresses.
        case uplink
        /// Both of these.
        case all
        /// Nobody's.
        case none

        /// Whether what passes from one VLAN to another is translated.
        public var isBetweenVLANs: Bool { self == .vlans || self == .all }

        /// Whether what leaves the VLANs for other networks is translated.
        public var isToUplink: Bool { self == .uplink || self == .all }
    }

    /// Whether any gateway has a subnet of `family`.
    public func uses(_ family: IPFamily) -> Bool {
        gateways.contains { $0.prefixes.contains { $0.family == family } }
    }
}

/// Why a policy's parts do not make a policy.
public enum PolicyError: Error, Equatable, CustomStringConvertible {
    case unusableName(String)
    /// The gateway of two VLANs, or a gateway and an uplink.
    case repeatedInterface(String)
    case notAGateway(String)

    public var description: String {
        switch self {
        case .unusableName(let name): "the interface name '\(name)' cannot be written in a firewall rule"
        case .repeatedInterface(let name): "\(name) is the gateway of more than one VLAN, or an uplink as well"
        case .notAGateway(let name): "\(name) is not the gateway of a VLAN"
        }
    }
}

/// Whether every loader reads `name` as a name. The kernel takes more: `*` and `+` at the end are wildcards to nft and
/// iptables, `!` and `@` at the start mean negation and a set, and nft has no way to write a quotation mark.
private func isExpressible(_ name: String) -> Bool {
    // IFNAMSIZ less the terminating zero.
    (1...15).contains(name.utf8.count) && name != "." && name != ".."
        && name.utf8.allSatisfy { octet in
            octet > 0x20 && octet != 0x7f && !#"/:"'\*+!@"#.utf8.contains(octet)
        }
}
