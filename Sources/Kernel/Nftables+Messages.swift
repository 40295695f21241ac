import CLinux
import CNftnl
import SystemPackage

// What is particular about the messages of nf_tables. Nothing here can trap: a length that does not fit ends the list
// that it is in.

extension NetlinkMessage {
    /// An acknowledgement, an error, or the end of a dump. `error(_:)` tells which.
    var isReport: Bool { Int32(type) == NLMSG_ERROR || Int32(type) == NLMSG_DONE }

    /// struct nfgenmsg, four octets, stands before the attributes: its first octet is the family.
    var family: Nftables.Family { Nftables.Family(rawValue: payload.first ?? 0) }

    var attributes: Attributes { attributes(after: 4) }

    /// Whether this is an nf_tables message of `type`.
    func isA(_ type: nf_tables_msg_types) -> Bool {
        self.type == UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(truncatingIfNeeded: type.rawValue)
    }
}

extension Attributes {
    /// nf_tables' numbers are in network byte order, with 32 or 64 bits.
    func networkInteger(_ type: UInt32) -> UInt64? {
        self[Int(type)]?.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    func string(_ type: UInt32) -> String { string(Int(type)) ?? "" }
}

/// The values of a nest whose attributes are all of one type: a list.
func listedValues(_ nest: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    var values: [ArraySlice<UInt8>] = []
    var rest = nest
    while let length = rest.load(UInt16.self, at: 0), length >= 4, Int(length) <= rest.count {
        values.append(rest.prefix(Int(length)).dropFirst(4))
        rest = rest.dropFirst((Int(length) + 3) & ~3)
    }
    return values
}

/// linux/netlink.h makes this out of two other macros. Whether the importer follows them depends on which other modules
/// are imported along with CLinux; what this module declares itself comes before what is imported.
// swift-format-ignore: AlwaysUseLowerCamelCase
let NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
