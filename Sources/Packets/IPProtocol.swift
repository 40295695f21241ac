/// What an IP packet carries (RFC 5237; IANA's "Protocol Numbers"). In IPv6 extension headers are among them.
public struct IPProtocol: Hashable, Sendable {
    public var rawValue: UInt8

    @inlinable
    public init(_ rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable
    public static func == (left: Self, right: Self) -> Bool { left.rawValue == right.rawValue }

    @inlinable
    public static var icmp: IPProtocol { IPProtocol(1) }
    @inlinable
    public static var tcp: IPProtocol { IPProtocol(6) }
    @inlinable
    public static var udp: IPProtocol { IPProtocol(17) }
    @inlinable
    public static var icmpv6: IPProtocol { IPProtocol(58) }

    /// The extension headers of RFC 8200 §4, and the authentication header of RFC 4302.
    @inlinable
    public static var hopByHop: IPProtocol { IPProtocol(0) }
    @inlinable
    public static var routing: IPProtocol { IPProtocol(43) }
    @inlinable
    public static var fragment: IPProtocol { IPProtocol(44) }
    @inlinable
    public static var authentication: IPProtocol { IPProtocol(51) }
    @inlinable
    public static var destinationOptions: IPProtocol { IPProtocol(60) }
}
