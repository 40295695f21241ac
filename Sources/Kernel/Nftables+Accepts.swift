import CNftnl
import SystemPackage

// Rules of ours in the chains of other programs.

extension Nftables {
    /// A chain of whatever table.
    public struct ChainName: Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
        public let family: Family
        public let table: String
        public let name: String

        public init(family: Family, table: String, name: String) {
            self.family = family
            self.table = table
            self.name = name
        }

        /// As nft writes it.
        public var description: String { "\(family) \(table) \(name)" }

        public static func < (left: Self, right: Self) -> Bool { left.description < right.description }
    }

    /// A rule in somebody else's chain that accepts whatever arrives by an interface, or leaves by it.
    ///
    /// One for each interface, and in the words that iptables has for it: iptables shows what it has no words for (a set of names)
    /// as if it were not there, and so as a rule that accepts everything.
    public struct Accept: Hashable, Comparable, Sendable, Codable {
        public let chain: ChainName
        public let direction: Direction
        public let interface: String

        public enum Direction: String, Hashable, Sendable, Codable, CaseIterable {
            case input, output
        }

        /// By which a rule is ours, if it is also in all else what we made.
        public static let comment = "vrouter up --coexist"

        public init(chain: ChainName, direction: Direction, interface: String) {
            self.chain = chain
            self.direction = direction
            self.interface = interface
        }

        public static func < (left: Self, right: Self) -> Bool {
            (left.chain, left.interface, left.direction.rawValue) < (
                right.chain, right.interface, right.direction.rawValue
            )
        }
    }

    /// What is in all tables of interest to whoever adds or removes an `Accept`.
    public struct AcceptSurvey: Hashable, Sendable {
        /// The handles of each that is there; more than one where somebody has loaded it a second time.
        public var accepts: [Accept: [UInt64]] = [:]
        /// Chains that have a rule which takes every packet elsewhere: the first of these. Nothing is reached behind it.
        public var ends: [ChainName: End] = [:]

        public struct End: Hashable, Sendable {
            /// Counted from 1.
            public var number: Int
            public var handle: UInt64
        }

        public init() {}
    }

    /// Looks through all rules of all tables.
    public func acceptSurvey() throws(KernelError) -> AcceptSurvey {
        try settled("list nftables rules") { () throws(KernelError) in try survey() }
    }

    private func survey() throws(KernelError) -> AcceptSurvey {
        var result = AcceptSurvey()
        var counts: [ChainName: Int] = [:]
        for message in try dump(NFT_MSG_GETRULE, .unspecified, "list nftables rules") {
            let rule = KernelRule(message)
            let chain = ChainName(
                family: message.family, table: message.attributes.string(NFTA_RULE_TABLE.rawValue), name: rule.chain)
            counts[chain, default: 0] += 1
            if rule.takesAll, result.ends[chain] == nil {
                result.ends[chain] = .init(number: counts[chain] ?? 0, handle: rule.handle)
            }
            if let (direction, interface) = rule.acceptedInterface, rule.comment == Accept.comment {
                let accept = Accept(chain: chain, direction: direction, interface: interface)
                result.accepts[accept, default: []].append(rule.handle)
            }
        }
        return result
    }

    /// Adds and removes rules in one transaction. Each goes to the end of its chain, or before the first rule that takes every packet
    /// elsewhere: what the chain's owner says of some packets comes first. Left out is what is there already, or gone,
    /// and what would go to a chain that has gone.
    ///
    /// - Throws: EPERM also where a table is owned by another process (`BaseChain.isOwned`).
    public func change(adding added: [Accept], removing removed: [Accept]) throws(KernelError) {
        for _ in 0..<20 {
            // Handles are given again when a table is made again: they are of one generation, and so is the transaction.
            let generation = try generation()
            let found: AcceptSurvey
            let chains: Set<ChainName>
            do {
                found = try survey()
                chains = try allChains()
            } catch {
                guard error.errno == .interrupted else { throw error }
                continue
            }
            var batch = NftablesBatch(generation: UInt32(truncatingIfNeeded: generation))
            for accept in removed {
                for handle in found.accepts[accept] ?? [] { batch.delete(accept, handle: handle) }
            }
            for accept in added where found.accepts[accept] == nil && chains.contains(accept.chain) {
                batch.add(accept, before: found.ends[accept.chain]?.handle)
            }
            guard !batch.operations.isEmpty else { return }
            do {
                return try send(batch, commit: true)
            } catch {
                guard error.errno == Self.otherGeneration else { throw error }
            }
        }
        throw KernelError("change nftables rules", .interrupted)
    }

    /// ERESTART: somebody has committed meanwhile.
    private static var otherGeneration: Errno { Errno(rawValue: 85) }

    private func allChains() throws(KernelError) -> Set<ChainName> {
        Set(
            try dump(NFT_MSG_GETCHAIN, .unspecified, "list nftables chains").map { message in
                ChainName(
                    family: message.family, table: message.attributes.string(NFTA_CHAIN_TABLE.rawValue),
                    name: message.attributes.string(NFTA_CHAIN_NAME.rawValue))
            })
    }
}

extension Nftables.KernelRule {
    /// Of a rule that does nothing but accept what arrives by an interface, or leaves by it; nil: it is another one.
    fileprivate var acceptedInterface: (Nftables.Accept.Direction, String)? {
        let parts = substance
        guard parts.count == 3, parts[0].name == "meta", parts[1].name == "cmp", parts[2].verdict == 1 else {
            return nil
        }
        let comparison = Attributes(parts[1].data)
        guard comparison.networkInteger(NFTA_CMP_OP.rawValue) == UInt64(NFT_CMP_EQ.rawValue),
            let name = comparison.nested(Int(NFTA_CMP_DATA.rawValue))?[Int(NFTA_DATA_VALUE.rawValue)],
            // Without the zero it would be the beginning of several names.
            name.last == 0
        else { return nil }
        let interface = String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
        return switch Attributes(parts[0].data).networkInteger(NFTA_META_KEY.rawValue) {
        case UInt64(NFT_META_IIFNAME.rawValue): (.input, interface)
        case UInt64(NFT_META_OIFNAME.rawValue): (.output, interface)
        default: nil
        }
    }
}
