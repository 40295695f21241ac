import Packets
import Routing

/// What a router knows, in the terms of `ip address`, `ip neighbour` and `ip route`: what a `Snapshot` is made of.
public struct World: Sendable {
    public var gateways: [Snapshot.Gateway]
    public var neighbors: [Neighbor]
    /// Of all tables that are looked through, the kernel's table `local` included: see `Route.implied`.
    public var routes: [Route]
    /// What passes between the two VLANs, in either direction, is left to the kernel.
    public var denied: [(VLANID, VLANID)]
    /// IPv4 sources are translated between VLANs.
    public var masquerades: Bool
    /// Tags keep the priority that they came with, as with the driver `ebpf`; VLAN devices of the kernel start again from 0.
    public var keepsPriority: Bool

    public init(
        gateways: [Snapshot.Gateway] = [], neighbors: [Neighbor] = [], routes: [Route] = [],
        denied: [(VLANID, VLANID)] = [], masquerades: Bool = false, keepsPriority: Bool = true
    ) {
        self.gateways = gateways
        self.neighbors = neighbors
        self.routes = routes
        self.denied = denied
        self.masquerades = masquerades
        self.keepsPriority = keepsPriority
    }

    /// A host whose MAC address is known and believed: one that the kernel would send to without asking.
    public struct Neighbor: Hashable, Sendable {
        public var address: IPAddress
        public var vlan: VLANID
        public var mac: MACAddress

        public init(_ address: IPAddress, vlan: VLANID, mac: MACAddress) {
            self.address = address
            self.vlan = vlan
            self.mac = mac
        }
    }

    public struct Route: Hashable, Sendable {
        public var prefix: IPPrefix
        public var kind: Kind
        /// The kernel prefers the lowest. Of equal ones the first counts.
        public var metric: UInt32

        public enum Kind: Hashable, Sendable {
            /// Several: equal-cost paths. None is a route that leads nowhere, which only the kernel understands.
            case unicast([NextHop])
            /// To the router itself; also anycast.
            case local
            case broadcast
            case blackhole
            case unreachable
            case prohibited
            /// Any that is not described here.
            case other
        }

        public init(_ prefix: IPPrefix, _ kind: Kind, metric: UInt32 = 0) {
            self.prefix = prefix
            self.kind = kind
            self.metric = metric
        }

        /// The routes that the kernel makes by itself for a gateway's address: to the address, to its subnet, and to the subnet's broadcast address.
        public static func implied(by address: InterfaceAddress, in vlan: VLANID) -> [Route] {
            var routes = [
                Route(IPPrefix(address.address, length: address.address.family.width), .local),
                Route(address.prefix, .unicast([NextHop(via: nil, vlan: vlan)])),
            ]
            if let broadcast = address.broadcast {
                routes.append(Route(IPPrefix(.v4(broadcast), length: 32), .broadcast))
            }
            return routes
        }
    }

    public struct NextHop: Hashable, Sendable {
        /// nil: the destination itself, which is on the link.
        public var via: IPAddress?
        /// nil: through an interface that is not a VLAN's gateway.
        public var vlan: VLANID?
        /// Its share among equal-cost paths: 1…256.
        public var weight: Int

        public init(via: IPAddress?, vlan: VLANID?, weight: Int = 1) {
            self.via = via
            self.vlan = vlan
            self.weight = weight
        }
    }
}

extension Snapshot {
    /// What the pipeline needs to know of the world. In doubt a route leads to the kernel.
    public init(_ world: World) {
        var builder = SnapshotBuilder(
            gateways: world.gateways, denied: world.denied, masquerades: world.masquerades,
            keepsPriority: world.keepsPriority)
        for route in world.effectiveRoutes { builder.setRoute(route.prefix, route.kind) }
        for neighbor in world.neighbors { builder.setNeighbor(neighbor.address, in: neighbor.vlan, neighbor.mac) }
        self = builder.snapshot()
    }
}

extension World {
    /// The route that counts for each prefix.
    fileprivate var effectiveRoutes: [Route] {
        // The kernel looks through its table `local` first: a shorter prefix there wins over a longer one elsewhere.
        let wide = routes.filter { $0.isOfTableLocal && $0.prefix.length < $0.prefix.family.width }
        var best: [IPPrefix: Int] = [:]
        for (index, route) in routes.enumerated() {
            if !route.isOfTableLocal,
                wide.contains(where: { $0.prefix.length <= route.prefix.length && $0.prefix.overlaps(route.prefix) })
            {
                continue
            }
            if let other = best[route.prefix], routes[other].precedence <= route.precedence { continue }
            best[route.prefix] = index
        }
        // In the order in which they were given: the same world gives the same snapshot.
        return best.values.sorted().map { routes[$0] }
    }
}

extension World.Route {
    fileprivate var isOfTableLocal: Bool { kind == .local || kind == .broadcast }
    fileprivate var precedence: UInt64 { (isOfTableLocal ? 0 : 1 << 32) | UInt64(metric) }
}
