import Kernel
import TestSupport
import Testing

/// Connections between the VLANs of a `Site` whose router translates them and keeps their state, as it does by default.
extension Site {
    /// Whether the workers take part. VROUTER_TEST_FLOWS=kernel leaves them out: whatever a test says of the traffic must be true
    /// of the kernel alone.
    static let hasWorkers = ThisProcess.environment["VROUTER_TEST_FLOWS"] != "kernel"

    private static let fastPath = "--fast-path af-packet --fast-path-from 0"

    /// The default configuration, and the hosts' MAC addresses are known.
    func upFlows(_ options: String = "", hasWorkers: Bool = Site.hasWorkers) throws {
        try up("\(hasWorkers ? Self.fastPath : "") \(options)")
        for (from, to) in [(100, 200), (200, 300), (300, 100)] {
            _ = try ping(host(from), "172.16.\(to / 10).10")
        }
        for (from, to) in [(100, 200), (200, 100)] { _ = try ping(host(from), "fd00:\(to / 10)::10") }
        guard hasWorkers else { return }
        try waitForFlows()
    }

    /// Waits until the workers take an exchange of packets over. If they never do, nothing that follows means anything.
    func waitForFlows() throws {
        for _ in 0..<50 {
            let before = try router.forwarded()
            _ = try host(100).run(["ping", "-c", "10", "-i", "0.005", "-W", "1", "172.16.20.10"])
            if try router.forwarded() > before { return }
            ThisProcess.sleep(milliseconds: 20)
        }
        throw CommandFailed(script: "no flow passes the workers", result: try router.vrouter("status"))
    }

    /// Runs `body`, while which the workers are to forward that many packets at least. Emulated, much of a connection is over before
    /// they have it.
    func workersForward(
        atLeast count: Int, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void
    ) throws {
        let before = try router.forwarded()
        try body()
        if Self.hasWorkers {
            let packets = try router.forwarded() - before
            #expect(
                packets >= (isEmulated ? count / 10 : count), "the workers forwarded \(packets)",
                sourceLocation: sourceLocation)
        }
    }

    /// Every frame between these hosts is one packet, with its checksum or with one that the receiver's kernel believes.
    func sendSingleFrames(hasFullChecksums: Bool = false) throws {
        for id in [100, 200] {
            try host(id).sh(
                """
                for link in enp0s8 enp0s8.\(id); do
                    ethtool -K $link tso off gso off gro off \(hasFullChecksums ? "tx off" : "") >/dev/null 2>&1 || true
                done
                """)
        }
    }

    /// Runs a conversation (see below) to its end; what it printed.
    @discardableResult
    func converse(_ script: String, others: [String: TestHost] = [:], arguments: [String] = []) throws -> String {
        let result = try startConversation(script, others: others, arguments: arguments).wait()
        guard result.status == 0 else { throw CommandFailed(script: "conversation", result: result) }
        return result.output
    }

    /// Starts one, which has said that it began.
    func startConversation(_ script: String, others: [String: TestHost] = [:], arguments: [String] = []) throws
        -> ChildProcess
    {
        let named = hosts.map { ("\($0)", $1.name) } + others.map { ($0, $1.name) }
        let names = named.map { "\"\($0)\": \"\($1)\"" }.joined(separator: ", ")
        return try host(100).start(
            ["python3", "-c", Self.conversation, "{\(names)}", isEmulated ? "10" : "1", script] + arguments)
    }

    /// The connections that the router knows, one a line, without what changes by itself: timeouts.
    ///
    /// - Parameter closed: the timeout of one that has been reset. All that are closed are alike then: where the kernel has not seen all
    ///   of a connection, it lists it as established when it has been reset, with this timeout; and an acknowledgement that a worker
    ///   held while both ends closed is answered with a reset.
    func connections(_ options: String = "", closed: Int = 0) throws -> [String] {
        try ["ipv4", "ipv6"].flatMap { family in
            try router.sh("conntrack -L -f \(family) \(options) 2>/dev/null").split(separator: "\n").map { line in
                // "tcp      6 431999 ESTABLISHED src=…"
                String(line).replacing(#/^(tcp +\d+ )(\d+) ESTABLISHED/#) {
                    "\($0.1)\($0.2) \((Int($0.2) ?? .max) <= closed ? "CLOSE" : "ESTABLISHED")"
                }.replacing(#/ TIME_WAIT /#) { closed > 0 ? " CLOSE " : "\($0.0)" }.replacing(#/^(\w+ +\d+) \d+/#) {
                    "\($0.1)"
                }.replacing(#/ use=\d+/#, with: "")
            }
        }.sorted()
    }

    /// What a conversation begins with. One process has both ends, so that it knows what was sent, and when: a socket stays in the
    /// network namespace in which it was made.
    private static let conversation = """
        import ctypes, errno, hashlib, json, os, random, select, signal, socket, struct, sys, time
        hosts, slowness = json.loads(sys.argv[1]), float(sys.argv[2])
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(host):
            home = os.open("/run/netns/" + hosts[host], os.O_RDONLY)
            assert libc.setns(home, 0x40000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNET
            os.close(home)

        def family(address):
            return socket.AF_INET6 if ":" in address else socket.AF_INET

        # A socket of that host, with that port.
        def end(host, address, kind=socket.SOCK_STREAM, port=0, protocol=0, own=""):
            enter(host)
            made = socket.socket(family(address), kind, protocol)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family(address) == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.settimeout(5 * slowness)
            made.bind((own, port))
            return made

        def listen(host, address, port):
            listener = end(host, address, port=port)
            listener.listen(64)
            return listener

        # Both ends of a TCP connection.
        def connect(client, listener, address, port=0):
            near = end(client, address, port=port)
            near.connect((address, listener.getsockname()[1]))
            far, _ = listener.accept()
            far.settimeout(5 * slowness)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return near, far

        def receive(one, count):
            data = b""
            while len(data) < count:
                part = one.recv(count - len(data))
                assert part, f"ended after {len(data)} of {count} octets"
                data += part
            return data

        # Through one end, out of the other, both at once, so that no buffer has to hold it.
        def carry(source, sink, data):
            sent, got = 0, bytearray()
            source.setblocking(False)
            while len(got) < len(data):
                ready = select.select([sink], [source] if sent < len(data) else [], [], 5 * slowness)
                assert ready[0] or ready[1], f"stuck after {len(got)} of {len(data)} octets"
                if ready[1]:
                    sent += source.send(data[sent:sent + 65536])
                if ready[0]:
                    part = sink.recv(65536)
                    assert part, f"ended after {len(got)} of {len(data)} octets"
                    got += part
            source.settimeout(5 * slowness)
            assert got == data, "other octets than were sent"

        # Questions and answers, some time apart: long enough for somebody to notice the connection.
        def exchange(near, far, rounds=40, pause=0.002):
            for number in range(rounds):
                for a, b in (near, far), (far, near):
                    text = f"{number} of {rounds}".encode().ljust(63) + b"\\n"
                    a.sendall(text)
                    assert receive(b, 64) == text, "other octets than were sent"
                time.sleep(pause * slowness)

        # The same with datagrams.
        def exchange_datagrams(near, far, rounds=40, pause=0.002, size=64):
            for number in range(rounds):
                question = f"{number}?".encode().ljust(size)
                near.send(question)
                got, peer = far.recvfrom(65536)
                assert got == question, f"{got} for {question}"
                answer = f"{number}!".encode().ljust(size)
                far.sendto(answer, peer)
                assert near.recv(65536) == answer
                time.sleep(pause * slowness)
            return peer[0]

        # Ends it by a reset.
        def reset(one):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()

        def expect_end(one):
            assert one.recv(1) == b"", "octets after the end"

        def expect_reset(one):
            try:
                assert False, one.recv(1)
            except ConnectionResetError:
                pass

        exec(compile(sys.argv[3], "conversation", "exec"))
        """
}
