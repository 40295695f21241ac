import Firewall
import Kernel
import Packets

/// The ordered actions from what is to what is wanted. Going up, changing, going down and undoing are all the same: a plan from
/// the host as it is and what vrouter has done to it, to a configuration or to nothing.
struct Plan {
    private(set) var actions: [Action] = []
    /// To be written before the first action: all that may have been done at any moment from then on.
    var journal: State
    /// To be written after the last one; nil: vrouter holds nothing any more.
    var outcome: State?
    /// For a person.
    private(set) var notes: [String] = []

    /// - Parameters:
    ///   - wanted: nil: everything is to be put back.
    ///   - state: what vrouter has done so far, or an empty state.
    init(from state: State, on host: Host, to wanted: Configuration?) throws(Failure) {
        var planner = Planner(state: state, host: host, wanted: wanted)
        try planner.run()
        actions = planner.actions
        notes = planner.notes
        var journal = planner.held
        journal.phase = .applying
        if let wanted { journal.configuration = wanted }
        self.journal = journal
        outcome = wanted.map { _ in planner.outcome }
    }
}

/// The work of `Plan.init`. What is checked first is in PlanChecks.swift.
struct Planner {
    let state: State
    let host: Host
    let wanted: Configuration?
    var actions: [Action] = []
    var notes: [String] = []
    /// What is held at some moment of the change: what was held before, and what is taken on.
    var held: State
    /// What is held in the end.
    var outcome: State

    /// What carries VLANs, or did, by its name in the configuration.
    var parents: [String: Link] = [:]
    private var added: Set<VLANID> = []
    /// Interfaces that go, with all that is on them.
    private var deleted: Set<String> = []

    // There are thousands of each: what is asked for again and again is looked up.
    private let addressesByLink: [UInt32: [InterfaceAddress]]
    private let wantedAddresses: [VLANID: [InterfaceAddress]]

    init(state: State, host: Host, wanted: Configuration?) {
        self.state = state
        self.host = host
        self.wanted = wanted
        held = state
        outcome = state
        outcome.phase = .applied
        if let wanted { outcome.configuration = wanted }
        outcome.applied = wanted
        addressesByLink = Dictionary(grouping: host.addresses, by: \.linkIndex).mapValues { $0.map(\.value) }
        wantedAddresses = Dictionary(
            (wanted?.vlans ?? []).map { ($0.id, $0.addresses) }, uniquingKeysWith: { first, _ in first })
    }

    mutating func run() throws(Failure) {
        for name in Set(state.parents.keys).union(state.configuration.parents).union(wanted?.parents ?? []) {
            parents[name] = host.parent(name, in: state)
        }
        foreseeCarriers()
        if let wanted {
            try checkParents(wanted)
            try checkLinks(wanted)
            try checkAddresses(wanted)
            try checkMTUs(wanted)
            try checkRoutes(wanted)
        }
        let dropped = droppedVLANs()
        var flowtable: [String]?
        var isFlowtableLate = false
        if wanted == nil, state.startedFollower, host.isFollowed { actions.append(.stopFollower) }

        restoreUnwantedSysctls()
        // Our own rules are there before these, and until after them.
        if wanted == nil { planAccepts() }
        if let wanted {
            flowtable = try flowtableInterfaces(wanted)
            // It takes only interfaces that are there, and comes when all are.
            let isComplete = dropped.isEmpty && flowtable?.allSatisfy { host.link($0) != nil } != false
            isFlowtableLate = flowtable != nil && !isComplete
            // While interfaces come and go, the rules name all of them: at no moment is one of them without.
            try planRuleset(
                wanted, alsoFor: dropped, again: !dropped.isEmpty, flowtable: isFlowtableLate ? nil : flowtable)
            planAccepts()
            let carriers = wanted.carriers
            for name in wanted.parents where !carriers.contains(name) { prepareParent(name, wanted) }
            addLinks(wanted, wanted.vlans.filter { $0.outer == nil })
            for name in wanted.parents where carriers.contains(name) { prepareParent(name, wanted) }
            addLinks(wanted, wanted.vlans.filter { $0.outer != nil })
        }
        setMTUs()
        deleteRoutes()
        changeAddresses(dropped)
        if let wanted {
            connect(wanted)
            setGatewaySysctls(wanted)
            raise(wanted)
            addRoutes(wanted)
            setForwarding(wanted)
            startFollower()
        }
        remove(dropped)
        if let wanted {
            if !dropped.isEmpty || isFlowtableLate {
                try planRuleset(wanted, alsoFor: [], again: true, flowtable: flowtable)
            }
        } else {
            deleteTable()
        }
        for name in state.parents.keys.sorted() {
            if wanted?.parents.contains(name) != true {
                releaseParent(name)
            } else if let wanted, !needsHook(name, wanted) {
                releaseHook(name)
            }
        }
        planFastPath()
        try endSessions()
    }

    /// The last of all: a session that has ended cannot be put back.
    private mutating func endSessions() throws(Failure) {
        guard let wanted, let sessions = try EndedSessions(from: state.applied, to: wanted, on: host) else { return }
        switch host.sessions {
        case .listed(let connections): actions.append(.endSessions(sessions.seeing(connections)))
        case .notPermitted: actions.append(.endSessions(sessions))
        case .unsupported(let error):
            notes.append("sessions that began before go on, also where they are denied now: \(error)")
        }
    }

    /// It ends before anything changes and begins when all is in place: meanwhile the kernel forwards.
    private mutating func planFastPath() {
        let isWanted = wanted?.fastPath != nil
        let runs = host.hasFastPath
        let changes = !actions.isEmpty || wanted?.fastPath != state.applied?.fastPath
        if state.startedFastPath, !isWanted || runs && changes {
            let parent = state.configuration.parent
            actions.insert(.stopFastPath(parent: parents[parent]?.name ?? parent), at: 0)
            outcome.startedFastPath = false
            if isWanted { startFastPath() }
        } else if let wanted, isWanted, !runs, !isTakenOnTrust(wanted.parent) {
            startFastPath()
        }
    }

    private mutating func startFastPath() {
        actions.append(.startFastPath)
        take { $0.startedFastPath = true }
    }

    // MARK: What goes

    /// Whether it is the interface that we made for this VLAN: by our own record, and still of its kind.
    func isOurs(_ link: Link, _ id: VLANID) -> Bool {
        guard state.links.contains(id) else { return false }
        switch state.driver(of: id) {
        case .ieee8021q:
            return link.vlan?.id == id.rawValue && link.lowerIndex == parent(of: id)?.index && !link.isLowerElsewhere
        case .ebpf:
            // Also when the parent has gone: the pair stays.
            let peer = link.lowerIndex.flatMap { host.link(index: $0) }
            return link.kind == "veth" && peer.map { Action.VethGateway.isPeerName($0.name, id) } ?? false
        }
    }

    /// What carries the VLAN's frames; nil: it has gone.
    private func parent(of id: VLANID) -> Link? { parents[parentName(of: id)] }

    private func parentName(of id: VLANID) -> String {
        guard let wanted, let vlan = wanted.vlan(id) else { return state.parent(of: id) }
        return wanted.parent(of: vlan)
    }

    /// With the interface that each is on, carriers last.
    private func byParent(_ vlans: [VLANID]) -> [(parent: Link, vlans: [VLANID])] {
        let groups = Dictionary(grouping: vlans, by: parentName(of:)).sorted { $0.key < $1.key }
        let carriers = wanted?.carriers ?? []
        return (groups.filter { !carriers.contains($0.key) } + groups.filter { carriers.contains($0.key) })
            .compactMap { name, vlans in parents[name].map { ($0, vlans) } }
    }

    /// Carriers that are yet to be made, as they will be.
    private mutating func foreseeCarriers() {
        for id in Set((wanted?.vlans ?? []).compactMap(\.outer)) {
            let name = interfaceName(id)
            guard parents[name] == nil, let parent = parent(of: id) else { continue }
            parents[name] = Link(foreseen: name, on: parent, mtu: wanted?.vlan(id)?.mtu ?? parent.mtu)
        }
    }

    private func trunk(_ parent: Link?) -> Host.Trunk {
        if let trunk = parent.flatMap({ host.trunks[$0.index] }) { return trunk }
        // One that is yet to be made has the hooks that all of this kernel's interfaces have.
        var trunk = Host.Trunk()
        trunk.hook = host.trunks.values.first?.hook ?? trunk.hook
        return trunk
    }

    /// The interface that we made for this VLAN, also under another name.
    func ourLink(_ id: VLANID) -> Link? {
        guard state.links.contains(id) else { return nil }
        if let link = host.link(interfaceName(id)), isOurs(link, id) { return link }
        return host.links.first { isOurs($0, id) }
    }

    /// VLANs of which anything is held and nothing is wanted.
    private func droppedVLANs() -> [VLANID] {
        var known = state.links.union(state.addresses.keys)
        if state.table != nil { known.formUnion(state.configuration.vlans.map(\.id)) }
        return known.subtracting(wanted?.vlans.map(\.id) ?? []).sorted()
    }

    /// As it is wanted, or as it was.
    func interfaceName(_ id: VLANID) -> String {
        guard let wanted, wanted.vlan(id) != nil else { return state.interfaceName(id) }
        return wanted.interfaceName(id)
    }

    private func isWanted(_ purpose: State.Purpose) -> Bool {
        guard let wanted else { return false }
        return switch purpose {
        case .forwardingIPv4: wanted.usesIPv4
        case .forwardingIPv6: wanted.usesIPv6
        case .gateway(let id): wantedAddresses[id] != nil
        }
    }

    private mutating func restoreUnwantedSysctls() {
        // The kernel's switch for all interfaces writes to each of them; each of them is restored behind it.
        let unwanted = state.sysctls.filter { !isWanted($0.purpose) }
        let switches = Set([Self.forwardIPv4, Self.forwardIPv6])
        let switched = unwanted.contains { switches.contains($0.sysctl) && host.sysctl($0.sysctl) != $0.value }
        let settings = unwanted.compactMap { former -> Action.Setting? in
            guard let now = host.sysctl(former.sysctl) else { return nil }
            // What the switch is about to change is written again.
            return now != former.value || switched && !switches.contains(former.sysctl)
                ? Action.Setting(sysctl: former.sysctl, value: former.value, mayBeGone: true) : nil
        }
        if !settings.isEmpty { actions.append(.setSysctls(settings)) }
        outcome.sysctls = outcome.sysctls.filter { isWanted($0.purpose) }
    }

    private mutating func remove(_ dropped: [VLANID]) {
        let doomed = dropped.compactMap(ourLink).map(\.name)
        deleted = Set(doomed)
        for (parent, vlans) in byParent(dropped) {
            let trunk = trunk(parent)
            let connected = vlans.filter { trunk.gateways[$0] != nil }
            // Where nobody is left, the program goes as a whole.
            let isLeft = wanted?.parents.contains { parents[$0]?.index == parent.index } ?? false
            if !connected.isEmpty, isLeft { actions.append(.disconnect(connected, parent: parent.name, trunk.hook)) }
        }
        let lowered = dropped.map(interfaceName).filter { state.raised.contains($0) && host.link($0)?.isUp == true }
        if !lowered.isEmpty { actions.append(.lower(lowered)) }
        if !doomed.isEmpty { actions.append(.deleteLinks(doomed)) }
        outcome.links.subtract(dropped)
        outcome.raised.subtract(dropped.map(interfaceName))
        for id in dropped { outcome.addresses[id] = nil }
    }

    private mutating func deleteTable() {
        guard state.table != nil, case .present = host.table else { return }
        actions.append(.deleteTable)
    }

    private mutating func releaseParent(_ name: String) {
        defer {
            outcome.parents[name] = nil
            outcome.raised.remove(parents[name]?.name ?? name)
        }
        guard let parent = parents[name], let done = state.parents[name], !deleted.contains(parent.name) else { return }
        if done.attachedProgram, trunk(parent).program != nil {
            actions.append(.detachProgram(parent: parent.name, trunk(parent).hook))
        }
        releaseHook(name)
        if done.madePromiscuous, parent.isPromiscuous { actions.append(.setPromiscuous(parent.name, false)) }
        if state.raised.contains(parent.name), parent.isUp { actions.append(.lower([parent.name])) }
    }

    private mutating func releaseHook(_ name: String) {
        guard let parent = parents[name], state.parents[name]?.addedClsact == true, trunk(parent).hasClsact else {
            return
        }
        if trunk(parent).foreignFilters == 0 {
            actions.append(.deleteClsact(parent.name))
            outcome.parents[name]?.addedClsact = false
        } else {
            notes.append("the clsact hook of \(parent.name) stays: others have put filters on it")
        }
    }

    // MARK: What comes

    /// Whether programs of ours go on this parent.
    private func needsHook(_ name: String, _ wanted: Configuration) -> Bool {
        carriesByProgram(name, wanted) || wanted.fastPath != nil && name == wanted.parent
    }

    /// Whether a program of ours takes frames of this parent to their gateways.
    private func carriesByProgram(_ name: String, _ wanted: Configuration) -> Bool {
        wanted.vlans.contains { driver(of: $0) == .ebpf && wanted.parent(of: $0) == name }
    }

    private func driver(of vlan: Configuration.VLAN) -> Driver { vlan.driver ?? state.driver }

    /// From now on, and in the end.
    mutating func take(_ change: (inout State) -> Void) {
        change(&held)
        change(&outcome)
    }

    private mutating func planRuleset(
        _ wanted: Configuration, alsoFor dropped: [VLANID], again: Bool, flowtable: [String]?
    ) throws(Failure) {
        var named = wanted
        named.vlans += dropped.map { id in
            Configuration.VLAN(
                id: id, addresses: [], name: interfaceName(id), zone: state.vlan(id)?.zone ?? .vlans)
        }
        let ruleset = Ruleset(try named.policy(), flowtable: flowtable)
        let text = ruleset.nftText
        if state.table == nil, case .present = host.table {
            throw Failure(
                .usage, "there is a table inet \(Host.tableName) that vrouter has not made",
                remedy: "see whose it is (nft list table inet \(Host.tableName)); "
                    + "if nobody needs it: nft delete table inet \(Host.tableName)")
        }
        let isThere =
            switch host.table {
            case .absent: false
            case .present(let fingerprint): state.table?.fingerprint == fingerprint
            case .unknown: state.table != nil && state.phase == .applied
            case .unsupported(let error): throw Failure(error)
            }
        if again || state.table?.ruleset != text || !isThere { actions.append(.commit(ruleset)) }
        held.table = state.table ?? State.Table(ruleset: text, fingerprint: nil)
        if outcome.table?.ruleset != text { outcome.table = State.Table(ruleset: text, fingerprint: nil) }
    }

    /// The interfaces of the flow table, which are there or will be; nil: there is to be none.
    private mutating func flowtableInterfaces(_ wanted: Configuration) throws(Failure) -> [String]? {
        let isUsed =
            switch (wanted.flowtable, host.flowtables) {
            case (.off, _), (.auto, .missing): false
            case (.auto, .available), (.on, .available), (.on, .notPermitted): true
            case (.auto, .notPermitted): state.usesFlowtable
            case (.on, .missing(let error)):
                throw Failure(
                    .unavailable, "--flowtable on: this kernel has no flow tables: \(error)",
                    remedy:
                        "--flowtable auto does without; or load nf_flow_table_inet and nft_flow_offload, or install a kernel that has them"
                )
            }
        outcome.usesFlowtable = isUsed
        let gateways = Set(wanted.vlans.map { interfaceName($0.id) })
        return isUsed ? wanted.flowtableInterfaces.filter { gateways.contains($0) || host.link($0) != nil } : nil
    }

    /// Without privileges nobody sees the programs; where a change was completed, they are taken to be there.
    private func isTakenOnTrust(_ name: String) -> Bool {
        trunk(parents[name]).isUnknown && state.phase == .applied && state.parents[name]?.attachedProgram == true
    }

    private mutating func prepareParent(_ name: String, _ wanted: Configuration) {
        guard let parent = parents[name] else { return }
        take { $0.parents[name, default: State.Parent(index: parent.index)].index = parent.index }
        let isCarrier = wanted.carriers.contains(name)
        if !isCarrier, !parent.isUp { raiseAndHold([parent.name]) }
        guard !isTakenOnTrust(name) else { return }
        let trunk = trunk(parent)
        if trunk.hook == .clsact, !trunk.hasClsact, needsHook(name, wanted) {
            actions.append(.addClsact(parent.name))
            take { $0.parents[name]?.addedClsact = true }
        }
        guard carriesByProgram(name, wanted) else { return }
        // The hardware filters by VLAN id and by address; without VLAN devices nobody tells it which ones are wanted.
        if !parent.isPromiscuous, !isCarrier {
            actions.append(.setPromiscuous(parent.name, true))
            take { $0.parents[name]?.madePromiscuous = true }
        }
        if trunk.program == nil {
            actions.append(.attachProgram(parent: parent.name, trunk.hook))
            take { $0.parents[name]?.attachedProgram = true }
        }
    }

    private mutating func raiseAndHold(_ names: [String]) {
        actions.append(.raise(names))
        take { $0.raised.formUnion(names) }
    }

    private mutating func addLinks(_ wanted: Configuration, _ vlans: [Configuration.VLAN]) {
        let added = Set(vlans.map(\.id).filter { host.link(wanted.interfaceName($0)) == nil })
        self.added.formUnion(added)
        guard !added.isEmpty else { return }
        take { $0.links.formUnion(added) }
        func made(by driver: Driver) -> [VLANID] {
            vlans.filter { added.contains($0.id) && self.driver(of: $0) == driver }.map(\.id).sorted()
        }
        let devices = made(by: .ieee8021q)
        if !devices.isEmpty {
            actions.append(
                .addVLANs(
                    devices.map {
                        let parent = parentName(of: $0)
                        return Action.VLANDevice(
                            name: wanted.interfaceName($0), parent: parents[parent]?.name ?? parent, id: $0)
                    }))
        }
        let pairs = made(by: .ebpf)
        if !pairs.isEmpty {
            actions.append(
                .addVethGateways(pairs.compactMap { id in parent(of: id).map { gateway(wanted, id, $0) } }))
        }
    }

    private func gateway(_ wanted: Configuration, _ id: VLANID, _ parent: Link) -> Action.VethGateway {
        Action.VethGateway(name: wanted.interfaceName(id), id: id, parent: parent, mtu: wanted.vlan(id)?.mtu)
    }

    private mutating func connect(_ wanted: Configuration) {
        for (parent, vlans) in byParent(wanted.vlans.filter { driver(of: $0) == .ebpf }.map(\.id)) {
            let trunk = trunk(parent)
            let isTakenOnTrust = vlans.first.map { self.isTakenOnTrust(parentName(of: $0)) } ?? false
            let missing = vlans.filter { id in
                if added.contains(id) { return true }
                if isTakenOnTrust { return false }
                if trunk.program == nil { return held.links.contains(id) }
                guard let link = host.link(wanted.interfaceName(id)), isOurs(link, id) else { return false }
                return trunk.gateways[id] != link.index || !trunk.pushing.contains(link.index)
            }
            guard !missing.isEmpty else { continue }
            let hook = missing.count > Host.ProgramHook.mostGatewaysOnTCX ? .clsact : trunk.hook
            actions.append(.connect(missing.map { gateway(wanted, $0, parent) }, parent: parent.name, hook))
        }
    }

    private mutating func startFollower() {
        guard let wanted, wanted.vlans.contains(where: { driver(of: $0) == .ebpf }), !host.isFollowed,
            !wanted.parents.contains(where: isTakenOnTrust)
        else { return }
        actions.append(.startFollower)
        take { $0.startedFollower = true }
    }

    private mutating func changeAddresses(_ dropped: [VLANID]) {
        var changes: [Action.AddressChange] = []
        for id in state.addresses.keys.sorted() {
            let name = interfaceName(id)
            guard let link = host.link(name) else { continue }
            // Addresses of an interface that goes go with it.
            if wantedAddresses[id] == nil, isOurs(link, id) { continue }
            let present = addressesByLink[link.index] ?? []
            let kept = wantedAddresses[id] ?? []
            let doomed = (state.addresses[id] ?? []).filter { !kept.contains($0) && present.contains($0) }
            changes += doomed.map { Action.AddressChange(verb: .delete, address: $0, link: name) }
            // With the first IPv4 address of a subnet go its later ones (promote_secondaries is off): they come back at once.
            let prefixes = Set(doomed.map(\.prefix).filter { $0.family == .v4 })
            let secondaries = present.filter { prefixes.contains($0.prefix) && !doomed.contains($0) }
            changes += secondaries.map { Action.AddressChange(verb: .restore, address: $0, link: name) }
        }
        for vlan in wanted?.vlans ?? [] {
            let name = interfaceName(vlan.id)
            let present = host.link(name).flatMap { addressesByLink[$0.index] } ?? []
            let missing = vlan.addresses.filter { !present.contains($0) }
            changes += missing.map { Action.AddressChange(verb: .add, address: $0, link: name) }
            let before = state.addresses[vlan.id] ?? []
            let ours = vlan.addresses.filter { missing.contains($0) || before.contains($0) }
            held.addresses[vlan.id] = before + ours.filter { !before.contains($0) }
            outcome.addresses[vlan.id] = ours
        }
        if !changes.isEmpty { actions.append(.changeAddresses(changes)) }
    }

    private mutating func setMTUs() {
        var changes: [Action.MTUChange] = []
        func set(_ mtu: UInt32, _ name: String, now: UInt32) {
            if now != mtu { changes.append(Action.MTUChange(link: name, mtu: mtu)) }
        }
        for vlan in wanted?.vlans ?? [] where vlan.mtu != nil || state.mtus[vlan.id] != nil || hadMTU(vlan.id) {
            let name = interfaceName(vlan.id)
            guard !added.contains(vlan.id) else {
                // A veth is made with it, a VLAN device starts with its parent's.
                if let mtu = vlan.mtu, let parent = parent(of: vlan.id), driver(of: vlan) == .ieee8021q {
                    set(mtu, name, now: parent.mtu)
                }
                continue
            }
            guard let link = host.link(name) else { continue }
            if let mtu = vlan.mtu {
                set(mtu, name, now: link.mtu)
                if !isOurs(link, vlan.id), link.mtu != mtu, state.mtus[vlan.id] == nil {
                    take { $0.mtus[vlan.id] = link.mtu }
                }
            } else if let former = state.mtus[vlan.id] {
                set(former, name, now: link.mtu)
            } else if let parent = parent(of: vlan.id), isOurs(link, vlan.id), hadMTU(vlan.id) {
                set(parent.mtu, name, now: link.mtu)
            }
        }
        for (id, former) in state.mtus.sorted(by: { $0.key < $1.key }) where wantedAddresses[id] == nil {
            if let link = host.link(interfaceName(id)) { set(former, link.name, now: link.mtu) }
        }
        outcome.mtus = outcome.mtus.filter { wanted?.vlan($0.key)?.mtu != nil }
        if !changes.isEmpty { actions.append(.setMTUs(changes)) }
    }

    /// Whether an MTU of its own was given to it.
    private func hadMTU(_ id: VLANID) -> Bool {
        state.applied?.vlan(id)?.mtu != nil || state.configuration.vlan(id)?.mtu != nil
    }

    private mutating func deleteRoutes() {
        let doomed = state.routes.subtracting(wanted?.routes ?? []).filter(isThere).sorted { "\($0)" < "\($1)" }
        if !doomed.isEmpty { actions.append(.changeRoutes(doomed.map { .init(verb: .delete, route: $0) })) }
        outcome.routes.formIntersection(wanted?.routes ?? [])
    }

    private mutating func addRoutes(_ wanted: Configuration) {
        // Where addresses and interfaces change, a route may go with them that is there now.
        let mayGo = !actions.isEmpty
        var changes: [Action.RouteChange] = []
        for route in wanted.routes {
            let isThere = isThere(route)
            guard state.routes.contains(route) || !isThere else { continue }
            take { $0.routes.insert(route) }
            if !isThere {
                changes.append(.init(verb: .add, route: route))
            } else if mayGo {
                changes.append(.init(verb: .restore, route: route))
            }
        }
        if !changes.isEmpty { actions.append(.changeRoutes(changes)) }
    }

    private mutating func setGatewaySysctls(_ wanted: Configuration) {
        var settings: [Action.Setting] = []
        // Where forwarding is switched on below, that reaches every interface there is.
        let isForwardingIPv4 = host.sysctl(Self.forwardIPv4) == "1"
        let isForwardingIPv6 = host.sysctl(Self.forwardIPv6) == "1"
        // What a new interface starts with.
        func initial(_ path: String) -> Int32? { host.sysctl(Sysctl("net/\(path)")).flatMap { Int32($0) } }
        let initialARPIgnore = initial("ipv4/conf/default/arp_ignore")
        let initialForwardingIPv4 = initial("ipv4/conf/default/forwarding")
        let initialForwardingIPv6 = initial("ipv6/conf/default/forwarding")
        for vlan in wanted.vlans {
            let name = wanted.interfaceName(vlan.id)
            let isNew = added.contains(vlan.id)
            let link = isNew ? nil : host.link(name)
            func need(_ path: String, now: Int32?) {
                guard let now, now != 1 else { return }
                let sysctl = Sysctl("net/\(path)")
                settings.append(Action.Setting(sysctl: sysctl, value: "1"))
                if !held.links.contains(vlan.id) { hold(sysctl, "\(now)", .gateway(vlan.id)) }
            }
            if vlan.addresses.contains(where: \.address.isV4) {
                need("ipv4/conf/\(name)/arp_ignore", now: isNew ? initialARPIgnore : link?.ipv4?.arpIgnore)
                if isForwardingIPv4 {
                    need("ipv4/conf/\(name)/forwarding", now: isNew ? initialForwardingIPv4 : link?.ipv4?.forwarding)
                }
            }
            if isForwardingIPv6, vlan.addresses.contains(where: { !$0.address.isV4 }) {
                need("ipv6/conf/\(name)/forwarding", now: isNew ? initialForwardingIPv6 : link?.ipv6Forwarding)
            }
        }
        if !settings.isEmpty { actions.append(.setSysctls(settings)) }
    }

    private mutating func raise(_ wanted: Configuration) {
        // Carriers first: none comes up on one that is down.
        let vlans = wanted.vlans.filter { $0.outer == nil } + wanted.vlans.filter { $0.outer != nil }
        let down = vlans.map(\.id).filter { host.link(wanted.interfaceName($0))?.isUp != true }
        guard !down.isEmpty else { return }
        actions.append(.raise(down.map(wanted.interfaceName)))
        let adopted = down.filter { !held.links.contains($0) }.map(wanted.interfaceName)
        take { $0.raised.formUnion(adopted) }
    }

    private static let forwardIPv4 = Sysctl("net/ipv4/ip_forward")
    private static let forwardIPv6 = Sysctl("net/ipv6/conf/all/forwarding")

    private mutating func setForwarding(_ wanted: Configuration) {
        var settings: [Action.Setting] = []
        func need(_ isNeeded: Bool, _ sysctl: Sysctl) -> Bool { isNeeded && host.sysctl(sysctl) != "1" }
        if need(wanted.usesIPv4, Self.forwardIPv4) {
            settings.append(Action.Setting(sysctl: Self.forwardIPv4, value: "1"))
            holdSwitch(Self.forwardIPv4, .v4, .forwardingIPv4)
            // Linux sets this to the opposite of ip_forward (devinet.c, inet_forward_change).
            let redirects = Sysctl("net/ipv4/conf/all/accept_redirects")
            if let value = host.sysctl(redirects) { hold(redirects, value, .forwardingIPv4) }
        }
        if need(wanted.usesIPv6, Self.forwardIPv6) {
            // A forwarding host takes no more router advertisements (ip-sysctl: accept_ra): it would lose its own default route.
            for link in routerAdvertisementLinks() {
                let accept = Sysctl("net/ipv6/conf/\(link)/accept_ra")
                guard host.sysctl(accept) == "1" else { continue }
                settings.append(Action.Setting(sysctl: accept, value: "2"))
                hold(accept, "1", .forwardingIPv6)
            }
            settings.append(Action.Setting(sysctl: Self.forwardIPv6, value: "1"))
            holdSwitch(Self.forwardIPv6, .v6, .forwardingIPv6)
        }
        if !settings.isEmpty { actions.append(.setSysctls(settings)) }
    }

    /// Interfaces over which the host has learned a default route.
    private func routerAdvertisementLinks() -> [String] {
        let learned = host.routes.filter { $0.isDefault && $0.isFromRouterAdvertisement }
        return Set(learned.compactMap { $0.linkIndex.flatMap { host.link(index: $0) }?.name }).sorted()
    }

    /// The switch itself, and what it will do to each interface that was there before.
    private mutating func holdSwitch(_ sysctl: Sysctl, _ family: IPFamily, _ purpose: State.Purpose) {
        if let value = host.sysctl(sysctl) { hold(sysctl, value, purpose) }
        let ours = Set(held.links.map(interfaceName))
        for name in host.configuredInterfaces(family) where name != "all" && !ours.contains(name) {
            let each = Sysctl("net/\(family == .v4 ? "ipv4" : "ipv6")/conf/\(name)/forwarding")
            if let value = host.sysctl(each) { hold(each, value, purpose) }
        }
    }

    /// The first value that we found is the one to restore, whatever it was when we came again.
    private mutating func hold(_ sysctl: Sysctl, _ value: String, _ purpose: State.Purpose) {
        guard !held.sysctls.contains(where: { $0.sysctl == sysctl }) else { return }
        let former = State.FormerValue(sysctl: sysctl, value: value, purpose: purpose)
        take { $0.sysctls.append(former) }
    }
}

extension State {
    /// Whether nothing of the host has been changed.
    var isEmpty: Bool {
        links.isEmpty && addresses.isEmpty && mtus.isEmpty && routes.isEmpty && raised.isEmpty && sysctls.isEmpty
            && table == nil && accepts.isEmpty && !startedFollower && !startedFastPath
            && parents.values.allSatisfy { $0 == Parent(index: $0.index) }
    }
}
