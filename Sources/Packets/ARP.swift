/// A view of an ARP packet for IPv4 over Ethernet (RFC 826): its 28 octets are there, and its kinds and lengths of addresses are those.
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------------------------------+-------------------------------+
///     |  Hardware type (1: Ethernet)  |     Protocol type (0x0800)    |
///     +---------------+---------------+-------------------------------+
///     | Hw. length: 6 | Pr. length: 4 |           Operation           |
///     +---------------+---------------+-------------------------------+
///     |                    Sender hardware address                    |
///     |                               +-------------------------------+
///     |                               |    Sender protocol address    |
///     +-------------------------------+-------------------------------+
///     |              …                |                               |
///     +-------------------------------+                               |
///     |                    Target hardware address                    |
///     +---------------------------------------------------------------+
///     |                    Target protocol address                    |
///     +---------------------------------------------------------------+
public struct ARPView: ~Escapable {
    let octets: Span<UInt8>

    /// nil: too short, or about other kinds of addresses.
    @_lifetime(copy octets)
    public init?(_ octets: Span<UInt8>) {
        guard octets.count >= ARPPacket.length, octets.uint32(at: 0) == ARPPacket.kinds,
            octets.uint16(at: 4) == ARPPacket.lengths
        else { return nil }
        self.octets = octets
    }

    public var isRequest: Bool { octets.uint16(at: 6) == ARPPacket.request }
    public var senderMAC: MACAddress { MACAddress(octets.uint48(at: 8)) }
    public var sender: IPv4Address { IPv4Address(octets.uint32(at: 14)) }
    public var targetMAC: MACAddress { MACAddress(octets.uint48(at: 18)) }
    public var target: IPv4Address { IPv4Address(octets.uint32(at: 24)) }
}

/// An ARP packet as a value.
public struct ARPPacket: Hashable, Sendable {
    public var isRequest: Bool
    public var senderMAC: MACAddress
    public var sender: IPv4Address
    public var targetMAC: MACAddress
    public var target: IPv4Address

    /// In octets.
    public static let length = 28
    /// Ethernet, IPv4.
    static let kinds: UInt32 = 0x0001_0800
    static let lengths: UInt16 = 0x0604
    static let request: UInt16 = 1
    static let reply: UInt16 = 2

    public init(
        isRequest: Bool, senderMAC: MACAddress, sender: IPv4Address, targetMAC: MACAddress = MACAddress(0),
        target: IPv4Address
    ) {
        self.isRequest = isRequest
        self.senderMAC = senderMAC
        self.sender = sender
        self.targetMAC = targetMAC
        self.target = target
    }

    public var octets: [UInt8] {
        var result: [UInt8] = []
        result.append(uint32: Self.kinds)
        result.append(uint16: Self.lengths)
        result.append(uint16: isRequest ? Self.request : Self.reply)
        return result + senderMAC.octets + sender.octets + targetMAC.octets + target.octets
    }
}
