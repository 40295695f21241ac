// A copy of the kernel's routing tables, kept by its announcements, and what it means for forwarding.
//
// It does to its copy what the kernel does to the original (net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c), since the kernel announces
// less than it does.

import CLinux
import Packets

/// The routes of all tables of a network namespace. A value: what changes it are messages, from the kernel or from a test.
public struct RouteTables: Sendable {
    private var properties = PropertyPool()
    private var v4 = FamilyTables<UInt32>()
    private var v6 = FamilyTables<UInt128>()
    /// Whose state has changed since the last look.
    private var changedLinks: Set<UInt32> = []

    /// Whether something happened of which the kernel does not say what it did to the routes: they are to be read again.
    private(set) var isStale = false

    public init() {}

    /// Of all tables.
    public var count: Int { v4.count + v6.count }

    /// Every route, in the order of the kernel within one prefix of a table.
    public var all: [Route] {
        v4.routes(properties) { .v4(IPv4Address($0)) } + v6.routes(properties) { .v6(IPv6Address($0)) }
    }

    // MARK: Changes

    /// What a message about a route says beside the route.
    struct Change: OptionSet {
        let rawValue: Int
        static let replaces = Change(rawValue: Int(NLM_F_REPLACE))
        static let appends = Change(rawValue: Int(NLM_F_APPEND))
    }

    mutating func add(_ route: Route, _ change: Change) {
        switch route.destination.network {
        case .v4(let address):
            v4.change(route.table, address.rawValue, route.destination.length, &properties) { chain, properties in
                chain.addIPv4(Entry(route, &properties), change, &properties)
            }
        case .v6(let address):
            v6.change(route.table, address.rawValue, route.destination.length, &properties) { chain, properties in
                chain.addIPv6(Entry(route, &properties), change, &properties)
            }
        }
    }

    mutating func remove(_ route: Route) {
        switch route.destination.network {
        case .v4(let address):
            v4.change(route.table, address.rawValue, route.destination.length, &properties) { chain, properties in
                chain.remove(Entry(route, &properties), &properties)
            }
        case .v6(let address):
            v6.change(route.table, address.rawValue, route.destination.length, &properties) { chain, properties in
                chain.removeIPv6(Entry(route, &properties), &properties)
            }
        }
    }

    /// What a link can do for the next hops on it.
    enum LinkState {
        case usable, unusable
        /// It has no IPv4 address. What routes were there when it lost the last one are dead, those that came later are not.
        case unnumbered
    }

    /// IPv4 routes that the kernel forgets when the link goes down, without a word: those that have no other way (fib_sync_down_dev).
    mutating func linkWentDown(_ index: UInt32, state: (UInt32) -> LinkState) {
        dropIPv4 { route in
            // Nothing is sent for addresses of the host's own.
            route.scope != UInt8(RT_SCOPE_HOST.rawValue) && route.nextHops.contains { $0.linkIndex == index }
                && route.nextHops.allSatisfy { $0.linkIndex == index || state($0.linkIndex) == .unusable }
        }
        noteUnnumbered(besides: index, state)
    }

    /// The same when it loses its last IPv4 address, and also for addresses (fib_disable_ip).
    mutating func linkLostIPv4(_ index: UInt32, state: (UInt32) -> LinkState) {
        dropIPv4 { route in
            route.nextHops.contains { $0.linkIndex == index }
                && route.nextHops.allSatisfy { $0.linkIndex == index || state($0.linkIndex) == .unusable }
        }
        noteUnnumbered(besides: index, state)
    }

    private mutating func noteUnnumbered(besides index: UInt32, _ state: (UInt32) -> LinkState) {
        let isUnclear = properties.contains { route in
            route.nextHops.count > 1 && route.nextHops.contains { $0.linkIndex == index }
                && route.nextHops.contains { $0.linkIndex != index && state($0.linkIndex) == .unnumbered }
        }
        if isUnclear { isStale = true }
    }

    /// When it goes, they go with any of their ways.
    mutating func linkIsGone(_ index: UInt32) { dropIPv4 { $0.nextHops.contains { $0.linkIndex == index } } }

    /// IPv4 routes of the main table go with the source address that they prefer (fib_sync_down_addr).
    mutating func addressIsGone(_ address: IPv4Address) {
        dropIPv4(table: Route.mainTable) { $0.preferredSource == address }
        // Other tables' routes: it depends on the kernel's version.
        if properties.contains(where: { $0.preferredSource == address }) { isStale = true }
    }

    /// Next hop objects end with the carrier of their link, and IPv4 routes with them, without a word (nexthop_flush_dev).
    mutating func linkLostCarrier(_ index: UInt32) {
        dropIPv4 { route in
            route.nextHopID != nil && !route.nextHops.isEmpty && route.nextHops.allSatisfy { $0.linkIndex == index }
        }
        // A group goes on without it.
        if properties.contains(where: { route in
            route.nextHopID != nil && route.nextHops.contains { $0.linkIndex == index }
        }) {
            isStale = true
        }
    }

    /// The kernel does not say what a changed next hop object does to the routes that use it.
    mutating func nextHopObjectsChanged() {
        if properties.contains(where: { $0.nextHopID != nil }) { isStale = true }
    }

    private mutating func dropIPv4(table: UInt32? = nil, where isDead: (Route.Properties) -> Bool) {
        let dead = properties.identifiers(where: isDead)
        if !dead.isEmpty { v4.drop(dead, table: table, &properties) }
    }

    /// Between these two every route of the family is added again; what is not, is gone.
    mutating func beginReading(_ family: IPFamily) {
        if family == .v4 { v4.beginReading(&properties) } else { v6.beginReading(&properties) }
    }

    mutating func endReading(_ family: IPFamily) {
        if family == .v4 { v4.endReading(&properties) } else { v6.endReading(&properties) }
    }

    mutating func markFresh() { isStale = false }

    // MARK: What it means

    /// What happens to a packet whose destination has this prefix as its longest match.
    public enum Decision: Hashable, Sendable {
        /// It leaves by one of these, each by its weight.
        case forward([Route.NextHop], mtu: UInt32?)
        /// It is for the host itself, or for more than one.
        case local
        /// It is for all hosts of a link.
        case broadcast
        /// It is not forwarded: blackhole, unreachable, prohibit.
        case refuse(Route.Kind)
        /// Only the kernel can tell.
        case kernel
    }

    /// What the three tables that the default rules ask, in their order, say about a prefix; nil: nothing.
    ///
    /// - Parameter state: of the links.
    func decision(for prefix: IPPrefix, state: (UInt32) -> LinkState) -> Decision? {
        switch prefix.network {
        case .v4(let address): v4.decision(address.rawValue, prefix.length, properties, state)
        case .v6(let address): v6.decision(address.rawValue, prefix.length, properties, state)
        }
    }

    /// Every prefix of these tables with its decision.
    func forEachDecision(
        _ family: IPFamily, state: (UInt32) -> LinkState, _ body: (IPPrefix, Decision) -> Void
    ) {
        switch family {
        case .v4:
            v4.forEachPrefix { address, length in
                guard let decision = v4.decision(address, length, properties, state) else { return }
                body(IPPrefix(.v4(IPv4Address(address)), length: length), decision)
            }
        case .v6:
            v6.forEachPrefix { address, length in
                guard let decision = v6.decision(address, length, properties, state) else { return }
                body(IPPrefix(.v6(IPv6Address(address)), length: length), decision)
            }
        }
    }

    /// A link has become usable or has ceased to be: what leaves by it is decided anew.
    mutating func linkUsabilityChanged(_ index: UInt32) { changedLinks.insert(index) }

    /// Prefixes whose decision may have changed since the last call.
    mutating func takeChangedPrefixes() -> [IPPrefix] {
        // All links at once: thousands may have gone with their trunk.
        let concerned =
            changedLinks.isEmpty
            ? [] : properties.identifiers { $0.nextHops.contains { changedLinks.contains($0.linkIndex) } }
        changedLinks = []
        if !concerned.isEmpty {
            v4.markChanged(using: concerned)
            v6.markChanged(using: concerned)
        }
        return v4.takeChanged().map { IPPrefix(.v4(IPv4Address($0.bits)), length: Int($0.length)) }
            + v6.takeChanged().map { IPPrefix(.v6(IPv6Address($0.bits)), length: Int($0.length)) }
    }
}

// MARK: - One family

private struct PrefixKey<Bits: FixedWidthInteger & UnsignedInteger & Sendable>: Hashable, Sendable {
    let bits: Bits
    let length: UInt8

    init(_ bits: Bits, _ length: UInt8) {
        self.bits = length == 0 ? 0 : bits & ~Bits.zero << Bits(Bits.bitWidth - Int(length))
        self.length = length
    }
}

/// A route without its prefix and table.
private struct Entry: Hashable, Sendable {
    var properties: UInt32
    var priority: UInt32
    var typeOfService: UInt8

    init(_ route: Route, _ pool: inout PropertyPool) {
        properties = pool.identifier(of: route.properties)
        priority = route.priority
        typeOfService = route.typeOfService
    }
}

private struct FamilyTables<Bits: FixedWidthInteger & UnsignedInteger & Sendable>: Sendable {
    typealias Key = PrefixKey<Bits>

    private var tables: [UInt32: [Key: Chain]] = [:]
    private var changed: Set<Key> = []
    /// How many prefixes of each length the local table has.
    private var localLengths = [Int](repeating: 0, count: Bits.bitWidth + 1)
    /// What was there before the tables were read again.
    private var former: [UInt32: [Key: Chain]]?

    var count: Int { tables.values.reduce(0) { $0 + $1.values.reduce(0) { $0 + $1.count } } }

    func routes(_ pool: PropertyPool, _ address: (Bits) -> IPAddress) -> [Route] {
        tables.flatMap { table, prefixes in
            prefixes.flatMap { key, chain in
                chain.map { entry in
                    Route(
                        destination: IPPrefix(address(key.bits), length: Int(key.length)), table: table,
                        priority: entry.priority, typeOfService: entry.typeOfService,
                        properties: pool[entry.properties])
                }
            }
        }
    }

    mutating func change(
        _ table: UInt32, _ bits: Bits, _ length: Int, _ pool: inout PropertyPool,
        _ body: (inout Chain, inout PropertyPool) -> Bool
    ) {
        let key = Key(bits, UInt8(clamping: min(length, Bits.bitWidth)))
        var hasAppeared = false
        var hasChanged = false
        var isEmpty = false
        // In place: the tables are large.
        func work(_ chain: inout Chain) {
            hasAppeared = chain.isEmpty
            hasChanged = body(&chain, &pool)
            isEmpty = chain.isEmpty
        }
        work(&tables[table, default: [:]][key, default: Chain()])
        if isEmpty { tables[table]?[key] = nil }
        if table == Route.localTable, hasAppeared != isEmpty { localLengths[Int(key.length)] += isEmpty ? -1 : 1 }
        if former == nil, hasChanged { markChanged(key, of: table) }
        pool.release()
    }

    /// The decision for a prefix depends on what stands in its way in the tables that are asked first.
    private mutating func markChanged(_ key: Key, of table: UInt32) {
        guard Self.consulted.contains(table) else { return }
        changed.insert(key)
        let later: [UInt32] =
            switch table {
            case Route.localTable where Int(key.length) < Bits.bitWidth: [Route.mainTable, Route.defaultTable]
            case Route.mainTable: [Route.defaultTable]
            default: []
            }
        for table in later {
            for other in tables[table, default: [:]].keys where Key(other.bits, key.length) == key {
                changed.insert(other)
            }
        }
    }

    private static var consulted: [UInt32] { [Route.localTable, Route.mainTable, Route.defaultTable] }

    mutating func drop(_ dead: Set<UInt32>, table only: UInt32?, _ pool: inout PropertyPool) {
        for table in Array(tables.keys) where only == nil || table == only {
            let concerned = tables[table, default: [:]].compactMap { key, chain in
                chain.contains { dead.contains($0.properties) } ? key : nil
            }
            for key in concerned {
                change(table, key.bits, Int(key.length), &pool) { chain, pool in
                    chain.removeAll(&pool) { dead.contains($0.properties) }
                    return true
                }
            }
        }
    }

    mutating func markChanged(using concerned: Set<UInt32>) {
        for table in Self.consulted {
            for (key, chain) in tables[table, default: [:]]
            where chain.contains(where: { concerned.contains($0.properties) }) {
                changed.insert(key)
            }
        }
    }

    mutating func takeChanged() -> Set<Key> {
        defer { changed = [] }
        return changed
    }

    // MARK: Reading again

    mutating func beginReading(_ pool: inout PropertyPool) {
        if former == nil {
            former = tables
        } else {
            // It starts over.
            Self.dropAll(tables, &pool)
        }
        tables = [:]
        localLengths = [Int](repeating: 0, count: Bits.bitWidth + 1)
    }

    mutating func endReading(_ pool: inout PropertyPool) {
        guard let former else { return }
        self.former = nil
        for table in Self.consulted {
            let before = former[table, default: [:]]
            let now = tables[table, default: [:]]
            for (key, chain) in before where now[key] != chain { markChanged(key, of: table) }
            for key in now.keys where before[key] == nil { markChanged(key, of: table) }
        }
        Self.dropAll(former, &pool)
    }

    private static func dropAll(_ tables: [UInt32: [Key: Chain]], _ pool: inout PropertyPool) {
        for prefixes in tables.values {
            for chain in prefixes.values {
                for entry in chain { pool.drop(entry) }
            }
        }
        pool.release()
    }

    // MARK: Decisions

    func forEachPrefix(_ body: (Bits, Int) -> Void) {
        for (position, table) in Self.consulted.enumerated() {
            for key in tables[table, default: [:]].keys
            where !Self.consulted[..<position].contains(where: { tables[$0]?[key] != nil }) {
                body(key.bits, Int(key.length))
            }
        }
    }

    func decision(
        _ bits: Bits, _ length: Int, _ pool: PropertyPool, _ state: (UInt32) -> RouteTables.LinkState
    ) -> RouteTables.Decision? {
        let key = Key(bits, UInt8(clamping: length))
        if let chain = tables[Route.localTable]?[key] { return chain.decision(pool, state) }
        let main = tables[Route.mainTable]?[key]
        guard let chain = main ?? tables[Route.defaultTable]?[key] else { return nil }
        // Tables are asked one after the other, each for its own longest match. (IPv4's local and main table are one until there is a
        // rule of an administrator's: then the main table's longer match wins. The kernel knows which it is.)
        for shorter in 0..<min(length, Bits.bitWidth) where localLengths[shorter] > 0 {
            if tables[Route.localTable]?[Key(bits, UInt8(shorter))] != nil { return .kernel }
        }
        if let main { return main.decision(pool, state) }
        for shorter in 0..<min(length, Bits.bitWidth) {
            // A shorter match of the main table comes before any of the default table: this one is never asked.
            if tables[Route.mainTable]?[Key(bits, UInt8(shorter))] != nil { return nil }
        }
        return chain.decision(pool, state)
    }
}

// MARK: - One prefix

/// The routes of a prefix in one table, in the order in which the kernel tries them. Almost always there is one.
private struct Chain: Hashable, Sendable, Sequence {
    private var first: Entry?
    private var others: [Entry] = []

    var isEmpty: Bool { first == nil }
    var count: Int { (first == nil ? 0 : 1) + others.count }

    func makeIterator() -> IndexingIterator<[Entry]> { entries.makeIterator() }

    private var entries: [Entry] {
        get { first.map { [$0] + others } ?? [] }
        set {
            first = newValue.first
            others = Array(newValue.dropFirst())
        }
    }

    func contains(where predicate: (Entry) -> Bool) -> Bool {
        first.map(predicate) ?? false || others.contains(where: predicate)
    }

    /// fib_table_insert. The order is that of fib_find_alias: by type of service, then by priority.
    ///
    /// - Returns: whether anything is different now.
    mutating func addIPv4(_ entry: Entry, _ change: RouteTables.Change, _ pool: inout PropertyPool) -> Bool {
        guard first != nil else {
            first = pool.keep(entry)
            return true
        }
        var list = entries
        func precedes(_ other: Entry) -> Bool {
            (other.typeOfService, entry.priority) > (entry.typeOfService, other.priority)
        }
        let start = list.firstIndex { !precedes($0) } ?? list.count
        let end =
            list[start...].firstIndex { ($0.typeOfService, $0.priority) != (entry.typeOfService, entry.priority) }
            ?? list.count
        if change.contains(.replaces), start < end {
            guard list[start] != entry else { return false }
            pool.drop(list[start])
            list[start] = pool.keep(entry)
        } else if list[start..<end].contains(entry) {
            return false
        } else {
            list.insert(pool.keep(entry), at: change.contains(.appends) ? end : start)
        }
        entries = list
        return true
    }

    /// The same for IPv6 (fib6_add_rt2node), which announces all next hops of a route where it has got one more.
    mutating func addIPv6(_ entry: Entry, _ change: RouteTables.Change, _ pool: inout PropertyPool) -> Bool {
        guard first != nil else {
            first = pool.keep(entry)
            return true
        }
        var list = entries
        guard !list.contains(entry) else { return false }
        let new = pool[entry.properties]
        let twins = list.indices.filter { list[$0].priority == entry.priority }
        // Routes by gateways of one priority are one route of several next hops. Each has metrics of its own, of which the kernel shows
        // the first one's.
        let sibling = twins.first { pool[list[$0].properties].canHaveSiblings == new.canHaveSiblings }
        var place: Int?
        if change.contains(.replaces) {
            place = sibling ?? twins.first
        } else if new.canHaveSiblings, new.nextHops.count > 1 {
            place = sibling
        }
        if let place {
            var entry = entry
            if !change.contains(.replaces) {
                var whole = pool[list[place].properties]
                whole.nextHops = new.nextHops
                entry.properties = pool.identifier(of: whole)
            }
            pool.drop(list[place])
            list[place] = pool.keep(entry)
        } else {
            list.insert(pool.keep(entry), at: list.firstIndex { $0.priority > entry.priority } ?? list.count)
        }
        entries = list
        return true
    }

    mutating func remove(_ entry: Entry, _ pool: inout PropertyPool) -> Bool {
        var list = entries
        guard let place = list.firstIndex(of: entry) else { return false }
        pool.drop(list.remove(at: place))
        entries = list
        return true
    }

    /// IPv6 announces the loss of one of several next hops as if it had been a route of its own.
    mutating func removeIPv6(_ entry: Entry, _ pool: inout PropertyPool) -> Bool {
        if remove(entry, &pool) { return true }
        let lost = pool[entry.properties]
        var list = entries
        for place in list.indices where list[place].priority == entry.priority {
            var rest = pool[list[place].properties]
            let hops = rest.nextHops.filter { hop in
                !lost.nextHops.contains { ($0.linkIndex, $0.gateway) == (hop.linkIndex, hop.gateway) }
            }
            guard rest.kind == lost.kind, hops.count == rest.nextHops.count - lost.nextHops.count, !hops.isEmpty else {
                continue
            }
            rest.nextHops = hops
            // It shows no weight where there is nothing to weigh it against.
            if hops.count == 1 { rest.nextHops[0].weight = 1 }
            pool.drop(list[place])
            list[place].properties = pool.identifier(of: rest)
            list[place] = pool.keep(list[place])
            entries = list
            return true
        }
        return false
    }

    mutating func removeAll(_ pool: inout PropertyPool, where isDead: (Entry) -> Bool) {
        for entry in entries where isDead(entry) { pool.drop(entry) }
        entries.removeAll(where: isDead)
    }

    /// fib_table_lookup, rt6_select: the first one that has a way.
    func decision(_ pool: PropertyPool, _ state: (UInt32) -> RouteTables.LinkState) -> RouteTables.Decision {
        if let first, others.isEmpty { return decision(first, pool, state) ?? .kernel }
        // Packets of some type of service go another way.
        guard !contains(where: { $0.typeOfService != 0 }) else { return .kernel }
        for entry in entries {
            guard let decision = decision(entry, pool, state) else { continue }
            // Of two routes that are as good, IPv6 takes the one whose router it knows to answer.
            if case .forward = decision, contains(where: { $0 != entry && $0.priority == entry.priority }) {
                return .kernel
            }
            return decision
        }
        // It looks for a shorter match.
        return .kernel
    }

    /// nil: it has no way now.
    private func decision(
        _ entry: Entry, _ pool: PropertyPool, _ state: (UInt32) -> RouteTables.LinkState
    ) -> RouteTables.Decision? {
        let route = pool[entry.properties]
        guard entry.typeOfService == 0, route.isPlain else { return .kernel }
        switch route.kind {
        case .unicast:
            // A next hop object that nobody has resolved.
            guard !route.nextHops.isEmpty else { return .kernel }
            var unusable = 0
            for hop in route.nextHops {
                switch state(hop.linkIndex) {
                case .usable: break
                case .unusable: unusable += 1
                // Only the kernel knows whether it is alive.
                case .unnumbered: return .kernel
                }
            }
            guard unusable < route.nextHops.count else { return nil }
            let usable = unusable == 0 ? route.nextHops : route.nextHops.filter { state($0.linkIndex) == .usable }
            return .forward(usable, mtu: route.mtu)
        case .local, .anycast, .multicast: return .local
        case .broadcast: return .broadcast
        case .blackhole, .unreachable, .prohibit: return .refuse(route.kind)
        default: return .kernel
        }
    }
}

extension Route.Properties {
    /// rt6_qualify_for_ecmp: by a gateway, and not learned from a router.
    fileprivate var canHaveSiblings: Bool {
        kind == .unicast && routingProtocol != UInt8(RTPROT_RA) && routingProtocol != UInt8(RTPROT_REDIRECT)
            && nextHopID == nil
            && nextHops.contains { $0.gateway != nil }
    }
}

// MARK: - What routes have in common

/// Each value once, by number: a million routes share a handful.
private struct PropertyPool: Sendable {
    private var values: [Route.Properties?] = []
    private var identifiers: [Route.Properties: UInt32] = [:]
    private var uses: [Int] = []
    private var free: [UInt32] = []
    /// Looked up, and perhaps not used.
    private var candidates: [UInt32] = []
    /// The one before: routes come in long runs of the same.
    private var latest: UInt32?

    subscript(identifier: UInt32) -> Route.Properties {
        values[Int(identifier)] ?? Route.Properties(kind: Route.Kind(rawValue: 0), routingProtocol: 0, scope: 0)
    }

    mutating func identifier(of properties: Route.Properties) -> UInt32 {
        if let latest, values[Int(latest)] == properties { return latest }
        if let known = identifiers[properties] {
            latest = known
            return known
        }
        let new = free.popLast() ?? UInt32(values.count)
        if Int(new) == values.count {
            values.append(properties)
            uses.append(0)
        } else {
            values[Int(new)] = properties
        }
        identifiers[properties] = new
        candidates.append(new)
        latest = new
        return new
    }

    mutating func keep(_ entry: Entry) -> Entry {
        uses[Int(entry.properties)] += 1
        return entry
    }

    mutating func drop(_ entry: Entry) {
        uses[Int(entry.properties)] -= 1
        if uses[Int(entry.properties)] <= 0 { candidates.append(entry.properties) }
    }

    /// Forgets what is no longer used.
    mutating func release() {
        while let candidate = candidates.popLast() {
            guard uses[Int(candidate)] <= 0, let value = values[Int(candidate)] else { continue }
            values[Int(candidate)] = nil
            identifiers[value] = nil
            free.append(candidate)
            if latest == candidate { latest = nil }
        }
    }

    func contains(where predicate: (Route.Properties) -> Bool) -> Bool { identifiers.keys.contains(where: predicate) }

    func identifiers(where predicate: (Route.Properties) -> Bool) -> Set<UInt32> {
        Set(identifiers.filter { predicate($0.key) }.values)
    }
}
