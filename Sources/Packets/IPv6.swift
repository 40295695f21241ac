/// A view of an IPv6 packet (RFC 8200 §3): the 40 octets of the fixed header are there. Nothing else has been checked.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------+---------------+---------------------------------------+
///     |Version| Traffic class |              Flow label               |
///     +-------+---------------+-------+---------------+---------------+
///     |        Payload length         |  Next header  |   Hop limit   |
///     +-------------------------------+---------------+---------------+
///     |                                                               |
///     |                  Source address (16 octets)                   |
///     |                                                               |
///     +---------------------------------------------------------------+
///     |                                                               |
///     |                Destination address (16 octets)                |
///     |                                                               |
///     +---------------------------------------------------------------+
public struct IPv6View: ~Escapable {
    @usableFromInline let octets: Span<UInt8>
    // Each read at once, as in `IPv4View`.
    @usableFromInline let start: UInt64
    public let source: IPv6Halves
    public let destination: IPv6Halves

    /// nil: shorter than the fixed header.
    @inlinable @inline(__always)
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= IPv6Header.length else { return nil }
        self.octets = octets
        start = octets.uint64(at: 0)
        source = IPv6Halves(high: octets.uint64(at: 8), low: octets.uint64(at: 16))
        destination = IPv6Halves(high: octets.uint64(at: 24), low: octets.uint64(at: 32))
    }

    @inlinable @inline(__always)
    public var version: UInt8 { UInt8(truncatingIfNeeded: start >> 60) }
    @inlinable @inline(__always)
    public var trafficClass: UInt8 { UInt8(truncatingIfNeeded: start >> 52) }
    @inlinable @inline(__always)
    public var flowLabel: UInt32 { UInt32(truncatingIfNeeded: start >> 32) & 0x000f_ffff }
    /// Of what follows the fixed header, in octets.
    @inlinable @inline(__always)
    public var payloadLength: Int { Int(start >> 16 & 0xffff) }
    @inlinable @inline(__always)
    public var nextHeader: IPProtocol { IPProtocol(UInt8(truncatingIfNeeded: start >> 8)) }
    @inlinable @inline(__always)
    public var hopLimit: UInt8 { UInt8(truncatingIfNeeded: start) }

    /// What follows the fixed header, up to the payload length.
    @inlinable @inline(__always)
    public var payload: Span<UInt8> {
        @_lifetime(copy self) get { octets.part(from: IPv6Header.length, to: IPv6Header.length &+ payloadLength) }
    }
}

/// An IPv6 address in two registers, for the hot path.
public struct IPv6Halves: Hashable, Sendable {
    public var high: UInt64
    public var low: UInt64

    @inlinable @inline(__always)
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    public var address: IPv6Address { IPv6Address(UInt128(high) << 64 | UInt128(low)) }

    /// ::
    @inlinable @inline(__always)
    public var isUnspecified: Bool { high | low == 0 }
    /// ::1
    @inlinable @inline(__always)
    public var isLoopback: Bool { high == 0 && low == 1 }
    /// ff00::/8
    @inlinable @inline(__always)
    public var isMulticast: Bool { high >> 56 == 0xff }
    /// fe80::/10
    @inlinable @inline(__always)
    public var isLinkLocal: Bool { high >> 54 == 0xfe80 >> 6 }
    /// ::ffff:0:0/96
    @inlinable @inline(__always)
    public var isV4Mapped: Bool { high == 0 && low >> 32 == 0xffff }
}

/// An IPv6 header as a value.
public struct IPv6Header: Hashable, Sendable {
    public var source: IPv6Address
    public var destination: IPv6Address
    public var nextHeader: IPProtocol
    public var hopLimit: UInt8
    public var trafficClass: UInt8
    public var flowLabel: UInt32

    /// In octets.
    @inlinable @inline(__always)
    public static var length: Int { 40 }
    @inlinable @inline(__always)
    static var hopLimitOffset: Int { 7 }

    public init(
        source: IPv6Address, destination: IPv6Address, nextHeader: IPProtocol, hopLimit: UInt8 = 64,
        trafficClass: UInt8 = 0, flowLabel: UInt32 = 0
    ) {
        self.source = source
        self.destination = destination
        self.nextHeader = nextHeader
        self.hopLimit = hopLimit
        self.trafficClass = trafficClass
        self.flowLabel = flowLabel & 0x000f_ffff
    }

    /// The packet, its payload length filled in.
    public func octets(_ payload: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        result.append(uint32: 6 << 28 | UInt32(trafficClass) << 20 | flowLabel)
        result.append(uint16: UInt16(truncatingIfNeeded: payload.count))
        return result + [nextHeader.rawValue, hopLimit] + source.octets + destination.octets + payload
    }
}

extension MutableSpan<UInt8> {
    /// Takes one off the hop limit of the IPv6 header at `start` (RFC 8200 §3). Does nothing where there is no room for a header.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    public mutating func decrementHopLimit(ipv6At start: Int) {
        guard start >= 0, start <= count &- IPv6Header.length else { return }
        self[start &+ IPv6Header.hopLimitOffset] &-= 1
    }
}
