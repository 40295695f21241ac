/// A view of a UDP datagram (RFC 768): the 8 octets of the header are there. Nothing else has been checked.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------------------------------+-------------------------------+
///     |          Source port          |       Destination port        |
///     +-------------------------------+-------------------------------+
///     |            Length             |           Checksum            |
///     +-------------------------------+-------------------------------+
public struct UDPView: ~Escapable {
    let octets: Span<UInt8>

    /// nil: shorter than the header.
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= UDPHeader.length else { return nil }
        self.octets = octets
    }

    public var sourcePort: UInt16 { octets.uint16(at: 0) }
    public var destinationPort: UInt16 { octets.uint16(at: 2) }
    /// Of header and payload, in octets.
    public var length: Int { Int(octets.uint16(at: 4)) }
    public var checksum: UInt16 { octets.uint16(at: 6) }
}

/// A UDP header as a value.
public struct UDPHeader: Hashable, Sendable {
    public var sourcePort: UInt16
    public var destinationPort: UInt16

    /// In octets.
    @inlinable
    public static var length: Int { 8 }

    public init(sourcePort: UInt16, destinationPort: UInt16) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
    }

    /// The datagram, its length and checksum filled in.
    public func octets(_ payload: [UInt8], from source: IPAddress, to destination: IPAddress) -> [UInt8] {
        let length = Self.length + payload.count
        var result: [UInt8] = []
        result.append(uint16: sourcePort)
        result.append(uint16: destinationPort)
        result.append(uint16: UInt16(truncatingIfNeeded: length))
        result.append(uint16: 0)
        result += payload
        var checksum = Checksum.of(
            result.span, adding: Checksum.pseudoHeader(source, destination, .udp, length: length))
        // 0 would say that there is none.
        if checksum == 0 { checksum = 0xffff }
        result[6] = UInt8(checksum >> 8)
        result[7] = UInt8(checksum & 0xff)
        return result
    }
}
