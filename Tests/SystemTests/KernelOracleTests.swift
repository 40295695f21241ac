import Forwarding
import Kernel
import PacketIO
import Packets
import TestSupport
import Testing

/// What the pipeline does with a frame, the kernel does with it, octet for octet.
///
///     cable ════════════ enp0s8 (vrouter up: VLANs 100, 200 and 300)
///       └ every frame that the pipeline forwards or drops goes in here; what comes back is compared
///
/// Frames that the pipeline leaves to the kernel are not part of this: nobody can disagree about them.
@Suite struct KernelOracleTests {
    @Test(arguments: [Snapshot.SourceCheck.none, .strict, .loose])
    func sameAsTheKernel(_ check: Snapshot.SourceCheck) throws {
        let host = try TestHost()
        try configure(host, check)
        var world = TestWorld.world
        // Which of several paths is taken only the kernel knows.
        world.routes.removeAll { route in
            if case .unicast(let hops) = route.kind { hops.count > 1 } else { route.kind == .other }
        }
        for index in world.gateways.indices { world.gateways[index].sourceCheck = check }
        world.keepsPriority = try !host.hasVLANDevices
        let snapshot = Snapshot(world)

        var generator = SeededGenerator(seed: UInt64(check.rawValue))
        var sent: [[UInt8]] = []
        var expected: [[UInt8]] = []
        var reached: [Verdict: Int] = [:]
        var tries = 0
        while sent.count < (isEmulated ? 500 : 5000) {
            tries += 1
            try #require(tries < 100_000)
            var frame = TestFrame.samples.randomElement(using: &generator)!
            frame.tags[0].control |= UInt16.random(in: 0...15, using: &generator) << 12
            if Int.random(in: 0..<6, using: &generator) == 0 { frame.lead(toADropIn: &generator) }
            var octets = frame.octets
            octets.mutate(packetAt: 18, using: &generator)
            // What a packet socket sends on an interface with this MTU.
            guard (18...1518).contains(octets.count) else { continue }
            var (inRing, tag) = CapturedFrame(octets: octets).inRing
            var span = inRing.mutableSpan
            let outcome = Pipeline.process(&span, FrameMetadata(tag: tag), snapshot)
            switch outcome.verdict {
            case .punt: continue
            case .drop: break
            case .forward: expected.append(Array(inRing.prefix(outcome.length)))
            }
            reached[outcome.verdict, default: 0] += 1
            sent.append(octets)
        }
        let drops = DropReason.allCases.filter { reached[.drop($0), default: 0] > 0 }
        #expect(expected.count > sent.count / 4 && drops.count >= 8, "\(reached)")

        let received = try exchange(sent, host)
        #expect(received.count == expected.count)
        // The first difference says enough.
        if let index = zip(received, expected).enumerated().first(where: { $1.0 != $1.1 })?.offset {
            Issue.record("frame \(index): the kernel sent \(received[index]), expected \(expected[index])")
        }
    }

    /// The world of the tests, as the kernel's.
    private func configure(_ host: TestHost, _ check: Snapshot.SourceCheck) throws {
        let world = TestWorld.world
        try host.sh("ip link set enp0s8 address \(TestWorld.mac)")
        let up = try host.vrouter(
            """
            up --parent enp0s8 --masquerade none --vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24,fd00:20::1/64 \
            --vlan 300=172.16.30.1/24,fd00:30::1/64
            """)
        try #require(up.status == 0, "\(up)")
        // Connection tracking calls packets invalid that a router forwards; rules are not what is compared.
        try host.sh("nft delete table inet vrouter")
        for neighbor in world.neighbors {
            try host.sh(
                "ip neigh replace \(neighbor.address) lladdr \(neighbor.mac) dev enp0s8.\(neighbor.vlan) nud permanent")
        }
        try host.sh(
            """
            ip link add uplink type veth peer name far
            ip link set far up
            ip link set uplink up
            ip route add 10.9.0.0/16 via 172.16.20.2
            ip route add 10.11.0.0/16 via 172.16.20.99
            ip route add blackhole 10.12.0.0/16
            ip route add unreachable 10.13.0.0/16
            ip route add prohibit 10.14.0.0/16
            ip route add 10.16.0.0/16 dev uplink
            ip -6 route add fd00:9::/32 via fe80::2 dev enp0s8.200
            ip -6 route add blackhole fd00:12::/32
            for name in all default enp0s8.100 enp0s8.200 enp0s8.300; do
                echo \(check.rawValue) >/proc/sys/net/ipv4/conf/$name/rp_filter
            done
            """)
    }

    /// Sends frames into the cable, from one CPU so that they stay in order, and returns what the router sends to stations.
    private func exchange(_ frames: [[UInt8]], _ host: TestHost) throws -> [[UInt8]] {
        let input = TemporaryFile()
        let output = TemporaryFile()
        var writer = try PcapWriter(input.path)
        for frame in frames { writer.write(CapturedFrame(octets: frame)) }
        try writer.flush()
        let capture = try host.start([
            "tcpdump", "-i", "cable", "-Q", "in", "-B", "32768", "-s", "0", "-w", output.path, "-U",
            "ether src \(TestWorld.mac) and not ether multicast",
        ])
        ThisProcess.sleep(milliseconds: isEmulated ? 4000 : 1000)
        let script = """
            import os, socket, struct, sys, time
            os.sched_setaffinity(0, {0})
            cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            cable.bind(("cable", 0))
            data, at = open(sys.argv[1], "rb").read(), 24
            while at < len(data):
                length = struct.unpack_from("=8xI", data, at)[0]
                cable.send(data[at + 16:at + 16 + length])
                at += 16 + length
            """
        let result = try host.run(["python3", "-c", script, input.path])
        try #require(result.status == 0, "\(result)")
        ThisProcess.sleep(milliseconds: isEmulated ? 4000 : 1000)
        capture.signal(SignalNumber.terminate)
        _ = capture.wait()
        var reader = try PcapReader(output.path)
        var received: [[UInt8]] = []
        while let frame = try reader.next() { received.append(frame.octets) }
        return received
    }
}

extension TestFrame {
    /// Another source or destination, for which Linux drops it, always or as `rp_filter` is.
    fileprivate mutating func lead(toADropIn generator: inout SeededGenerator) {
        self = [
            .ipv4(from: "172.16.10.1"), .ipv4(from: "224.0.0.1"), .ipv4(from: "0.0.0.0"),
            .ipv4(from: "255.255.255.255"),
            .ipv4(to: "0.0.0.0"), .ipv4(to: "10.12.0.1"), .ipv4(from: "172.16.30.12"), .ipv4(from: "192.0.2.1"),
            .ipv4(from: "10.11.0.1"), .ipv4(from: "10.12.0.1"), .ipv4(from: "10.13.0.1"), .ipv4(from: "10.14.0.1"),
            .ipv4(from: "10.16.0.1"), .ipv4(from: "172.16.30.77"), .ipv4(from: "10.9.0.1"),
            .ipv6(to: "fd00:12::1"), .ipv6(from: "::1"), .ipv6(from: "ff02::1"), .ipv6(to: "::1"),
        ].randomElement(using: &generator)!
    }
}
