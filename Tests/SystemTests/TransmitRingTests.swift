import Kernel
import PacketIO
import TestSupport
import Testing

//   made ══ in   what arrives here …
//   out ══ far   … is sent from here, in VLAN 100
//
/// The rings of packet sockets, by themselves.
@Suite struct TransmitRingTests {
    /// What one end of a cable received: the VLAN, and the octets of each frame.
    private struct Arrivals: Equatable {
        var frames: [[UInt8]] = []
        var vlans: Set<UInt16> = []
    }

    private let host: TestHost
    private let transmitSlots = 64
    private static let lengths = [60, 61, 590, 1513, 1514]

    init() throws {
        host = try TestHost(trunk: false)
        try host.sh(
            """
            echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
            ip link add made type veth peer name in; ip link add out type veth peer name far
            for link in made in out far; do ip link set $link up; done
            """)
    }

    /// Both ends of the way, and the sockets that they need.
    private struct Rings: ~Copyable {
        let one: PacketSocket
        private let other: PacketSocket
        var source: ReceiveRing
        var ring: TransmitRing
        var far: ReceiveRing

        init(transmitSlots: Int) throws(KernelError) {
            func index(_ name: String) -> UInt32 { Link.index(of: name) ?? 0 }
            let one = try PacketSocket(toReceive: 1500, slots: 256)
            try one.bind(linkIndex: index("in"))
            let other = try PacketSocket(toReceive: 1500, slots: 256)
            try other.bind(linkIndex: index("far"))
            let outgoing = try PacketSocket(toSend: 1500, slots: transmitSlots, linkIndex: index("out"))
            source = ReceiveRing(one)
            far = ReceiveRing(other)
            ring = TransmitRing(outgoing)
            self.one = one
            self.other = other
        }
    }

    private func rings() throws -> Rings {
        var rings: Rings?
        try Namespace.run(in: host.name) { () throws(KernelError) in
            rings = try Rings(transmitSlots: transmitSlots)
        }
        guard let rings = rings.take() else { throw CancellationError() }
        return rings
    }

    private func make(_ frames: [[UInt8]]) throws {
        let script = """
            import socket, sys
            out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            out.bind(("made", 0x88b5))
            for line in sys.stdin:
                out.send(bytes.fromhex(line))
            """
        let lines = frames.map { frame in
            frame.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        let sent = try host.run(["python3", "-c", script], input: lines.joined(separator: "\n"))
        try #require(sent.status == 0, "\(sent)")
    }

    /// No two are alike.
    private func frames(_ count: Int, from first: Int = 0) -> [[UInt8]] {
        (first..<first + count).map { number in
            (0..<Self.lengths[number % Self.lengths.count]).map { index in
                index == 12 ? 0x88 : index == 13 ? 0xb5 : UInt8(truncatingIfNeeded: index &* 7 &+ number) & 0xfe
            }
        }
    }

    /// Takes so many frames from one ring to the other, as a worker does.
    private func carry(_ count: Int, _ rings: inout Rings) {
        var done = 0
        for _ in 0..<1000 where done < count {
            while done < count, let frame = rings.source.receive() {
                let offload = frame.offload
                frame.withOctets { octets in
                    for index in 0..<12 { octets[index] = octets[index + ReceiveRing.room] }
                    (octets[12], octets[13], octets[14], octets[15]) = (0x81, 0, 0, 100)
                }
                rings.ring.add(frame, length: frame.length + ReceiveRing.room, offload: offload)
                done += 1
            }
            rings.source.release()
            if done < count { ThisProcess.sleep(milliseconds: 10) }
        }
    }

    private func arrivals(_ count: Int, _ rings: inout Rings) -> Arrivals {
        var result = Arrivals()
        // One more than there are to be would come at once.
        for turn in 0..<50 where turn < 5 || result.frames.count < count {
            while let frame = rings.far.receive() {
                result.frames.append(
                    frame.withOctets { octets in
                        (ReceiveRing.room..<frame.length + ReceiveRing.room).map { octets[$0] }
                    })
                result.vlans.insert(frame.tag)
            }
            rings.far.release()
            ThisProcess.sleep(milliseconds: 10)
        }
        return result
    }

    /// More than the ring has slots, in several turns: each arrives as it was, in order.
    @Test func whatIsAddedIsSent() throws {
        var rings = try rings()
        let wanted = frames(150)
        try make(wanted)
        for _ in 0..<5 {
            carry(30, &rings)
            #expect(rings.ring.send() == 0)
        }
        let seen = arrivals(wanted.count, &rings)
        #expect(seen == Arrivals(frames: wanted, vlans: [100]))
        #expect(rings.ring.send() == 0, "there is nothing to send")
    }

    /// What a link that is down does not take is counted, and is not sent once it is up.
    @Test func aLinkThatIsDown() throws {
        var rings = try rings()
        try make(frames(120))
        try host.sh("ip link set out down")
        carry(20, &rings)
        #expect(rings.ring.send() == 20)
        // More than there are slots: they are not in anybody's way.
        carry(100, &rings)
        #expect(rings.ring.send() == 100)
        try host.sh("ip link set out up")
        #expect(rings.ring.send() == 0 && arrivals(0, &rings) == Arrivals())
        let wanted = frames(50, from: 200)
        try make(wanted)
        carry(50, &rings)
        #expect(rings.ring.send() == 0)
        #expect(arrivals(50, &rings) == Arrivals(frames: wanted, vlans: [100]))
    }

    /// What a full queue does not take is counted, and what follows is sent.
    @Test func aFullQueue() throws {
        var rings = try rings()
        // About twenty frames leave at once; ten more fill it.
        try host.sh("tc qdisc add dev out root tbf rate 8kbit burst 1600 limit 640")
        let all = frames(40).map { Array($0.prefix(60)) }
        try make(all)
        carry(40, &rings)
        let refused = rings.ring.send()
        #expect((1..<40).contains(refused), "\(refused)")
        try host.sh("tc qdisc del dev out root")
        let wanted = frames(10, from: 200)
        try make(wanted)
        carry(10, &rings)
        #expect(rings.ring.send() == 0)
        let seen = arrivals(10, &rings).frames
        #expect(Array(seen.suffix(10)) == wanted)
        #expect(seen.dropLast(10).elementsEqual(all.prefix(seen.count - 10)), "in order")
    }

    /// What comes while all slots are full is lost, and counted; what lies in them is not.
    @Test func aFullRingIsCounted() throws {
        var rings = try rings()
        let all = frames(330)
        try make(Array(all[..<300]))
        #expect(rings.one.takeDrops() == 44)
        #expect(rings.one.takeDrops() == 0, "once")
        func take(_ rings: inout Rings) -> [[UInt8]] {
            var result: [[UInt8]] = []
            while let frame = rings.source.receive() {
                result.append(
                    frame.withOctets { octets in
                        (ReceiveRing.room..<frame.length + ReceiveRing.room).map { octets[$0] }
                    })
            }
            rings.source.release()
            return result
        }
        #expect(take(&rings) == Array(all[..<256]))
        try make(Array(all[300...]))
        #expect(take(&rings) == Array(all[300...]))
        #expect(rings.one.takeDrops() == 0)
    }
}
