import Kernel
import TestSupport
import Testing

/// On a `Site`, while numbered packets pass from VLAN 100 to 200: what happens to the workers, and what becomes of the packets.
@Suite struct FastPathFaultTests {
    /// What the kernel may take to notice that a worker is gone, in milliseconds.
    private static let limit = 50.0

    private static let cut =
        "nft 'add table inet foreign; add chain inet foreign f { type filter hook forward priority 10; }; "
        + "add rule inet foreign f counter'"
    private static let close =
        "nft 'add table inet foreign; add chain inet foreign f { type filter hook forward priority 10; policy drop; }'"
    private static let uncut = "nft delete table inet foreign"

    /// A phase without the fault comes first: what a busy machine loses there, it may lose with it, too.
    private func expectShortGap(
        _ report: NumberedPackets.Report, _ comment: Comment, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let without = report.phases[0].gap
        let with = report.phases.dropFirst().map(\.gap).max() ?? .infinity
        #expect(with < Self.limit + without, "\(comment): \(report)", sourceLocation: sourceLocation)
        #expect(report.phases.allSatisfy { $0.sent > 100 }, "\(comment): \(report)", sourceLocation: sourceLocation)
        #expect(report.twice == 0, "\(comment): \(report)", sourceLocation: sourceLocation)
    }

    private func pause(_ milliseconds: UInt32) { ThisProcess.sleep(milliseconds: milliseconds * (isEmulated ? 3 : 1)) }

    /// Ownership goes back and forth a hundred times (emulated, twenty) under as many packets as go.
    @Test func eachPacketArrivesExactlyOnce() throws {
        let site = try Site()
        try site.upFast()
        func drops() throws -> Int {
            // The second column: frames that found a processor's queue full.
            let queues = try site.router.sh("cut -d' ' -f2 /proc/net/softnet_stat").split(separator: "\n")
            let full = try #require(try site.router.fastPath()).workers.flatMap(\.ended).filter {
                $0.name == "drop_ring_full"
            }
            return queues.reduce(0) { $0 + (Int($1, radix: 16) ?? 0) } + full.reduce(0) { $0 + $1.packets }
        }
        let before = try site.router.forwarded()
        let droppedBefore = try drops()
        let stream = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10", interval: 0)
        pause(500)
        stream.mark()
        try site.router.sh("for i in $(seq \(isEmulated ? 20 : 100)); do \(Self.cut); \(Self.uncut); sleep 0.005; done")
        stream.mark()
        pause(500)
        let report = try stream.report()
        let after = try site.router.forwarded()
        let dropped = try drops()
        #expect(report.twice == 0, "\(report)")
        // Both ways took part.
        #expect(after - before > report.sent / 20 && after - before < report.sent, "\(after - before) of \(report)")
        // A full ring, or a full queue of a processor, loses packets without any switching, and counts them.
        #expect(
            report.lost <= dropped - droppedBefore, "\(report), of which \(dropped - droppedBefore) are accounted for")
        let ended = try #require(try site.router.fastPath()).ended
        #expect(ended.allSatisfy { $0.hasPrefix("drop_ring_full ") }, "lost in a hand-over: \(ended)")
    }

    @Test func aKilledForwarder() throws {
        let site = try Site()
        try site.upFast()
        let stream = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10")
        pause(300)
        stream.mark()
        let before = try site.router.forwarder()
        try site.router.sh("kill -9 \(before)")
        pause(300)
        expectShortGap(try stream.report(), "kill -9")
        // It lets go of all that it had, which takes a moment.
        for _ in 0..<200 {
            if try site.router.fastPath()?.process == nil { break }
            pause(20)
        }
        let status = try site.router.vrouter("status")
        #expect(status.status == 1 && status.output.contains("drift:"), "\(status)")
        // Again, without a gap.
        let second = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10")
        pause(200)
        second.mark()
        try site.up("--masquerade none --fast-path af-packet --fast-path-from 0")
        pause(200)
        expectShortGap(try second.report(), "up")
        #expect(try site.router.forwarder() != before)
        // At once: the one that was killed has left its own word behind.
        try site.router.sh("kill -9 \(site.router.forwarder())")
        for _ in 0..<200 where try site.router.fastPath()?.process != nil { pause(20) }
        try site.up("--masquerade none --fast-path af-packet --fast-path-from 0")
        let again = try site.router.vrouter("status")
        #expect(again.status == 0, "\(again)")
        try site.waitForWorkers()
    }

    @Test func aStoppedForwarder() throws {
        let site = try Site()
        try site.upFast()
        let forwarder = try site.router.forwarder()
        let stream = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10")
        pause(300)
        stream.mark()
        try site.router.sh("kill -STOP \(forwarder)")
        pause(400)
        // What it still holds it sends when it is resumed: late, but once.
        try site.router.sh("kill -CONT \(forwarder)")
        pause(200)
        stream.mark()
        pause(200)
        let report = try stream.report()
        expectShortGap(report, "stopped and resumed")
        #expect(report.phases[2].lost <= report.phases[0].lost + 2, "\(report)")
        try site.waitForWorkers()
    }

    /// What changed while it was stopped holds as soon as it is resumed: what comes to it goes the new way.
    @Test(whereItIsFast) func aForwarderThatSleptThroughAChange() throws {
        let site = try Site()
        try site.upFast()
        let forwarder = try site.router.forwarder()
        try site.router.sh("kill -STOP \(forwarder)")
        pause(100)
        try site.router.sh(Self.close)
        let stream = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10")
        try site.router.sh("kill -CONT \(forwarder)")
        pause(200)
        stream.mark()
        pause(200)
        let report = try stream.report()
        #expect(report.phases[1].lost == report.phases[1].sent && report.phases[1].sent > 100, "\(report)")
    }

    /// One worker of two hangs: its flows go back to the kernel, and the other's go on.
    @Test(whereItIsFast) func aWorkerThatHangs() throws {
        let site = try Site()
        try site.upFast("--workers 2")
        let forwarder = try site.router.forwarder()
        // Which worker has which flow.
        var ports: [Int?] = [nil, nil]
        for port in 40000..<40040 where ports.contains(nil) {
            let before = try site.router.fastPath()?.workers.map(\.forwarded.packets) ?? []
            let probe = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10", sourcePort: port)
            pause(20)
            _ = try probe.report()
            let after = try site.router.fastPath()?.workers.map(\.forwarded.packets) ?? []
            for (number, counts) in zip(before, after).enumerated() where counts.1 > counts.0 + 10 {
                ports[number] = port
            }
        }
        let hanging = try #require(ports[0], "no flow for worker 0")
        let working = try #require(ports[1], "no flow for worker 1")
        let thread = try site.router.sh(
            "grep -l 'worker 0' /proc/\(forwarder)/task/*/comm | cut -d/ -f5"
        ).split(separator: "\n")
        try #require(thread.count == 1, "\(thread)")
        let stream = try NumberedPackets(
            from: site.host(100), to: site.host(200), "172.16.20.10", sourcePort: hanging)
        pause(300)
        stream.mark()
        let debugger = try site.router.start(["python3", "-c", Self.seize, String(thread[0])])
        defer {
            debugger.signal(SignalNumber.kill)
            _ = debugger.wait()
        }
        for _ in 0..<6000 where debugger.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 10) }
        #expect(debugger.outputSoFar == "stopped\n")
        pause(300)
        expectShortGap(try stream.report(), "the hanging worker's flow")
        let before = try site.router.fastPath()?.workers.map(\.forwarded.packets) ?? []
        let other = try NumberedPackets(
            from: site.host(100), to: site.host(200), "172.16.20.10", sourcePort: working)
        pause(100)
        other.mark()
        // A change does not wait for it, either.
        try site.router.sh(Self.cut)
        pause(50)
        let between = try site.router.fastPath()?.workers.map(\.forwarded.packets) ?? []
        pause(100)
        let after = try site.router.fastPath()?.workers.map(\.forwarded.packets) ?? []
        expectShortGap(try other.report(), "the other worker's flow")
        #expect(between[1] > before[1] && between[0] == before[0], "\(before), \(between)")
        #expect(after == between, "it forwards no more")
        try site.router.sh(Self.uncut)
        // A change that the hanging worker has not taken note of, and at once another: that does not wait for it, either.
        let third = try NumberedPackets(from: site.host(100), to: site.host(200), "172.16.20.10", sourcePort: working)
        for _ in 0..<100 {
            if try site.router.fastPath()?.workers.map(\.forwarded.packets) != after { break }
            pause(20)
        }
        third.mark()
        try site.router.sh("ip neigh replace 172.16.30.77 lladdr 02:00:00:00:30:77 dev enp0s8.300; \(Self.close)")
        pause(300)
        third.mark()
        pause(200)
        let report = try third.report()
        #expect(report.phases[1].lost < report.phases[1].sent, "\(report)")
        #expect(report.phases[2].lost == report.phases[2].sent && report.phases[2].sent > 50, "\(report)")
    }

    /// PTRACE_SEIZE and PTRACE_INTERRUPT: this thread alone stops, until the one that stopped it ends.
    private static let seize = """
        import ctypes, os, sys, time
        libc, thread = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        for request in 0x4206, 0x4207:
            assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(thread, 0x40000000)  # __WALL
        print("stopped", flush=True)
        time.sleep(600)
        """

    /// A TCP connection outlives the worker that carries it, and its successor takes it over.
    @Test(whereItIsFast) func aConnectionOutlivesItsWorker() throws {
        let site = try Site()
        try site.upFast()
        // Segments one by one: those that travel together are the kernel's.
        for id in [100, 200] {
            try site.host(id).sh(
                "for link in enp0s8 enp0s8.\(id); do ethtool -K $link tso off gso off gro off >/dev/null 2>&1 || true; done"
            )
        }
        let server = try site.host(200).start(["iperf3", "-s", "-1"])
        for _ in 0..<50 where try !site.host(200).sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let before = try site.router.forwarded()
        let seconds = isEmulated ? 12 : 3
        let client = try site.host(100).start(["iperf3", "-c", "172.16.20.10", "-t", "\(seconds)", "-b", "10M", "-J"])
        pause(600)
        let carried = try site.router.forwarded() - before
        #expect(carried > 100, "the workers carry it")
        try site.router.sh("kill -9 \(site.router.forwarder())")
        pause(300)
        try site.up("--masquerade none --fast-path af-packet --fast-path-from 0")
        let result = client.wait()
        _ = server.wait()
        #expect(result.status == 0, "\(result)")
        let received =
            result.output.firstMatch(of: #/"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/#).flatMap { Int($0.1) } ?? 0
        #expect(received > seconds * 500_000, "\(received) octets")
        #expect(try site.router.forwarded() > 100, "its successor carries it, too")
        let resets = try site.host(100).sh("nstat -asz TcpEstabResets TcpOutRsts")
        for line in resets.split(separator: "\n").dropFirst() {
            #expect(line.split(separator: " ")[1] == "0", "\(resets)")
        }
    }
}
