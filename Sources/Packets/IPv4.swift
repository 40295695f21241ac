/// A view of an IPv4 packet (RFC 791 §3.1): the 20 octets of the fixed header are there. Nothing else has been checked.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------+-------+---------------+-------------------------------+
///     |Version|  IHL  |Type of service|         Total length          |
///     +-------+-------+---------------+-----+-------------------------+
///     |        Identification         |0|D|M|     Fragment offset     |
///     +---------------+---------------+-----+-------------------------+
///     | Time to live  |   Protocol    |        Header checksum        |
///     +---------------+---------------+-------------------------------+
///     |                        Source address                         |
///     +---------------------------------------------------------------+
///     |                      Destination address                      |
///     +---------------------------------------------------------------+
///     |                           Options …                           |
public struct IPv4View: ~Escapable {
    @usableFromInline let octets: Span<UInt8>
    // The header's five lines, each read with one instruction: octets that are read once more would keep the compiler from that.
    @usableFromInline let line0, line1, line2, line3, line4: UInt32

    /// nil: shorter than the fixed header.
    @inlinable @inline(__always)
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= IPv4Header.length else { return nil }
        self.octets = octets
        line0 = octets.uint32(at: 0)
        line1 = octets.uint32(at: 4)
        line2 = octets.uint32(at: 8)
        line3 = octets.uint32(at: 12)
        line4 = octets.uint32(at: 16)
    }

    @inlinable @inline(__always)
    public var version: UInt8 { UInt8(truncatingIfNeeded: line0 >> 28) }
    /// IHL, in octets: 0…60. Less than 20 is an error.
    @inlinable @inline(__always)
    public var headerLength: Int { Int(line0 >> 24 & 0x0f) &* 4 }
    @inlinable @inline(__always)
    public var typeOfService: UInt8 { UInt8(truncatingIfNeeded: line0 >> 16) }
    /// Of header and payload, in octets.
    @inlinable @inline(__always)
    public var totalLength: Int { Int(line0 & 0xffff) }
    @inlinable @inline(__always)
    public var identification: UInt16 { UInt16(truncatingIfNeeded: line1 >> 16) }
    @inlinable @inline(__always)
    public var dontFragment: Bool { line1 & 0x4000 != 0 }
    /// Whether it is a part of a packet: more fragments follow, or the offset is not 0.
    @inlinable @inline(__always)
    public var isFragment: Bool { line1 & 0x3fff != 0 }
    @inlinable @inline(__always)
    public var timeToLive: UInt8 { UInt8(truncatingIfNeeded: line2 >> 24) }
    @inlinable @inline(__always)
    public var transport: IPProtocol { IPProtocol(UInt8(truncatingIfNeeded: line2 >> 16)) }
    @inlinable @inline(__always)
    public var checksum: UInt16 { UInt16(truncatingIfNeeded: line2) }
    @inlinable @inline(__always)
    public var source: IPv4Address { IPv4Address(line3) }
    @inlinable @inline(__always)
    public var destination: IPv4Address { IPv4Address(line4) }

    /// Whether the checksum of a header without options is right.
    @inlinable @inline(__always)
    public var hasValidChecksum: Bool {
        let sum = UInt64(line0) &+ UInt64(line1) &+ UInt64(line2) &+ UInt64(line3) &+ UInt64(line4)
        return Checksum.folded(sum) == 0xffff
    }

    /// What follows the header and its options, up to the total length; empty where the lengths contradict each other.
    @inlinable @inline(__always)
    public var payload: Span<UInt8> {
        @_lifetime(copy self) get { octets.part(from: headerLength, to: totalLength) }
    }
}

/// An IPv4 header without options, as a value.
public struct IPv4Header: Hashable, Sendable {
    public var source: IPv4Address
    public var destination: IPv4Address
    public var transport: IPProtocol
    public var timeToLive: UInt8
    public var typeOfService: UInt8
    public var identification: UInt16
    /// The three flags and the offset in units of 8 octets, as they are sent.
    public var fragmentation: UInt16

    /// Without options, in octets.
    @inlinable @inline(__always)
    public static var length: Int { 20 }
    @inlinable @inline(__always)
    static var timeToLiveOffset: Int { 8 }
    @inlinable @inline(__always)
    static var checksumOffset: Int { 10 }

    public static let dontFragment: UInt16 = 0x4000
    public static let moreFragments: UInt16 = 0x2000

    public init(
        source: IPv4Address, destination: IPv4Address, transport: IPProtocol, timeToLive: UInt8 = 64,
        typeOfService: UInt8 = 0, identification: UInt16 = 0, fragmentation: UInt16 = IPv4Header.dontFragment
    ) {
        self.source = source
        self.destination = destination
        self.transport = transport
        self.timeToLive = timeToLive
        self.typeOfService = typeOfService
        self.identification = identification
        self.fragmentation = fragmentation
    }

    /// The packet, its total length and checksum filled in.
    ///
    /// - Parameter options: padded to a multiple of 4 octets; at most 40.
    public func octets(_ payload: [UInt8], options: [UInt8] = []) -> [UInt8] {
        var result: [UInt8] = [0x45 + UInt8(options.count / 4), typeOfService]
        result.append(uint16: UInt16(truncatingIfNeeded: Self.length + options.count + payload.count))
        result.append(uint16: identification)
        result.append(uint16: fragmentation)
        result += [timeToLive, transport.rawValue, 0, 0] + source.octets + destination.octets + options
        let checksum = Checksum.of(result.span)
        result[Self.checksumOffset] = UInt8(checksum >> 8)
        result[Self.checksumOffset + 1] = UInt8(checksum & 0xff)
        return result + payload
    }
}

extension MutableSpan<UInt8> {
    /// Takes one off the time to live of the IPv4 header at `start`, and brings its checksum up to date (RFC 1812 §5.3.1).
    ///
    /// Does nothing where there is no room for a header.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    public mutating func decrementTimeToLive(ipv4At start: Int) {
        guard start >= 0, start <= count &- IPv4Header.length else { return }
        // Time to live, protocol, checksum. The checksum changes as if a word of its own went from 0100 to 0.
        let line = uint32(at: start &+ IPv4Header.timeToLiveOffset)
        let checksum = Checksum.updated(UInt16(truncatingIfNeeded: line), from: 0x0100, to: 0)
        write(uint32: (line &- 0x0100_0000) & 0xffff_0000 | UInt32(checksum), at: start &+ IPv4Header.timeToLiveOffset)
    }
}
