import Packets

extension TestFrame {
    /// Frames that are forwarded in `TestWorld`, of every kind.
    public static let samples: [TestFrame] = [
        .ipv4(), .ipv4(payload: .tcp(100)), .ipv4(payload: .echo(56)), .ipv4(to: "10.9.1.1"), .ipv4(to: "10.10.1.1"),
        .ipv4(vlan: 300, from: "172.16.30.12", to: "172.16.10.10"), .ipv4(payload: .tcp(1460)), .ipv6(),
        .ipv6(payload: .tcp(100)), .ipv6(payload: .echo(56)), .ipv6(to: "fd00:9::1"),
    ]
}

extension [UInt8] {
    /// Changes nothing, a little, or more of a frame that has its IP header at `packet`.
    public mutating func mutate(packetAt packet: Int, using generator: inout SeededGenerator) {
        for _ in 0..<Int.random(in: 0...2, using: &generator) {
            switch Int.random(in: 0..<6, using: &generator) {
            case 0:  // any bit
                let index = indices.randomElement(using: &generator)!
                self[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            case 1:  // a header's octet
                let index = packet + Int.random(in: 0..<40, using: &generator)
                if index < count { self[index] = UInt8.random(in: 0...255, using: &generator) }
            case 2:  // lengths and others with values at the edge
                let index = packet + Int.random(in: 0..<20, using: &generator)
                let edge: [UInt8] = [0, 1, 2, 0x3f, 0x40, 0x45, 0x7f, 0x80, 0xe0, 0xfe, 0xff]
                if index < count { self[index] = edge.randomElement(using: &generator)! }
            case 3: removeLast(Int.random(in: 0...Swift.min(60, count - 1), using: &generator))
            case 4: self += generator.octets(Int.random(in: 1...60, using: &generator))
            default: break
            }
        }
        // Otherwise nothing but the checksum would ever be found wrong.
        if Int.random(in: 0..<8, using: &generator) > 0, count >= packet, self[packet - 2..<packet] == [8, 0] {
            repairChecksum(at: packet)
        }
    }
}
