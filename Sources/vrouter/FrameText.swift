import Packets

/// A frame in a few words, for people.
enum FrameText {
    /// - Parameters:
    ///   - frame: room for a tag, then the frame without its outer tag.
    static func describe(_ frame: [UInt8], _ tag: VLANTag) -> String {
        let octets = frame.span
        let start = min(VLANTag.length, octets.count)
        guard let ethernet = EthernetView(octets.extracting(start...)) else { return "\(octets.count - start) octets" }
        return "\(describe(tag)), \(describe(ethernet.payload, ethernet.type)), to \(ethernet.destination)"
    }

    private static func describe(_ tag: VLANTag) -> String {
        guard tag.isPresent else { return "no tag" }
        return tag.identifier == .vlan ? "VLAN \(tag.vid)" : "802.1ad tag \(tag.vid)"
    }

    private static func describe(_ payload: Span<UInt8>, _ type: EtherType) -> String {
        switch type {
        case .ipv4:
            guard let packet = IPv4View(payload) else { return "IPv4, cut off" }
            let part = packet.isFragment ? ", fragment" : ""
            return "IPv4 \(packet.source) → \(packet.destination) \(describe(packet.payload, packet.transport))"
                + "\(part), ttl \(packet.timeToLive), \(packet.totalLength) octets"
        case .ipv6:
            guard let packet = IPv6View(payload) else { return "IPv6, cut off" }
            return "IPv6 \(packet.source.address) → \(packet.destination.address) "
                + "\(describe(packet.payload, packet.nextHeader)), hop limit \(packet.hopLimit), "
                + "\(IPv6Header.length + packet.payloadLength) octets"
        case .arp:
            guard let packet = ARPView(payload) else { return "ARP, not of IPv4" }
            return packet.isRequest
                ? "ARP who has \(packet.target), asks \(packet.sender)"
                : "ARP \(packet.sender) is at \(packet.senderMAC)"
        default:
            return type.isTag ? "another tag" : "EtherType 0x\(String(type.rawValue, radix: 16))"
        }
    }

    private static func describe(_ payload: Span<UInt8>, _ transport: IPProtocol) -> String {
        switch transport {
        case .tcp:
            guard let segment = TCPView(payload) else { break }
            let flags: [(TCPHeader.Flags, String)] = [(.syn, "SYN"), (.fin, "FIN"), (.rst, "RST")]
            let names = flags.filter { segment.flags.contains($0.0) }.map { " \($0.1)" }.joined()
            return "TCP \(segment.sourcePort) → \(segment.destinationPort)\(names)"
        case .udp:
            guard let datagram = UDPView(payload) else { break }
            return "UDP \(datagram.sourcePort) → \(datagram.destinationPort)"
        case .icmp, .icmpv6:
            guard let message = ICMPView(payload) else { break }
            switch (transport, message.type) {
            case (.icmp, 8), (.icmpv6, 128): return "echo request \(message.sequence)"
            case (.icmp, 0), (.icmpv6, 129): return "echo reply \(message.sequence)"
            default: return "ICMP type \(message.type) code \(message.code)"
            }
        default: break
        }
        return "protocol \(transport.rawValue)"
    }
}
