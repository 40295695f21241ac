// Frames as tests want them: everything has a default that a router forwards.

import Packets

public struct TestFrame: Sendable {
    public var destination = MACAddress(0x02_00_00_00_00_01)
    public var source = MACAddress(0x02_00_00_00_01_10)
    /// From the outside in.
    public var tags: [VLANTag]
    public var type: EtherType
    /// The packet.
    public var packet: [UInt8]

    public init(tags: [VLANTag], type: EtherType, packet: [UInt8]) {
        self.tags = tags
        self.type = type
        self.packet = packet
    }

    /// An IPv4 packet with a UDP datagram, unless `payload` says otherwise.
    public static func ipv4(
        vlan: UInt16 = 100, from source: String = "172.16.10.10", to destination: String = "172.16.20.11",
        timeToLive: UInt8 = 64, payload: Payload = .udp(18), options: [UInt8] = [],
        change: (inout IPv4Header) -> Void = { _ in }
    ) -> TestFrame {
        let from = IPv4Address(source)!
        let to = IPv4Address(destination)!
        var header = IPv4Header(
            source: from, destination: to, transport: payload.transport(.v4), timeToLive: timeToLive)
        change(&header)
        return TestFrame(
            tags: [VLANTag(VLANID(vlan)!)], type: .ipv4,
            packet: header.octets(payload.octets(from: .v4(from), to: .v4(to)), options: options))
    }

    /// An IPv6 packet with a UDP datagram, unless `payload` says otherwise.
    public static func ipv6(
        vlan: UInt16 = 100, from source: String = "fd00:10::10", to destination: String = "fd00:20::11",
        hopLimit: UInt8 = 64, payload: Payload = .udp(18), change: (inout IPv6Header) -> Void = { _ in }
    ) -> TestFrame {
        let from = IPv6Address(source)!
        let to = IPv6Address(destination)!
        var header = IPv6Header(
            source: from, destination: to, nextHeader: payload.transport(.v6), hopLimit: hopLimit)
        change(&header)
        return TestFrame(
            tags: [VLANTag(VLANID(vlan)!)], type: .ipv6,
            packet: header.octets(payload.octets(from: .v6(from), to: .v6(to))))
    }

    public enum Payload: Sendable {
        /// Octets behind the header each.
        case udp(Int)
        case tcp(Int)
        case echo(Int)

        func transport(_ family: IPFamily) -> IPProtocol {
            switch self {
            case .udp: .udp
            case .tcp: .tcp
            case .echo: family == .v4 ? .icmp : .icmpv6
            }
        }

        func octets(from source: IPAddress, to destination: IPAddress) -> [UInt8] {
            func data(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0) } }
            switch self {
            case .udp(let count):
                return UDPHeader(sourcePort: 40000, destinationPort: 53).octets(
                    data(count), from: source, to: destination)
            case .tcp(let count):
                return TCPHeader(sourcePort: 40000, destinationPort: 443).octets(
                    data(count), from: source, to: destination)
            case .echo(let count):
                return ICMPEcho(identifier: 7, sequence: 1).octets(data(count), from: source, to: destination)
            }
        }
    }

    /// The same with other fields.
    public func with(_ change: (inout TestFrame) -> Void) -> TestFrame {
        var result = self
        change(&result)
        return result
    }

    /// As it is on the wire.
    public var octets: [UInt8] {
        EthernetHeader(destination: destination, source: source, tags: tags, type: type).octets(packet)
    }

    /// As a ring has it: room for a tag, and the frame without its outer tag.
    public var inRing: [UInt8] {
        [UInt8](repeating: 0xee, count: VLANTag.length)
            + EthernetHeader(destination: destination, source: source, tags: Array(tags.dropFirst()), type: type)
            .octets(packet)
    }
}
