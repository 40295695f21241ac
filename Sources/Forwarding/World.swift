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
        var builder = Builder(world)
        var table = RouteTable()
        for route in world.effectiveRoutes { table.insert(route.prefix, target: builder.target(of: route)) }
        // A host on a link has a route of its own, if it is by the link's that the kernel would reach it.
        for neighbor in world.neighbors {
            guard let match = table.match(neighbor.address), builder.links[match.target] == neighbor.vlan,
                let adjacency = builder.adjacency(to: neighbor.address, in: neighbor.vlan)
            else { continue }
            let host = IPPrefix(neighbor.address, length: neighbor.address.family.width)
            table.insert(host, target: builder.number(.forward(first: adjacency, count: 1)))
        }
        self.init(
            gateways: world.gateways, adjacencies: builder.adjacencies, targets: builder.targets,
            routes: table.publish(), denied: world.denied, masquerades: world.masquerades,
            keepsPriority: world.keepsPriority, neighbors: builder.neighbors)
    }
}

extension World {
    /// The route that counts for each prefix.
    public var effectiveRoutes: [Route] {
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

/// Numbers targets and adjacencies.
private struct Builder {
    var targets: [Snapshot.Target] = [.kernel]
    var adjacencies: [Snapshot.Adjacency] = []
    /// Who is at the other end of each adjacency.
    var neighbors: [World.Neighbor] = []
    /// The targets that stand for a link with all its hosts.
    var links: [UInt32: VLANID] = [:]

    private let gateways: [VLANID: Snapshot.Gateway]
    private let macs: [Station: MACAddress]
    private var numbers: [Snapshot.Target: UInt32] = [:]
    private var linkNumbers: [VLANID: UInt32] = [:]
    private var adjacencyNumbers: [Station: UInt32] = [:]

    private struct Station: Hashable {
        var address: IPAddress
        var vlan: VLANID
    }

    /// More equal-cost paths than anybody has; as many adjacencies stand for a route at most.
    private static let mostPaths = 256

    init(_ world: World) {
        gateways = Dictionary(world.gateways.map { ($0.vlan, $0) }) { $1 }
        macs = Dictionary(
            world.neighbors.filter { !$0.mac.isGroup && $0.mac != MACAddress(0) }
                .map { (Station(address: $0.address, vlan: $0.vlan), $0.mac) }
        ) { $1 }
    }

    mutating func number(_ target: Snapshot.Target) -> UInt32 {
        if let number = numbers[target] { return number }
        let number = append(target)
        numbers[target] = number
        return number
    }

    private mutating func append(_ target: Snapshot.Target) -> UInt32 {
        targets.append(target)
        return UInt32(targets.count - 1)
    }

    mutating func target(of route: World.Route) -> UInt32 {
        switch route.kind {
        case .local: number(.local)
        case .broadcast: number(.broadcast)
        case .blackhole: number(.blackhole)
        case .unreachable: number(.unreachable)
        case .prohibited: number(.prohibited)
        case .other: number(.kernel)
        case .unicast(let hops): target(of: hops)
        }
    }

    private mutating func target(of hops: [World.NextHop]) -> UInt32 {
        guard let first = hops.first else { return number(.kernel) }
        func isOurs(_ hop: World.NextHop) -> Bool { hop.vlan.map { gateways[$0] != nil } ?? false }
        guard hops.contains(where: isOurs) else { return number(.otherInterface) }
        guard hops.count == 1, let vlan = first.vlan else { return equalCost(hops) }
        guard let via = first.via else { return link(vlan) }
        guard let adjacency = adjacency(to: via, in: vlan) else { return number(.connected(vlan)) }
        return number(.forward(first: adjacency, count: 1))
    }

    /// All of them, each as often as its weight says; or the kernel, if it has to do something for one of them.
    private mutating func equalCost(_ hops: [World.NextHop]) -> UInt32 {
        let divisor = hops.reduce(0) { greatestCommonDivisor($0, $1.weight) }
        guard hops.allSatisfy({ (1...256).contains($0.weight) }),
            hops.reduce(0, { $0 + $1.weight / divisor }) <= Self.mostPaths
        else { return number(.kernel) }
        var paths: [UInt32] = []
        for hop in hops {
            guard let vlan = hop.vlan, let via = hop.via, let adjacency = adjacency(to: via, in: vlan) else {
                return number(.kernel)
            }
            paths += Array(repeating: adjacency, count: hop.weight / divisor)
        }
        let first = UInt32(adjacencies.count)
        for path in paths {
            adjacencies.append(adjacencies[Int(path)])
            neighbors.append(neighbors[Int(path)])
        }
        return append(.forward(first: first, count: UInt32(paths.count)))
    }

    private mutating func link(_ vlan: VLANID) -> UInt32 {
        if let number = linkNumbers[vlan] { return number }
        let number = append(.connected(vlan))
        linkNumbers[vlan] = number
        links[number] = vlan
        return number
    }

    /// nil: its MAC address is not known, or the VLAN is not one of ours.
    mutating func adjacency(to address: IPAddress, in vlan: VLANID) -> UInt32? {
        let station = Station(address: address, vlan: vlan)
        if let number = adjacencyNumbers[station] { return number }
        guard let mac = macs[station], let gateway = gateways[vlan] else { return nil }
        adjacencies.append(
            Snapshot.Adjacency(vlan: vlan, destination: mac, source: gateway.mac, mtu: gateway.mtu))
        neighbors.append(World.Neighbor(address, vlan: vlan, mac: mac))
        let number = UInt32(adjacencies.count - 1)
        adjacencyNumbers[station] = number
        return number
    }
}

private func greatestCommonDivisor(_ one: Int, _ other: Int) -> Int {
    other == 0 ? one : greatestCommonDivisor(other, one % other)
}
