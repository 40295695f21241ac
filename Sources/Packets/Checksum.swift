/// The Internet checksum: the one's complement of the one's complement sum of 16-bit words (RFC 1071 §1).
public enum Checksum {
    /// The checksum of `octets`, whose own checksum field is zero; of octets with their checksum in place it is 0 exactly if that is right.
    ///
    /// - Parameter sum: what else belongs to it, such as the sum of a pseudo-header.
    @inlinable @inline(__always)
    public static func of(_ octets: Span<UInt8>, adding sum: UInt64 = 0) -> UInt16 {
        // 32-bit words do as well (RFC 1071 §2.B): 2³² words would be needed for an overflow.
        var sum = sum
        var offset = 0
        while offset &+ 4 <= octets.count {
            sum &+= UInt64(octets.uint32(at: offset))
            offset &+= 4
        }
        if offset &+ 2 <= octets.count {
            sum &+= UInt64(octets.uint16(at: offset))
            offset &+= 2
        }
        // An odd octet is followed by one of zeroes.
        if offset < octets.count { sum &+= UInt64(octets[offset]) << 8 }
        return ~folded(sum)
    }

    /// The 16-bit one's complement sum that `sum`, a plain sum of words, stands for.
    @inlinable @inline(__always)
    public static func folded(_ sum: UInt64) -> UInt16 {
        var sum = (sum & 0xffff_ffff) &+ (sum >> 32)
        sum = (sum & 0xffff) &+ (sum >> 16)
        sum = (sum & 0xffff) &+ (sum >> 16)
        sum = (sum & 0xffff) &+ (sum >> 16)
        return UInt16(truncatingIfNeeded: sum)
    }

    /// The checksum after the word `old`, which it covers, has become `new`: HC' = ~(~HC + ~m + m') (RFC 1624 §3, equation 3).
    @inlinable @inline(__always)
    public static func updated(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        var sum = UInt32(~checksum) &+ UInt32(~old) &+ UInt32(new)
        sum = (sum & 0xffff) &+ (sum >> 16)
        sum = (sum & 0xffff) &+ (sum >> 16)
        return ~UInt16(truncatingIfNeeded: sum)
    }

    /// The plain sum of the pseudo-header that TCP, UDP and ICMPv6 cover (RFC 9293 §3.1, RFC 8200 §8.1).
    ///
    /// - Parameter length: of the transport's header and payload, in octets.
    static func pseudoHeader(_ source: IPAddress, _ destination: IPAddress, _ transport: IPProtocol, length: Int)
        -> UInt64
    {
        var sum = UInt64(transport.rawValue) + UInt64(length)
        for octets in [source.octets, destination.octets] {
            for index in stride(from: 0, to: octets.count, by: 2) {
                sum += UInt64(octets[index]) << 8 | UInt64(octets[index + 1])
            }
        }
        return sum
    }
}
