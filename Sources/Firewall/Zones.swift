// Who may open connections to whom, in words that do not name interfaces: zones, and a matrix of them.

import Packets

/// A group of VLANs that are treated alike, or one of the two that have no VLANs.
public struct Zone: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let name: String

    /// nil: not a name: letters, digits, `-` and `_`, a letter first, at most 16 octets.
    public init?(_ name: some StringProtocol) {
        let octets = Array(name.utf8)
        func isLetter(_ octet: UInt8) -> Bool { (0x61...0x7a).contains(octet | 0x20) }
        guard let first = octets.first, isLetter(first), octets.count <= 16,
            octets.allSatisfy({ isLetter($0) || (0x30...0x39).contains($0) || $0 == 0x2d || $0 == 0x5f })
        else { return nil }
        self.name = String(name)
    }

    private init(known name: String) { self.name = name }

    /// The router itself: its own addresses, and what it sends.
    public static let router = Zone(known: "self")
    /// Whatever is reached through interfaces that are no gateways.
    public static let uplink = Zone(known: "uplink")
    /// Of VLANs for which none is named.
    public static let vlans = Zone(known: "vlans")

    /// Whether it is made of VLANs.
    public var hasVLANs: Bool { self != .router && self != .uplink }

    public var description: String { name }
    public static func < (left: Zone, right: Zone) -> Bool { left.name < right.name }
}

extension Zone: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let zone = Zone(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is not a zone's name")
        }
        self = zone
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(name)
    }
}

/// What a connection is for, and between whom: `tcp/443`, `udp/53,5353`, `tcp/8000-8100 to printers`, `icmp`, `any from admins`.
public struct Service: Hashable, Sendable, Codable {
    public enum Transport: String, Hashable, Sendable, CaseIterable, Codable {
        case any, tcp, udp
        /// ICMP and ICMPv6.
        case icmp
    }

    public var transport: Transport
    /// Destination ports of TCP or UDP, ascending and apart from each other; empty: all of them.
    public var ports: [ClosedRange<UInt16>]
    /// The name of an address set that the source is in; nil: any source.
    public var source: String?
    /// The name of an address set that the destination is in; nil: any destination.
    public var destination: String?

    public init(
        _ transport: Transport, ports: [ClosedRange<UInt16>] = [], source: String? = nil, destination: String? = nil
    ) {
        self.transport = transport
        self.ports = ports
        self.source = source
        self.destination = destination
    }
}

/// How new connections from one zone to another are treated.
public struct Treatment: Hashable, Sendable, Codable {
    public enum Verdict: String, Hashable, Sendable, CaseIterable, Codable {
        case accept
        /// Refused, and the sender is told: TCP by a reset, others by ICMP.
        case reject
        case drop
    }

    /// Of connections that none of `services` names.
    public var verdict: Verdict
    /// Accepted, where `verdict` is not to accept.
    public var services: [Service]
    /// Whether refused connections are written to the kernel's log, at most ten a second.
    public var isLogged: Bool
    /// How many connections a second are accepted; more are dropped. nil: all.
    public var connectionsPerSecond: UInt32?

    public init(
        _ verdict: Verdict, services: [Service] = [], isLogged: Bool = false, connectionsPerSecond: UInt32? = nil
    ) {
        self.verdict = verdict
        self.services = services
        self.isLogged = isLogged
        self.connectionsPerSecond = connectionsPerSecond
    }

    public static let accept = Treatment(.accept)
    public static let drop = Treatment(.drop)

    /// Whether nothing is refused and nothing is counted: what passes by a look at its interfaces alone.
    public var isUnconditionalAccept: Bool { verdict == .accept && connectionsPerSecond == nil }
}

/// Who may open connections to whom. Answers to what was let through always pass, and so do ICMP errors that belong to it.
///
/// What the matrix does not say: VLANs reach each other, the uplink and the router; the router reaches everybody; the uplink reaches the
/// router, and no VLAN.
public struct ZoneMatrix: Hashable, Sendable, Codable {
    public struct Pair: Hashable, Sendable, Comparable, Codable {
        public var from: Zone
        public var to: Zone

        public init(from: Zone, to: Zone) {
            self.from = from
            self.to = to
        }

        public static func < (left: Pair, right: Pair) -> Bool { (left.from, left.to) < (right.from, right.to) }
    }

    /// What was said, and differs from what holds otherwise or not.
    public var cells: [Pair: Treatment]
    /// Named addresses, of either family, for `Service.source` and `.destination`. Their names obey the rules of `Zone`'s.
    public var addressSets: [String: [IPPrefix]]

    public init(cells: [Pair: Treatment] = [:], addressSets: [String: [IPPrefix]] = [:]) {
        self.cells = cells
        self.addressSets = addressSets
    }

    public func treatment(from: Zone, to: Zone) -> Treatment {
        cells[Pair(from: from, to: to)] ?? Self.unsaid(from: from, to: to)
    }

    /// The same, its address sets ascending and without blocks that lie in others: those add nothing, and the kernel takes none.
    public func normalized() -> ZoneMatrix {
        var result = self
        result.addressSets = addressSets.mapValues { blocks in
            blocks.sorted().reduce(into: []) { kept, block in
                if kept.last?.overlaps(block) != true { kept.append(block) }
            }
        }
        return result
    }

    static func unsaid(from: Zone, to: Zone) -> Treatment { from == .uplink && to.hasVLANs ? .drop : .accept }

    /// The row of `isolated`: hosts reach the uplink; of the router they reach addresses (DHCP), names (DNS) and echoes; nobody else, not even
    /// other VLANs of their own zone.
    public static func isolated(_ zone: Zone, among zones: Set<Zone>) -> [Pair: Treatment] {
        var row: [Pair: Treatment] = [:]
        for other in zones.union([zone]) where other.hasVLANs { row[Pair(from: zone, to: other)] = .drop }
        row[Pair(from: zone, to: .router)] = Treatment(
            .drop,
            services: [
                Service(.udp, ports: [53...53, 67...67, 547...547]), Service(.tcp, ports: [53...53]), Service(.icmp),
            ])
        row[Pair(from: zone, to: .uplink)] = .accept
        return row
    }
}

/// A port of the router's that leads to a host in a VLAN.
public struct PortForward: Hashable, Sendable, Codable {
    /// TCP or UDP.
    public var transport: Service.Transport
    /// Of the router's.
    public var port: UInt16
    public var host: IPAddress
    /// Of the host's.
    public var hostPort: UInt16

    public init(_ transport: Service.Transport, port: UInt16, host: IPAddress, hostPort: UInt16) {
        self.transport = transport
        self.port = port
        self.host = host
        self.hostPort = hostPort
    }
}
