import CLinux
import CMnl
import CNftnl
import SystemPackage

// Reading what the kernel sends. Nothing here can trap: a length that does not fit ends the list that it is in.

/// A netlink message without its header.
struct NftablesMessage {
    let type: UInt16
    let flags: UInt16
    let sequence: UInt32
    let body: ArraySlice<UInt8>

    /// An acknowledgement, an error, or the end of a dump.
    struct Report {
        /// Nil: success.
        let errno: Errno?
        /// The kernel's words, where it has any.
        let detail: String?
    }

    var report: Report? {
        guard type == UInt16(NLMSG_ERROR) || type == UInt16(NLMSG_DONE) else { return nil }
        guard body.count >= 4 else { return Report(errno: .protocolError, detail: nil) }
        let code = Int32(bitPattern: hostUInt32(body))
        if code == 0 { return Report(errno: nil, detail: nil) }
        return Report(errno: Errno(rawValue: code == .min ? .max : abs(code)), detail: detail)
    }

    /// struct nlmsgerr: an int, the header of the refused message, the rest of it unless capped, then attributes.
    private var detail: String? {
        guard type == UInt16(NLMSG_ERROR), flags & UInt16(NLM_F_ACK_TLVS) != 0, body.count >= 20 else { return nil }
        let refused = flags & UInt16(NLM_F_CAPPED) != 0 ? 16 : Int(hostUInt32(body.dropFirst(4)))
        guard refused >= 16 else { return nil }
        let attributes = NetlinkAttributeList(body.dropFirst(4 + aligned(refused)))
        return attributes.first(UInt16(NLMSGERR_ATTR_MSG.rawValue)).map(text)
    }

    /// struct nfgenmsg: the family is its first octet.
    var family: Nftables.Family { Nftables.Family(rawValue: body.first ?? 0) }

    /// What stands behind the four octets of struct nfgenmsg.
    var attributes: NetlinkAttributeList { NetlinkAttributeList(body.dropFirst(4)) }

    /// Whether this is an nf_tables message of `type`.
    func isA(_ type: nf_tables_msg_types) -> Bool {
        self.type == UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(truncatingIfNeeded: type.rawValue)
    }
}

/// The messages of a datagram.
///
/// RFC 3549 §2.3.2: length (32 bits, with this header), type (16), flags (16), sequence number (32), port (32), all in
/// the host's byte order; the next message starts at a multiple of four.
func nftablesMessages(in datagram: ArraySlice<UInt8>) -> [NftablesMessage] {
    var messages: [NftablesMessage] = []
    var rest = datagram
    while rest.count >= 16 {
        let length = Int(hostUInt32(rest))
        guard length >= 16, length <= rest.count else { break }
        messages.append(
            NftablesMessage(
                type: hostUInt16(rest.dropFirst(4)), flags: hostUInt16(rest.dropFirst(6)),
                sequence: hostUInt32(rest.dropFirst(8)), body: rest.prefix(length).dropFirst(16)))
        rest = rest.dropFirst(aligned(length))
    }
    return messages
}

/// Attributes, one after another: length (16 bits, with this header), type (14 bits and two flags), value, padding to a
/// multiple of four.
struct NetlinkAttributeList: Sequence {
    private let bytes: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

    struct Iterator: IteratorProtocol {
        fileprivate var rest: ArraySlice<UInt8>

        mutating func next() -> (type: UInt16, value: ArraySlice<UInt8>)? {
            guard rest.count >= 4 else { return nil }
            let length = Int(hostUInt16(rest))
            guard length >= 4, length <= rest.count else { return nil }
            let type = hostUInt16(rest.dropFirst(2)) & 0x3fff
            let value = rest.prefix(length).dropFirst(4)
            rest = rest.dropFirst(aligned(length))
            return (type, value)
        }
    }

    func makeIterator() -> Iterator { Iterator(rest: bytes) }

    func first(_ type: UInt16) -> ArraySlice<UInt8>? {
        for attribute in self where attribute.type == type { return attribute.value }
        return nil
    }
}

// MARK: Octets

/// Shorter values count as if zeros followed.
private func octet(_ bytes: ArraySlice<UInt8>, _ index: Int) -> UInt8 {
    index < bytes.count ? bytes[bytes.startIndex + index] : 0
}

/// The first octets as a number in the host's byte order.
func hostUInt16(_ bytes: ArraySlice<UInt8>) -> UInt16 {
    UInt16(littleEndian: UInt16(octet(bytes, 0)) | UInt16(octet(bytes, 1)) << 8)
}

/// The first octets as a number in the host's byte order.
func hostUInt32(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    UInt32(littleEndian: (0..<4).reduce(0) { $0 | UInt32(octet(bytes, $1)) << (8 * UInt32($1)) })
}

/// All octets, at most eight, as a number in network byte order: that of numbers in nf_tables.
func networkInteger(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
}

/// The octets of a number as they lie in memory.
func withHostOctets<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    let number = number.littleEndian
    return (0..<Number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> Number(8 * $0)) }
}

/// A string up to its terminating zero.
func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }

private func aligned(_ length: Int) -> Int { (length + 3) & ~3 }
