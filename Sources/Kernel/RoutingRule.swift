// Which routing tables are asked, and in which order, as `ip rule` shows it.

import CLinux
import Packets

/// A rule that says which packets look into which table.
public struct RoutingRule: Hashable, Sendable {
    public let family: IPFamily
    /// Rules are asked in ascending order.
    public let priority: UInt32
    public let table: UInt32
    /// Whether it is about every packet and does nothing but look into the table.
    public let isPlain: Bool
    /// All that it says, so that two rules which differ in what is not read here are two.
    private let octets: [UInt8]

    /// The rules that a network namespace begins with. Where there are no others, a packet's destination alone decides about its route.
    public static func areDefault(_ rules: some Collection<RoutingRule>, _ family: IPFamily) -> Bool {
        let tables: [(UInt32, UInt32)] = [
            (0, Route.localTable), (0x7ffe, Route.mainTable), (0x7fff, Route.defaultTable),
        ]
        let expected = family == .v4 ? tables : Array(tables.dropLast())
        let found = rules.filter { $0.family == family }.sorted { $0.priority < $1.priority }
        return found.count == expected.count
            && zip(found, expected).allSatisfy { $0.isPlain && ($0.priority, $0.table) == $1 }
    }
}

extension RoutingRule {
    /// nil: neither of IPv4 nor of IPv6.
    init?(_ message: NetlinkMessage) {
        // struct fib_rule_hdr { u8 family, dst_len, src_len, tos, table, res1, res2, action; u32 flags }
        let header = message.payload
        guard Int(message.type) == RTM_NEWRULE || Int(message.type) == RTM_DELRULE, header.count >= 12 else {
            return nil
        }
        let first = header.startIndex
        switch Int32(header[first]) {
        case AF_INET: family = .v4
        case AF_INET6: family = .v6
        default: return nil
        }
        var table = UInt32(header[first + 4])
        var priority: UInt32 = 0
        var isPlain =
            header[(first + 1)...(first + 3)].allSatisfy { $0 == 0 } && header[first + 7] == UInt8(FR_ACT_TO_TBL)
            && (header.load(UInt32.self, at: 8) ?? 0) & UInt32(FIB_RULE_INVERT) == 0
        for (type, value) in AttributeSequence(header.dropFirst(12)) {
            switch type {
            case Int(FRA_TABLE): table = value.load(UInt32.self, at: 0) ?? table
            case Int(FRA_PRIORITY): priority = value.load(UInt32.self, at: 0) ?? 0
            // Who made it; and nothing, where it has no limit.
            case Int(FRA_PROTOCOL), Int(FRA_PAD): break
            case Int(FRA_SUPPRESS_PREFIXLEN) where value.load(UInt32.self, at: 0) == .max: break
            default: isPlain = false
            }
        }
        self.table = table
        self.priority = priority
        self.isPlain = isPlain
        // Without the flags: they also say whether its interface is there.
        octets = Array(header.prefix(8)) + header.dropFirst(12)
    }
}

extension NetlinkSocket {
    /// The rules of both families.
    public func routingRules() throws(KernelError) -> [RoutingRule] {
        var result: [RoutingRule] = []
        for family in [AF_INET, AF_INET6] {
            var header = fib_rule_hdr()
            header.family = UInt8(family)
            var request = NetlinkBatch()
            request.add("list routing rules", type: RTM_GETRULE, flags: NLM_F_DUMP, header: header)
            result += try dump(request).compactMap(RoutingRule.init)
        }
        return result
    }
}
