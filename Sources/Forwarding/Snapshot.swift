import Packets
import Routing

/// All that the pipeline knows of the world at one moment. It never changes: the control plane builds another one and publishes it.
public struct Snapshot: Sendable {
    /// By VLAN id, 0…4095; where there is none, `Gateway.absent`.
    let gateways: [GatewayEntry]
    let adjacencies: [Adjacency]
    let targets: [Target]
    let routes: ForwardingTable
    /// Ids of VLANs; a gateway's range of them is ascending.
    let denied: [UInt16]
    let masquerades: Bool
    let priorityMask: UInt16
    let isStateless: Bool
    /// Who is at the other end of each adjacency. Not for workers.
    private let neighbors: [World.Neighbor]

    /// The router in one VLAN.
    public struct Gateway: Hashable, Sendable {
        public var vlan: VLANID
        public var mac: MACAddress
        /// The IP MTU, in octets: neither the Ethernet header nor the tag counts.
        public var mtu: UInt16
        public var sourceCheck: SourceCheck

        public init(vlan: VLANID, mac: MACAddress, mtu: UInt16 = 1500, sourceCheck: SourceCheck = .none) {
            self.vlan = vlan
            self.mac = mac
            self.mtu = mtu
            self.sourceCheck = sourceCheck
        }
    }

    /// The sysctl `rp_filter`, with the kernel's values (RFC 3704 §2.2, §2.4). Of IPv4 only, as there.
    public enum SourceCheck: UInt8, Hashable, Sendable {
        case none = 0
        /// The way to the source leads back into the same VLAN.
        case strict = 1
        /// There is a way to the source.
        case loose = 2
    }

    /// A next hop whose MAC address is known.
    public struct Adjacency: Hashable, Sendable {
        public var destination: MACAddress
        public var source: MACAddress
        /// Of the way out.
        public var vlan: VLANID
        /// The IP MTU of the way out, in octets.
        public var mtu: UInt16

        public init(vlan: VLANID, destination: MACAddress, source: MACAddress, mtu: UInt16) {
            self.vlan = vlan
            self.destination = destination
            self.source = source
            self.mtu = mtu
        }
    }

    /// Where a route leads.
    public enum Target: Hashable, Sendable {
        /// To one of `count` adjacencies from `first` on; a packet's addresses choose.
        case forward(first: UInt32, count: UInt32)
        /// Into a VLAN, but to no host or router whose MAC address is known: those have a `forward`.
        case connected(VLANID)
        /// To this router.
        case local
        /// To a subnet's broadcast address.
        case broadcast
        case blackhole
        case unreachable
        case prohibited
        /// To somewhere through interfaces that are not a VLAN's gateway.
        case otherInterface
        /// Anything else.
        case kernel
    }

    /// - Parameters:
    ///   - targets: what the targets of `routes` number; the first, number 0, is never looked at.
    ///   - denied: what passes between the two VLANs, in either direction, is the kernel's.
    ///   - masquerades: IPv4 sources are translated between VLANs, so that all of it is the kernel's.
    ///   - keepsPriority: a tag goes out with the priority that it came with; otherwise with 0, as VLAN devices have it.
    ///   - isStateless: whether the destination decides where no flow does; otherwise it is the kernel's.
    ///   - neighbors: who is at the other end of each adjacency, if anybody wants to know.
    public init(
        gateways: [Gateway], adjacencies: [Adjacency], targets: [Target], routes: ForwardingTable,
        denied: [(VLANID, VLANID)] = [], masquerades: Bool = false, keepsPriority: Bool = true,
        isStateless: Bool = true, neighbors: [World.Neighbor] = []
    ) {
        var others: [UInt16: Set<UInt16>] = [:]
        for (one, other) in denied {
            others[one.rawValue, default: []].insert(other.rawValue)
            others[other.rawValue, default: []].insert(one.rawValue)
        }
        var entries = Array(repeating: GatewayEntry.absent, count: 1 << 12)
        var pairs: [UInt16] = []
        for gateway in gateways {
            let first = pairs.count
            pairs += others[gateway.vlan.rawValue, default: []].sorted()
            entries[Int(gateway.vlan.rawValue)] = GatewayEntry(
                mac: gateway.mac, deniedFirst: UInt32(first), deniedEnd: UInt32(pairs.count), mtu: gateway.mtu,
                sourceCheck: gateway.sourceCheck, isPresent: true)
        }
        self.gateways = entries
        self.adjacencies = adjacencies
        self.targets = targets
        self.routes = routes
        self.denied = pairs
        self.masquerades = masquerades
        self.neighbors = neighbors
        self.isStateless = isStateless
        priorityMask = keepsPriority ? VLANTag.priorityMask : 0
    }

    public var adjacencyCount: Int { adjacencies.count }

    /// Who is at the other end of an adjacency; nil: nobody has said.
    public func neighbor(_ adjacency: Int) -> World.Neighbor? {
        neighbors.indices.contains(adjacency) ? neighbors[adjacency] : nil
    }
}

/// A gateway as workers look it up.
struct GatewayEntry: Sendable {
    var mac: MACAddress
    /// The range of `Snapshot.denied`.
    var deniedFirst: UInt32
    var deniedEnd: UInt32
    var mtu: UInt16
    var sourceCheck: Snapshot.SourceCheck
    var isPresent: Bool

    static let absent = GatewayEntry(
        mac: MACAddress(0), deniedFirst: 0, deniedEnd: 0, mtu: 0, sourceCheck: .none, isPresent: false)
}
