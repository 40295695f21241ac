/// A view of an ICMP or ICMPv6 message (RFC 792, RFC 4443 §2.1): its first 8 octets are there. The checksum has not been verified.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +---------------+---------------+-------------------------------+
///     |     Type      |     Code      |           Checksum            |
///     +---------------+---------------+-------------------------------+
///     |  What the type needs; of an echo its identifier and number    |
///     +---------------------------------------------------------------+
public struct ICMPView: ~Escapable {
    let octets: Span<UInt8>

    /// nil: too short.
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= ICMPEcho.length else { return nil }
        self.octets = octets
    }

    public var type: UInt8 { octets[0] }
    public var code: UInt8 { octets[1] }
    public var checksum: UInt16 { octets.uint16(at: 2) }
    /// Of an echo.
    public var identifier: UInt16 { octets.uint16(at: 4) }
    /// Of an echo.
    public var sequence: UInt16 { octets.uint16(at: 6) }
}

/// An echo request or reply, as a value: what `ping` sends (RFC 792, RFC 4443 §4.1).
public struct ICMPEcho: Hashable, Sendable {
    public var isRequest: Bool
    public var identifier: UInt16
    public var sequence: UInt16

    /// In octets.
    static let length = 8

    public init(isRequest: Bool = true, identifier: UInt16, sequence: UInt16) {
        self.isRequest = isRequest
        self.identifier = identifier
        self.sequence = sequence
    }

    /// The types of ICMP, and of ICMPv6.
    static func type(isRequest: Bool, _ family: IPFamily) -> UInt8 {
        switch family {
        case .v4: isRequest ? 8 : 0
        case .v6: isRequest ? 128 : 129
        }
    }

    /// The message with its checksum, which in IPv6 covers the addresses, too.
    public func octets(_ payload: [UInt8], from source: IPAddress, to destination: IPAddress) -> [UInt8] {
        var result: [UInt8] = [Self.type(isRequest: isRequest, source.family), 0, 0, 0]
        result.append(uint16: identifier)
        result.append(uint16: sequence)
        result += payload
        let sum =
            source.isV4 ? 0 : Checksum.pseudoHeader(source, destination, .icmpv6, length: result.count)
        let checksum = Checksum.of(result.span, adding: sum)
        result[2] = UInt8(checksum >> 8)
        result[3] = UInt8(checksum & 0xff)
        return result
    }
}
