import Packets

/// What may pass between the VLANs, and under which address: everything that the firewall needs to know.
///
/// A policy is valid by construction, does not depend on the order in which its parts were given, and compiles to a
/// `Ruleset`.
public struct Policy: Hashable, Sendable {
    /// In ascending order of VLAN, then of name.
    public let gateways: [Gateway]
    public let masquerade: Masquerade
    /// Whose new connections are dropped. In ascending order of names, without repetition.
    public let denied: [Pair]
    /// Pairs whose other direction is denied, and not they themselves. Ascending.
    ///
    /// Connection tracking takes any TCP segment that it knows nothing of for the beginning of a connection. One whose connection
    /// has been forgotten because it is denied now would otherwise begin again with the next segment of whoever answers.
    public let opposite: [Pair]
    /// Gateways between which packets pass without connection tracking, ascending: what forwards a part of them beside the kernel
    /// would leave it with half of each connection. None where packets are translated between VLANs, and of the others those that
    /// no denied pair names, for which it takes a connection to tell an answer from a beginning.
    public let untracked: [String]

    /// - Throws: `PolicyError` where the tools that load a ruleset would misread a name, or where the parts do not
    ///   belong together.
    public init(
        gateways: [Gateway], masquerade: Masquerade = .vlans, denied: [Pair] = [], isUntracked: Bool = false
    ) throws(PolicyError) {
        var names: Set<String> = []
        for gateway in gateways {
            guard isExpressible(gateway.interface) else { throw .unusableName(gateway.interface) }
            guard names.insert(gateway.interface).inserted else { throw .repeatedInterface(gateway.interface) }
        }
        for pair in denied {
            for name in [pair.from, pair.to] where !names.contains(name) { throw .notAGateway(name) }
        }
        self.gateways = gateways.sorted { ($0.vlan, $0.interface) < ($1.vlan, $1.interface) }
        self.masquerade = masquerade
        let doomed = Set(denied)
        self.denied = doomed.sorted { ($0.from, $0.to) < ($1.from, $1.to) }
        opposite = Set(denied.map { Pair(from: $0.to, to: $0.from) }).subtracting(doomed)
            .sorted { ($0.from, $0.to) < ($1.from, $1.to) }
        let tracked = Set(denied.flatMap { [$0.from, $0.to] })
        let others = self.gateways.map(\.interface).filter { !tracked.contains($0) }
        untracked = isUntracked && !masquerade.isBetweenVLANs && others.count > 1 ? others : []
    }

    /// A router without VLANs.
    public init(masquerade: Masquerade) {
        self.gateways = []
        self.masquerade = masquerade
        self.denied = []
        opposite = []
        untracked = []
    }

    /// The router's interface in one VLAN.
    public struct Gateway: Hashable, Sendable {
        /// As `ip link` shows it: `enp0s8.100`.
        public let interface: String
        public let vlan: VLANID
        /// The subnets on it, of either family.
        public let prefixes: [IPPrefix]

        public init(interface: String, vlan: VLANID, prefixes: [IPPrefix]) {
            self.interface = interface
            self.vlan = vlan
            self.prefixes = prefixes
        }
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

    /// Whose IPv4 source address is replaced by that of the interface through which a packet leaves.
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
    }

    /// Whether any gateway has a subnet of `family`.
    public func uses(_ family: IPFamily) -> Bool {
        gateways.contains { $0.prefixes.contains { $0.family == family } }
    }
}

/// Why a policy's parts do not make a policy.
public enum PolicyError: Error, Equatable, CustomStringConvertible {
    case unusableName(String)
    case repeatedInterface(String)
    case notAGateway(String)

    public var description: String {
        switch self {
        case .unusableName(let name): "the interface name '\(name)' cannot be written in a firewall rule"
        case .repeatedInterface(let name): "\(name) is the gateway of more than one VLAN"
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
