// The matrix of zones as rules: one look-up for the zone that a packet comes from, one for the zone that it goes to, then what is said of
// the two. What passes anyhow has no rules.

import Packets

/// The parts of a `Ruleset` that depend on zones.
struct ZoneRules {
    typealias Rule = Ruleset.Rule
    typealias Match = Ruleset.Match
    typealias Verdict = Ruleset.Verdict
    typealias Name = Ruleset.Name

    /// What decides about new connections from VLANs; they do not come back.
    private(set) var fromVLANs: [Rule] = []
    /// The same from everywhere else.
    private(set) var fromOutside: [Rule] = []
    private(set) var chains: [Ruleset.Chain] = []
    private(set) var maps: [Ruleset.VerdictMap] = []
    private(set) var addressSets: [Ruleset.AddressSet] = []

    private let policy: Policy
    /// Those with VLANs, ascending.
    private let zones: [Zone]
    private let gateways: [Zone: [Policy.Gateway]]
    /// Those that gateways have addresses of.
    private let families: [IPFamily]
    private var usedSets: Set<String> = []
    private var needsGateways = false

    init(_ policy: Policy) {
        self.policy = policy
        gateways = Dictionary(grouping: policy.gateways, by: \.zone)
        zones = gateways.keys.sorted()
        families = IPFamily.allCases.filter(policy.uses)
        needsGateways = !policy.portForwards.isEmpty
        forward()
        input()
        output()
        addAddressSets()
    }

    // MARK: Connections from zone to zone

    /// How new connections are treated.
    private struct Cell: Hashable {
        var treatment: Treatment
        /// Whether what looks like the middle of a TCP connection is dropped: it may be the answer to one that was refused the other way, and
        /// connection tracking would take it for a beginning.
        var mustBegin: Bool

        var passesAll: Bool { treatment.isUnconditionalAccept && !mustBegin }
    }

    private func cell(_ from: Zone, _ to: Zone) -> Cell {
        let back = policy.matrix.treatment(from: to, to: from)
        // The outside is closed where nothing is said; what begins inside need not begin anew for that.
        let isUsual = to == .uplink && back == .drop
        return Cell(
            treatment: policy.matrix.treatment(from: from, to: to),
            mustBegin: from.hasVLANs && to != .router && !back.isUnconditionalAccept && !isUsual)
    }

    /// What most gateways of other zones get, so that a row has few exceptions: a zone that is isolated names nobody.
    private func usual(_ row: [Zone: Cell]) -> Cell? {
        var counts: [Cell: Int] = [:]
        for (zone, cell) in row { counts[cell, default: 0] += gateways[zone]?.count ?? 0 }
        let most = counts.values.max()
        return zones.compactMap { row[$0] }.first { counts[$0] == most }
    }

    /// The row of a zone: to VLANs, then to the uplink.
    private mutating func row(_ from: Zone, then end: [Rule]) -> [Rule]? {
        let cells = Dictionary(uniqueKeysWithValues: zones.map { ($0, cell(from, $0)) })
        guard let usual = usual(cells) else { return nil }
        var rules: [Rule] = []
        let exceptions = zones.filter { cells[$0] != usual }
        let hasWayOut = from.hasVLANs
        let outward = hasWayOut ? cell(from, .uplink) : usual
        if from.hasVLANs, usual.passesAll, exceptions.isEmpty, outward.passesAll { return nil }
        if from == .uplink, usual.treatment == .drop, exceptions.isEmpty { return nil }
        if !exceptions.isEmpty {
            let name = "\(from)/to"
            var elements: [Ruleset.VerdictMap.Element] = []
            for zone in exceptions {
                let verdict = verdict(cells[zone] ?? usual, "\(from).\(zone)", from, "zone \(zone)", isInMap: true)
                elements += (gateways[zone] ?? []).map { .init(key: [$0.interface], verdict: verdict) }
            }
            maps.append(.init(name: name, keyParts: 1, elements: elements))
            rules.append(
                Rule(
                    then: .verdictMap([.output], name),
                    comment: "new: from zone \(from) to zones with a rule of their own"))
        }
        // Of one zone, it is that zone's.
        let others = zones.count - exceptions.count
        let (chain, to) =
            others == 1
            ? zones.first { cells[$0] == usual }.map { ("\(from).\($0)", "zone \($0)") } ?? ("", "")
            : ("\(from)/others", "other zones")
        rules.append(
            Rule(
                .output(in: Name.vlans), then: .verdict(verdict(usual, chain, from, to)),
                comment: "new: from zone \(from) to \(to)"))
        if hasWayOut {
            let matches = policy.uplinks.isEmpty ? [] : [Match.output(in: Name.uplinks)]
            rules.append(
                Rule(
                    matches, then: .verdict(verdict(outward, "\(from).\(Zone.uplink)", from, "the uplink")),
                    comment: "new: from zone \(from) to the uplink"))
        }
        return rules + end
    }

    private mutating func forward() {
        let noZone = Rule(then: .verdict(.drop), comment: Reason.noZone)
        let hasUplinks = !policy.uplinks.isEmpty
        var elements: [Ruleset.VerdictMap.Element] = []
        for zone in zones {
            guard let rules = row(zone, then: hasUplinks ? [noZone] : []) else { continue }
            let name = "\(zone)/forward"
            chains.append(.init(name: name, hook: nil, rules: rules))
            elements += (gateways[zone] ?? []).map { .init(key: [$0.interface], verdict: .goto(name)) }
        }
        if !elements.isEmpty {
            maps.append(.init(name: "zones", keyParts: 1, elements: elements))
            fromVLANs.append(
                Rule(then: .verdictMap([.input], "zones"), comment: "new: from zones with rules of their own"))
        }
        let from = Match.input(in: Name.vlans)
        let fromUplink = hasUplinks ? [Match.input(in: Name.uplinks)] : []
        if hasUplinks {
            fromVLANs += [Name.vlans, Name.uplinks].map {
                Rule(from, .output(in: $0), then: .verdict(.accept), comment: Reason.fromVLAN)
            }
            fromVLANs.append(Rule(from, then: .verdict(.drop), comment: Reason.noZone))
        } else {
            fromVLANs.append(Rule(from, then: .verdict(.accept), comment: Reason.fromVLAN))
        }
        // A drop here is final, whatever other tables accept. Who forwards a port into a VLAN has decided that it
        // may be reached, and would otherwise have no way to say so.
        fromOutside.append(
            Rule(
                fromUplink + [.destinationTranslated], then: .verdict(.accept), comment: Reason.forwardedPort))
        if let rules = row(.uplink, then: []) {
            let name = "\(Zone.uplink)/forward"
            chains.append(.init(name: name, hook: nil, rules: rules))
            fromOutside.append(
                Rule(fromUplink, then: .verdict(.goto(name)), comment: "new: from the uplink into a VLAN"))
        }
        fromOutside.append(
            Rule(then: .verdict(.drop), comment: hasUplinks ? Reason.noZone : Reason.outside))
    }

    // MARK: Connections with the router itself

    private mutating func input() {
        var elements: [Ruleset.VerdictMap.Element] = []
        for zone in zones {
            let own = cell(zone, .router)
            let closed = Set(zones.filter { !policy.matrix.treatment(from: zone, to: $0).isUnconditionalAccept })
            guard !own.passesAll || !closed.isEmpty else { continue }
            let verdict = verdict(own, "\(zone).\(Zone.router)", zone, "the router")
            let comment = "new: from zone \(zone) to the router"
            var rules = Self.beforeInput
            if !closed.isEmpty {
                rules.append(Rule(.toInputInterface, then: .verdict(verdict), comment: comment))
                rules += others(zone, closed, verdict, comment)
            }
            rules.append(Rule(then: .verdict(verdict), comment: comment))
            let name = "\(zone)/input"
            chains.append(.init(name: name, hook: nil, rules: rules))
            elements += (gateways[zone] ?? []).map { .init(key: [$0.interface], verdict: .goto(name)) }
        }
        var rules: [Rule] = []
        if !elements.isEmpty {
            maps.append(.init(name: "inputs", keyParts: 1, elements: elements))
            rules.append(Rule(then: .verdictMap([.input], "inputs"), comment: "from zones with rules of their own"))
        }
        let fromUplink = cell(.uplink, .router)
        if !fromUplink.passesAll {
            let name = "\(Zone.uplink)/input"
            let verdict = verdict(fromUplink, "\(Zone.uplink).\(Zone.router)", .uplink, "the router")
            chains.append(
                .init(
                    name: name, hook: nil,
                    rules: Self.beforeInput + [
                        Rule(then: .verdict(verdict), comment: "new: from the uplink to the router")
                    ]))
            let matches =
                policy.uplinks.isEmpty
                ? [Match.inputNot(in: Name.vlans), .inputNotLoopback] : [.input(in: Name.uplinks)]
            rules.append(Rule(matches, then: .verdict(.goto(name)), comment: "from the uplink"))
        }
        if !rules.isEmpty { chains.append(.init(name: "input", hook: .input, rules: rules)) }
    }

    /// To gateways of zones that may not be reached.
    private mutating func others(
        _ from: Zone, _ closed: Set<Zone>, _ verdict: Verdict, _ comment: String
    ) -> [Rule] {
        let refusal = "new: from zone \(from) to the gateway of a zone that it may not reach"
        func rules(_ name: (IPFamily) -> String, _ verdict: Verdict, _ comment: String) -> [Rule] {
            families.map {
                Rule(.address(.destination, $0, in: name($0)), then: .verdict(verdict), comment: comment)
            }
        }
        func add(_ kind: String, _ listed: [Zone]) -> (IPFamily) -> String {
            let name = { (family: IPFamily) in "\(from)/\(kind)\(family.number)" }
            let found = listed.flatMap { gateways[$0] ?? [] }
            for family in families { addressSets.append(Self.set(name(family), family, found)) }
            return name
        }
        // The shorter list, so that a zone that may reach nobody needs none.
        let open = zones.filter { !closed.contains($0) }
        guard open.count < closed.count else { return rules(add("closed", closed.sorted()), .drop, refusal) }
        needsGateways = true
        return (open.isEmpty ? [] : rules(add("open", open), verdict, comment)) + rules(Name.gateways, .drop, refusal)
    }

    private mutating func output() {
        var elements: [Ruleset.VerdictMap.Element] = []
        for zone in zones {
            let cell = cell(.router, zone)
            guard !cell.passesAll else { continue }
            let verdict = verdict(cell, "\(Zone.router).\(zone)", .router, "zone \(zone)", isInMap: true)
            elements += (gateways[zone] ?? []).map { .init(key: [$0.interface], verdict: verdict) }
        }
        var rules: [Rule] = []
        if !elements.isEmpty {
            maps.append(.init(name: "outputs", keyParts: 1, elements: elements))
            rules.append(
                Rule(
                    then: .verdictMap([.output], "outputs"),
                    comment: "new: from the router to zones with a rule of their own"))
        }
        let toUplink = cell(.router, .uplink)
        if !toUplink.passesAll {
            let verdict = verdict(toUplink, "\(Zone.router).\(Zone.uplink)", .router, "the uplink")
            let matches =
                policy.uplinks.isEmpty
                ? [Match.outputNot(in: Name.vlans), .outputNotLoopback] : [.output(in: Name.uplinks)]
            rules.append(Rule(matches, then: .verdict(verdict), comment: "new: from the router to the uplink"))
        }
        guard !rules.isEmpty else { return }
        chains.append(.init(name: "output", hook: .output, rules: Self.always + rules))
    }

    /// What no policy is asked about. Without the first, IPv6 hosts do not find their gateway. RFC 4890 §4.4.1: solicitations,
    /// advertisements, and who listens to which group; errors belong to a connection.
    private static let always = [
        Rule(
            .icmpv6([130, 131, 132, 133, 134, 135, 136, 141, 142, 143, 148, 149, 151, 152, 153]),
            then: .verdict(.accept), comment: "how IPv6 finds neighbours"),
        Rule(.state([.established, .related]), then: .verdict(.accept), comment: Reason.known),
    ]

    private static let beforeInput =
        always + [Rule(.state([.invalid]), then: .verdict(.drop), comment: Reason.invalid)]

    // MARK: One cell

    /// - Parameters:
    ///   - chain: the name of the chain that is made where a verdict does not say it all.
    ///   - isInMap: no rule's counter tells what was dropped.
    private mutating func verdict(
        _ cell: Cell, _ chain: String, _ from: Zone, _ to: String, isInMap: Bool = false
    ) -> Verdict {
        if cell.passesAll { return .accept }
        let treatment = cell.treatment
        if treatment == .drop, !isInMap { return .drop }
        var rules: [Rule] = []
        let who = "new: from \(from.hasVLANs ? "zone " : "")\(from) to \(to)"
        if cell.mustBegin, treatment.verdict == .accept || !treatment.services.isEmpty {
            rules.append(Rule(.tcpWithoutSYN, then: .verdict(.drop), comment: Reason.noBeginning))
        }
        var accept = Verdict.accept
        if let limit = treatment.connectionsPerSecond {
            accept = .goto("\(chain)/limit")
            var limited = [
                Rule(
                    .limit(perSecond: limit, burst: limit), then: .verdict(.accept), comment: "\(who): within its limit"
                )
            ]
            if treatment.isLogged { limited.append(Self.log(chain)) }
            limited.append(Rule(then: .verdict(.drop), comment: "\(who): above its limit"))
            chains.append(.init(name: "\(chain)/limit", hook: nil, rules: limited))
        }
        if treatment.verdict == .accept {
            rules.append(Rule(then: .verdict(accept), comment: who))
        } else {
            for service in treatment.services { rules += self.rules(service, accept, who) }
            if treatment.isLogged { rules.append(Self.log(chain)) }
            if treatment.verdict == .reject {
                rules += [
                    Rule(.transport(.tcp), then: .reject(.reset), comment: "\(who): rejected"),
                    Rule(then: .reject(.prohibited), comment: "\(who): rejected"),
                ]
            } else {
                rules.append(Rule(then: .verdict(.drop), comment: "\(who): dropped"))
            }
        }
        chains.append(.init(name: chain, hook: nil, rules: rules))
        return .goto(chain)
    }

    private static func log(_ chain: String) -> Rule {
        Rule(
            .limit(perSecond: 10, burst: 10), then: .log(prefix: "vrouter \(chain): "),
            comment: "refused: written to the log")
    }

    /// A rule for each range of ports and each family that its addresses have.
    private mutating func rules(_ service: Service, _ verdict: Verdict, _ who: String) -> [Rule] {
        let sides = [(Ruleset.Side.source, service.source), (.destination, service.destination)]
            .compactMap { side, name in name.map { (side, $0) } }
        usedSets.formUnion(sides.map(\.1))
        let families: [[Match]] =
            sides.isEmpty
            ? [[]]
            : IPFamily.allCases.filter { family in
                sides.allSatisfy { policy.matrix.addressSets[$0.1]?.contains { $0.family == family } ?? false }
            }.map { family in sides.map { .address($0.0, family, in: Self.setName($0.1, family)) } }
        let parts: [(Match, Service)] =
            service.ports.isEmpty
            ? [(.transport(service.transport), service)]
            : service.ports.map { range in
                var part = service
                part.ports = [range]
                return (.ports(service.transport, range), part)
            }
        return families.flatMap { addresses in
            parts.map { match, part in
                let matches = match == .transport(.any) ? addresses : addresses + [match]
                return Rule(matches, then: .verdict(verdict), comment: "\(who): \(part)")
            }
        }
    }

    // MARK: Addresses

    private static func setName(_ name: String, _ family: IPFamily) -> String { "\(name).v\(family.number)" }

    private mutating func addAddressSets() {
        if needsGateways {
            for family in families {
                addressSets.append(Self.set(Name.gateways(family), family, policy.gateways))
            }
        }
        for name in usedSets.sorted() {
            for family in IPFamily.allCases {
                let blocks = (policy.matrix.addressSets[name] ?? []).filter { $0.family == family }
                guard !blocks.isEmpty else { continue }
                addressSets.append(.init(name: Self.setName(name, family), family: family, elements: blocks))
            }
        }
    }

    /// Of the gateways' own addresses.
    private static func set(
        _ name: String, _ family: IPFamily, _ gateways: [Policy.Gateway]
    ) -> Ruleset.AddressSet {
        let addresses = Set(gateways.flatMap(\.addresses).map(\.address).filter { $0.family == family })
        return .init(
            name: name, family: family,
            elements: addresses.map { IPPrefix($0, length: family.width) }.sorted())
    }
}
