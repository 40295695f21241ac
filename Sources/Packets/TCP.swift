/// A view of a TCP segment (RFC 9293 §3.1): the 20 octets of the fixed header are there. Nothing else has been checked.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------------------------------+-------------------------------+
///     |          Source port          |       Destination port        |
///     +-------------------------------+-------------------------------+
///     |                        Sequence number                        |
///     +---------------------------------------------------------------+
///     |                     Acknowledgment number                     |
///     +-------+-------+-+-+-+-+-+-+-+-+-------------------------------+
///     | Offset|  Rsv. |C|E|U|A|P|R|S|F|            Window             |
///     +-------+-------+-+-+-+-+-+-+-+-+-------------------------------+
///     |           Checksum            |        Urgent pointer         |
///     +-------------------------------+-------------------------------+
///     |                           Options …                           |
public struct TCPView: ~Escapable {
    @usableFromInline let octets: Span<UInt8>

    /// nil: shorter than the fixed header.
    @inlinable @inline(__always)
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= TCPHeader.length else { return nil }
        self.octets = octets
    }

    public var sourcePort: UInt16 { octets.uint16(at: 0) }
    public var destinationPort: UInt16 { octets.uint16(at: 2) }
    public var sequence: UInt32 { octets.uint32(at: 4) }
    public var acknowledgment: UInt32 { octets.uint32(at: 8) }
    /// Data offset, in octets: 0…60. Less than 20 is an error.
    @inlinable @inline(__always)
    public var headerLength: Int { Int(octets[12] >> 4) &* 4 }
    public var flags: TCPHeader.Flags { TCPHeader.Flags(rawValue: octets[13]) }
    public var window: UInt16 { octets.uint16(at: 14) }
    public var checksum: UInt16 { octets.uint16(at: 16) }
}

/// A TCP header without options, as a value.
public struct TCPHeader: Hashable, Sendable {
    public var sourcePort: UInt16
    public var destinationPort: UInt16
    public var sequence: UInt32
    public var acknowledgment: UInt32
    public var flags: Flags
    public var window: UInt16

    public struct Flags: OptionSet, Hashable, Sendable {
        public var rawValue: UInt8

        public init(rawValue: UInt8) { self.rawValue = rawValue }

        public static let fin = Flags(rawValue: 0x01)
        public static let syn = Flags(rawValue: 0x02)
        public static let rst = Flags(rawValue: 0x04)
        public static let psh = Flags(rawValue: 0x08)
        public static let ack = Flags(rawValue: 0x10)
    }

    /// Without options, in octets.
    @inlinable @inline(__always)
    public static var length: Int { 20 }

    public init(
        sourcePort: UInt16, destinationPort: UInt16, sequence: UInt32 = 0, acknowledgment: UInt32 = 0,
        flags: Flags = .ack, window: UInt16 = .max
    ) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.sequence = sequence
        self.acknowledgment = acknowledgment
        self.flags = flags
        self.window = window
    }

    /// The segment with its checksum.
    public func octets(_ payload: [UInt8], from source: IPAddress, to destination: IPAddress) -> [UInt8] {
        var result: [UInt8] = []
        result.append(uint16: sourcePort)
        result.append(uint16: destinationPort)
        result.append(uint32: sequence)
        result.append(uint32: acknowledgment)
        result += [UInt8(Self.length / 4) << 4, flags.rawValue]
        result.append(uint16: window)
        result.append(uint32: 0)
        result += payload
        let checksum = Checksum.of(
            result.span, adding: Checksum.pseudoHeader(source, destination, .tcp, length: result.count))
        result[16] = UInt8(checksum >> 8)
        result[17] = UInt8(checksum & 0xff)
        return result
    }
}
