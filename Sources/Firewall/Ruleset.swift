import Packets

/// An nftables table as a value: what nft prints, what iptables-restore reads and what the kernel is told over netlink
/// are all written from this.
///
/// It knows no more of nftables than the router needs. Every rule counts what reaches it, and says in its comment what
/// that is.
public struct Ruleset: Hashable, Sendable {
    /// The table is `inet vrouter`: one for IPv4 and IPv6.
    public static let table = "vrouter"

    /// What this was compiled from.
    public let policy: Policy
    public let sets: [InterfaceSet]
    public let addressSets: [AddressSet]
    public let maps: [VerdictMap]
    public let chains: [Chain]
    /// Interfaces at which the kernel forwards packets of connections that were let through, as soon as they arrive and past all chains: by
    /// the flow table `Ruleset.flows`. nil: there is none.
    public private(set) var flowtable: [String]?

    public static let flows = "flows"

    /// The flow table's interfaces in parts: the kernel takes less than 256 at once.
    public var flowtableParts: [[String]] {
        guard let flowtable else { return [] }
        let starts = stride(from: 0, to: max(1, flowtable.count), by: 250)
        return starts.map { Array(flowtable[$0..<min($0 + 250, flowtable.count)]) }
    }

    /// A named set of interface names.
    public struct InterfaceSet: Hashable, Sendable {
        public let name: String
        public let elements: [String]
    }

    /// A named set of address blocks of one family, ascending; no two of them overlap.
    public struct AddressSet: Hashable, Sendable {
        public let name: String
        public let family: IPFamily
        public let elements: [IPPrefix]
    }

    /// A named map from interfaces to a verdict. What it does not hold goes on to the next rule.
    public struct VerdictMap: Hashable, Sendable {
        public let name: String
        /// How many interface names make a key.
        public let keyParts: Int
        public let elements: [Element]

        public struct Element: Hashable, Sendable {
            public let key: [String]
            public let verdict: Verdict
        }
    }

    public struct Chain: Hashable, Sendable {
        public let name: String
        /// From where the kernel calls it; nil for a chain that others go to.
        public let hook: Hook?
        public let rules: [Rule]
    }

    /// A place in the kernel from which a base chain is called. The chain's policy is to accept: what concerns only
    /// others is theirs to decide.
    public enum Hook: Hashable, Sendable, CaseIterable {
        /// Packets that have arrived, before connection tracking looks at them.
        case raw
        /// Packets that have arrived, at the usual priority of destination address translation.
        case destinationTranslation
        /// Packets for this host, at the usual priority of filters.
        case input
        /// Packets routed from one interface to another, at the usual priority of what changes them.
        case mangle
        /// Packets routed from one interface to another, at the usual priority of filters.
        case forward
        /// Packets from this host, at the usual priority of filters.
        case output
        /// Packets about to leave, at the usual priority of source address translation.
        case postrouting
    }

    /// Where all matches hold: count, then act.
    public struct Rule: Hashable, Sendable {
        public let matches: [Match]
        public let action: Action
        /// For a person.
        public let comment: String

        init(_ matches: Match..., then action: Action, comment: String) {
            self.init(matches, then: action, comment: comment)
        }

        init(_ matches: [Match], then action: Action, comment: String) {
            self.matches = matches
            self.action = action
            self.comment = comment
        }
    }

    public enum Match: Hashable, Sendable {
        case family(IPFamily)
        case input(in: String)
        case inputNot(in: String)
        /// Not what this host sends to itself.
        case inputNotLoopback
        case output(in: String)
        case outputNot(in: String)
        case outputNotLoopback
        /// Before it is routed: the interface through which it will leave is one of these. nft takes no named set here, as it has
        /// another type for names of interfaces from the routing table.
        case routed([String])
        /// The destination is an address of this host.
        case toThisHost
        /// The destination is an address of the interface through which the packet came.
        case toInputInterface
        case address(Side, IPFamily, in: String)
        case addressNot(Side, IPFamily, in: String)
        /// `any` is no match.
        case transport(Service.Transport)
        /// Destination ports of TCP or UDP.
        case ports(Service.Transport, ClosedRange<UInt16>)
        /// Any of these types.
        case icmpv6([UInt8])
        /// Any of these.
        case state([ConnectionState])
        /// The packet's destination was translated: a forwarded port.
        case destinationTranslated
        /// A TCP segment that begins no connection.
        case tcpWithoutSYN
        /// A TCP segment by which one of the two begins a connection, and does not end it.
        case tcpBeginning
        /// At most so many a second, after as many as `burst` at once; what is more does not match.
        case limit(perSecond: UInt32, burst: UInt32)
    }

    public enum Side: Hashable, Sendable, CaseIterable { case source, destination }

    public enum ConnectionState: String, Hashable, Sendable, CaseIterable {
        case invalid
        case established
        case related
        case untracked
    }

    public enum Action: Hashable, Sendable {
        case verdict(Verdict)
        /// Look up these in the map of this name.
        case verdictMap([Key], String)
        case reject(Rejection)
        /// A line in the kernel's log that begins so; what comes next decides.
        case log(prefix: String)
        case notrack
        case masquerade
        /// The destination becomes this one.
        case translate(to: IPAddress, port: UInt16)
        /// The largest segment that a TCP connection announces becomes what fits through the way that it takes, if that is less.
        case clampMSS
        /// Put the connection into the flow table. The kernel does so with TCP and UDP that needs no helper.
        case offload
    }

    /// What a verdict map is asked for.
    public enum Key: Hashable, Sendable { case input, output }

    public enum Rejection: Hashable, Sendable {
        /// For TCP only.
        case reset
        /// ICMP's "administratively prohibited", of either family.
        case prohibited
    }

    public enum Verdict: Hashable, Sendable {
        case accept
        case drop
        /// Continue in another chain, and do not come back.
        case goto(String)
    }
}

extension Ruleset {
    /// Compiles `policy`. How many rules there are does not depend on how many VLANs: only sets and maps grow.
    ///
    /// - Parameter flowtable: interfaces that there are; nil: no flow table.
    public init(_ policy: Policy, flowtable: [String]? = nil) {
        let zones = ZoneRules(policy)
        self.flowtable = flowtable
        self.policy = policy
        sets =
            [InterfaceSet(name: Name.vlans, elements: policy.gateways.map(\.interface))]
            + [(Name.untracked, policy.untracked), (Name.uplinks, policy.uplinks)].filter { !$0.1.isEmpty }
            .map { InterfaceSet(name: $0.0, elements: $0.1) } + Self.masqueraded(policy)
        addressSets = zones.addressSets
        // Exceptions only, since to accept is what the rule after the map does: N² pairs are never held. They go to a
        // chain rather than being dropped at once, so that there is a counter for what was denied.
        maps =
            [
                VerdictMap(
                    name: Name.pairs, keyParts: 2,
                    elements: policy.denied.map { .init(key: [$0.from, $0.to], verdict: .goto(Name.denied)) }
                        + policy.opposite.map { .init(key: [$0.from, $0.to], verdict: .goto(Name.opposite)) })
            ] + zones.maps

        // What only passes by gets neither a verdict here nor a look at its connection.
        let passing = Rule(
            .state([.untracked]), .input(in: Name.untracked), .output(in: Name.untracked), then: .verdict(.accept),
            comment: Reason.passing)
        let forward =
            (policy.untracked.isEmpty ? [] : [passing]) + [
                Rule(.input(in: Name.vlans), then: .verdict(.goto(Name.decide)), comment: "comes from a VLAN"),
                Rule(.output(in: Name.vlans), then: .verdict(.goto(Name.decide)), comment: "goes into a VLAN"),
            ]
        let offload = Rule(.state([.established]), then: .offload, comment: Reason.offloaded)
        let decisions =
            (flowtable == nil ? [] : [offload]) + [
                Rule(.state([.established, .related]), then: .verdict(.accept), comment: Reason.known),
                Rule(.state([.invalid]), then: .verdict(.drop), comment: Reason.invalid),
                Rule(then: .verdictMap([.input, .output], Name.pairs), comment: Reason.exceptions),
            ] + zones.fromVLANs + zones.fromOutside
        chains =
            [
                Chain(name: "forward", hook: .forward, rules: forward),
                Chain(name: Name.decide, hook: nil, rules: decisions),
                Chain(name: Name.denied, hook: nil, rules: [Rule(then: .verdict(.drop), comment: Reason.denied)]),
            ] + (policy.opposite.isEmpty ? [] : [Self.beginning(zones)])
            + zones.chains
            + (policy.untracked.isEmpty ? [] : [Self.withoutTracking(policy.untracked)])
            + Self.portForwarding(policy) + Self.clamping(policy) + Self.translation(policy)
    }

    /// Names within the table. Those of zones' own chains, maps and sets contain a dot or a slash.
    enum Name {
        static let vlans = "vlans"
        static let uplinks = "uplinks"
        static let untracked = "untracked"
        static let pairs = "pairs"
        static let decide = "decide"
        static let denied = "denied"
        static let opposite = "opposite"
        static let masqueradedInto = "masqueraded-into"
        static let masqueradedOutOf = "masqueraded-out"
        /// All gateways' addresses.
        static func gateways(_ family: IPFamily) -> String { "gateways\(family.number)" }
    }

    private static func withoutTracking(_ interfaces: [String]) -> Chain {
        Chain(
            name: "prerouting", hook: .raw,
            rules: [
                Rule(.input(in: Name.untracked), .routed(interfaces), then: .notrack, comment: Reason.untracked)
            ])
    }

    private static func beginning(_ zones: ZoneRules) -> Chain {
        Chain(
            name: Name.opposite, hook: nil,
            rules: [Rule(.tcpWithoutSYN, then: .verdict(.drop), comment: Reason.noBeginning)] + zones.fromVLANs)
    }

    /// A gateway's address stays the gateway's: hosts of its VLAN may know the port there as the router's own.
    private static func portForwarding(_ policy: Policy) -> [Chain] {
        let rules = policy.portForwards.map { forward -> Rule in
            let family = forward.host.family
            return Rule(
                .toThisHost, .addressNot(.destination, family, in: Name.gateways(family)),
                .ports(forward.transport, forward.port...forward.port),
                then: .translate(to: forward.host, port: forward.hostPort),
                comment: "new: a forwarded port of the router's")
        }
        return rules.isEmpty ? [] : [Chain(name: "port-forwards", hook: .destinationTranslation, rules: rules)]
    }

    private static func clamping(_ policy: Policy) -> [Chain] {
        guard policy.clampsMSS else { return [] }
        let rules = [Match.input(in: Name.vlans), .output(in: Name.vlans)].map {
            Rule($0, .tcpBeginning, then: .clampMSS, comment: "segments that fit through the way they take")
        }
        return [Chain(name: "mss-clamp", hook: .mangle, rules: rules)]
    }

    /// No chain where there is nothing to translate, because a nat chain costs every connection a look-up.
    private static func translation(_ policy: Policy) -> [Chain] {
        let toUplink = policy.uplinks.isEmpty ? Match.outputNot(in: Name.vlans) : .output(in: Name.uplinks)
        var rules: [Rule] = []
        func add(_ family: IPFamily, into: String?, outOf: String?) {
            if let into {
                rules.append(
                    Rule(
                        .family(family), .output(in: into), then: .masquerade,
                        comment: "into a VLAN: seen as its gateway"))
            }
            if let outOf {
                rules.append(
                    Rule(
                        .family(family), .input(in: outOf), toUplink, then: .masquerade,
                        comment: "out of the VLANs: seen as this router"))
            }
        }
        /// The set with all gateways of which it holds; nil: there is none.
        func set(_ name: String, _ holds: (Policy.Masquerade) -> Bool) -> String? {
            guard hasZones(policy) else { return holds(policy.masquerade) ? Name.vlans : nil }
            return policy.gateways.contains { holds(policy.masquerade(of: $0.zone)) } ? name : nil
        }
        add(.v4, into: set(Name.masqueradedInto, \.isBetweenVLANs), outOf: set(Name.masqueradedOutOf, \.isToUplink))
        add(
            .v6, into: policy.masqueradeIPv6.isBetweenVLANs ? Name.vlans : nil,
            outOf: policy.masqueradeIPv6.isToUplink ? Name.vlans : nil)
        if !policy.portForwards.isEmpty {
            // The answer would otherwise go straight to a host of the same VLAN, which has asked the router.
            rules.append(
                Rule(
                    .destinationTranslated, .input(in: Name.vlans), .output(in: Name.vlans), then: .masquerade,
                    comment: "from a VLAN to a forwarded port: seen as its gateway"))
        }
        return rules.isEmpty ? [] : [Chain(name: "postrouting", hook: .postrouting, rules: rules)]
    }

    private static func hasZones(_ policy: Policy) -> Bool {
        policy.gateways.contains { policy.masquerade(of: $0.zone) != policy.masquerade }
    }

    /// The gateways of zones that are translated, where not all are treated alike.
    private static func masqueraded(_ policy: Policy) -> [InterfaceSet] {
        guard hasZones(policy) else { return [] }
        let modes = policy.gateways.map { ($0.interface, policy.masquerade(of: $0.zone)) }
        return [
            InterfaceSet(name: Name.masqueradedInto, elements: modes.filter(\.1.isBetweenVLANs).map(\.0)),
            InterfaceSet(name: Name.masqueradedOutOf, elements: modes.filter(\.1.isToUplink).map(\.0)),
        ].filter { !$0.elements.isEmpty }
    }

    /// The number of rules in all chains.
    public var ruleCount: Int { chains.reduce(0) { $0 + $1.rules.count } }
}

extension IPFamily {
    /// 4 or 6.
    var number: Int { self == .v4 ? 4 : 6 }
}

/// What a rule sees, in the words that all formats use.
enum Reason {
    static let known = "belongs to a connection that was let through"
    static let offloaded = "belongs to a connection: from here on by the flow table"
    static let invalid = "belongs to no connection"
    static let exceptions = "new: VLAN pairs with a verdict of their own"
    static let untracked = "from a VLAN to a VLAN: without a connection, as the fast path has none"
    static let passing = "from a VLAN to a VLAN, without a connection"
    static let denied = "new: this pair of VLANs is denied"
    static let noBeginning = "belongs to a connection that is denied the other way"
    static let fromVLAN = "new: from a VLAN"
    static let forwardedPort = "new: from outside to a forwarded port"
    static let noZone = "to or from an interface that is neither a gateway nor an uplink"
    static let outside = "new: from outside into a VLAN"
}

extension Ruleset.Hook {
    /// nft's words: the chain's type, the hook, the priority by its name and by its number.
    public var words: (type: String, hook: String, priority: String, number: Int) {
        switch self {
        case .raw: ("filter", "prerouting", "raw", -300)
        case .destinationTranslation: ("nat", "prerouting", "dstnat", -100)
        case .input: ("filter", "input", "filter", 0)
        case .mangle: ("filter", "forward", "mangle", -150)
        case .forward: ("filter", "forward", "filter", 0)
        case .output: ("filter", "output", "filter", 0)
        case .postrouting: ("nat", "postrouting", "srcnat", 100)
        }
    }
}
