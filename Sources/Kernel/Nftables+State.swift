import CNftnl
import Firewall
import SystemPackage

// What is in the kernel now: for status, drift and the doctor.

extension Nftables {
    /// How much a rule has seen.
    public struct RuleCounter: Hashable, Sendable {
        public let chain: String
        /// Empty where the rule has none.
        public let comment: String
        public let packets: UInt64
        /// In octets of IP packets, without Ethernet headers.
        public let bytes: UInt64
    }

    /// The counters of a table's rules, in the order of its rules. Rules without a counter are left out; none at all
    /// where there is no such table.
    public func counters(table: String = Ruleset.table, family: Family = .inet) throws(KernelError) -> [RuleCounter] {
        try settled("read nftables counters") { () throws(KernelError) in
            try rules(table, family).compactMap { rule in
                guard let counter = rule.expressions.first(where: { $0.name == "counter" }) else { return nil }
                let data = Attributes(counter.data)
                return RuleCounter(
                    chain: rule.chain, comment: rule.comment,
                    packets: data.networkInteger(NFTA_COUNTER_PACKETS.rawValue) ?? 0,
                    bytes: data.networkInteger(NFTA_COUNTER_BYTES.rawValue) ?? 0)
            }
        }
    }

    /// A chain that the kernel calls, of whatever table.
    public struct BaseChain: Hashable, Sendable {
        public let family: Family
        public let table: String
        public let name: String
        /// `filter`, `nat` or `route`.
        public let type: String
        /// As nft writes it: `forward`.
        public let hook: String
        /// Chains on a hook are called in ascending order.
        public let priority: Int32
        /// What happens to a packet that no rule decides about.
        public let acceptsByDefault: Bool
        public let ruleCount: Int
        /// Whether its last rule drops or rejects everything that comes there, as firewalld ends its chains.
        public let endsInDrop: Bool
        /// Whether only the process that made its table may change it (nft's flag `owner`).
        public let isOwned: Bool

        public var fullName: ChainName { ChainName(family: family, table: table, name: name) }

        /// Whether a packet that no rule accepts is dropped.
        public var dropsTheRest: Bool { !acceptsByDefault || endsInDrop }

        public init(
            family: Family, table: String, name: String, type: String, hook: String, priority: Int32,
            acceptsByDefault: Bool, ruleCount: Int, endsInDrop: Bool = false, isOwned: Bool = false
        ) {
            self.family = family
            self.table = table
            self.name = name
            self.type = type
            self.hook = hook
            self.priority = priority
            self.acceptsByDefault = acceptsByDefault
            self.ruleCount = ruleCount
            self.endsInDrop = endsInDrop
            self.isOwned = isOwned
        }
    }

    /// All base chains of all tables, which includes those of iptables-nft, but not those of legacy iptables.
    public func baseChains() throws(KernelError) -> [BaseChain] {
        try settled("list nftables chains") { () throws(KernelError) in
            let last = try lastRules()
            let owned = try ownedTables()
            return try dump(NFT_MSG_GETCHAIN, .unspecified, "list nftables chains").compactMap { message in
                let attributes = message.attributes
                guard message.isA(NFT_MSG_NEWCHAIN), let place = attributes.nested(Int(NFTA_CHAIN_HOOK.rawValue))
                else { return nil }
                func number(_ attributes: Attributes, _ type: UInt32) -> UInt32 {
                    UInt32(truncatingIfNeeded: attributes.networkInteger(type) ?? 0)
                }
                return BaseChain(
                    family: message.family, table: attributes.string(NFTA_CHAIN_TABLE.rawValue),
                    name: attributes.string(NFTA_CHAIN_NAME.rawValue),
                    type: attributes.string(NFTA_CHAIN_TYPE.rawValue),
                    hook: message.family.name(ofHook: number(place, NFTA_HOOK_HOOKNUM.rawValue)),
                    priority: Int32(bitPattern: number(place, NFTA_HOOK_PRIORITY.rawValue)),
                    // NF_DROP is zero.
                    acceptsByDefault: attributes.networkInteger(NFTA_CHAIN_POLICY.rawValue) != 0,
                    // What refers to a base chain is its own rules: no rule can jump there.
                    ruleCount: Int(number(attributes, NFTA_CHAIN_USE.rawValue)),
                    endsInDrop: last[
                        [
                            message.family.description, attributes.string(NFTA_CHAIN_TABLE.rawValue),
                            attributes.string(NFTA_CHAIN_NAME.rawValue),
                        ]]?.dropsAll ?? false,
                    isOwned: owned.contains([
                        message.family.description, attributes.string(NFTA_CHAIN_TABLE.rawValue),
                    ]))
            }
        }
    }

    /// The chains that packets may come to from a chain, by jumps and gotos; it is one of them.
    public func chainsReached(from chain: ChainName) throws(KernelError) -> Set<String> {
        let all = try settled("list nftables rules") { () throws(KernelError) in
            try rules(chain.table, chain.family)
        }
        let ways = Dictionary(grouping: all, by: \.chain)
            .mapValues { $0.flatMap(\.expressions).compactMap(\.target) }
        var reached: Set = [chain.name]
        var rest = [chain.name]
        while let name = rest.popLast() {
            for target in ways[name] ?? [] where reached.insert(target).inserted { rest.append(target) }
        }
        return reached
    }

    /// The input interfaces that some rule of the table names and then accepts, directly or by going to another chain; with a `*` at
    /// the end where the rule names the beginning of a name. Whether such a rule is reached, and whether it has further
    /// conditions, is not looked at: it is a sign, and no proof.
    public func acceptedInputs(table: String, family: Family) throws(KernelError) -> Set<String> {
        var result: Set<String> = []
        for rule in try rules(table, family) {
            guard rule.expressions.contains(where: { $0.accepts }) else { continue }
            var loadsInput = false
            for expression in rule.expressions {
                let data = Attributes(expression.data)
                switch expression.name {
                case "meta":
                    loadsInput = data.networkInteger(NFTA_META_KEY.rawValue) == UInt64(NFT_META_IIFNAME.rawValue)
                case "cmp" where loadsInput:
                    loadsInput = false
                    if let value = data.nested(Int(NFTA_CMP_DATA.rawValue))?[Int(NFTA_DATA_VALUE.rawValue)] {
                        result.insert(Self.interfaceName(value))
                    }
                case "lookup" where loadsInput:
                    loadsInput = false
                    result.formUnion(
                        try keys(table, family, data.string(NFTA_LOOKUP_SET.rawValue)).map(Self.interfaceName))
                default: break
                }
            }
        }
        return result
    }

    /// Without the zero that ends a whole name it is the beginning of one.
    private static func interfaceName(_ octets: ArraySlice<UInt8>) -> String {
        let name = String(decoding: octets.prefix { $0 != 0 }, as: UTF8.self)
        return octets.contains(0) ? name : name + "*"
    }

    /// The keys of a set's elements.
    private func keys(_ table: String, _ family: Family, _ set: String) throws(KernelError) -> [ArraySlice<UInt8>] {
        try dump(
            NFT_MSG_GETSETELEM, family, "list the elements of nftables set \(set)", .elements(table: table, set: set)
        ).flatMap { message in
            listedValues(message.attributes[Int(NFTA_SET_ELEM_LIST_ELEMENTS.rawValue)] ?? []).compactMap { element in
                Attributes(element).nested(Int(NFTA_SET_ELEM_KEY.rawValue))?[Int(NFTA_DATA_VALUE.rawValue)]
            }
        }
    }

    /// By family and name.
    private func ownedTables() throws(KernelError) -> Set<[String]> {
        let tables = try dump(NFT_MSG_GETTABLE, .unspecified, "list nftables tables").filter {
            ($0.attributes.networkInteger(NFTA_TABLE_FLAGS.rawValue) ?? 0) & UInt64(NFT_TABLE_F_OWNER.rawValue) != 0
        }
        return Set(tables.map { [$0.family.description, $0.attributes.string(NFTA_TABLE_NAME.rawValue)] })
    }

    /// The last rule of each chain, by family, table and chain.
    private func lastRules() throws(KernelError) -> [[String]: KernelRule] {
        var result: [[String]: KernelRule] = [:]
        for message in try dump(NFT_MSG_GETRULE, .unspecified, "list nftables rules") {
            let attributes = message.attributes
            let chain = attributes.string(NFTA_RULE_CHAIN.rawValue)
            result[[message.family.description, attributes.string(NFTA_RULE_TABLE.rawValue), chain]] = KernelRule(
                message)
        }
        return result
    }

    /// A digest of everything in a table that decides about packets, and of its comments: equal for equal tables,
    /// whoever made them, until someone changes something. Traffic does not change it. Nil: there is no such table.
    ///
    /// It is not meant to resist an adversary, who could as well change vrouter.
    public func fingerprint(
        table: String = Ruleset.table, family: Family = .inet
    ) throws(KernelError) -> String? {
        try settled("read the nftables table \(family) \(table)") { () throws(KernelError) in
            guard
                let found = try get(
                    NFT_MSG_GETTABLE, family, "look up the nftables table \(family) \(table)", .table(table))
            else { return nil }
            var digest = Digest()
            digest.add(found.attributes, NFTA_TABLE_FLAGS.rawValue)
            digest.add(found.attributes, NFTA_TABLE_USERDATA.rawValue)

            let chains = try dump(NFT_MSG_GETCHAIN, family, "list nftables chains")
                .filter { $0.isIn(table, family, NFTA_CHAIN_TABLE.rawValue) }
                .map { (name: $0.attributes.string(NFTA_CHAIN_NAME.rawValue), attributes: $0.attributes) }
                .sorted { $0.name < $1.name }
            let rules = try rules(table, family)
            for chain in chains {
                digest.add(chain.name.utf8)
                // Hook with its priority and devices; policy, type, flags.
                for type in [
                    NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_CHAIN_FLAGS, NFTA_CHAIN_USERDATA,
                ] {
                    digest.add(chain.attributes, type.rawValue)
                }
                for rule in rules where rule.chain == chain.name {
                    for expression in rule.expressions {
                        digest.add(expression.name.utf8)
                        digest.add(expression.name == "counter" ? [] : expression.data)
                    }
                    digest.add(rule.userdata)
                }
            }

            let flowtables = try dump(NFT_MSG_GETFLOWTABLE, family, "list nftables flowtables")
                .filter { $0.isIn(table, family, NFTA_FLOWTABLE_TABLE.rawValue) }
                .map { (name: $0.attributes.string(NFTA_FLOWTABLE_NAME.rawValue), attributes: $0.attributes) }
                .sorted { $0.name < $1.name }
            for flowtable in flowtables {
                digest.add(flowtable.name.utf8)
                digest.add(flowtable.attributes, NFTA_FLOWTABLE_FLAGS.rawValue)
                let hook = Attributes(flowtable.attributes[Int(NFTA_FLOWTABLE_HOOK.rawValue)] ?? [])
                digest.add(hook, NFTA_FLOWTABLE_HOOK_PRIORITY.rawValue)
                // An interface that goes is taken out of it.
                let devices = listedValues(hook[Int(NFTA_FLOWTABLE_HOOK_DEVS.rawValue)] ?? [])
                for device in devices.map(Array.init).sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                    digest.add(device)
                }
            }

            let sets = try dump(NFT_MSG_GETSET, family, "list nftables sets", .sets(table: table))
                .filter { $0.isIn(table, family, NFTA_SET_TABLE.rawValue) }
                .map { (name: $0.attributes.string(NFTA_SET_NAME.rawValue), attributes: $0.attributes) }
                .sorted { $0.name < $1.name }
            for set in sets {
                digest.add(set.name.utf8)
                // Not the userdata: how a version of nft likes to print a set.
                for type in [NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_TIMEOUT]
                {
                    digest.add(set.attributes, type.rawValue)
                }
                for element in try elements(table, family, set.name) { digest.add(element) }
            }
            return digest.text
        }
    }
}

extension Nftables.Family {
    /// NF_INET_*, NF_ARP_*, NF_NETDEV_* of linux/netfilter*.h, as nft writes them. Bridges number as IP does.
    fileprivate func name(ofHook number: UInt32) -> String {
        let names =
            switch self {
            case .arp: ["input", "output", "forward"]
            case .netdev: ["ingress", "egress"]
            default: ["prerouting", "input", "forward", "output", "postrouting", "ingress"]
            }
        return Int(number) < names.count ? names[Int(number)] : "hook \(number)"
    }
}

// MARK: Reading

extension Nftables {
    /// Reads until no transaction of anybody's came between: what several requests answer then belongs together.
    ///
    /// - Throws: EINTR where others change tables all the time.
    func settled<Result>(
        _ operation: String, _ read: () throws(KernelError) -> Result
    ) throws(KernelError) -> Result {
        for _ in 0..<20 {
            let before = try generation()
            do {
                let result = try read()
                if try generation() == before { return result }
            } catch {
                // A set that was listed is gone, or a list changed while it was sent.
                guard error.errno == .interrupted || error.errno == .noSuchFileOrDirectory else { throw error }
            }
        }
        throw KernelError(operation, .interrupted)
    }

    /// The number of the last transaction.
    func generation() throws(KernelError) -> UInt64 {
        let operation = "ask for nftables' generation"
        guard let answer = try get(NFT_MSG_GETGEN, .unspecified, operation),
            let number = answer.attributes.networkInteger(NFTA_GEN_ID.rawValue)
        else { throw KernelError(operation, .protocolError) }
        return number
    }

    struct KernelExpression {
        let name: String
        let data: ArraySlice<UInt8>

        /// NF_ACCEPT 1, NF_DROP 0, NFT_JUMP -3, NFT_GOTO -4, NFT_RETURN -5; nil: no verdict.
        var verdict: Int32? {
            verdictAttributes?.networkInteger(NFTA_VERDICT_CODE.rawValue).map { Int32(truncatingIfNeeded: $0) }
        }

        /// The chain that a jump or goto leads to; nil: it is neither.
        var target: String? { verdictAttributes?.string(Int(NFTA_VERDICT_CHAIN.rawValue)) }

        private var verdictAttributes: Attributes? {
            guard name == "immediate" else { return nil }
            return Attributes(data).nested(Int(NFTA_IMMEDIATE_DATA.rawValue))?.nested(Int(NFTA_DATA_VERDICT.rawValue))
        }

        /// Whether it ends the rule's chain for the packet.
        var rejects: Bool {
            name == "reject" || name == "target" && Attributes(data).string(NFTA_TARGET_NAME.rawValue) == "REJECT"
        }

        /// What iptables keeps a comment in; nil: it is something else.
        var comment: String? {
            guard name == "match", Attributes(data).string(NFTA_MATCH_NAME.rawValue) == "comment",
                let text = Attributes(data)[Int(NFTA_MATCH_INFO.rawValue)]
            else { return nil }
            return String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
        }

        /// Whether a packet that comes here is accepted, or goes to where it may be.
        var accepts: Bool { verdict == 1 || verdict == -3 || verdict == -4 }
    }

    struct KernelRule {
        let chain: String
        let handle: UInt64
        let expressions: [KernelExpression]
        let userdata: ArraySlice<UInt8>

        init(_ message: NetlinkMessage) {
            let attributes = message.attributes
            chain = attributes.string(NFTA_RULE_CHAIN.rawValue)
            handle = attributes.networkInteger(NFTA_RULE_HANDLE.rawValue) ?? 0
            expressions = listedValues(attributes[Int(NFTA_RULE_EXPRESSIONS.rawValue)] ?? []).map { value in
                let parts = Attributes(value)
                return KernelExpression(
                    name: parts.string(NFTA_EXPR_NAME.rawValue), data: parts[Int(NFTA_EXPR_DATA.rawValue)] ?? [])
            }
            userdata = attributes[Int(NFTA_RULE_USERDATA.rawValue)] ?? []
        }

        /// What decides about packets.
        var substance: [KernelExpression] {
            expressions.filter { !["counter", "log"].contains($0.name) && $0.comment == nil }
        }

        /// Whether it drops or rejects whatever comes there.
        var dropsAll: Bool {
            let rest = substance
            return rest.count == 1 && (rest[0].rejects || rest[0].verdict == 0)
        }

        /// Whether no packet gets to the next rule directly.
        var takesAll: Bool {
            let rest = substance
            // NFT_CONTINUE is -1.
            return rest.count == 1 && (rest[0].rejects || ![nil, -1].contains(rest[0].verdict))
        }

        /// An entry of nft's userdata is a type, a length and a value, an octet each for the first two.
        var comment: String {
            var rest = userdata
            while let type = rest.popFirst(), let length = rest.popFirst() {
                if UInt32(type) == NFTNL_UDATA_RULE_COMMENT.rawValue {
                    return String(decoding: rest.prefix(Int(length)).prefix { $0 != 0 }, as: UTF8.self)
                }
                rest = rest.dropFirst(Int(length))
            }
            return expressions.compactMap(\.comment).first ?? ""
        }
    }

    /// The rules of a table, each chain's in their order.
    private func rules(_ table: String, _ family: Family) throws(KernelError) -> [KernelRule] {
        try dump(NFT_MSG_GETRULE, family, "list nftables rules", .rules(table: table))
            .filter { $0.isIn(table, family, NFTA_RULE_TABLE.rawValue) }
            .map { KernelRule($0) }
    }

    /// The elements of a set, in ascending order of their octets: the kernel's order depends on a random seed.
    ///
    /// It lists a large set in parts and finds its place again by counting. While it still spreads a set that has grown over more
    /// buckets, which no generation tells, elements are then listed twice or not at all: so until two lists agree.
    private func elements(_ table: String, _ family: Family, _ set: String) throws(KernelError) -> [[UInt8]] {
        var list = try listElements(table, family, set)
        // What fits in one part is listed at once.
        guard list.count > 100 else { return list }
        for _ in 0..<50 {
            let again = try listElements(table, family, set)
            if again == list { return list }
            list = again
        }
        throw KernelError("list the elements of nftables set \(set)", .resourceTemporarilyUnavailable)
    }

    private func listElements(_ table: String, _ family: Family, _ set: String) throws(KernelError) -> [[UInt8]] {
        let parts = [NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS]
        let listed = try dump(
            NFT_MSG_GETSETELEM, family, "list the elements of nftables set \(set)", .elements(table: table, set: set)
        ).flatMap { message in
            let list = message.attributes[Int(NFTA_SET_ELEM_LIST_ELEMENTS.rawValue)] ?? []
            return listedValues(list).map { element in
                let attributes = Attributes(element)
                return parts.flatMap { part -> [UInt8] in
                    let value = attributes[Int(part.rawValue)] ?? []
                    return UInt32(value.count).nativeBytes + value
                }
            }
        }
        return Set(listed).sorted { $0.lexicographicallyPrecedes($1) }
    }
}

extension NetlinkMessage {
    fileprivate func isIn(_ table: String, _ family: Nftables.Family, _ type: UInt32) -> Bool {
        self.family == family && attributes.string(type) == table
    }
}

/// FNV-1a with 128 bits (RFC 9923 §2): small, and the same in every process.
private struct Digest {
    private var state: UInt128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d

    private mutating func add(octet: UInt8) {
        state ^= UInt128(octet)
        state &*= 0x0000_0000_0100_0000_0000_0000_0000_013b
    }

    /// The length goes first, so that no two sequences of values are the same sequence of octets.
    mutating func add(_ value: some Collection<UInt8>) {
        for octet in (UInt32(clamping: value.count)).nativeBytes { add(octet: octet) }
        for octet in value { add(octet: octet) }
    }

    mutating func add(_ attributes: Attributes, _ type: UInt32) {
        add(attributes[Int(type)] ?? [])
    }

    /// 32 hexadecimal digits.
    var text: String {
        let digits = String(state, radix: 16)
        return String(repeating: "0", count: 32 - digits.count) + digits
    }
}
