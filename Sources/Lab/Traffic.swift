// What BPF/traffic.bpf.c reads and writes. All of it has the same layout there.

import Packets

/// The frames that a router is measured with: UDP over IPv4, one VLAN tag.
struct Traffic {
    /// All hosts have this one (traffic.bpf.c: is_host).
    static let hostAddress = MACAddress(0x0200_0000_0002)

    /// Sizes are those of RFC 2544 §9.1: with the frame check sequence, without the tag, which comes on top. So a frame without
    /// the one and with the other has as many octets.
    static let smallestFrame = 64
    /// A frame of the generator fits in a page, with what the kernel needs of it.
    static let largestFrame = 3400

    /// One sender, one receiver, one port.
    struct Flow {
        let source: IPv4Address
        let destination: IPv4Address
        let sourcePort: UInt16
        let vlan: VLANID
        let destinationVLAN: VLANID

        /// The same as it leaves its sender.
        var unrouted: Flow {
            Flow(
                source: source, destination: destination, sourcePort: sourcePort, vlan: vlan, destinationVLAN: vlan)
        }
    }

    private static let discardPort: UInt16 = 9
    private static let mark: UInt32 = 0x7672_4231
    private static let timeToLive: UInt8 = 64

    /// `struct parameters`
    static func parameters(
        frameBytes: Int, flows: Int, framesPerSecond: Double? = nil, limit: Int = 0, isTimed: Bool = false,
        isAnswering: Bool = false, expectedTTL: UInt32
    ) -> [UInt8] {
        let interval = framesPerSecond.map { UInt64((256e9 / max($0, 1)).rounded()) } ?? 0
        return interval.littleEndianBytes + UInt64(limit).littleEndianBytes
            + [UInt32(frameBytes), UInt32(flows), isTimed ? 1 : 0, isAnswering ? 1 : 0, expectedTTL, 0]
            .flatMap(\.littleEndianBytes)
    }

    /// `struct pattern`: what all frames of a size have in common, for the router's address.
    static func pattern(frameBytes: Int, router: MACAddress) -> [UInt8] {
        var frame = router.octets + hostAddress.octets + [0x81, 0x00, 0, 0, 0x08, 0x00]
        frame += ipHeader(frameBytes: frameBytes, source: IPv4Address(0), destination: IPv4Address(0))
        frame += [0, 0] + discardPort.octets + UInt16(frameBytes - 38).octets + [0, 0]
        frame += mark.octets
        return frame + (frame.count..<4096).map { UInt8(truncatingIfNeeded: $0) }
    }

    /// `struct flow`
    static func bytes(of flow: Flow, frameBytes: Int) -> [UInt8] {
        let header = ipHeader(frameBytes: frameBytes, source: flow.source, destination: flow.destination)
        return flow.source.octets + flow.destination.octets + flow.sourcePort.octets + checksum(header).octets
            + flow.vlan.rawValue.octets + flow.destinationVLAN.rawValue.octets
    }

    /// RFC 791 §3.1, checksum 0, don't fragment.
    private static func ipHeader(frameBytes: Int, source: IPv4Address, destination: IPv4Address) -> [UInt8] {
        [0x45, 0] + UInt16(frameBytes - 18).octets + [0, 0, 0x40, 0, timeToLive, 17, 0, 0] + source.octets
            + destination.octets
    }

    /// RFC 1071
    private static func checksum(_ header: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: header.count, by: 2) {
            sum += UInt32(header[index]) << 8 | UInt32(header[index + 1])
        }
        while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
        return ~UInt16(sum)
    }
}

extension FixedWidthInteger {
    /// In network order.
    fileprivate var octets: [UInt8] {
        stride(from: Self.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: self >> Self($0)) }
    }

    /// BPF programs have the byte order of the machine, and those that Swift runs on are little-endian.
    fileprivate var littleEndianBytes: [UInt8] { octets.reversed() }
}

/// How many frames took how long, from when they were written until they came back.
struct Latencies {
    /// By octaves of nanoseconds, 32 steps each (traffic.bpf.c: note_latency).
    let counts: [UInt64]
    private static let stepBits = 5

    /// The time within which this share of the frames was back, in microseconds: the middle of its step. nil without frames.
    func percentile(_ share: Double) -> Double? {
        let total = counts.reduce(0, +)
        guard total > 0 else { return nil }
        let rank = UInt64((Double(total) * share).rounded(.up))
        var seen: UInt64 = 0
        for (index, count) in counts.enumerated() {
            seen += count
            if seen >= max(rank, 1) { return Self.middle(of: index) / 1000 }
        }
        return nil
    }

    /// In nanoseconds.
    static func middle(of index: Int) -> Double {
        let octave = index >> stepBits
        guard octave >= stepBits else { return Double(index) }
        let step = index & (1 << stepBits - 1)
        let width = Double(UInt64(1) << UInt64(octave - stepBits))
        return (Double(1 << stepBits + step) + 0.5) * width
    }
}
