import FoundationEssentials
import Kernel
import TestSupport
import Testing

/// Numbered UDP packets from one host to another, sent and received by one process that looks at each number: which are lost, which
/// come twice, and for how long none came.
struct NumberedPackets: ~Copyable {
    /// A part of the stream, from one `mark` to the next.
    struct Phase: Decodable {
        var sent: Int
        var lost: Int
        /// The longest time for which all that was sent was lost, in milliseconds. Only time counts in which packets were being sent:
        /// what a busy machine keeps the sender from sending is no gap of the router's.
        var gap: Double
        /// The longest time that a packet was under way, in milliseconds.
        var slowest: Double
    }

    struct Report: Decodable {
        var phases: [Phase]
        /// Numbers that arrived more than once.
        var twice: Int

        var sent: Int { phases.reduce(0) { $0 + $1.sent } }
        var lost: Int { phases.reduce(0) { $0 + $1.lost } }
    }

    private let process: ChildProcess

    /// - Parameters:
    ///   - address: of `receiver`.
    ///   - interval: from one packet to the next, in microseconds; 0: as many as go.
    ///   - sourcePort: 0: any.
    ///   - isAnswered: the receiver sends each back, which makes it a connection to those who watch connections.
    init(
        from sender: TestHost, to receiver: TestHost, _ address: String, interval: Int = 200, sourcePort: Int = 0,
        isAnswered: Bool = false
    ) throws {
        process = try sender.start(
            [
                "python3", "-c", Self.script, receiver.name, address, "\(interval)", "\(sourcePort)",
                isEmulated ? "10" : "1", isAnswered ? "answered" : "",
            ])
        for _ in 0..<6000 where process.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 10) }
    }

    /// What follows is another phase.
    func mark() { process.signal(10) }

    /// Stops sending and waits for what is under way.
    consuming func report() throws -> Report {
        process.signal(SignalNumber.terminate)
        let result = process.wait()
        guard result.status == 0, let json = result.output.split(separator: "\n").last else {
            throw CommandFailed(script: "numbered packets", result: result)
        }
        return try JSONDecoder().decode(Report.self, from: Data(json.utf8))
    }

    private static let script = """
        import ctypes, json, os, signal, socket, struct, sys, time
        receiver, address = sys.argv[1], sys.argv[2]
        interval, source_port, slowness = float(sys.argv[3]) / 1e6, int(sys.argv[4]), float(sys.argv[5])
        is_answered = sys.argv[6] == "answered"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        anywhere = "::" if family == socket.AF_INET6 else ""
        sender = socket.socket(family, socket.SOCK_DGRAM)
        sender.bind((anywhere, source_port))
        sender.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        home = os.open("/run/netns/" + receiver, os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(home, 0x40000000) == 0  # CLONE_NEWNET
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        listener.bind((anywhere, 4712))
        listener.setblocking(False)
        sender.connect((address, 4712))
        sender.setblocking(False)
        stopping, marks = [], [0]
        signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
        signal.signal(signal.SIGUSR1, lambda *_: marks.append(len(times)))
        times, arrivals, twice = [], {}, 0
        burst = 1 if interval else 8

        def drain():
            global twice
            count = 0
            while True:
                try:
                    packet, peer = listener.recvfrom(64)
                    number, = struct.unpack_from("=Q", packet)
                    if is_answered:
                        listener.sendto(packet, peer)
                except BlockingIOError:
                    return count
                except OSError:  # an ICMP error
                    continue
                count += 1
                if number in arrivals:
                    twice += 1
                else:
                    arrivals[number] = time.monotonic()

        print("sending", flush=True)
        while not stopping:
            for _ in range(burst):
                now = time.monotonic()
                try:
                    sender.send(struct.pack("=Q", len(times)) + bytes(18))
                except OSError:  # an ICMP error, or no room: it was not sent
                    continue
                times.append(now)
            drain()
            if interval:
                time.sleep(max(0, now + interval - time.monotonic()))
        end = time.monotonic() + 0.3 * slowness
        while time.monotonic() < end:
            if drain():
                end = time.monotonic() + 0.3 * slowness
            time.sleep(0.001)
        marks.append(len(times))
        phases = []
        for first, last in zip(marks, marks[1:]):
            lost, gap, longest, slowest = 0, 0.0, 0.0, 0.0
            for number in range(first, last):
                if number in arrivals:
                    gap = 0.0
                    slowest = max(slowest, arrivals[number] - times[number])
                else:
                    lost += 1
                    gap += min(times[number] - times[max(number - 1, 0)], 0.001 * slowness)
                    longest = max(longest, gap)
            phases.append({"sent": last - first, "lost": lost, "gap": longest * 1e3, "slowest": slowest * 1e3})
        print(json.dumps({"phases": phases, "twice": twice}))
        """
}

/// Something that ends the way of packets, or turns it.
struct Change: Sendable {
    var make: String
    var undo: String
    /// Done first, and means nothing to the packets.
    var prepare = "true"
    /// Whether packets arrive all the same: by the kernel, or another way.
    var arrives = false
}

extension Site {
    /// 50 ms after a change all is as it says. The process that follows the kernel's changes may have to wait for a busy machine:
    /// one of three tries is enough, as one that does not follow fails each time.
    func expectSoon(_ change: Change, to address: String, isAnswered: Bool = false) throws {
        var reports: [NumberedPackets.Report] = []
        for _ in 0..<3 {
            let stream = try NumberedPackets(from: host(100), to: host(200), address, isAnswered: isAnswered)
            ThisProcess.sleep(milliseconds: isEmulated ? 200 : 50)
            try router.sh(change.prepare)
            ThisProcess.sleep(milliseconds: isEmulated ? 200 : 50)
            try router.sh(change.make)
            ThisProcess.sleep(milliseconds: isEmulated ? 200 : 50)
            stream.mark()
            ThisProcess.sleep(milliseconds: isEmulated ? 200 : 60)
            let report = try stream.report()
            try router.sh(change.undo)
            let after = report.phases[1]
            #expect(after.sent > 10 && report.twice == 0, "\(change.make): \(report)")
            if change.arrives ? after.lost == 0 : after.lost == after.sent { return }
            reports.append(report)
        }
        Issue.record("\(change.make): \(reports)")
    }
}

/// What `vrouter status --json` says of the fast path.
struct FastPathReport: Decodable {
    struct Counter: Decodable {
        var packets: Int
    }
    struct Reason: Decodable {
        var name: String
        var packets: Int
    }
    struct Worker: Decodable {
        var forwarded: Counter
        var ended: [Reason]
    }
    var process: Int?
    var obstacles: [String]
    var onlyKnownConnections: [String]
    var workers: [Worker]

    var forwarded: Int { workers.reduce(0) { $0 + $1.forwarded.packets } }
    /// Frames that were to be forwarded, and were not.
    var ended: [String] { workers.flatMap { $0.ended.map { "\($0.name) \($0.packets)" } } }
}

extension TestHost {
    private struct StatusReport: Decodable {
        struct VLAN: Decodable {
            struct Part: Decodable {
                var received: FastPathReport.Counter
                var sent: FastPathReport.Counter
            }
            var fastPath: Part?
        }
        var vlans: [VLAN]
        var fastPath: FastPathReport?
        var drift: [String]
    }

    private func status() throws -> StatusReport {
        let result = try vrouter("status --json")
        guard let status = try? JSONDecoder().decode(StatusReport.self, from: Data(result.output.utf8)) else {
            throw CommandFailed(script: "status", result: result)
        }
        return status
    }

    /// nil: there is to be none.
    func fastPath() throws -> FastPathReport? { try status().fastPath }

    /// How many packets the workers received from each VLAN, and sent to it.
    func forwardedByVLAN() throws -> [(received: Int, sent: Int)] {
        try status().vlans.compactMap(\.fastPath).map { ($0.received.packets, $0.sent.packets) }
    }

    /// How many packets the workers have forwarded.
    func forwarded() throws -> Int { try fastPath()?.forwarded ?? 0 }

    /// The process identifier of the host's `vrouter forward`.
    func forwarder() throws -> Int { try #require(try fastPath()?.process) }

    /// How many packets the kernel has forwarded between VLANs.
    func forwardedByKernel() throws -> Int {
        let text = try sh("nft list chain inet vrouter forward")
        return text.matches(of: #/packets (\d+)/#).reduce(0) { $0 + (Int($1.1) ?? 0) }
    }
}
