import Kernel
import Packets

/// What the kernel says now: everything that a plan looks at. A plain value, so that plans can be made without a kernel.
struct Host {
    let links: [Link]
    // There are thousands: what is asked for again and again is looked up.
    private let linksByName: [String: Link]
    private let linksByIndex: [UInt32: Link]
    var addresses: [Address]
    var routes: [Route]
    /// nil: no such parameter.
    var sysctl: (Sysctl) -> String?
    /// Interfaces that have parameters, with `all` and `default`.
    var configuredInterfaces: (IPFamily) -> [String]
    /// Of our table.
    var table: Table
    /// Whether the kernel has flow tables; asked only where one is wanted.
    var flowtables = Nftables.Availability.notPermitted
    /// Read only where rules of ours are in other firewalls' chains, or are to be; nil: they are not, or may not be looked at.
    var otherFirewalls: OtherFirewalls?
    /// What is on the interfaces that carry VLANs, by their index; looked at where there may be programs of ours.
    var trunks: [UInt32: Trunk]
    /// Whether a process keeps the gateways like their parents.
    var isFollowed = false
    /// Whether the fast path forwards.
    var hasFastPath = false
    /// Read only where a change may end some.
    var sessions = Sessions.notPermitted

    init(
        links: [Link], addresses: [Address], routes: [Route], sysctl: @escaping (Sysctl) -> String?,
        configuredInterfaces: @escaping (IPFamily) -> [String], table: Table, trunks: [UInt32: Trunk] = [:]
    ) {
        self.links = links
        linksByName = Dictionary(links.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        linksByIndex = Dictionary(links.map { ($0.index, $0) }, uniquingKeysWith: { first, _ in first })
        self.addresses = addresses
        self.routes = routes
        self.sysctl = sysctl
        self.configuredInterfaces = configuredInterfaces
        self.table = table
        self.trunks = trunks
    }

    enum Table: Hashable {
        case absent
        case present(fingerprint: String)
        /// Reading it needs CAP_NET_ADMIN.
        case unknown
        /// The kernel has no nf_tables.
        case unsupported(KernelError)
    }

    /// What connection tracking knows.
    enum Sessions: Hashable {
        case listed([Connection])
        /// Reading them needs CAP_NET_ADMIN.
        case notPermitted
        /// The kernel tracks connections, but has no netlink for them (CONFIG_NF_CT_NETLINK).
        case unsupported(KernelError)
    }

    /// What the `ebpf` driver has on a parent and its gateways.
    struct Trunk: Hashable {
        /// Where the programs go: on tcx hooks, or where the kernel has none as filters of clsact.
        var hook = ProgramHook.tcx
        var hasClsact = false
        /// Filters that are not ours.
        var foreignFilters = 0
        /// The id of our program on the parent.
        var program: UInt32?
        /// Interface index by VLAN, as the program has it.
        var gateways: [VLANID: UInt32] = [:]
        /// Gateways whose own program is there.
        var pushing: Set<UInt32> = []
        /// Looking at programs needs privileges.
        var isUnknown = false
    }

    enum ProgramHook: String, Hashable {
        case tcx, clsact

        /// Frames pass faster through tcx hooks, but each takes a grace period of the kernel's RCU (10 ms) to attach, and one to
        /// go with its interface. Where more gateways than this are connected at once, they get clsact.
        static let mostGatewaysOnTCX = 32

        /// The best that the kernel has.
        static func best(linkIndex: UInt32) throws(KernelError) -> ProgramHook {
            try TCX.programs(linkIndex: linkIndex, hook: .ingress) == nil ? .clsact : .tcx
        }
    }

    /// The place of our filters among others: behind any that an administrator has put first.
    static let filterPreference: UInt16 = 0x7672
    /// Of the fast path's filter: before ours.
    static let ownershipPreference = filterPreference - 1
    static let tableName = "vrouter"
    /// The link group of what we make, so that the kernel can delete thousands in one go.
    static let linkGroup: UInt32 = 0x7672

    func link(_ name: String) -> Link? { linksByName[name] }
    func link(index: UInt32) -> Link? { linksByIndex[index] }

    func addresses(of link: Link) -> [InterfaceAddress] {
        addresses.filter { $0.linkIndex == link.index }.map(\.value)
    }

    /// Found by its index, under whatever name, or by its name.
    func parent(_ name: String, in state: State?) -> Link? {
        state?.parents[name].flatMap { link(index: $0.index) } ?? link(name)
    }

    /// - Parameters:
    ///   - state: whose parents are looked at, where there may be programs of ours on them.
    ///   - wanted: whose parents are looked at, too.
    static func read(
        _ socket: borrowing NetlinkSocket, _ state: State?, _ wanted: Configuration? = nil
    ) throws(Failure) -> Host {
        let links = try kernel { () throws(KernelError) in try socket.links() }
        var host = Host(
            links: links,
            addresses: try kernel { () throws(KernelError) in try socket.addresses() },
            routes: try kernel { () throws(KernelError) in try socket.routes() },
            sysctl: { sysctl in (try? sysctl.read()) ?? nil },
            configuredInterfaces: { SmallFile.names(in: "/proc/sys/net/\($0 == .v4 ? "ipv4" : "ipv6")/conf") },
            table: readTable())
        if let wanted = wanted ?? state?.configuration, wanted.flowtable != .off {
            host.flowtables = Nftables.flowtableAvailability()
        }
        if let state, !state.accepts.isEmpty || state.configuration.coexists || wanted?.coexists == true {
            host.otherFirewalls = try OtherFirewalls.read()
        }
        let bringsPrograms = wanted.map { $0.fastPath != nil || $0.vlans.contains { $0.driver == .ebpf } } ?? false
        guard let state, state.looksAtTrunks || bringsPrograms else { return host }
        let names = Set(state.parents.keys).union(state.configuration.parents).union(wanted?.parents ?? [])
        let vlans = Set((state.configuration.vlans + (wanted?.vlans ?? [])).map(\.id)).union(state.links)
        for parent in names.compactMap({ host.parent($0, in: state) }) {
            host.trunks[parent.index] = try host.readTrunk(socket, parent, vlans)
        }
        do {
            host.isFollowed = try Follower.companion?.process() != nil
            host.hasFastPath = try FastPath.isForwarding()
        } catch {
            // Whoever may not look at them may not look at the trunks either, and takes all of it on trust.
            guard error.isPermission else { throw Failure(error) }
        }
        return host
    }

    static func readTable() -> Table {
        do {
            let fingerprint = try Nftables().fingerprint(table: tableName)
            return fingerprint.map { .present(fingerprint: $0) } ?? .absent
        } catch {
            if error.isPermission { return .unknown }
            return .unsupported(error)
        }
    }

    static func readSessions() -> Sessions {
        do {
            return .listed(try NetlinkSocket(.netfilter).connections())
        } catch {
            return error.isPermission ? .notPermitted : .unsupported(error)
        }
    }

    private func readTrunk(
        _ socket: borrowing NetlinkSocket, _ parent: Link, _ vlans: Set<VLANID>
    ) throws(Failure) -> Trunk {
        do {
            var trunk = Trunk()
            let onTCX = try TCX.programs(linkIndex: parent.index, hook: .ingress)
            trunk.hook = onTCX == nil ? .clsact : .tcx
            let clsact = Set(try socket.queueingDisciplines().filter { $0.kind == "clsact" }.map(\.linkIndex))
            trunk.hasClsact = clsact.contains(parent.index)
            trunk.program = onTCX?.first { $0.name == VLANProgram.popName }?.id
            for hook in trunk.hasClsact ? [FilterHook.ingress, .egress] : [] {
                for filter in try socket.filters(linkIndex: parent.index, hook: hook) {
                    // A filter is listed with its preference alone first, then each of its entries.
                    guard filter.handle != 0 else { continue }
                    if filter.preference == Self.filterPreference, filter.programName == VLANProgram.popName {
                        trunk.program = filter.programID
                    } else if filter.preference != Self.ownershipPreference || filter.programName != Ownership.takenName
                    {
                        trunk.foreignFilters += 1
                    }
                }
            }
            guard let program = trunk.program else { return trunk }
            let ports = try VLANPorts(ofProgram: program)
            for vlan in vlans {
                guard let gateway = try ports.port(vlan)?.gateway else { continue }
                trunk.gateways[vlan] = gateway
                guard linksByIndex[gateway] != nil else { continue }
                let names: [String?] =
                    clsact.contains(gateway)
                    ? try socket.filters(linkIndex: gateway, hook: .egress).map(\.programName)
                    : try TCX.programs(linkIndex: gateway, hook: .egress)?.map(\.name) ?? []
                if names.contains(VLANProgram.pushName) { trunk.pushing.insert(gateway) }
            }
            return trunk
        } catch {
            if error.isPermission {
                var trunk = Trunk()
                trunk.isUnknown = true
                return trunk
            }
            throw Failure(error)
        }
    }
}
