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

    /// A named map from (input interface, output interface) to a verdict. What it does not hold goes on to the next rule.
    public struct VerdictMap: Hashable, Sendable {
        public let name: String
        public let elements: [Element]

        public struct Element: Hashable, Sendable {
            public let pair: Policy.Pair
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
    public enum Hook: Hashable, Sendable {
        /// Packets that have arrived, before connection tracking looks at them.
        case raw
        /// Packets routed from one interface to another, at the usual priority of filters.
        case forward
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
            self.matches = matches
            self.action = action
            self.comment = comment
        }
    }

    public enum Match: Hashable, Sendable {
        case ipv4
        case input(in: String)
        case output(in: String)
        case outputNot(in: String)
        /// Before it is routed: the interface through which it will leave is one of these. nft takes no named set here, as it has
        /// another type for names of interfaces from the routing table.
        case routed([String])
        /// Any of these.
        case state([ConnectionState])
        /// The packet's destination was translated: a forwarded port.
        case destinationTranslated
        /// A TCP segment that begins no connection.
        case tcpWithoutSYN
    }

    public enum ConnectionState: String, Hashable, Sendable, CaseIterable {
        case invalid
        case established
        case related
    }

    public enum Action: Hashable, Sendable {
        case verdict(Verdict)
        /// Look up (input interface, output interface) in the map of this name.
        case verdictMap(String)
        case notrack
        case masquerade
        /// Put the connection into the flow table. The kernel does so with TCP and UDP that needs no helper.
        case offload
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
        let vlans = "vlans"
        let pairs = "pairs"
        let decide = "decide"
        let denied = "denied"
        let opposite = "opposite"
        self.policy = policy
        sets =
            [InterfaceSet(name: vlans, elements: policy.gateways.map(\.interface))]
            + (policy.untracked.isEmpty ? [] : [InterfaceSet(name: Self.untracked, elements: policy.untracked)])
        // Exceptions only, since to accept is what the rule after the map does: N² pairs are never held. They go to a
        // chain rather than being dropped at once, so that there is a counter for what was denied.
        maps = [
            VerdictMap(
                name: pairs,
                elements: policy.denied.map { .init(pair: $0, verdict: .goto(denied)) }
                    + policy.opposite.map { .init(pair: $0, verdict: .goto(opposite)) })
        ]

        // What only passes by gets neither a verdict here nor a look at its connection.
        let forward = [
            Rule(.input(in: vlans), then: .verdict(.goto(decide)), comment: "comes from a VLAN"),
            Rule(.output(in: vlans), then: .verdict(.goto(decide)), comment: "goes into a VLAN"),
        ]
        self.flowtable = flowtable
        let offload = Rule(.state([.established]), then: .offload, comment: Reason.offloaded)
        let decisions =
            (flowtable == nil ? [] : [offload]) + [
                Rule(.state([.established, .related]), then: .verdict(.accept), comment: Reason.known),
                Rule(.state([.invalid]), then: .verdict(.drop), comment: Reason.invalid),
                Rule(then: .verdictMap(pairs), comment: Reason.exceptions),
                Rule(.input(in: vlans), then: .verdict(.accept), comment: Reason.fromVLAN),
                // A drop here is final, whatever other tables accept. Who forwards a port into a VLAN has decided that it
                // may be reached, and would otherwise have no way to say so.
                Rule(.destinationTranslated, then: .verdict(.accept), comment: Reason.forwardedPort),
                Rule(then: .verdict(.drop), comment: Reason.outside),
            ]
        chains =
            [
                Chain(name: "forward", hook: .forward, rules: forward),
                Chain(name: decide, hook: nil, rules: decisions),
                Chain(name: denied, hook: nil, rules: [Rule(then: .verdict(.drop), comment: Reason.denied)]),
            ] + (policy.opposite.isEmpty ? [] : [Self.beginning(opposite)])
            + (policy.untracked.isEmpty ? [] : [Self.withoutTracking(policy.untracked)])
            + Self.translation(policy.masquerade, vlans: vlans)
    }

    private static let untracked = "untracked"

    private static func withoutTracking(_ interfaces: [String]) -> Chain {
        Chain(
            name: "prerouting", hook: .raw,
            rules: [
                Rule(.input(in: untracked), .routed(interfaces), then: .notrack, comment: Reason.untracked)
            ])
    }

    private static func beginning(_ name: String) -> Chain {
        Chain(
            name: name, hook: nil,
            rules: [
                Rule(.tcpWithoutSYN, then: .verdict(.drop), comment: Reason.noBeginning),
                Rule(then: .verdict(.accept), comment: Reason.fromVLAN),
            ])
    }

    /// IPv4 only: IPv6 hosts have addresses of their own. No chain where there is nothing to translate, because a nat
    /// chain costs every connection a look-up.
    private static func translation(_ masquerade: Policy.Masquerade, vlans: String) -> [Chain] {
        let intoVLAN = Rule(
            .ipv4, .output(in: vlans), then: .masquerade, comment: "into a VLAN: seen as its gateway")
        let toUplink = Rule(
            .ipv4, .input(in: vlans), .outputNot(in: vlans), then: .masquerade,
            comment: "out of the VLANs: seen as this router")
        let rules: [Rule] =
            switch masquerade {
            case .vlans: [intoVLAN]
            case .uplink: [toUplink]
            case .all: [intoVLAN, toUplink]
            case .none: []
            }
        return rules.isEmpty ? [] : [Chain(name: "postrouting", hook: .postrouting, rules: rules)]
    }

    /// The number of rules in all chains.
    public var ruleCount: Int { chains.reduce(0) { $0 + $1.rules.count } }
}

/// What a rule sees, in the words that all formats use.
enum Reason {
    static let known = "belongs to a connection that was let through"
    static let offloaded = "belongs to a connection: from here on by the flow table"
    static let invalid = "belongs to no connection"
    static let exceptions = "new: VLAN pairs with a verdict of their own"
    static let untracked = "from a VLAN to a VLAN: without a connection, as the fast path has none"
    static let denied = "new: this pair of VLANs is denied"
    static let noBeginning = "belongs to a connection that is denied the other way"
    static let fromVLAN = "new: from a VLAN"
    static let forwardedPort = "new: from outside to a forwarded port"
    static let outside = "new: from outside into a VLAN"
}

extension Ruleset.Hook {
    /// nft's words: the chain's type, the hook, the priority by its name and by its number.
    public var words: (type: String, hook: String, priority: String, number: Int) {
        switch self {
        case .raw: ("filter", "prerouting", "raw", -300)
        case .forward: ("filter", "forward", "filter", 0)
        case .postrouting: ("nat", "postrouting", "srcnat", 100)
        }
    }
}
