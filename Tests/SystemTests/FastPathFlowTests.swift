import Kernel
import TestSupport
import Testing

//  host h100 ─┐ VLAN 100                 ┌─ enp0s8 ─ router ─ uplink0 ── outside
//  host h200 ─┤ VLAN 200 ── switch ──────┘             │
//  host h300 ─┘ VLAN 300                        vrouter forward
//
/// Connections that the router translates and whose state it keeps: IPv4 arrives with the router's address, IPv6 as it is. The kernel
/// decides, the workers repeat; nobody at either end can tell.
@Suite struct FastPathFlowTests {
    // MARK: What people run

    @Test func tcpThroughput() throws {
        let site = try Site()
        try site.upFlows()
        let server = try ThroughputServer(site.host(200))
        let runs =
            ["-c 172.16.20.10", "-c fd00:20::10 -R"] + (isEmulated ? [] : ["-c 172.16.20.10 -R", "-c fd00:20::10"])
        let octets = isEmulated ? 1_000_000 : 8_000_000
        // Segments that travel together, small ones too; then each by itself. iperf3 stops counting when all is sent, so little may
        // be on its way.
        for options in runs + runs.map({ "\($0) -M 536" }) {
            try server.measure(site.host(100), "\(options) -n \(octets) -w 64K", atLeast: octets / 4)
        }
        try site.sendSingleFrames()
        for options in runs {
            // About 1400 octets each, and an answer to every second. Slowly enough for the workers to learn of the connection before
            // it ends.
            try site.workersForward(atLeast: octets / 1400 / 2) {
                try server.measure(
                    site.host(100), "\(options) -n \(octets) -w 64K -l 16K -b \(isEmulated ? 2 : 100)M",
                    atLeast: octets / 4)
            }
        }
        try expectNoBadChecksums(site)
    }

    @Test(whereItIsFast, arguments: [false, true]) func udpThroughput(hasFullChecksums: Bool) throws {
        let site = try Site()
        try site.upFlows()
        try site.sendSingleFrames(hasFullChecksums: hasFullChecksums)
        let server = try ThroughputServer(site.host(200))
        let count = isEmulated ? 150 : 500
        for address in ["172.16.20.10", "fd00:20::10"] {
            for direction in isEmulated ? [""] : ["", "-R"] {
                let options = "-c \(address) \(direction) -u -l 1000 -n \(count * 1000) -b \(isEmulated ? 2 : 20)M"
                try site.workersForward(atLeast: count / 5) {
                    // A busy machine may lose some.
                    try server.measure(site.host(100), options, atLeast: count * 900)
                }
            }
        }
        try expectNoBadChecksums(site)
    }

    @Test func manyConnectionsOfHTTP() throws {
        let site = try Site()
        try site.upFlows()
        // Each answer says what was asked for; each question is a connection.
        let server = try site.host(200).start(["python3", "-c", Self.webServer])
        defer {
            server.signal(SignalNumber.kill)
            _ = server.wait()
        }
        for _ in 0..<2000 where server.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 20) }
        try #require(server.outputSoFar == "ready\n")
        func ask(_ count: Int, _ options: [String]) throws {
            for address in ["172.16.20.10", "[fd00:20::10]"] {
                let client = try site.host(100).run(
                    ["curl", "-sS", "--parallel", "--parallel-max", "20"] + options
                        + ["http://\(address):8000/[1-\(count)]"])
                #expect(client.status == 0, "\(client.errors.prefix(500))")
                let answers = client.output.split(separator: "\n").compactMap { Int($0) }.sorted()
                let isComplete = answers == Array(1...count)
                #expect(isComplete, "\(answers.count) answers")
            }
        }
        let count = isEmulated ? 200 : 10_000
        // Each is over before anybody has learnt of it.
        try ask(count / 2, ["-H", "Connection: close"])
        let made = try site.router.sh("cat /proc/sys/net/netfilter/nf_conntrack_count")
        #expect(Int(made.dropLast()) ?? 0 > count / 2, "they were connections of their own")
        // A question, an answer, again and again in a few connections.
        try site.workersForward(atLeast: count / 4) { try ask(count / 4, []) }
    }

    private static let webServer = """
        import http.server, socket, socketserver
        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
            def do_GET(self):
                text = self.path[1:].encode() + b"\\n"
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            def log_message(self, *_):
                pass
        class Server(http.server.ThreadingHTTPServer):
            address_family, request_queue_size = socket.AF_INET6, 128
            def server_bind(self):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = "web", 8000
        server = Server(("::", 8000), Answer)
        print("ready", flush=True)
        server.serve_forever()
        """

    /// A question, an answer, mostly from a port of its own.
    @Test func questionsAndAnswers() throws {
        let site = try Site()
        try site.upFlows()
        try site.workersForward(atLeast: 100) {
            try site.converse(
                """
                for address, seen in ("172.16.20.10", "172.16.20.1"), ("fd00:20::10", "fd00:10::10"):
                    server = end("200", address, socket.SOCK_DGRAM, 53)
                    for number in range(100):
                        client = end("100", address, socket.SOCK_DGRAM)
                        client.connect((address, 53))
                        assert exchange_datagrams(client, server, rounds=1, pause=0) == seen
                        client.close()
                    client = end("100", address, socket.SOCK_DGRAM)
                    client.connect((address, 53))
                    for size in 0, 1, 512, 1400, 4000:
                        assert exchange_datagrams(client, server, rounds=20, size=size) == seen
                """)
        }
    }

    /// A name server, asked over UDP, each time from another port or always from one, and over a TCP connection that stays.
    @Test func namesAreLookedUp() throws {
        let site = try Site()
        try site.upFlows()
        let server = try site.host(200).start([
            "dnsmasq", "--no-daemon", "--user=root", "--pid-file=", "--conf-file=/dev/null", "--no-resolv",
            "--no-hosts",
            "--address=/example/192.0.2.77",
            "--txt-record=long.test,\(String(repeating: "a long text ", count: 20))",
        ])
        defer {
            server.signal(SignalNumber.kill)
            _ = server.wait()
        }
        for _ in 0..<100 where try !site.host(200).sh("ss -Hlun sport = 53").contains(":53") {
            ThisProcess.sleep(milliseconds: 50)
        }
        // It closes a connection after a hundred.
        let count = isEmulated ? 40 : 90
        try site.workersForward(atLeast: 2 * count) {
            for address in ["172.16.20.10", "fd00:20::10"] {
                let own = address.contains(":") ? "fd00:10::10" : "172.16.10.10"
                // By the time that the second hundred is asked from that port, the workers have the connection.
                for options in ["", "-b \(own)#5353", "+tcp +keepopen", "-b \(own)#5353"] {
                    let answers = try site.host(100).sh(
                        "seq \(count) | sed 's/.*/n&.example A/' | dig @\(address) \(options) +tries=3 +time=2 +short -f -"
                    )
                    let isComplete = answers == String(repeating: "192.0.2.77\n", count: count)
                    #expect(isComplete, "\(address) \(options): \(answers.prefix(500))")
                }
                let long = try site.host(100).sh("dig @\(address) +short long.test TXT")
                #expect(long.contains("a long text a long text"), "\(long)")
            }
        }
    }

    @Test func severalPingsAtOnce() throws {
        let site = try Site()
        try site.upFlows()
        // Two of them with the same id from two hosts to one: one of the two arrives with another, and nobody notices. They begin one after the
        // other: of two that begin at the same moment on two processors, the kernel drops one that would look like the other.
        let runs: [(Int, String)] = [
            (100, "-e 77 172.16.20.10"), (300, "-e 77 172.16.20.10"), (100, "-e 78 172.16.20.10"),
            (200, "-e 77 172.16.10.10"), (100, "-e 77 fd00:20::10"), (200, "-e 78 fd00:10::10"),
            (100, "-s 1400 172.16.30.10"),
        ]
        try site.workersForward(atLeast: 100) {
            let pings = try runs.map { from, options in
                let ping = try site.host(from).start(
                    ["ping", "-n", "-c", "30", "-i", "0.01", "-W", "2"] + options.split(separator: " ").map(String.init)
                )
                for _ in 0..<1000 where !ping.outputSoFar.contains("ttl=") { ThisProcess.sleep(milliseconds: 5) }
                return ping
            }
            for (ping, run) in zip(pings, runs) {
                let result = ping.wait()
                #expect(result.status == 0 && result.output.contains(" 0% packet loss"), "\(run): \(result)")
                #expect(result.output.matches(of: #/ttl=63/#).count == 30, "\(run): \(result)")
                #expect(!result.output.contains("DUP") && !result.output.contains("wrong"), "\(run): \(result)")
            }
        }
        for tool in ["traceroute -n -q 1 -w 2", "traceroute -I -n -q 1 -w 2", "traceroute -T -n -q 1 -w 2"] {
            for (hop, address) in [("172.16.10.1", "172.16.20.10"), ("fd00:10::1", "fd00:20::10")] {
                let result = try site.host(100).sh("\(tool) \(address)")
                let hops = result.split(separator: "\n").dropFirst().compactMap {
                    $0.split(separator: " ").dropFirst().first
                }
                #expect(hops == [Substring(hop), Substring(address)], "\(tool): \(result)")
            }
        }
    }

    // MARK: What the kernel does to connections

    /// The client names a port of its own, within a connection. The kernel's helper reads and translates that.
    @Test func activeFTP() throws {
        let site = try Site()
        try site.upFlows()
        // Each of the modules, where they are modules.
        _ = try site.router.run(["modprobe", "-qa", "nf_conntrack_ftp", "nf_nat_ftp"])
        try site.router.sh(
            """
            nft 'table ip foreign {
                ct helper files { type "ftp" protocol tcp; }
                chain first { type nat hook prerouting priority -110; tcp dport 21 ct helper set "files"; }
            }'
            """)
        try site.converse(
            #"""
            address = "172.16.20.10"
            listener = listen("200", address, 21)
            client, server = connect("100", listener, address)

            def say(a, b, text):
                a.sendall(text)
                return b.recv(1000)

            say(server, client, b"220 here\r\n")
            say(client, server, b"USER somebody\r\n")
            for number in range(3):
                data = listen("100", address, 10000 + number)
                command = say(client, server, b"PORT 172,16,10,10,%d,%d\r\n" % divmod(10000 + number, 256))
                assert command.startswith(b"PORT 172,16,20,1,"), command
                high, low = command.split(b",")[4:]
                assert say(server, client, b"200 good\r\n") == b"200 good\r\n"
                assert say(client, server, b"RETR file\r\n") == b"RETR file\r\n"
                source = end("200", address, port=20)
                source.connect(("172.16.20.1", int(high) * 256 + int(low)))
                sink, peer = data.accept()
                assert peer == (address, 20), peer
                exchange(source, sink)
                carry(source, sink, random.randbytes(100_000))
                source.close()
                expect_end(sink)
                for one in sink, data:
                    one.close()
                # The connection goes on, its numbers changed by the command that grew or shrank.
                exchange(client, server, rounds=20)
            """#)
    }

    /// Someone else's table sends a port of the router's to a host, and hides who asks for IPv6, too.
    @Test(whereItIsFast) func aForwardedPort() throws {
        let site = try Site()
        try site.upFlows()
        try site.router.sh(
            """
            nft 'table inet foreign {
                chain first {
                    type nat hook prerouting priority -110
                    ip daddr 172.16.10.1 meta l4proto { tcp, udp } th dport 8080 dnat ip to 172.16.20.10:8000
                    ip6 daddr fd00:10::1 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [fd00:20::10]:8000
                }
                chain last {
                    type nat hook postrouting priority 110
                    ip6 daddr fd00:20::10 masquerade
                }
            }'
            """)
        for hasFullChecksums in [false, true] {
            try site.sendSingleFrames(hasFullChecksums: hasFullChecksums)
            try site.workersForward(atLeast: 600) {
                try site.converse(
                    """
                    for asked, gateway in ("172.16.10.1", "172.16.20.1"), ("fd00:10::1", "fd00:20::1"):
                        listener = listen("200", asked, 8000)
                        client = end("100", asked, port=int(sys.argv[4]))
                        client.connect((asked, 8080))
                        server, peer = listener.accept()
                        assert peer[:2] == (gateway, int(sys.argv[4])), peer
                        exchange(client, server)
                        carry(client, server, random.randbytes(300_000))
                        carry(server, client, random.randbytes(300_000))
                        reset(client)
                        server = end("200", asked, socket.SOCK_DGRAM, 8000)
                        client = end("100", asked, socket.SOCK_DGRAM, 40000)
                        client.connect((asked, 8080))
                        assert exchange_datagrams(client, server, size=1000) == gateway
                    """, arguments: [hasFullChecksums ? "40001" : "40000"])
            }
        }
        try expectNoBadChecksums(site)
    }

    /// Two hosts choose the same port: hidden behind one address, one of them gets another.
    @Test(whereItIsFast) func theSamePortOfTwoHosts() throws {
        let site = try Site()
        try site.upFlows()
        _ = try site.ping(site.host(300), "172.16.20.10")
        try site.workersForward(atLeast: 100) {
            try site.converse(
                """
                address = "172.16.20.10"
                listener = listen("200", address, 8000)
                one, one_far = connect("100", listener, address, 40000)
                other, other_far = connect("300", listener, address, 40000)
                peers = [far.getpeername() for far in (one_far, other_far)]
                assert peers[0] == ("172.16.20.1", 40000) and peers[1][0] == "172.16.20.1", peers
                assert peers[0] != peers[1], peers
                for _ in range(20):
                    exchange(one, one_far, rounds=2)
                    exchange(other_far, other, rounds=2)
                server = end("200", address, socket.SOCK_DGRAM, 8000)
                clients = [end(host, address, socket.SOCK_DGRAM, 40000) for host in ("100", "300")]
                for client in clients:
                    client.connect((address, 8000))
                for _ in range(20):
                    for client in clients:
                        assert exchange_datagrams(client, server, rounds=2) == "172.16.20.1"
                """)
        }
    }

    /// A narrower link behind a host. That host's error comes to the router's address, and from there to the sender.
    @Test func aNarrowerWay() throws {
        let site = try Site()
        let behind = try TestHost(trunk: false)
        try site.upFlows()
        try site.host(200).sh(
            """
            ip link add narrow type veth peer name narrow netns \(behind.name)
            ip link set narrow mtu 1300 up
            ip address add 10.50.0.1/24 dev narrow; ip address add fd00:50::1/64 dev narrow
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip -6 route replace default via fd00:20::1
            """)
        try behind.sh(
            """
            ip link set narrow up; ip link set lo up
            for n in 2 3; do ip address add 10.50.0.$n/24 dev narrow; ip address add fd00:50::$n/64 dev narrow; done
            ip route add default via 10.50.0.1; ip -6 route add default via fd00:50::1
            """)
        try site.router.sh("ip route add 10.50.0.0/24 via 172.16.20.10; ip -6 route add fd00:50::/64 via fd00:20::10")
        try site.sendSingleFrames()
        try site.workersForward(atLeast: 100) {
            try site.converse(
                """
                for first, second, level, mtu in ("10.50.0.2", "10.50.0.3", 0, 14), ("fd00:50::2", "fd00:50::3", 41, 24):
                    listener = listen("behind", first, 8000)
                    client, server = connect("100", listener, first)
                    exchange(client, server)
                    assert client.getsockopt(level, mtu) == 1500
                    carry(client, server, random.randbytes(200_000))
                    assert client.getsockopt(level, mtu) == 1300, client.getsockopt(level, mtu)
                    # Datagrams that must not be split.
                    server = end("behind", second, socket.SOCK_DGRAM, 8000, own=second)
                    client = end("100", second, socket.SOCK_DGRAM)
                    client.setsockopt(level, 10 if level == 0 else 23, 2)  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
                    client.connect((second, 8000))
                    exchange_datagrams(client, server)
                    client.send(bytes(1400))
                    try:
                        for _ in range(100):
                            time.sleep(0.01 * slowness)
                            client.send(bytes(1400))
                        assert False, "no error came"
                    except OSError as error:
                        assert error.errno == errno.EMSGSIZE, error
                    assert client.getsockopt(level, mtu) == 1300
                    client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the same error, kept
                    exchange_datagrams(client, server)
                """, others: ["behind": behind])
        }
    }

    /// What is in use stays, though the kernel does not see it; what is not in use ends, as ever.
    @Test(whereItIsFast) func timeouts() throws {
        let site = try Site()
        try site.upFlows()
        let seconds = isEmulated ? 6 : 3
        try site.router.sh(
            """
            for name in tcp_timeout_established udp_timeout udp_timeout_stream; do
                sysctl -qw net.netfilter.nf_conntrack_$name=\(seconds)
            done
            """)
        // 7000 and 7001 are used for much longer, 7002 and 7003 only at first.
        let conversation = try site.startConversation(
            """
            address, pairs = "172.16.20.10", []
            for port in 7000, 7002:
                listener = listen("200", address, port)
                near, far = connect("100", listener, address, port)
                exchange(near, far)
                server = end("200", address, socket.SOCK_DGRAM, port + 1)
                client = end("100", address, socket.SOCK_DGRAM, port + 1)
                client.connect((address, port + 1))
                exchange_datagrams(client, server)
                pairs.append((near, far, client, server))
            print("begin", flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            near, far, client, server = pairs[0]
            until = time.monotonic() + 1.7 * float(sys.argv[4])
            while time.monotonic() < until:
                exchange(near, far, rounds=1, pause=0)
                exchange_datagrams(client, server, rounds=1, pause=0)
                time.sleep(0.05)
            print("end", flush=True)
            # Nothing is closed yet, which would be another end.
            signal.sigwait([signal.SIGTERM])
            # Whoever has been idle for longer than the router remembers goes on: the kernel takes it up again.
            for near, far, client, server in pairs:
                exchange(near, far)
                exchange_datagrams(client, server)
            """, arguments: ["\(seconds)"])
        func known() throws -> [Int: String] {
            let lines = try site.connections("-o id").compactMap { line in
                line.firstMatch(of: #/sport=(700\d) .* id=(\d+)/#).map { (Int($0.1) ?? 0, String($0.2)) }
            }
            return Dictionary(lines) { $1 }
        }
        for _ in 0..<500 where conversation.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 20) }
        let before = try site.router.forwarded()
        let atFirst = try known()
        for _ in 0..<1000 where !conversation.outputSoFar.contains("end") { ThisProcess.sleep(milliseconds: 20) }
        let inUse = try known()
        if Site.hasWorkers {
            let moved = try site.router.forwarded() - before
            #expect(moved > 200, "the workers forwarded them: \(moved)")
        }
        // The workers' last packet may be a while ago when the kernel is told of it.
        for _ in 0..<(seconds * 2 * 10) where try !known().isEmpty { ThisProcess.sleep(milliseconds: 100) }
        let atLast = try known()
        let idle = try site.router.forwarded()
        conversation.signal(SignalNumber.terminate)
        let end = conversation.wait()
        #expect(end.status == 0, "\(end)")
        #expect(atFirst.keys.sorted() == [7000, 7001, 7002, 7003], "\(atFirst)")
        #expect(inUse == atFirst.filter { $0.key < 7002 }, "\(atFirst), then \(inUse)")
        #expect(atLast == [:], "they ended when nobody used them any more")
        if Site.hasWorkers {
            let moved = try site.router.forwarded() - idle
            #expect(moved > 50, "the workers forwarded those that went on: \(moved)")
        }
    }

    // MARK: How connections begin and end

    @Test func halfClosed() throws {
        let site = try Site()
        try site.upFlows()
        try site.sendSingleFrames()
        try site.workersForward(atLeast: 60) {
            try site.converse(
                """
                for address in "172.16.20.10", "fd00:20::10":
                    listener = listen("200", address, 8000)
                    for turned in False, True:
                        one, other = connect("100", listener, address)
                        if turned:
                            one, other = other, one
                        exchange(one, other)
                        one.shutdown(socket.SHUT_WR)
                        expect_end(other)
                        for _ in range(10):
                            carry(other, one, random.randbytes(30_000))
                            time.sleep(0.005)
                        other.close()
                        expect_end(one)
                        one.close()
                """)
        }
    }

    /// Each side asks for the connection and has not heard of the other's question.
    @Test func simultaneousOpen() throws {
        let site = try Site()
        try site.upFlows()
        // Their first question is lost, so that the second crosses it.
        try site.host(100).sh(
            "nft 'table inet deaf { chain c { type filter hook input priority 0; tcp dport 6000 tcp flags syn / syn,ack drop; }; }'"
        )
        try site.workersForward(atLeast: 60) {
            try site.converse(
                """
                for their_way, our_way in ("172.16.10.10", "172.16.10.1"), ("fd00:10::10", "fd00:20::10"):
                    theirs = end("200", their_way, port=6001)
                    theirs.setblocking(False)
                    theirs.connect_ex((their_way, 6000))
                    ours = end("100", our_way, port=6000)
                    ours.connect((our_way, 6001))
                    select.select([], [theirs], [], 5 * slowness)
                    assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                    theirs.settimeout(5 * slowness)
                    exchange(ours, theirs)
                    exchange(theirs, ours)
                    ours.close()
                    expect_end(theirs)
                    theirs.close()
                """)
        }
    }

    /// The same addresses and ports again, at once: nothing of the connection before comes into the next.
    @Test func portsAreUsedAgain() throws {
        let site = try Site()
        try site.upFlows()
        // What follows one that sent super-frames is the kernel's for a second.
        try site.sendSingleFrames()
        try site.workersForward(atLeast: 100) {
            try site.converse(
                """
                for address in "172.16.20.10", "fd00:20::10":
                    listener = listen("200", address, 8000)
                    for number in range(24):
                        near, far = connect("100", listener, address, 40000)
                        exchange(near, far, rounds=10)
                        carry(far, near, random.randbytes(5000))
                        if number % 3 == 0:
                            reset(near)
                            expect_reset(far)
                            far.close()
                        elif number % 3 == 1:
                            reset(far)
                            expect_reset(near)
                            near.close()
                        else:  # the server's end waits
                            far.close()
                            expect_end(near)
                            near.close()
                    client = server = None
                    for number in range(20):
                        server = end("200", address, socket.SOCK_DGRAM, 8000)
                        client = end("100", address, socket.SOCK_DGRAM, 40000)
                        client.connect((address, 8000))
                        exchange_datagrams(client, server, rounds=5)
                        server.close()
                        client.close()
                """)
        }
    }

    /// Connections that end at any moment of being handed to the workers: none stands as if it went on.
    @Test(whereItIsFast) func connectionsThatEndEarly() throws {
        let site = try Site()
        try site.upFlows()
        let count = isEmulated ? 30 : 200
        try site.workersForward(atLeast: count) {
            try site.converse(
                """
                chance = random.Random(7)
                listeners = {address: listen("200", address, 8000) for address in ("172.16.20.10", "fd00:20::10")}
                for number in range(int(sys.argv[4])):
                    address = chance.choice(list(listeners))
                    near, far = connect("100", listeners[address], address, 20000 + number)
                    exchange(near, far, rounds=chance.randrange(1, 20), pause=chance.random() * 0.003)
                    one, other = chance.sample((near, far), 2)
                    if chance.random() < 0.7:
                        reset(one)
                        expect_reset(other)
                    else:
                        one.close()
                        expect_end(other)
                    other.close()
                """, arguments: ["\(count)"])
        }
        let known = try site.connections("-p tcp", closed: 10).filter { $0.contains(" dport=8000 ") }
        #expect(known.contains { $0.contains(" CLOSE ") }, "\(known.prefix(10).joined(separator: "\n"))")
        let open = known.filter { $0.contains("ESTABLISHED") }
        let text = open.prefix(10).joined(separator: "\n")
        #expect(open.count == 0, "of \(known.count): \(text)")
    }

    // MARK: When something happens

    /// What the kernel may take to notice that a worker is gone, in milliseconds.
    private static let limit = 50.0

    @Test func aForwarderThatDiesOrSleeps() throws {
        // Without workers there is nobody to kill: only the traffic remains.
        let site = try Site()
        try site.upFlows()
        try site.sendSingleFrames()
        let pause: (UInt32) -> Void = { ThisProcess.sleep(milliseconds: $0 * (isEmulated ? 4 : 1)) }
        let transfer = try site.startConversation(
            """
            stopping = []
            signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
            pairs = []
            for address in "172.16.20.10", "fd00:20::10":
                listener = listen("200", address, 8000)
                pairs.append(connect("100", listener, address))
            print("begin", flush=True)
            rounds = 0
            while not stopping:
                for near, far in pairs:
                    carry(near, far, random.randbytes(10_000))
                    carry(far, near, random.randbytes(1_000))
                rounds += 1
                time.sleep(0.005 * slowness)
            assert rounds > 50, rounds
            for near, far in pairs:
                near.close()
                expect_end(far)
            """)
        for _ in 0..<500 where transfer.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 20) }
        let datagrams = try NumberedPackets(
            from: site.host(100), to: site.host(200), "172.16.20.10", interval: 500, isAnswered: true)
        let before = try site.router.forwarded()
        pause(400)
        if Site.hasWorkers {
            #expect(try site.router.forwarded() - before > 300, "the workers carry them")
            let forwarder = try site.router.forwarder()
            datagrams.mark()
            try site.router.sh("kill -STOP \(forwarder)")
            pause(300)
            // What it still holds it sends when it is resumed.
            try site.router.sh("kill -CONT \(forwarder)")
            pause(300)
            datagrams.mark()
            try site.router.sh("kill -9 \(forwarder)")
            pause(300)
            datagrams.mark()
            // Its successor finds the connections in the kernel's table.
            try site.up("--fast-path af-packet --fast-path-from 0")
            pause(100)
            let first = try site.router.forwarded()
            pause(400)
            #expect(try site.router.forwarded() - first > 300, "its successor carries them")
        }
        let report = try datagrams.report()
        let without = report.phases[0].gap
        for (phase, name) in zip(report.phases.dropFirst(), ["SIGSTOP", "SIGKILL", "up"]) {
            #expect(phase.gap < Self.limit + without && phase.sent > 100, "\(name): \(report)")
        }
        #expect(report.twice == 0, "\(report)")
        transfer.signal(SignalNumber.terminate)
        let end = transfer.wait()
        #expect(end.status == 0, "\(end)")
    }

    /// What ends a connection's way, or changes it, does so for the workers, too.
    @Test(whereItIsFast) func changesHoldAtOnce() throws {
        let site = try Site()
        try site.upFlows()
        let changes = [
            // Nobody may open this connection again, but it is open: that is nothing to it until it is forgotten.
            Change(
                make: "conntrack -D -p udp --orig-port-dst 4712",
                undo: "nft delete table ip foreign",
                prepare: """
                    nft 'table ip foreign { chain c { type nat hook prerouting priority -110; udp dport 4712 drop; }; }'
                    """),
            Change(
                make: "nft insert rule inet vrouter forward ip daddr 172.16.20.10 drop",
                undo: """
                    handle=$(nft -a list chain inet vrouter forward | sed -n 's/.*daddr 172.16.20.10 drop # handle //p')
                    nft delete rule inet vrouter forward handle $handle
                    """
            ),
            Change(make: "ip route add blackhole 172.16.20.10/32", undo: "ip route del blackhole 172.16.20.10/32"),
            Change(make: "ip link set enp0s8.200 down", undo: "ip link set enp0s8.200 up"),
            Change(
                make: "ip neigh replace 172.16.20.10 lladdr 02:00:00:00:99:99 dev enp0s8.200 nud permanent",
                undo: "ip neigh del 172.16.20.10 dev enp0s8.200"),
            Change(make: "ip rule add from 172.16.10.10 prohibit", undo: "ip rule del from 172.16.10.10 prohibit"),
            Change(make: "sysctl -qw net.ipv4.ip_forward=0", undo: "sysctl -qw net.ipv4.ip_forward=1"),
            Change(
                make: """
                    nft 'table inet foreign { chain f { type filter hook forward priority 10; policy drop; }; }'
                    """, undo: "nft delete table inet foreign"),
        ]
        for change in changes {
            try site.expectSoon(change, to: "172.16.20.10", isAnswered: true)
            if Site.hasWorkers { try site.waitForFlows() }
        }
    }

    /// Where very many others end, nobody listens for a while. An end of the workers' is found all the same.
    @Test(whereItIsFast) func anEndAmongManyOthers() throws {
        let site = try Site()
        try site.upFlows()
        try site.waitForFlows()
        let ends = "-A -p udp -s 10.9.0.1 -d 10.9.0.2 -r 10.9.0.2 -q 10.9.0.1"
        let change = Change(
            make: "conntrack -D -p udp --orig-port-dst 4712",
            undo: "nft delete table ip foreign",
            prepare: """
                nft 'table ip foreign { chain c { type nat hook prerouting priority -110; udp dport 4712 drop; }; }'
                seq 3000 | awk '{ print "\(ends) --sport " $1 " --dport 1 --reply-port-src 1 --reply-port-dst " $1 " -t 600" }' |
                    conntrack -R - >/dev/null
                conntrack -D -s 10.9.0.1 >/dev/null 2>&1
                \(Self.listens(toEnds: false))
                """)
        try site.expectSoon(change, to: "172.16.20.10", isAnswered: true)
        try site.router.sh(Self.listens(toEnds: true))
        try site.waitForFlows()
        try site.expectSoon(change, to: "172.16.20.10", isAnswered: true)
    }

    /// More events than its queue holds, while it does not read them: it looks everything up again.
    @Test(whereItIsFast) func eventsThatWereLost() throws {
        let site = try Site()
        try site.upFlows()
        func lost() throws -> Int {
            let text = try site.router.sh("awk '$2 == 12 { n += $9 } END { print n + 0 }' /proc/net/netlink")
            return Int(text.dropLast()) ?? 0
        }
        let forwarder = try site.router.forwarder()
        let stream = try NumberedPackets(
            from: site.host(100), to: site.host(200), "172.16.20.10", interval: 500, isAnswered: true)
        let before = try site.router.forwarded()
        ThisProcess.sleep(milliseconds: 400)
        #expect(try site.router.forwarded() - before > (isEmulated ? 20 : 300), "the workers carry them")
        let lostBefore = try lost()
        try site.router.sh("kill -STOP \(forwarder)")
        let others = "-s 10.9.0.1 -d 10.9.0.2 -r 10.9.0.2 -q 10.9.0.1"
        try site.router.sh(
            """
            nft 'table ip foreign { chain c { type nat hook prerouting priority -110; udp dport 4712 drop; }; }'
            for _ in $(seq 20); do
                seq 10000 | awk '{ print "-A -p udp \(others) --sport " $1 " --dport 1 --reply-port-src 1 --reply-port-dst " $1 " -t 600" }' |
                    conntrack -R - >/dev/null
                conntrack -D -s 10.9.0.1 >/dev/null 2>&1
            done
            conntrack -D -p udp --orig-port-dst 4712
            """)
        #expect(try lost() > lostBefore, "its queue did not overflow")
        try site.router.sh("kill -CONT \(forwarder)")
        ThisProcess.sleep(milliseconds: isEmulated ? 2000 : 500)
        stream.mark()
        ThisProcess.sleep(milliseconds: 200)
        let report = try stream.report()
        #expect(report.phases[1].lost == report.phases[1].sent && report.phases[1].sent > 20, "\(report)")
        // It hears of new ones again.
        try site.router.sh("nft delete table ip foreign")
        try site.waitForFlows()
        let change = Change(
            make: "conntrack -D -p udp --orig-port-dst 4712", undo: "nft delete table ip foreign",
            prepare: """
                nft 'table ip foreign { chain c { type nat hook prerouting priority -110; udp dport 4712 drop; }; }'
                """)
        try site.expectSoon(change, to: "172.16.20.10", isAnswered: true)
    }

    /// Meanwhile those without packets rest, so that there may be many: their next packet is the kernel's.
    @Test(whereItIsFast) func manyConnectionsRestMeanwhile() throws {
        let site = try Site()
        try site.upFlows()
        // They are looked at anew where a route has changed.
        try site.router.sh(
            """
            seq 10001 12000 | awk '{ print "-A -p udp -s 172.16.10.10 -d 172.16.20.10 -r 172.16.20.10 -q 172.16.10.10 --sport " $1 " --dport 9 --reply-port-src 9 --reply-port-dst " $1 " -t 600 -u SEEN_REPLY,ASSURED" }' |
                conntrack -R - >/dev/null
            ip route add blackhole 198.51.100.0/24
            """)
        func ping(_ count: Int) throws -> Int {
            let ping = try site.host(100).run([
                "ping", "-e", "4713", "-c", "\(count)", "-i", "0.01", "-W", "1", "172.16.20.10",
            ])
            let received = try #require(ping.output.firstMatch(of: #/(\d+) received/#), "\(ping)")
            return Int(received.1) ?? 0
        }
        func carried() throws -> Int {
            let status = try site.router.vrouter("status --json").output
            return Int(try #require(status.firstMatch(of: #/"connections" ?: ?(\d+)/#), "\(status)").1) ?? 0
        }
        func scan() throws {
            let ends = "-A -p udp -s 10.9.0.1 -d 10.9.0.2 -r 10.9.0.2 -q 10.9.0.1"
            try site.router.sh(
                """
                seq 3000 | awk '{ print "\(ends) --sport " $1 " --dport 1 --reply-port-src 1 --reply-port-dst " $1 " -t 600" }' |
                    conntrack -R - >/dev/null
                conntrack -D -s 10.9.0.1 >/dev/null 2>&1
                \(Self.listens(toEnds: false))
                """)
            // If more than a few were asked for, it would listen again.
            ThisProcess.sleep(milliseconds: 150)
            try site.router.sh(Self.listens(toEnds: false))
        }
        try eventually("not carried") { try ping(1) == 1 && carried() >= 2000 }
        try site.workersForward(atLeast: 100) { try #require(ping(100) == 100) }
        try scan()
        // A packet wakes it.
        try site.workersForward(atLeast: 100) { try #require(ping(100) == 100) }
        try site.router.sh(Self.listens(toEnds: true))
        try scan()
        try site.router.sh(
            """
            nft 'table ip foreign { chain c { type nat hook prerouting priority -110; icmp id 4713 drop; }; }'
            conntrack -D -p icmp --icmp-id 4713
            """)
        #expect(try ping(10) == 0, "what has ended while it rested is over")
    }

    /// A command that waits until the forwarder listens to these of netfilter's groups: changes (2), and ends (4) or not.
    private static func listens(toEnds: Bool) -> String {
        """
        for _ in $(seq 200); do
            awk '$2 == 12 && $4 ~ /0000000\(toEnds ? 6 : 2)$/ { found = 1 } END { exit !found }' /proc/net/netlink && exit
            sleep 0.01
        done
        exit 1
        """
    }

    // MARK: With and without

    /// The same connections, chosen at random, with the fast path off and on: the same arrives, and the kernel's table is the same
    /// afterwards.
    @Test(arguments: isEmulated ? [1] : [1, 2]) func theSameAsTheKernel(seed: Int) throws {
        var results: [[String]] = []
        for hasWorkers in [false, true] where !hasWorkers || Site.hasWorkers {
            let site = try Site()
            try site.upFlows(hasWorkers: hasWorkers)
            try site.sendSingleFrames()
            for id in [100, 200] { try site.host(id).sh("sysctl -qw net.ipv4.ping_group_range='0 0'") }
            // None ends by itself before it is looked at.
            try site.router.sh(
                """
                cd /proc/sys/net/netfilter
                for name in tcp_timeout_close tcp_timeout_last_ack tcp_timeout_close_wait udp_timeout icmp_timeout icmpv6_timeout; do
                    echo 600 >nf_conntrack_$name
                done
                conntrack -F 2>/dev/null
                """)
            let before = try site.router.forwarded()
            let told = try site.converse(
                Self.randomConversation, arguments: ["\(seed)", isEmulated ? "12" : "40"])
            if hasWorkers { #expect(try site.router.forwarded() - before > (isEmulated ? 20 : 200)) }
            let known = try site.connections(closed: 600).map { line in
                // Two seconds of a datagram's connection that the kernel sees make it assured.
                line.contains("udp") ? line.replacing("[ASSURED] ", with: "") : line
            }.filter { $0.contains(#/(sport|id)=20\d\d\d /#) }
            #expect(known.count >= (isEmulated ? 12 : 40), "\(known.count)")
            results.append(told.split(separator: "\n").map(String.init) + known)
        }
        if results.count == 2 {
            let changes = differences(results[0], results[1])
            let text = changes.prefix(20).joined(separator: "\n")
            #expect(changes.count == 0, "\(text)")
        }
    }

    private static let randomConversation = #"""
        chance, count = random.Random(int(sys.argv[4])), int(sys.argv[5])
        targets = {"172.16.20.10": "172.16.10.10", "fd00:20::10": "fd00:10::10"}
        listeners = {address: listen("200", address, 8000) for address in targets}

        class TCP:
            def __init__(self, port, address):
                self.near, self.far = connect("100", listeners[address], address, port)
                self.log = [self.far.getpeername()[:2]]

            def step(self):
                ends = [(self.near, self.far), (self.far, self.near)]
                for _ in range(chance.randrange(1, 6)):
                    a, b = ends[chance.randrange(2)]
                    data = chance.randbytes(chance.randrange(1, 5000))
                    carry(a, b, data)
                    self.log.append(hashlib.sha256(data).hexdigest()[:8])

            def finish(self):
                way = chance.choice(["ours", "theirs", "our half", "their half", "our reset", "their reset", "open"])
                self.log.append(way)
                a, b = (self.near, self.far) if way.startswith("our") else (self.far, self.near)
                if "half" in way:
                    a.shutdown(socket.SHUT_WR)
                    expect_end(b)
                    carry(b, a, chance.randbytes(20_000))
                    b.close()
                    expect_end(a)
                    a.close()
                elif "reset" in way:
                    reset(a)
                    expect_reset(b)
                    b.close()
                elif way != "open":
                    a.close()
                    expect_end(b)
                    b.close()

        class UDP:
            def __init__(self, port, address):
                self.far = end("200", address, socket.SOCK_DGRAM, port)
                self.near = end("100", address, socket.SOCK_DGRAM, port)
                self.near.connect((address, port))
                self.log = []

            def step(self):
                size = chance.randrange(0, 4000)
                self.log.append((size, exchange_datagrams(self.near, self.far, chance.randrange(1, 5), 0, size)))

            def finish(self):
                self.near.close()
                self.far.close()

        class Ping:
            def __init__(self, port, address):
                protocol = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
                self.near = end("100", address, socket.SOCK_DGRAM, port, protocol)
                self.near.connect((address, 0))
                self.kind = 128 if ":" in address else 8
                self.number, self.log = 0, []

            def step(self):
                for _ in range(chance.randrange(1, 5)):
                    self.number += 1
                    data = chance.randbytes(chance.randrange(0, 3000))
                    self.near.send(struct.pack("!BBHHH", self.kind, 0, 0, 0, self.number) + data)
                    answer = self.near.recv(65536)
                    assert answer[6:] == struct.pack("!H", self.number) + data, "another answer"
                self.log.append(self.number)

            def finish(self):
                self.near.close()

        running, begun = [], 0
        while running or begun < count:
            if begun < count and len(running) < 6 and chance.random() < 0.4:
                kind, address = chance.choice([TCP, TCP, TCP, UDP, UDP, Ping]), chance.choice(list(targets))
                port, begun = 20000 + begun, begun + 1
                running.append((port, kind(port, address)))
                running[-1][1].step()
            elif running:
                port, one = chance.choice(running)
                if chance.random() < 0.15:
                    one.finish()
                    print(port, type(one).__name__, *one.log)
                    running.remove((port, one))
                else:
                    one.step()
                    time.sleep(0.005 * slowness)  # time to be handed over
        """#

    // MARK: Helpers

    /// The receivers' kernels count what does not add up.
    private func expectNoBadChecksums(_ site: Site, sourceLocation: SourceLocation = #_sourceLocation) throws {
        for id in [100, 200] {
            let counters = try site.host(id).sh("nstat -asz TcpInCsumErrors UdpInCsumErrors Udp6InCsumErrors")
            for line in counters.split(separator: "\n").dropFirst() {
                #expect(line.split(separator: " ")[1] == "0", "\(id): \(counters)", sourceLocation: sourceLocation)
            }
        }
    }
}

/// `iperf3 -s` for as long as it is needed.
private final class ThroughputServer {
    private let process: ChildProcess

    init(_ host: TestHost) throws {
        process = try host.start(["iperf3", "-s"])
        for _ in 0..<50 where try !host.sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
    }

    deinit {
        process.signal(SignalNumber.kill)
        _ = process.wait()
    }

    /// That many octets are to be received.
    func measure(
        _ client: TestHost, _ options: String, atLeast octets: Int, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try client.run(["iperf3", "-J"] + options.split(separator: " ").map(String.init))
        let sums = #/"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/#
        guard result.status == 0, let received = result.output.firstMatch(of: sums).flatMap({ Int($0.1) }) else {
            throw CommandFailed(script: "iperf3 \(options)", result: result)
        }
        #expect(received >= octets, "\(options)", sourceLocation: sourceLocation)
    }
}
