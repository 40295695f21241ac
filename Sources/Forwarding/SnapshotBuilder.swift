import Packets
import Routing

/// Makes snapshots one after another from what changes. What one costs depends on how many VLANs, neighbors and different next hops
/// there are, and not on how many routes.
public struct SnapshotBuilder: ~Copyable {
    private let gateways: [Snapshot.Gateway]
    private let byVLAN: [VLANID: Snapshot.Gateway]
    private let denied: [(VLANID, VLANID)]
    private let masquerades: Bool
    private let keepsPriority: Bool

    private var table = RouteTable()
    /// What the targets of `table` mean. Number 0 is never looked at.
    private var ways = [Way.route(.other)]
    private var numbers: [Way: UInt32] = [:]
    /// MAC addresses of the neighbors.
    private var neighbors: [Station: MACAddress] = [:]
    /// Neighbors that have a route of their own.
    private var hosts: Set<Station> = []
    /// Subnets of the links: whoever is in one may have a route of his own.
    private var links: [IPPrefix: VLANID] = [:]
    /// Where neighbors have come or gone, or routes that concern them.
    private var undecided: Set<Station> = []
    /// Another number whenever a neighbor has got or lost a route of its own.
    public private(set) var revision: UInt64 = 0

    private struct Station: Hashable {
        var address: IPAddress
        var vlan: VLANID

        var prefix: IPPrefix { IPPrefix(address, length: address.family.width) }
    }

    private enum Way: Hashable {
        case route(World.Route.Kind)
        case host(Station)
    }

    /// More equal-cost paths than anybody has; as many adjacencies stand for a route at most.
    private static let mostPaths = 256

    /// No routes and no neighbors.
    public init(
        gateways: [Snapshot.Gateway], denied: [(VLANID, VLANID)] = [], masquerades: Bool = false,
        keepsPriority: Bool = true
    ) {
        self.gateways = gateways
        byVLAN = Dictionary(gateways.map { ($0.vlan, $0) }) { $1 }
        self.denied = denied
        self.masquerades = masquerades
        self.keepsPriority = keepsPriority
    }

    /// - Parameter kind: what the kernel does with a packet whose longest match is this prefix; nil: there is no such route any more.
    /// - Returns: the number of its target in the next snapshot; 0: there is none.
    @discardableResult
    public mutating func setRoute(_ prefix: IPPrefix, _ kind: World.Route.Kind?) -> UInt32 {
        let former = links.removeValue(forKey: prefix)
        var isLink = former != nil
        if case .unicast(let hops) = kind, hops.count == 1, hops[0].via == nil, let vlan = hops[0].vlan {
            links[prefix] = vlan
            isLink = true
        }
        // What leads to a link, and what takes a part out of it, decides about the hosts in there.
        if isLink || links.contains(where: { $0.key.length < prefix.length && $0.key.overlaps(prefix) }) {
            for station in neighbors.keys where prefix.contains(station.address) { undecided.insert(station) }
        }
        guard let kind else {
            table.remove(prefix)
            return 0
        }
        let number = number(.route(kind))
        table.insert(prefix, target: number)
        return number
    }

    /// - Parameter mac: nil: it is not known any more.
    public mutating func setNeighbor(_ address: IPAddress, in vlan: VLANID, _ mac: MACAddress?) {
        let station = Station(address: address, vlan: vlan)
        let mac = mac.flatMap { $0.isGroup || $0 == MACAddress(0) ? nil : $0 }
        guard neighbors[station] != mac else { return }
        if (neighbors[station] == nil) != (mac == nil) { undecided.insert(station) }
        neighbors[station] = mac
    }

    /// The world as it is now.
    ///
    /// - Parameter isStateless: whether the destination decides where no flow does.
    public mutating func snapshot(isStateless: Bool = true) -> Snapshot {
        for station in undecided { decide(station) }
        undecided = []
        var adjacencies = Adjacencies()
        let targets = ways.map { target(of: $0, &adjacencies) }
        return Snapshot(
            gateways: gateways, adjacencies: adjacencies.list, targets: targets, routes: table.publish(),
            denied: denied, masquerades: masquerades, keepsPriority: keepsPriority, isStateless: isStateless,
            neighbors: adjacencies.neighbors)
    }

    /// A host on a link has a route of its own, if it is by the link's that the kernel would reach it.
    private mutating func decide(_ station: Station) {
        let had = hosts.remove(station) != nil
        let own = number(.host(station))
        if table[station.prefix] == own { table.remove(station.prefix) }
        let has = hasOwnRoute(station)
        if has {
            table.insert(station.prefix, target: own)
            hosts.insert(station)
        }
        if had != has { revision &+= 1 }
    }

    private func hasOwnRoute(_ station: Station) -> Bool {
        guard neighbors[station] != nil, !station.address.isLinkLocal, let match = table.match(station.address) else {
            return false
        }
        return links[match.prefix] == station.vlan && match.prefix != station.prefix
    }

    // MARK: Targets

    private mutating func number(_ way: Way) -> UInt32 {
        if let number = numbers[way] { return number }
        ways.append(way)
        numbers[way] = UInt32(ways.count - 1)
        return UInt32(ways.count - 1)
    }

    /// The adjacencies of one snapshot.
    private struct Adjacencies {
        var list: [Snapshot.Adjacency] = []
        /// Who is at the other end of each.
        var neighbors: [World.Neighbor] = []
        var numbers: [Station: UInt32] = [:]
    }

    private func target(of way: Way, _ adjacencies: inout Adjacencies) -> Snapshot.Target {
        switch way {
        case .host(let station):
            adjacency(station, &adjacencies).map { .forward(first: $0, count: 1) } ?? .connected(station.vlan)
        case .route(.local): .local
        case .route(.broadcast): .broadcast
        case .route(.blackhole): .blackhole
        case .route(.unreachable): .unreachable
        case .route(.prohibited): .prohibited
        case .route(.other): .kernel
        case .route(.unicast(let hops)): target(of: hops, &adjacencies)
        }
    }

    private func target(of hops: [World.NextHop], _ adjacencies: inout Adjacencies) -> Snapshot.Target {
        guard let first = hops.first else { return .kernel }
        guard hops.contains(where: { $0.vlan.map { byVLAN[$0] != nil } ?? false }) else { return .otherInterface }
        guard hops.count == 1, let vlan = first.vlan else { return equalCost(hops, &adjacencies) }
        guard let via = first.via, let number = adjacency(Station(address: via, vlan: vlan), &adjacencies) else {
            return .connected(vlan)
        }
        return .forward(first: number, count: 1)
    }

    /// All of them, each as often as its weight says; or the kernel, if it has to do something for one of them.
    private func equalCost(_ hops: [World.NextHop], _ adjacencies: inout Adjacencies) -> Snapshot.Target {
        let divisor = hops.reduce(0) { greatestCommonDivisor($0, $1.weight) }
        guard hops.allSatisfy({ (1...256).contains($0.weight) }),
            hops.reduce(0, { $0 + $1.weight / divisor }) <= Self.mostPaths
        else { return .kernel }
        var paths: [UInt32] = []
        for hop in hops {
            guard let vlan = hop.vlan, let via = hop.via,
                let number = adjacency(Station(address: via, vlan: vlan), &adjacencies)
            else { return .kernel }
            paths += Array(repeating: number, count: hop.weight / divisor)
        }
        let first = UInt32(adjacencies.list.count)
        for path in paths {
            adjacencies.list.append(adjacencies.list[Int(path)])
            adjacencies.neighbors.append(adjacencies.neighbors[Int(path)])
        }
        return .forward(first: first, count: UInt32(paths.count))
    }

    /// nil: its MAC address is not known, or the VLAN is not one of ours.
    private func adjacency(_ station: Station, _ adjacencies: inout Adjacencies) -> UInt32? {
        if let number = adjacencies.numbers[station] { return number }
        guard let mac = neighbors[station], let gateway = byVLAN[station.vlan] else { return nil }
        adjacencies.list.append(
            Snapshot.Adjacency(vlan: station.vlan, destination: mac, source: gateway.mac, mtu: gateway.mtu))
        adjacencies.neighbors.append(World.Neighbor(station.address, vlan: station.vlan, mac: mac))
        let number = UInt32(adjacencies.list.count - 1)
        adjacencies.numbers[station] = number
        return number
    }

    // MARK: What it says

    /// The neighbors that have a route of their own, with the number of its target.
    public var hostTargets: [(address: IPAddress, target: UInt32)] {
        hosts.compactMap { station in numbers[.host(station)].map { (station.address, $0) } }
    }

    /// Whether the target with this number is a route's, and not a neighbor's own.
    public func isRoute(_ number: Int) -> Bool {
        if ways.indices.contains(number), case .route = ways[number] { true } else { false }
    }

    /// How many targets there have been. Those that no route has any more are never taken back: who builds for long begins anew
    /// from time to time.
    public var targetCount: Int { ways.count }
}

private func greatestCommonDivisor(_ one: Int, _ other: Int) -> Int {
    other == 0 ? one : greatestCommonDivisor(other, one % other)
}
