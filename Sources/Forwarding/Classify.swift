// What a frame is: whether it is the kind that a router forwards without an answer, as RFC 1812 §5.2.2 and §5.3.7 and RFC 8200 §3
// have it. Nothing here can be switched off.

import Packets

/// What classification has found in an IP packet.
struct Classified {
    var verdict: Verdict
    /// Of the whole IP packet, in octets.
    var length = 0
    /// Of the largest IP packet that goes over the wire for it, in octets: less than `length` for a super-frame.
    var largest = 0

    init(_ verdict: Verdict) { self.verdict = verdict }

    init(length: Int, largest: Int) {
        verdict = .forward
        self.length = length
        self.largest = largest
    }
}

extension Pipeline {
    // MARK: The frame

    @inline(__always)
    static func classify(_ frame: EthernetView, _ tag: VLANTag, _ gateway: GatewayEntry) -> Verdict {
        guard tag.identifier == .vlan else { return tag.isPresent ? .punt(.serviceTag) : .punt(.untagged) }
        guard gateway.isPresent else { return tag.vid == 0 ? .punt(.untagged) : .punt(.otherVLAN) }
        let destination = frame.destination
        // RFC 1812 §5.3.4: what came as a link-layer broadcast is not forwarded. It may well be for the router itself.
        guard !destination.isGroup else { return .punt(.groupDestination) }
        // A promiscuous trunk sees the frames of others, and other interfaces of the host may have an address of their own.
        guard destination == gateway.mac else { return .punt(.otherDestination) }
        let type = frame.type
        if type == .ipv4 || type == .ipv6 { return .forward }
        return type.isTag ? .punt(.innerTag) : .punt(.notIP)
    }

    // MARK: IPv4

    /// - Parameter available: octets of the frame behind its header.
    @inline(__always)
    static func classify(_ packet: IPv4View, available: Int, gsoSize: UInt16) -> Classified {
        guard packet.version == 4 else { return Classified(.drop(.ipVersion)) }
        guard packet.headerLength >= IPv4Header.length else { return Classified(.drop(.ipHeaderLength)) }
        guard packet.headerLength == IPv4Header.length else { return Classified(.punt(.options)) }
        guard packet.hasValidChecksum else { return Classified(.drop(.ipChecksum)) }
        let length = packet.totalLength
        guard length >= IPv4Header.length else {
            // Super-frames of more than 64 KiB have no length.
            return Classified(length == 0 && gsoSize > 0 ? .punt(.superFrame) : .drop(.ipTotalLength))
        }
        guard length <= available else { return Classified(.drop(.ipTruncated)) }
        guard !packet.isFragment else { return Classified(.punt(.fragment)) }
        guard packet.timeToLive > 1 else { return Classified(.punt(.timeToLive)) }
        let verdict = classify(source: packet.source, destination: packet.destination)
        guard case .forward = verdict else { return Classified(verdict) }

        if gsoSize == 0 { return Classified(length: length, largest: length) }
        return classifySuperFrame(
            packet.payload, packet.transport, ipHeader: IPv4Header.length, length, available: available, gsoSize)
    }

    /// RFC 1812 §5.3.7 has the martians. What Linux drops without a look at its settings is dropped; the rest is the kernel's.
    @inline(__always)
    static func classify(source: IPv4Address, destination: IPv4Address) -> Verdict {
        if isOrdinary(source.rawValue) && isOrdinary(destination.rawValue) { return .forward }
        return classifyMartian(source.rawValue, destination.rawValue)
    }

    /// Neither 0/8 nor 127/8 (RFC 1122 §3.2.1.3), link-local (RFC 3927 §2.7), multicast, class E or broadcast.
    @inline(__always)
    private static func isOrdinary(_ address: UInt32) -> Bool {
        let first = address >> 24
        return first &- 1 < 223 && first != 127 && address >> 16 != 0xa9fe
    }

    @inline(never)
    private static func classifyMartian(_ source: UInt32, _ destination: UInt32) -> Verdict {
        let limitedBroadcast: UInt32 = 0xffff_ffff
        // 127/8 is for the router where route_localnet says so; Linux routes 0/8 except 0.0.0.0 (since 5.3), class E (since 2.6.25) and
        // 169.254/16 like other addresses; a host without an address sends from 0.0.0.0 to 255.255.255.255.
        if destination != 0 && !isOrdinary(destination) { return .punt(.specialDestination) }
        if source | destination == 0 { return .punt(.specialDestination) }
        if source == 0 || source == limitedBroadcast || source >> 28 == 0xe { return .drop(.sourceAddress) }
        return destination == 0 ? .drop(.destinationAddress) : .punt(.specialSource)
    }

    // MARK: IPv6

    /// - Parameter available: octets of the frame behind its header.
    @inline(__always)
    static func classify(_ packet: IPv6View, available: Int, gsoSize: UInt16) -> Classified {
        guard packet.version == 6 else { return Classified(.drop(.ipVersion)) }
        let source = packet.source
        let destination = packet.destination
        // RFC 4291 §2.5.3, §2.7.
        guard !source.isMulticast, !source.isLoopback else { return Classified(.drop(.sourceAddress)) }
        guard !destination.isLoopback else { return Classified(.drop(.destinationAddress)) }
        switch packet.nextHeader.rawValue {
        case IPProtocol.fragment.rawValue: return Classified(.punt(.fragment))
        case IPProtocol.hopByHop.rawValue, IPProtocol.routing.rawValue, IPProtocol.authentication.rawValue,
            IPProtocol.destinationOptions.rawValue:
            return Classified(.punt(.extensionHeader))
        default: break
        }
        let length = IPv6Header.length &+ packet.payloadLength
        guard length <= available else { return Classified(.drop(.ipTruncated)) }
        // RFC 4291 §2.5.6: link-local addresses stay on their link, and Linux says so to the sender. Addresses of IPv4 in IPv6's form
        // should not be on the wire at all (RFC 4038 §4.2), but Linux forwards them.
        guard !source.isUnspecified, !source.isLinkLocal, !source.isV4Mapped else {
            return Classified(.punt(.specialSource))
        }
        guard
            !destination.isMulticast, !destination.isLinkLocal, !destination.isUnspecified, !destination.isV4Mapped
        else { return Classified(.punt(.specialDestination)) }
        guard packet.hopLimit > 1 else { return Classified(.punt(.timeToLive)) }

        if gsoSize == 0 { return Classified(length: length, largest: length) }
        return classifySuperFrame(
            packet.payload, packet.nextHeader, ipHeader: IPv6Header.length, length, available: available, gsoSize)
    }

    // MARK: Super-frames

    /// What the network card, or the receiver's kernel, makes of it: segments with a copy of the headers each.
    @inline(__always)
    private static func classifySuperFrame(
        _ payload: Span<UInt8>, _ transport: IPProtocol, ipHeader: Int, _ length: Int, available: Int, _ gsoSize: UInt16
    ) -> Classified {
        // Nothing pads a super-frame, and one of more than 64 KiB does not tell its length. Of those that are not plainly TCP, tunnels
        // among them, the size is that of something further inside.
        guard length == available, transport == .tcp, let segment = TCPView(payload),
            segment.headerLength >= TCPHeader.length
        else { return Classified(.punt(.superFrame)) }
        return Classified(length: length, largest: min(length, ipHeader &+ segment.headerLength &+ Int(gsoSize)))
    }
}
