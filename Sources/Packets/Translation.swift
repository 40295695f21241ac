// Other addresses and ports in a packet, and checksums that are as right, or as wrong, as they were (RFC 1624; RFC 3022 §4.2).

/// What of a packet network address translation looks at, and changes.
public enum Translation {
    /// Octets of the shortest transport header: UDP's, and an ICMP echo's.
    @inlinable @inline(__always)
    static var shortestTransport: Int { 8 }

    /// The ports of a packet: its source's in the upper half, its destination's in the lower one. Of an ICMP echo they are the identifier,
    /// and type and code.
    ///
    /// - Parameter payload: of the IP packet.
    /// - Returns: nil: it has none, or is too short.
    @inlinable @inline(__always)
    public static func ports(_ transport: IPProtocol, _ payload: Span<UInt8>) -> UInt32? {
        if transport == .tcp {
            return payload.count >= 20 ? payload.uint32(at: 0) : nil
        }
        guard payload.count >= shortestTransport else { return nil }
        if transport == .udp { return payload.uint32(at: 0) }
        guard transport == .icmp || transport == .icmpv6 else { return nil }
        return UInt32(payload.uint16(at: 4)) << 16 | UInt32(payload.uint16(at: 0))
    }

    /// The plain sum of the four words in `value`.
    @inlinable @inline(__always)
    static func sum(_ value: UInt64) -> UInt64 {
        (value & 0xffff) &+ (value >> 16 & 0xffff) &+ (value >> 32 & 0xffff) &+ (value >> 48)
    }
}

extension MutableSpan<UInt8> {
    /// Gives the IPv4 packet whose header, without options, begins at `start` other addresses and ports. Does nothing where there is no
    /// room for its headers.
    ///
    /// - Parameters:
    ///   - addresses: source in the upper half, destination in the lower one.
    ///   - ports: as `Translation.ports`; an ICMP echo keeps its type and code.
    ///   - isPartial: whether the transport's checksum is yet to be made, and covers nothing but the pseudo-header now.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    public mutating func translate(ipv4At start: Int, addresses: UInt64, ports: UInt32, isPartial: Bool) {
        let transport = start &+ IPv4Header.length
        guard start >= 0, transport &+ Translation.shortestTransport <= count else { return }
        let old = UInt64(uint32(at: start &+ 12)) << 32 | UInt64(uint32(at: start &+ 16))
        let change = Translation.sum(~old) &+ Translation.sum(addresses)
        write(uint64: addresses, at: start &+ 12)
        let checksum = start &+ IPv4Header.checksumOffset
        write(uint16: ~Checksum.folded(UInt64(~uint16(at: checksum)) &+ change), at: checksum)
        translate(IPProtocol(self[start &+ 9]), at: transport, ports, addresses: change, isPartial: isPartial)
    }

    /// The same for an IPv6 packet without extension headers.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    public mutating func translate(
        ipv6At start: Int, source: IPv6Halves, destination: IPv6Halves, ports: UInt32, isPartial: Bool
    ) {
        let transport = start &+ IPv6Header.length
        guard start >= 0, transport &+ Translation.shortestTransport <= count else { return }
        var change: UInt64 = 0
        for offset in 4..<20 { change &+= UInt64(~uint16(at: start &+ 2 &* offset)) }
        change &+= Translation.sum(source.high) &+ Translation.sum(source.low)
        change &+= Translation.sum(destination.high) &+ Translation.sum(destination.low)
        write(uint64: source.high, at: start &+ 8)
        write(uint64: source.low, at: start &+ 16)
        write(uint64: destination.high, at: start &+ 24)
        write(uint64: destination.low, at: start &+ 32)
        translate(IPProtocol(self[start &+ 6]), at: transport, ports, addresses: change, isPartial: isPartial)
    }

    /// - Parameter addresses: by how much the pseudo-header's sum changes.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    mutating func translate(
        _ transport: IPProtocol, at start: Int, _ ports: UInt32, addresses: UInt64, isPartial: Bool
    ) {
        // RFC 9293 §3.1, RFC 768, RFC 792, RFC 4443 §2.1: where the checksum is, and that ICMP's covers no pseudo-header.
        let isEcho = transport == .icmp || transport == .icmpv6
        let checksum = start &+ (transport == .tcp ? 16 : transport == .udp ? 6 : 2)
        guard isEcho || transport == .udp || transport == .tcp, checksum &+ 2 <= count else { return }
        var change = transport == .icmp ? 0 : addresses
        let former = uint16(at: checksum)
        if isEcho {
            let identifier = UInt16(truncatingIfNeeded: ports >> 16)
            if !isPartial { change &+= UInt64(~uint16(at: start &+ 4)) &+ UInt64(identifier) }
            write(uint16: identifier, at: start &+ 4)
        } else {
            if !isPartial {
                change &+= Translation.sum(UInt64(~uint32(at: start))) &+ Translation.sum(UInt64(ports))
            }
            write(uint32: ports, at: start)
        }
        if isPartial {
            // A plain sum, not its complement.
            return write(uint16: Checksum.folded(UInt64(former) &+ change), at: checksum)
        }
        // A datagram without a checksum stays without one, and none gets the one that means that there is none.
        if transport == .udp, former == 0 { return }
        let result = ~Checksum.folded(UInt64(~former) &+ change)
        write(uint16: transport == .udp && result == 0 ? 0xffff : result, at: checksum)
    }
}
