/// A 48-bit Ethernet address.
public struct MACAddress: Hashable, Sendable, CustomStringConvertible {
    /// The six octets, the first one sent in bits 47…40.
    public let rawValue: UInt64

    @inlinable @inline(__always)
    public init(_ rawValue: UInt64) { self.rawValue = rawValue & 0xffff_ffff_ffff }

    @inlinable @inline(__always)
    public static func == (left: Self, right: Self) -> Bool { left.rawValue == right.rawValue }

    /// Exactly six octets in the order in which they are sent; otherwise nil.
    public init?(octets: [UInt8]) {
        guard octets.count == 6 else { return nil }
        rawValue = octets.reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Six pairs of hexadecimal digits with colons; otherwise nil.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        var octets: [UInt8] = []
        for part in parts {
            guard part.utf8.count == 2, part.allSatisfy({ $0.isASCII && $0.isHexDigit }),
                let octet = UInt8(part, radix: 16)
            else { return nil }
            octets.append(octet)
        }
        self.init(octets: octets)
    }

    /// Broadcast or multicast: the first bit on the wire is set (IEEE 802-2014 §8.2.2).
    @inlinable @inline(__always)
    public var isGroup: Bool { rawValue & 0x0100_0000_0000 != 0 }

    public var octets: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: rawValue >> (40 - 8 * $0)) } }

    public var description: String {
        octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}
