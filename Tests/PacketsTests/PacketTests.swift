import Packets
import TestSupport
import Testing

/// Frames that Linux 6.18 sent, captured with `tcpdump -xx` on a veth pair with checksum offload off.
private enum Golden {
    static let macA = MACAddress(0x02_00_00_00_00_0a)
    static let macB = MACAddress(0x02_00_00_00_00_0b)
    static let a = IPv4Address("172.16.10.10")!
    static let b = IPv4Address("172.16.10.1")!
    static let a6 = IPv6Address("fd00:10::10")!
    static let b6 = IPv6Address("fd00:10::1")!

    /// `ping -c1 172.16.10.1` begins with it.
    static let arpReply = octets(
        "0200 0000 000a 0200 0000 000b 0806 0001 0800 0604 0002 0200 0000 000b ac10 0a01 0200 0000 000a ac10 0a0a")
    /// `ping -c1 -s 8 172.16.10.1`
    static let echo = octets(
        "0200 0000 000b 0200 0000 000a 0800 4500 0024 53cb 4000 4001 7ae2 ac10 0a0a ac10 0a01 0800 b55d 3691 0001 0001 0203 0405 0607"
    )
    /// `ping -c1 -s 8 fd00:10::1`
    static let echo6 = octets(
        "0200 0000 000b 0200 0000 000a 86dd 600f ba1c 0010 3a40 fd00 0010 0000 0000 0000 0000 0000 0010 fd00 0010 0000 0000 0000 0000 0000 0001 8000 42df 3692 0001 0001 0203 0405 0607"
    )
    /// A datagram `vrouter` from port 40000 to port 53.
    static let udp = octets(
        "0200 0000 000b 0200 0000 000a 0800 4500 0023 9589 4000 4011 3915 ac10 0a0a ac10 0a01 9c40 0035 000f 2ae1 7672 6f75 7465 72"
    )
    static let udp6 = octets(
        "0200 0000 000b 0200 0000 000a 86dd 600c 0422 000f 1140 fd00 0010 0000 0000 0000 0000 0000 0010 fd00 0010 0000 0000 0000 0000 0000 0001 9c40 0035 000f 9cda 7672 6f75 7465 72"
    )
    /// A connection to a port where nobody listens: SYN and its answer.
    static let syn = octets(
        "0200 0000 000b 0200 0000 000a 0800 4500 003c d3b7 4000 4006 fad8 ac10 0a0a ac10 0a01 9c41 01bb e911 b830 0000 0000 a002 faf0 2cc2 0000 0204 05b4 0402 080a 5ad1 1a0e 0000 0000 0103 030a"
    )
    static let reset = octets(
        "0200 0000 000a 0200 0000 000b 0800 4500 0028 0000 4000 4006 cea4 ac10 0a01 ac10 0a0a 01bb 9c41 0000 0000 e911 b831 5014 0000 0465 0000"
    )

    static func octets(_ text: String) -> [UInt8] {
        let digits = text.filter { $0 != " " }
        return stride(from: 0, to: digits.count, by: 2).map { offset in
            let start = digits.index(digits.startIndex, offsetBy: offset)
            return UInt8(digits[start...].prefix(2), radix: 16)!
        }
    }
}

/// What is built is what Linux sends.
@Suite struct BuilderTests {
    private func toB(_ type: EtherType, _ packet: [UInt8]) -> [UInt8] {
        EthernetHeader(destination: Golden.macB, source: Golden.macA, type: type).octets(packet)
    }
    private func toA(_ type: EtherType, _ packet: [UInt8]) -> [UInt8] {
        EthernetHeader(destination: Golden.macA, source: Golden.macB, type: type).octets(packet)
    }
    private let text = Array("vrouter".utf8)

    @Test func arp() {
        let packet = ARPPacket(
            isRequest: false, senderMAC: Golden.macB, sender: Golden.b, targetMAC: Golden.macA, target: Golden.a)
        #expect(toA(.arp, packet.octets) == Golden.arpReply)
    }

    @Test func echo() {
        let message = ICMPEcho(identifier: 0x3691, sequence: 1).octets(
            Array(0..<8), from: .v4(Golden.a), to: .v4(Golden.b))
        let header = IPv4Header(
            source: Golden.a, destination: Golden.b, transport: .icmp, identification: 0x53cb)
        #expect(toB(.ipv4, header.octets(message)) == Golden.echo)
    }

    @Test func echo6() {
        let message = ICMPEcho(identifier: 0x3692, sequence: 1).octets(
            Array(0..<8), from: .v6(Golden.a6), to: .v6(Golden.b6))
        let header = IPv6Header(
            source: Golden.a6, destination: Golden.b6, nextHeader: .icmpv6, flowLabel: 0xfba1c)
        #expect(toB(.ipv6, header.octets(message)) == Golden.echo6)
    }

    @Test func udp() {
        let ports = UDPHeader(sourcePort: 40000, destinationPort: 53)
        let header = IPv4Header(source: Golden.a, destination: Golden.b, transport: .udp, identification: 0x9589)
        let datagram = ports.octets(text, from: .v4(Golden.a), to: .v4(Golden.b))
        #expect(toB(.ipv4, header.octets(datagram)) == Golden.udp)

        let header6 = IPv6Header(source: Golden.a6, destination: Golden.b6, nextHeader: .udp, flowLabel: 0xc0422)
        let datagram6 = ports.octets(text, from: .v6(Golden.a6), to: .v6(Golden.b6))
        #expect(toB(.ipv6, header6.octets(datagram6)) == Golden.udp6)
    }

    @Test func tcp() {
        let segment = TCPHeader(
            sourcePort: 443, destinationPort: 40001, acknowledgment: 0xe911_b831, flags: [.rst, .ack], window: 0)
        let header = IPv4Header(source: Golden.b, destination: Golden.a, transport: .tcp)
        #expect(
            toA(.ipv4, header.octets(segment.octets([], from: .v4(Golden.b), to: .v4(Golden.a)))) == Golden.reset)
    }

    @Test func tags() {
        let frame = EthernetHeader(
            destination: Golden.macA, source: Golden.macB,
            tags: [VLANTag(identifier: .serviceVLAN, control: 7), VLANTag(VLANID(100)!, priority: 0x7000)], type: .ipv4)
        #expect(
            frame.octets([1])
                == Golden.octets("0200 0000 000a 0200 0000 000b 88a8 0007 8100 7064 0800 01"))
    }
}

/// What is read is what is there.
@Suite struct ViewTests {
    @Test func ethernetAndARP() {
        let octets = Golden.arpReply
        guard let frame = EthernetView(octets.span), let packet = ARPView(frame.payload) else {
            Issue.record("not a frame")
            return
        }
        #expect(frame.destination == Golden.macA)
        #expect(frame.source == Golden.macB)
        #expect(frame.type == .arp)
        #expect(packet.isRequest == false)
        #expect(packet.senderMAC == Golden.macB)
        #expect(packet.sender == Golden.b)
        #expect(packet.targetMAC == Golden.macA)
        #expect(packet.target == Golden.a)
    }

    @Test func ipv4AndTCP() {
        let octets = Golden.syn
        guard let frame = EthernetView(octets.span), let packet = IPv4View(frame.payload),
            let segment = TCPView(packet.payload)
        else {
            Issue.record("not a segment")
            return
        }
        #expect(packet.version == 4)
        #expect(packet.headerLength == 20)
        #expect(packet.typeOfService == 0)
        #expect(packet.totalLength == 60)
        #expect(packet.identification == 0xd3b7)
        #expect(packet.dontFragment == true)
        #expect(packet.isFragment == false)
        #expect(packet.timeToLive == 64)
        #expect(packet.transport == .tcp)
        #expect(packet.checksum == 0xfad8)
        #expect(packet.hasValidChecksum == true)
        #expect(packet.source == Golden.a)
        #expect(packet.destination == Golden.b)
        #expect(packet.payload.count == 40)
        #expect(segment.sourcePort == 40001)
        #expect(segment.destinationPort == 443)
        #expect(segment.sequence == 3_910_252_592)
        #expect(segment.acknowledgment == 0)
        #expect(segment.headerLength == 40)
        #expect(segment.flags == .syn)
        #expect(segment.window == 64240)
        #expect(segment.checksum == 0x2cc2)
    }

    @Test func ipv6AndUDP() {
        let octets = Golden.udp6
        guard let frame = EthernetView(octets.span), let packet = IPv6View(frame.payload),
            let datagram = UDPView(packet.payload)
        else {
            Issue.record("not a datagram")
            return
        }
        #expect(packet.version == 6)
        #expect(packet.trafficClass == 0)
        #expect(packet.flowLabel == 0xc0422)
        #expect(packet.payloadLength == 15)
        #expect(packet.nextHeader == .udp)
        #expect(packet.hopLimit == 64)
        #expect(packet.source.address == Golden.a6)
        #expect(packet.destination.address == Golden.b6)
        #expect(datagram.sourcePort == 40000)
        #expect(datagram.destinationPort == 53)
        #expect(datagram.length == 15)
        #expect(datagram.checksum == 0x9cda)
    }

    @Test func icmp() {
        let octets = Golden.echo
        guard let frame = EthernetView(octets.span), let packet = IPv4View(frame.payload),
            let message = ICMPView(packet.payload)
        else {
            Issue.record("not a message")
            return
        }
        #expect(message.type == 8)
        #expect(message.code == 0)
        #expect(message.checksum == 0xb55d)
        #expect(message.identifier == 0x3691)
        #expect(message.sequence == 1)
    }

    @Test(arguments: [(0x2000, true), (0x0001, true), (0x1fff, true), (0x4000, false), (0x8000, false), (0, false)])
    func fragments(_ field: UInt16, _ isFragment: Bool) {
        let octets = IPv4Header(source: Golden.a, destination: Golden.b, transport: .udp, fragmentation: field).octets(
            [])
        #expect(IPv4View(octets.span)?.isFragment == isFragment)
    }

    @Test(arguments: [
        ("::", [true, false, false, false, false]), ("::1", [false, true, false, false, false]),
        ("ff02::1", [false, false, true, false, false]), ("febf::1", [false, false, false, true, false]),
        ("fec0::1", [false, false, false, false, false]), ("::ffff:10.0.0.1", [false, false, false, false, true]),
        ("::10.0.0.1", [false, false, false, false, false]), ("fd00::1", [false, false, false, false, false]),
    ])
    func kindsOfIPv6Addresses(_ text: String, _ kinds: [Bool]) throws {
        let value = try #require(IPv6Address(text)).rawValue
        let address = IPv6Halves(high: UInt64(value >> 64), low: UInt64(truncatingIfNeeded: value))
        #expect(
            [
                address.isUnspecified, address.isLoopback, address.isMulticast, address.isLinkLocal, address.isV4Mapped,
            ] == kinds)
        #expect(address.address.rawValue == value)
    }

    /// No view is made of too little, and none of any other octets can stop the program.
    @Test func anything() {
        var generator = SeededGenerator(seed: 826)
        var made: Set<String> = []
        for _ in 0..<20_000 {
            var octets = generator.octets(Int.random(in: 0...70, using: &generator))
            // What ARP needs to see, now and then.
            if octets.count >= 6, Bool.random(using: &generator) { octets[0..<6] = [0, 1, 8, 0, 6, 4] }
            let count = octets.count
            if let view = EthernetView(octets.span) {
                made.insert("Ethernet \(count >= 14)")
                #expect(view.payload.count == count - 14)
            }
            if let view = IPv4View(octets.span) {
                made.insert("IPv4 \(count >= 20)")
                _ = (view.totalLength, view.destination, view.hasValidChecksum)
                #expect(view.payload.count <= count && view.payload.count <= view.totalLength)
            }
            if let view = IPv6View(octets.span) {
                made.insert("IPv6 \(count >= 40)")
                _ = (view.source, view.destination, view.hopLimit)
                #expect(view.payload.count == min(count - 40, view.payloadLength))
            }
            if let view = ARPView(octets.span) {
                made.insert("ARP \(count >= 28)")
                _ = (view.sender, view.target, view.targetMAC)
            }
            if let view = ICMPView(octets.span) {
                made.insert("ICMP \(count >= 8)")
                _ = view.sequence
            }
            if let view = UDPView(octets.span) {
                made.insert("UDP \(count >= 8)")
                _ = view.checksum
            }
            if let view = TCPView(octets.span) {
                made.insert("TCP \(count >= 20)")
                _ = (view.headerLength, view.checksum)
            }
        }
        #expect(
            made == ["Ethernet true", "IPv4 true", "IPv6 true", "ARP true", "ICMP true", "UDP true", "TCP true"])
    }

    /// Where there is no room, nothing is written.
    @Test func writingOutsideOfTheOctets() {
        for (count, start) in [(0, 0), (15, 0), (15, -1), (15, 15), (15, .max), (15, .min)] {
            let before = [UInt8](repeating: 7, count: count)
            var octets = before
            var span = octets.mutableSpan
            span.decrementTimeToLive(ipv4At: start)
            span.decrementHopLimit(ipv6At: start)
            span.write(MACAddress(1), MACAddress(2), .none)
            #expect(octets == before)
        }
    }
}

@Suite struct MACAddressTests {
    @Test func parsing() {
        #expect(MACAddress("02:00:5E:10:00:ff")?.rawValue == 0x0200_5e10_00ff)
        for text in [
            "", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:00:5e:10:00:ff", "02-00-5e-10-00-ff", "0g:00:5e:10:00:ff",
            "+2:00:5e:10:00:ff", "02:00:5e:10:00:ff ",
        ] {
            #expect(MACAddress(text) == nil, "\(text)")
        }
    }

    @Test func groups() {
        #expect(MACAddress("ff:ff:ff:ff:ff:ff")?.isGroup == true)
        #expect(MACAddress("01:00:5e:00:00:01")?.isGroup == true)
        #expect(MACAddress("02:00:00:00:00:01")?.isGroup == false)
        #expect(MACAddress("fe:ff:ff:ff:ff:ff")?.isGroup == false)
    }
}
