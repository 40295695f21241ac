import DataPlane
import Firewall
import Forwarding
import Kernel
import Packets
import SystemPackage

/// What the kernel knows, as the workers need it: the way of each packet, and which packets are theirs.
struct Mirror: ~Copyable {
    private var monitor: KernelMonitor
    private var builder = SnapshotBuilder(gateways: [])
    private var basis = Basis()
    private var policy: (of: Configuration, untracked: Set<String>)?
    /// Whether the filter has been told of prefixes: only where routes lead through routers in the VLANs.
    private var hasPrefixes = false
    /// The destination decides until a moment after it no longer does: workers have frames that were given to them for that.
    private var lastStateless = ContinuousClock.now - .seconds(1)
    private static let drain = Duration.milliseconds(100)

    /// What may be the workers'.
    struct Owning: Hashable {
        /// What needs no look at its connection.
        var stateless = false
        /// Connections that the kernel has let pass.
        var flows = false
    }

    struct View {
        var snapshot: Snapshot
        /// Whether targets have other numbers than before.
        var isRenumbered = false
        /// Whether a packet may have another way than before.
        var hasOtherWays = false
        var mayOwnFlows = false
        /// Whose routes the snapshot has.
        var families: Set<IPFamily> = []
        /// With no flows, and what they need beside what is there for others.
        var contents: Ownership.Contents
        /// Those that the filter is to be told of, with the numbers of their targets; 0: gone.
        var prefixes: [(IPPrefix, UInt32)] = []
        var ways: [Ownership.Destination] = []
        var gateways: [Snapshot.Gateway] = []

        /// What the filter is to know where there are flows.
        var contentsWithFlows: Ownership.Contents {
            var contents = contents
            contents.hasFlows = true
            contents.ways = ways
            for gateway in gateways where contents.ingress[gateway.vlan] == nil {
                contents.ingress[gateway.vlan] = Ownership.Ingress(
                    mtu: gateway.mtu, checksSource: false, isStateless: false)
            }
            return contents
        }
    }

    /// What all targets hang on. Where it changes, they are numbered anew.
    fileprivate struct Basis: Hashable {
        var gateways: [Snapshot.Gateway] = []
        /// By the index of the gateway's interface.
        var vlans: [UInt32: VLANID] = [:]
        /// Those between which the rules track no connections.
        var untracked: Set<VLANID> = []
        var families: Set<IPFamily> = []
    }

    /// So many targets, and they are numbered anew, without those that are no longer used.
    private static let mostTargets = 1 << 16

    init() throws(KernelError) { monitor = try KernelMonitor() }

    /// Readable where something has changed.
    var descriptor: Int32 { monitor.descriptor }

    /// - Returns: nil where the trunk has gone.
    mutating func look(_ state: State, _ owning: Owning) throws(KernelError) -> View? {
        try monitor.update()
        let changes = monitor.takeChanges()
        guard monitor.tables.links[state.parentIndex] != nil else { return nil }
        if policy?.of != state.configuration {
            // It was valid when it was applied.
            policy = (state.configuration, Set((try? state.configuration.policy())?.untracked ?? []))
        }
        let now = Basis(state, untracked: policy?.untracked ?? [], monitor.tables)
        var prefixes = changes.prefixes.map { ($0, set($0)) }
        let revision = builder.revision
        var isRenumbered = false
        if now != basis || builder.targetCount > Self.mostTargets {
            basis = now
            isRenumbered = true
            builder = SnapshotBuilder(
                gateways: now.gateways, denied: state.configuration.denied.map { ($0.from, $0.to) },
                masquerades: state.configuration.vlans.contains {
                    state.configuration.masquerade(of: $0).isBetweenVLANs
                }, keepsPriority: state.driver == .ebpf)
            prefixes = prefixes.filter { $0.1 == 0 } + setAll()
            for key in monitor.tables.neighbors.keys { set(key) }
        } else {
            for key in changes.neighbors { set(key) }
        }
        if owning.stateless { lastStateless = .now }
        let snapshot = builder.snapshot(isStateless: .now - lastStateless < Self.drain)
        var view = View(snapshot: snapshot, contents: Ownership.Contents())
        view.isRenumbered = isRenumbered
        view.hasOtherWays = builder.revision != revision || !changes.prefixes.isEmpty
        view.families = basis.families
        if owning.stateless { view.contents = contents(snapshot, state) }
        if owning.flows {
            view.mayOwnFlows = true
            view.gateways = basis.gateways
            let vlans = Set(basis.gateways.map(\.vlan))
            view.ways = (0..<builder.targetCount).map {
                Ownership.Destination(snapshot.adjacencies(ofTarget: $0), vlans)
            }
        }
        if hasPrefixes {
            view.prefixes = prefixes
        } else if view.contents.targets.contains(where: { $0.vlan != nil }) {
            hasPrefixes = true
            view.prefixes = setAll()
        }
        return view
    }

    // MARK: From the kernel to the snapshot

    private mutating func set(_ prefix: IPPrefix) -> UInt32 {
        builder.setRoute(prefix, monitor.tables.decision(for: prefix).map { World.Route.Kind($0, basis.vlans) })
    }

    private mutating func setAll() -> [(IPPrefix, UInt32)] {
        var all: [(IPPrefix, World.Route.Kind)] = []
        for family in [IPFamily.v4, .v6] {
            monitor.tables.forEachDecision(family) { all.append(($0, World.Route.Kind($1, basis.vlans))) }
        }
        var result: [(IPPrefix, UInt32)] = []
        result.reserveCapacity(all.count)
        for (prefix, kind) in all { result.append((prefix, builder.setRoute(prefix, kind))) }
        return result
    }

    private mutating func set(_ key: Neighbor.Key) {
        guard let vlan = basis.vlans[key.linkIndex] else { return }
        let neighbor = monitor.tables.neighbors[key]
        builder.setNeighbor(key.address, in: vlan, neighbor.flatMap { $0.isValid ? $0.macAddress : nil })
    }

    // MARK: From the snapshot to the filter

    /// What the snapshot forwards for certain.
    private func contents(_ snapshot: Snapshot, _ state: State) -> Ownership.Contents {
        var contents = Ownership.Contents()
        let vlans = basis.untracked
        for gateway in basis.gateways where vlans.contains(gateway.vlan) {
            contents.ingress[gateway.vlan] = Ownership.Ingress(
                mtu: gateway.mtu, checksSource: gateway.sourceCheck != .none)
        }
        for (address, target) in builder.hostTargets where basis.families.contains(address.family) {
            let destination = Ownership.Destination(snapshot.adjacencies(ofTarget: Int(target)), vlans)
            if destination.vlan != nil { contents.hosts[address] = destination }
        }
        contents.targets = (0..<builder.targetCount).map { number in
            builder.isRoute(number) ? Ownership.Destination(snapshot.adjacencies(ofTarget: number), vlans) : .kernel
        }
        return contents
    }

    // MARK: From the workers to the kernel

    /// What a packet of the kernel's own does: a neighbour that is in use is asked from time to time whether it is still there.
    ///
    /// - Parameter adjacencies: numbers, modulo `CounterFile.mostAdjacencies`.
    func use(_ adjacencies: [Int], _ snapshot: Snapshot, _ socket: borrowing NetlinkSocket) throws(KernelError) {
        let links = Dictionary(basis.vlans.map { ($0.value, $0.key) }, uniquingKeysWith: { first, _ in first })
        var batch = NetlinkBatch()
        for first in adjacencies {
            for number in stride(from: first, to: snapshot.adjacencyCount, by: CounterFile.mostAdjacencies) {
                guard let neighbor = snapshot.neighbor(number), let link = links[neighbor.vlan] else { continue }
                let key = Neighbor.Key(linkIndex: link, address: neighbor.address)
                if monitor.tables.neighbors[key]?.isStale == true { batch.useNeighbor(key) }
            }
        }
        // One may have gone in between.
        try socket.execute(batch, ignoring: [.noSuchFileOrDirectory])
    }
}

extension Mirror.Basis {
    fileprivate init(_ state: State, untracked: Set<String>, _ tables: KernelTables) {
        let configuration = state.configuration
        let named = Dictionary(tables.links.values.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        let trunk = tables.links[state.parentIndex]
        for vlan in configuration.vlans where configuration.parent(of: vlan) == configuration.parent {
            // The filter knows the router's frames by the trunk's address.
            guard let link = named[configuration.interfaceName(vlan.id)], link.isUp, link.hasCarrier,
                let mac = link.macAddress, mac == trunk?.macAddress
            else { continue }
            vlans[link.index] = vlan.id
            if untracked.contains(link.name) { self.untracked.insert(vlan.id) }
            // The stricter of the interface's own and that of all (ip-sysctl, rp_filter).
            let checks = [NetworkSettings.Scope.link(link.index), .all].map {
                tables.settings[.init(.v4, $0)]?.reversePathFilter ?? 0
            }
            gateways.append(
                Snapshot.Gateway(
                    vlan: vlan.id, mac: mac, mtu: UInt16(clamping: link.mtu),
                    sourceCheck: Snapshot.SourceCheck(rawValue: UInt8(clamping: checks.max() ?? 0)) ?? .strict))
        }
        for family in [IPFamily.v4, .v6] where tables.areRulesDefault(family) {
            let scopes = vlans.keys.map { NetworkSettings.Scope.link($0) } + (family == .v6 ? [.all] : [])
            if scopes.allSatisfy({ tables.settings[.init(family, $0)]?.forwarding == 1 }) { families.insert(family) }
        }
    }
}

extension World.Route.Kind {
    fileprivate init(_ decision: RouteTables.Decision, _ vlans: [UInt32: VLANID]) {
        switch decision {
        case .forward(let hops, mtu: nil):
            self = .unicast(
                hops.map { World.NextHop(via: $0.gateway, vlan: vlans[$0.linkIndex], weight: Int($0.weight)) })
        case .local: self = .local
        case .broadcast: self = .broadcast
        case .refuse(.blackhole): self = .blackhole
        case .refuse(.unreachable): self = .unreachable
        case .refuse(.prohibit): self = .prohibited
        // A route with an MTU of its own, too: only the kernel knows all of it.
        case .refuse, .kernel, .forward: self = .other
        }
    }
}

extension Ownership.Destination {
    /// The filter knows one VLAN for each destination.
    fileprivate init(_ adjacencies: ArraySlice<Snapshot.Adjacency>, _ vlans: Set<VLANID>) {
        guard let first = adjacencies.first, vlans.contains(first.vlan),
            adjacencies.allSatisfy({ $0.vlan == first.vlan })
        else {
            self = .kernel
            return
        }
        self.init(vlan: first.vlan, mtu: adjacencies.map(\.mtu).min() ?? 0)
    }
}
