import Firewall
import Kernel
import Packets

/// What a person wants: the VLANs of one trunk, and who may talk to whom.
public struct Configuration: Hashable, Sendable, Codable {
    /// The interface that carries the tagged frames, where a VLAN names no other.
    public var parent: String
    /// By id, ascending.
    public var vlans: [VLAN]
    public var masquerade: Policy.Masquerade
    /// Instead of `masquerade`, for the VLANs of these zones.
    public var zoneMasquerades: [Zone: Policy.Masquerade] = [:]
    /// Pairs whose new connections are dropped, ascending.
    public var denied: [DeniedPair]
    /// What forwards between VLANs beside the kernel; nil: nothing.
    public var fastPath: FastPath?
    /// Interfaces behind which the outside is; empty: all that are no gateways.
    public var uplinks: [String] = []
    /// Whose IPv6 source address is replaced.
    public var masqueradeIPv6 = Policy.Masquerade.none
    /// Who may open connections to whom, by the VLANs' zones.
    public var matrix = ZoneMatrix()
    public var portForwards: [PortForward] = []
    public var routes: [StaticRoute] = []
    /// Whether TCP connections are told of a smaller MTU on their way when they begin.
    public var clampsMSS = false
    /// Whether rules are added where other firewalls drop what passes the gateways.
    public var coexists = false
    /// Whether connections between VLANs pass the rules only until they are established.
    public var flowtable = Flowtable.off

    /// The kernel's flow table (linux/Documentation/networking/nf_flowtable.rst).
    public enum Flowtable: String, Hashable, Sendable, Codable, CaseIterable {
        case off
        /// Where the kernel has them.
        case auto
        case on
    }

    /// A route to a network behind a router that is in one of the VLANs, or behind the uplink.
    public struct StaticRoute: Hashable, Sendable, Codable {
        public var destination: IPPrefix
        public var gateway: IPAddress

        public init(destination: IPPrefix, gateway: IPAddress) {
            self.destination = destination
            self.gateway = gateway
        }
    }

    /// Workers that move frames in user space.
    public struct FastPath: Hashable, Sendable, Codable {
        /// How many.
        public var workers: Int
        /// From so many frames a second on, on one processor, they forward; fewer are the kernel's, which need wake nobody for them.
        public var threshold: UInt32

        public static let defaultThreshold: UInt32 = 50_000
        /// How many connections of each family they can carry; others are the kernel's.
        public var connections: Int

        public static let defaultConnections = 50_000
        public static let mostConnections = 1 << 22

        public init(
            workers: Int = 1, threshold: UInt32 = defaultThreshold, connections: Int = defaultConnections
        ) {
            self.workers = workers
            self.threshold = threshold
            self.connections = connections
        }
    }

    public struct VLAN: Hashable, Sendable, Codable {
        public var id: VLANID
        /// The gateway's addresses.
        public var addresses: [InterfaceAddress]
        /// The interface that carries its frames; nil: the configuration's.
        public var parent: String?
        /// The VLAN in whose frames its frames are carried, with two tags; nil: they have one.
        public var outer: VLANID?
        /// Of the gateway interface; nil: the parent's name and the id.
        public var name: String?
        /// In octets of IP; nil: the parent's.
        public var mtu: UInt32?
        public var zone: Zone
        /// How its gateway interface is made; nil: as those of all others.
        public var driver: Driver?

        public init(
            id: VLANID, addresses: [InterfaceAddress], parent: String? = nil, outer: VLANID? = nil,
            name: String? = nil, mtu: UInt32? = nil, zone: Zone = .vlans
        ) {
            self.id = id
            self.addresses = addresses
            self.parent = parent
            self.outer = outer
            self.name = name
            self.mtu = mtu
            self.zone = zone
        }
    }

    public struct DeniedPair: Hashable, Comparable, Sendable, Codable {
        public var from: VLANID
        public var to: VLANID

        public static func < (left: Self, right: Self) -> Bool { (left.from, left.to) < (right.from, right.to) }
    }

    /// Interface names are at most this long, in octets (IFNAMSIZ without the terminating zero).
    static let longestInterfaceName = 15

    /// Without VLANs: where one begins to read.
    init(parent: String) {
        self.parent = parent
        vlans = []
        masquerade = .vlans
        denied = []
    }

    /// What holds for a VLAN.
    public func masquerade(of vlan: VLAN) -> Policy.Masquerade { zoneMasquerades[vlan.zone] ?? masquerade }

    /// For a person: `vlans`, or `vlans, iot: uplink`.
    var masqueradeText: String {
        ([masquerade.rawValue] + zoneMasquerades.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value.rawValue)" })
            .joined(separator: ", ")
    }

    /// Whether any gateway has an IPv4 address.
    public var usesIPv4: Bool { vlans.contains { $0.addresses.contains(where: \.address.isV4) } }
    /// Whether any gateway has an IPv6 address.
    public var usesIPv6: Bool { vlans.contains { $0.addresses.contains { !$0.address.isV4 } } }

    /// nil: none of these has that id.
    public func vlan(_ id: VLANID) -> VLAN? {
        var range = vlans.startIndex..<vlans.endIndex
        while !range.isEmpty {
            let middle = range.lowerBound + range.count / 2
            if vlans[middle].id == id { return vlans[middle] }
            range = vlans[middle].id < id ? middle + 1..<range.upperBound : range.lowerBound..<middle
        }
        return nil
    }

    /// The gateway interface of a VLAN.
    public func interfaceName(_ id: VLANID) -> String {
        let vlan = vlan(id)
        return vlan?.name ?? Self.interfaceName(id, on: vlan.map(parent(of:)) ?? parent)
    }

    /// The interface that carries a VLAN's frames.
    public func parent(of vlan: VLAN) -> String { vlan.outer.map(interfaceName) ?? vlan.parent ?? parent }

    /// Interfaces that are the gateway of one VLAN and carry others.
    var carriers: Set<String> { Set(vlans.compactMap(\.outer).map(interfaceName)) }

    /// All interfaces that carry VLANs, ascending.
    public var parents: [String] { Set(vlans.map(parent(of:))).sorted() }

    /// Of a gateway interface for which no name is given.

    static func interfaceName(_ id: VLANID, on parent: String) -> String {
        let name = "\(parent).\(id)"
        return name.utf8.count <= longestInterfaceName ? name : "vlan\(id)"
    }

    /// Where packets arrive that a flow table can take.
    public var flowtableInterfaces: [String] {
        let gateways = vlans.map { interfaceName($0.id) }
        return gateways + uplinks.filter { !gateways.contains($0) }
    }

    /// What the firewall needs to know of this.
    public func policy() throws(Failure) -> Policy {
        let gateways = vlans.map {
            Policy.Gateway(
                interface: $0.name ?? Self.interfaceName($0.id, on: parent(of: $0)), vlan: $0.id,
                addresses: $0.addresses, zone: $0.zone)
        }
        do {
            return try Policy(
                gateways: gateways, masquerade: masquerade,
                denied: denied.map { Policy.Pair(from: interfaceName($0.from), to: interfaceName($0.to)) },
                isUntracked: fastPath != nil, uplinks: uplinks, masqueradeIPv6: masqueradeIPv6, matrix: matrix,
                portForwards: portForwards, clampsMSS: clampsMSS, zoneMasquerades: zoneMasquerades)
        } catch {
            throw Failure(.usage, "\(error)", remedy: "rename \(parent): ip link set dev \(parent) name NAME")
        }
    }
}
