/// What a frame carries (IEEE 802.3-2022 §3.2.6). Values up to 1500 are lengths.
public struct EtherType: Hashable, Sendable {
    public var rawValue: UInt16

    @inlinable @inline(__always)
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }
    @inlinable @inline(__always)
    public static func == (left: Self, right: Self) -> Bool { left.rawValue == right.rawValue }

    @inlinable @inline(__always)
    public static var ipv4: EtherType { EtherType(0x0800) }
    @inlinable @inline(__always)
    public static var arp: EtherType { EtherType(0x0806) }
    /// IEEE 802.1Q, the customer's tag.
    @inlinable @inline(__always)
    public static var vlan: EtherType { EtherType(0x8100) }
    @inlinable @inline(__always)
    public static var ipv6: EtherType { EtherType(0x86dd) }
    /// IEEE 802.1ad, the provider's tag.
    @inlinable @inline(__always)
    public static var serviceVLAN: EtherType { EtherType(0x88a8) }
    /// What switches used for the provider's tag before 802.1ad.
    @inlinable @inline(__always)
    public static var oldServiceVLAN: EtherType { EtherType(0x9100) }

    /// Whether a tag follows instead of a packet.
    @inlinable @inline(__always)
    public var isTag: Bool { self == .vlan || self == .serviceVLAN || self == .oldServiceVLAN }
}

/// A view of a frame without its outer tag: the 14 octets of the header are there.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +---------------------------------------------------------------+
///     |                      Destination address                      |
///     |                               +-------------------------------+
///     |                               |                               |
///     +-------------------------------+                               |
///     |                        Source address                         |
///     +-------------------------------+-------------------------------+
///     |           EtherType           |            Payload …          |
public struct EthernetView: ~Escapable {
    @usableFromInline let octets: Span<UInt8>
    // Each read at once, as in `IPv4View`: octets 0…7 and 8…11.
    @usableFromInline let start: UInt64
    @usableFromInline let middle: UInt32
    public let type: EtherType

    /// nil: shorter than the header.
    @inlinable @inline(__always)
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= EthernetHeader.length else { return nil }
        self.octets = octets
        start = octets.uint64(at: 0)
        middle = octets.uint32(at: 8)
        type = EtherType(octets.uint16(at: 12))
    }

    @inlinable @inline(__always)
    public var destination: MACAddress { MACAddress(start >> 16) }
    @inlinable @inline(__always)
    public var source: MACAddress { MACAddress(start << 32 | UInt64(middle)) }

    /// What follows the header, padding included.
    @inlinable @inline(__always)
    public var payload: Span<UInt8> {
        @_lifetime(copy self) get { octets.part(from: EthernetHeader.length, to: octets.count) }
    }
}

/// A frame's header as a value.
public struct EthernetHeader: Hashable, Sendable {
    public var destination: MACAddress
    public var source: MACAddress
    /// From the outside in.
    public var tags: [VLANTag]
    public var type: EtherType

    /// Without tags, in octets.
    @inlinable @inline(__always)
    public static var length: Int { 14 }

    public init(destination: MACAddress, source: MACAddress, tags: [VLANTag] = [], type: EtherType) {
        self.destination = destination
        self.source = source
        self.tags = tags
        self.type = type
    }

    /// The frame, neither padded nor with a check sequence.
    public func octets(_ payload: [UInt8]) -> [UInt8] {
        var result = destination.octets + source.octets + tags.flatMap(\.octets)
        result.append(uint16: type.rawValue)
        return result + payload
    }
}

extension MutableSpan<UInt8> {
    /// Writes the first 16 octets of a tagged frame. Does nothing where there is no room for them.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    public mutating func write(_ destination: MACAddress, _ source: MACAddress, _ tag: VLANTag) {
        guard count >= 16 else { return }
        write(uint64: destination.rawValue << 16 | source.rawValue >> 32, at: 0)
        write(uint32: UInt32(truncatingIfNeeded: source.rawValue), at: 8)
        write(uint32: UInt32(tag.identifier.rawValue) << 16 | UInt32(tag.control), at: 12)
    }
}
