// What decides about a forwarded packet, besides the firewall: a copy that is kept by the kernel's announcements.

import CLinux
import Packets
import SystemPackage

/// The links, addresses, neighbours, routes and rules of a network namespace. A value: what changes it are messages.
public struct KernelTables: Sendable {
    public private(set) var links: [UInt32: Link] = [:]
    public private(set) var addresses: Set<Address> = []
    /// How many IPv4 addresses each link has, if any.
    private var ipv4Addresses: [UInt32: Int] = [:]
    public private(set) var neighbors: [Neighbor.Key: Neighbor] = [:]
    public private(set) var rules: Set<RoutingRule> = []
    public private(set) var settings: [NetworkSettings.Key: NetworkSettings] = [:]
    public private(set) var routes = RouteTables()
    private var changes = Changes()

    public init() {}

    /// What is different since it was last asked.
    public struct Changes: Sendable {
        public fileprivate(set) var prefixes: [IPPrefix] = []
        public fileprivate(set) var neighbors: Set<Neighbor.Key> = []
        /// By index.
        public fileprivate(set) var links: Set<UInt32> = []
        public fileprivate(set) var addresses = false
        public fileprivate(set) var rules = false
        public fileprivate(set) var settings = false

        public var isEmpty: Bool {
            prefixes.isEmpty && neighbors.isEmpty && links.isEmpty && !addresses && !rules && !settings
        }
    }

    public mutating func takeChanges() -> Changes {
        var result = changes
        result.prefixes = routes.takeChangedPrefixes()
        changes = Changes()
        return result
    }

    /// What happens to packets with this prefix as their longest match; nil: there is no such route.
    public func decision(for prefix: IPPrefix) -> RouteTables.Decision? {
        routes.decision(for: prefix, state: linkState(prefix.family))
    }

    public func forEachDecision(_ family: IPFamily, _ body: (IPPrefix, RouteTables.Decision) -> Void) {
        routes.forEachDecision(family, state: linkState(family), body)
    }

    /// Whether routes are chosen by destination alone: without rules of an administrator's.
    public func areRulesDefault(_ family: IPFamily) -> Bool { RoutingRule.areDefault(rules, family) }

    /// What the kernel can do with next hops on a link. It looks at the tables as they are now.
    private func linkState(_ family: IPFamily) -> (UInt32) -> RouteTables.LinkState {
        // Not `self`: with it in hand, a change of the routes would copy all of them.
        let (links, settings, ipv4Addresses) = (links, settings, ipv4Addresses)
        return { index in
            guard let link = links[index], link.isUp else { return .unusable }
            if !link.hasCarrier {
                let ignoresLinkDown = [.link(index), .all].contains {
                    settings[.init(family, $0)]?.ignoresRoutesWithLinkDown ?? 0 != 0
                }
                if ignoresLinkDown { return .unusable }
            }
            return family == .v4 && ipv4Addresses[index] == nil ? .unnumbered : .usable
        }
    }

    // MARK: Announcements

    /// The multicast groups that `apply` understands, as a mask.
    static let groups =
        UInt32(
            RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_IFADDR
                | RTMGRP_IPV6_ROUTE)
        | [RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF, RTNLGRP_NEXTHOP].reduce(0) {
            $0 | 1 << ($1.rawValue - 1)
        }

    /// Takes over what an announcement says. Others change nothing.
    public mutating func apply(_ message: NetlinkMessage) {
        switch Int(message.type) {
        case RTM_NEWROUTE: if let route = Route(message) { routes.add(route, .init(rawValue: Int(message.flags))) }
        case RTM_DELROUTE: if let route = Route(message) { routes.remove(route) }
        case RTM_NEWNEIGH: if let neighbor = Neighbor(message) { set(neighbor) }
        case RTM_DELNEIGH: if let neighbor = Neighbor(message) { remove(neighbor.key) }
        case RTM_NEWLINK: if let link = Link(message) { set(link) }
        // A bridge tells of the ports that leave it in the same way.
        case RTM_DELLINK:
            if message.payload.first == UInt8(AF_UNSPEC), let index = message.payload.load(UInt32.self, at: 4) {
                removeLink(index)
            }
        case RTM_NEWADDR: if let address = Address(message) { add(address) }
        case RTM_DELADDR: if let address = Address(message) { remove(address) }
        case RTM_NEWRULE, RTM_DELRULE:
            guard let rule = RoutingRule(message) else { return }
            if Int(message.type) == RTM_NEWRULE { rules.insert(rule) } else { rules.remove(rule) }
            changes.rules = true
        case RTM_NEWNETCONF, RTM_DELNETCONF:
            guard let (key, new) = NetworkSettings.read(message) else { return }
            if Int(message.type) == RTM_NEWNETCONF {
                settings[key, default: NetworkSettings()].update(with: new)
            } else {
                settings[key] = nil
            }
            settingsChanged(key)
        case RTM_NEWNEXTHOP, RTM_DELNEXTHOP: routes.nextHopObjectsChanged()
        default: break
        }
    }

    private mutating func set(_ neighbor: Neighbor) {
        guard neighbors[neighbor.key] != neighbor else { return }
        neighbors[neighbor.key] = neighbor
        changes.neighbors.insert(neighbor.key)
    }

    private mutating func remove(_ key: Neighbor.Key) {
        if neighbors.removeValue(forKey: key) != nil { changes.neighbors.insert(key) }
    }

    private mutating func set(_ link: Link) {
        let before = links.updateValue(link, forKey: link.index)
        guard before != link else { return }
        changes.links.insert(link.index)
        guard before?.isUp != link.isUp || before?.hasCarrier != link.hasCarrier else { return }
        routes.linkUsabilityChanged(link.index)
        if !link.isUp || !link.hasCarrier { routes.linkLostCarrier(link.index) }
        if before?.isUp == true, !link.isUp {
            routes.linkWentDown(link.index, state: linkState(.v4))
        }
    }

    private mutating func removeLink(_ index: UInt32) {
        guard links.removeValue(forKey: index) != nil else { return }
        changes.links.insert(index)
        routes.linkUsabilityChanged(index)
        routes.linkIsGone(index)
        for key in neighbors.keys where key.linkIndex == index { remove(key) }
        for address in addresses where address.linkIndex == index { remove(address) }
        for family in IPFamily.allCases { settings[.init(family, .link(index))] = nil }
    }

    private mutating func add(_ address: Address) {
        guard addresses.insert(address).inserted else { return }
        changes.addresses = true
        guard address.value.address.isV4 else { return }
        ipv4Addresses[address.linkIndex, default: 0] += 1
        if ipv4Addresses[address.linkIndex] == 1 { routes.linkUsabilityChanged(address.linkIndex) }
    }

    private mutating func remove(_ address: Address) {
        guard addresses.remove(address) != nil else { return }
        changes.addresses = true
        guard case .v4(let value) = address.value.address else { return }
        if !addresses.contains(where: { $0.value.address == address.value.address }) { routes.addressIsGone(value) }
        let count = ipv4Addresses[address.linkIndex, default: 1] - 1
        ipv4Addresses[address.linkIndex] = count > 0 ? count : nil
        guard count <= 0 else { return }
        routes.linkUsabilityChanged(address.linkIndex)
        routes.linkLostIPv4(address.linkIndex, state: linkState(.v4))
    }

    private mutating func settingsChanged(_ key: NetworkSettings.Key) {
        changes.settings = true
        switch key.scope {
        case .link(let index): routes.linkUsabilityChanged(index)
        case .all: for index in links.keys { routes.linkUsabilityChanged(index) }
        case .default: break
        }
    }

    // MARK: Reading

    /// Reads everything anew; what is different counts as changed.
    mutating func read(_ socket: borrowing NetlinkSocket) throws(KernelError) {
        // What refers to something comes after it.
        let links = Dictionary(try socket.links().map { ($0.index, $0) }, uniquingKeysWith: { $1 })
        for link in links.values { set(link) }
        for index in self.links.keys where links[index] == nil { removeLink(index) }
        let settings = try socket.networkSettings()
        if settings != self.settings {
            self.settings = settings
            for key in settings.keys { settingsChanged(key) }
        }
        let addresses = Set(try socket.addresses())
        for address in addresses { add(address) }
        for address in self.addresses.subtracting(addresses) { remove(address) }
        let neighbors = Dictionary(try socket.neighbors().map { ($0.key, $0) }, uniquingKeysWith: { $1 })
        for neighbor in neighbors.values { set(neighbor) }
        for key in self.neighbors.keys where neighbors[key] == nil { remove(key) }
        let rules = Set(try socket.routingRules())
        if rules != self.rules {
            self.rules = rules
            changes.rules = true
        }
        try readRoutes(socket)
    }

    mutating func readRoutes(_ socket: borrowing NetlinkSocket) throws(KernelError) {
        for family in IPFamily.allCases {
            routes.beginReading(family)
            try socket.forEachRoute(family) {
                routes.add($0, .appends)
            } restart: {
                routes.beginReading(family)
            }
            routes.endReading(family)
        }
        routes.markFresh()
    }
}

/// Keeps `KernelTables` as the kernel has them.
public struct KernelMonitor: ~Copyable {
    public private(set) var tables: KernelTables
    private let announcements: NetlinkSocket
    private let requests: NetlinkSocket

    /// Of the calling thread's network namespace.
    public init() throws(KernelError) {
        // First the announcements, then the look: what changes in between is announced.
        let announcements = try NetlinkSocket(groups: KernelTables.groups)
        let requests = try NetlinkSocket()
        var tables = KernelTables()
        try tables.read(requests)
        self.tables = tables
        self.announcements = announcements
        self.requests = requests
    }

    /// Ready to be read where something has been announced, for `poll`.
    public var descriptor: Int32 { announcements.descriptor }

    /// Takes over all that the kernel has announced. Where it could not keep up, everything is read again.
    public mutating func update() throws(KernelError) {
        while announcements.wait(milliseconds: 0) {
            do {
                for message in try announcements.receive("read the kernel's announcements") { tables.apply(message) }
            } catch {
                switch error.errno {
                case .interrupted: continue
                case .noBufferSpace:
                    announcements.discardPending()
                    try tables.read(requests)
                default: throw error
                }
            }
        }
        if tables.routes.isStale { try tables.readRoutes(requests) }
    }

    public mutating func takeChanges() -> KernelTables.Changes { tables.takeChanges() }
}
