/// What an IP packet carries (RFC 5237; IANA's "Protocol Numbers"). In IPv6 extension headers are among them.
public struct IPProtocol: Hashable, Sendable {
    public var rawValue: UInt8

    @inlinable @inline(__always)
    public init(_ rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable @inline(__always)
    public static func == (left: Self, right: Self) -> Bool { left.rawValue == right.rawValue }

    @inlinable @inline(__always)
    public static var icmp: IPProtocol { IPProtocol(1) }
    @inlinable @inline(__always)
    public static var tcp: IPProtocol { IPProtocol(6) }
    @inlinable @inline(__always)
    public static var udp: IPProtocol { IPProtocol(17) }
    @inlinable @inline(__always)
    public static var icmpv6: IPProtocol { IPProtocol(58) }

    /// The extension headers of RFC 8200 §4, and the authentication header of RFC 4302.
    @inlinable @inline(__always)
    public static var hopByHop: IPProtocol { IPProtocol(0) }
    @inlinable @inline(__always)
    public static var routing: IPProtocol { IPProtocol(43) }
    @inlinable @inline(__always)
    public static var fragment: IPProtocol { IPProtocol(44) }
    @inlinable @inline(__always)
    public static var authentication: IPProtocol { IPProtocol(51) }
    @inlinable @inline(__always)
    public static var destinationOptions: IPProtocol { IPProtocol(60) }
}
