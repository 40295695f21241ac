import DataPlane
import Firewall
import Forwarding
import Kernel
import Packets
import Routing
import SystemPackage

/// What the kernel knows, as the workers need it: the way of each packet, and which packets are theirs.
struct Mirror {
    struct View {
        var snapshot: Snapshot
        var contents = Ownership.Contents()
    }

    /// Before the first look.
    var nothing: Snapshot { Snapshot(World()) }

    /// - Returns: nil where the trunk has gone.
    func look(_ state: State, _ socket: borrowing NetlinkSocket) throws(KernelError) -> View? {
        let links = try socket.links()
        guard links.contains(where: { $0.index == state.parentIndex }) else { return nil }
        let world = World(
            state, links: links, addresses: try socket.addresses(), neighbors: try socket.neighbors(),
            routes: try socket.routes())
        var view = View(snapshot: Snapshot(world))
        guard try Self.obstacles(state).isEmpty else { return view }
        view.contents = Ownership.Contents(world, view.snapshot)
        return view
    }

    /// What a packet of the kernel's own does: a neighbour that is in use is asked from time to time whether it is still there.
    ///
    /// - Parameter adjacencies: numbers, modulo `CounterFile.mostAdjacencies`.
    func use(_ adjacencies: [Int], _ snapshot: Snapshot, _ socket: borrowing NetlinkSocket) throws(KernelError) {
        guard !adjacencies.isEmpty else { return }
        let numbers = adjacencies.flatMap {
            stride(from: $0, to: snapshot.adjacencyCount, by: CounterFile.mostAdjacencies)
        }
        let used = Set(numbers.compactMap { snapshot.neighbor($0)?.address })
        var batch = NetlinkBatch()
        for neighbor in try socket.neighbors() where neighbor.isStale && used.contains(neighbor.address) {
            batch.useNeighbor(neighbor)
        }
        // One may have gone in between.
        try socket.execute(batch, ignoring: [.noSuchFileOrDirectory])
    }

    /// Why the workers forward nothing, in words; empty: they do.
    static func obstacles(_ state: State) throws(KernelError) -> [String] {
        let masquerade = state.configuration.masquerade
        var reasons: [String] = []
        if state.phase != .applied { reasons.append("a change is under way") }
        if masquerade.isBetweenVLANs {
            reasons.append("masquerade \(masquerade.rawValue): what passes between VLANs is translated")
        }
        if try Sysctl("net/ipv4/ip_forward").read() != "1", state.configuration.usesIPv4 {
            reasons.append("the host does not forward (net.ipv4.ip_forward)")
        }
        for chain in try Nftables().baseChains() where chain.concernsForwarding {
            reasons.append("the chain \(chain.family) \(chain.table) \(chain.name) has a say in what is forwarded")
        }
        return reasons
    }
}

extension Nftables.BaseChain {
    /// Whether this is somebody else's, and sees packets that pass.
    fileprivate var concernsForwarding: Bool {
        if family == .inet, table == Host.tableName { return false }
        if ["input", "output"].contains(hook) || [.arp, .bridge].contains(family) { return false }
        // Tools leave empty chains behind, which let everything pass.
        return ruleCount > 0 || !acceptsByDefault
    }
}

extension World {
    fileprivate init(
        _ state: State, links: [Link], addresses: [Address], neighbors: [Kernel.Neighbor], routes: [Kernel.Route]
    ) {
        let configuration = state.configuration
        let named = Dictionary(links.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        var vlans: [UInt32: VLANID] = [:]
        var gateways: [Snapshot.Gateway] = []
        let trunk = links.first { $0.index == state.parentIndex }
        for vlan in configuration.vlans {
            // The filter knows the router's frames by the trunk's address.
            guard let link = named[configuration.interfaceName(vlan.id)], link.isUp, link.hasCarrier,
                let mac = link.macAddress, mac == trunk?.macAddress
            else { continue }
            vlans[link.index] = vlan.id
            gateways.append(
                Snapshot.Gateway(
                    vlan: vlan.id, mac: mac, mtu: UInt16(clamping: link.mtu), sourceCheck: Self.sourceCheck(link.name)))
        }
        self.init(
            gateways: gateways,
            neighbors: neighbors.compactMap { neighbor in
                guard neighbor.isValid, let vlan = vlans[neighbor.linkIndex], let mac = neighbor.macAddress else {
                    return nil
                }
                return World.Neighbor(neighbor.address, vlan: vlan, mac: mac)
            },
            routes: routes.map { route in
                World.Route(
                    route.destination,
                    .unicast([NextHop(via: route.gateway, vlan: route.linkIndex.flatMap { vlans[$0] })]))
            }
                + addresses.flatMap { address in
                    guard let vlan = vlans[address.linkIndex] else {
                        let width = address.value.address.family.width
                        return [World.Route(IPPrefix(address.value.address, length: width), .local)]
                    }
                    return World.Route.implied(by: address.value, in: vlan)
                },
            denied: configuration.denied.map { ($0.from, $0.to) },
            masquerades: configuration.masquerade.isBetweenVLANs, keepsPriority: state.driver == .ebpf)
    }

    /// The stricter of the interface's own and that of all (ip-sysctl, rp_filter).
    private static func sourceCheck(_ link: String) -> Snapshot.SourceCheck {
        let values = [link, "all"].map { name in
            ((try? Sysctl("net/ipv4/conf/\(name)/rp_filter").read()) ?? nil).flatMap(UInt8.init) ?? 0
        }
        return Snapshot.SourceCheck(rawValue: values.max() ?? 0) ?? .strict
    }
}

extension Ownership.Contents {
    /// What the snapshot forwards for certain.
    fileprivate init(_ world: World, _ snapshot: Snapshot) {
        self.init()
        // As the rules have it: see Policy.untracked.
        ingress = Set(world.gateways.map(\.vlan)).subtracting(world.denied.flatMap { [$0.0, $0.1] })
        for neighbor in world.neighbors where ingress.contains(neighbor.vlan) {
            if let destination = Ownership.Destination(neighbor.address, snapshot) {
                hosts[neighbor.address] = destination
            }
        }
        // Where no route leads through a router in a VLAN, the hosts are all that there is to look for.
        let routes = world.effectiveRoutes
        var ways: [IPPrefix: Ownership.Destination] = [:]
        for route in routes {
            guard let way = Ownership.Destination(route, snapshot), way.vlan.map(ingress.contains) ?? false else {
                continue
            }
            ways[route.prefix] = way
        }
        guard !ways.isEmpty else { return }
        for route in routes {
            prefixes[route.prefix] = ways[route.prefix] ?? Ownership.Destination(vlan: nil, mtu: 0)
        }
    }
}

extension Ownership.Destination {
    /// nil: what goes to this host is the kernel's.
    fileprivate init?(_ host: IPAddress, _ snapshot: Snapshot) {
        let adjacencies = snapshot.adjacencies(to: host)
        guard let first = adjacencies.first, adjacencies.allSatisfy({ $0.vlan == first.vlan }) else { return nil }
        self.init(vlan: first.vlan, mtu: adjacencies.map(\.mtu).min() ?? 0)
    }

    /// nil: what goes this way is the kernel's. The filter knows one VLAN for each prefix.
    fileprivate init?(_ route: World.Route, _ snapshot: Snapshot) {
        guard case .unicast(let hops) = route.kind, let vlan = hops.first?.vlan else { return nil }
        var mtu = UInt16.max
        for hop in hops {
            guard let via = hop.via, hop.vlan == vlan, let next = Self(via, snapshot), next.vlan == vlan else {
                return nil
            }
            mtu = min(mtu, next.mtu)
        }
        self.init(vlan: vlan, mtu: mtu)
    }
}
