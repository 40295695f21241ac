import Kernel
import TestSupport
import Testing

//  host h100 ─┐ VLAN 100                 ┌─ enp0s8 ─ router ─ uplink0 ── outside 192.0.2.2
//  host h200 ─┤ VLAN 200 ── switch ──────┘
//  host h300 ─┘ VLAN 300
//
// The hosts join their VLANs as `vrouter` itself does, which works on every kernel: with its own interfaces, and with
// forwarding off again.
private final class Site {
    let router: TestHost
    let outside: TestHost
    let fabric: TestHost
    let hosts: [Int: TestHost]

    static let vlans =
        "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24,fd00:20::1/64 --vlan 300=172.16.30.1/24"

    init(mtu: Int = 1500) throws {
        router = try TestHost(trunk: false)
        outside = try TestHost(trunk: false)
        fabric = try TestHost(trunk: false)
        try fabric.sh("ip link add switch type bridge; ip link set switch addrgenmode none up")
        var hosts: [Int: TestHost] = [:]
        for (host, port) in [(router, "router")] + [100, 200, 300].map({ (nil as TestHost?, "h\($0)") }) {
            let host = try host ?? TestHost(trunk: false)
            try fabric.sh(
                """
                ip link add \(port) type veth peer name enp0s8 netns \(host.name)
                ip link set \(port) master switch addrgenmode none mtu \(mtu) up
                """)
            try host.sh("ip link set lo up; ip link set enp0s8 addrgenmode none mtu \(mtu) up")
            if let id = Int(port.dropFirst()) {
                hosts[id] = host
                let net = id / 10
                let joined = try host.vrouter(
                    "up --parent enp0s8 --vlan \(id)=172.16.\(net).10/24,fd00:\(net)::10/64 --masquerade none")
                guard joined.status == 0 else { throw CommandFailed(script: "join VLAN \(id)", result: joined) }
                // A host, no router.
                try host.sh(
                    """
                    nft delete table inet vrouter
                    sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
                    ip route add default via 172.16.\(net).1
                    ip -6 route add default via fd00:\(net)::1
                    """)
            }
        }
        self.hosts = hosts
        try router.sh(
            """
            ip link add uplink0 type veth peer name uplink0 netns \(outside.name)
            ip address add 192.0.2.1/24 dev uplink0; ip link set uplink0 up
            """)
        // The outside knows the way to the VLANs, so that only rules keep it out.
        try outside.sh(
            """
            ip link set lo up; ip address add 192.0.2.2/24 dev uplink0; ip link set uplink0 up
            ip route add 172.16.0.0/16 via 192.0.2.1
            """)
    }

    func host(_ id: Int) -> TestHost { hosts[id] ?? router }

    func up(_ options: String = "") throws {
        let result = try router.vrouter("up --parent enp0s8 \(Self.vlans) \(options)")
        guard result.status == 0 else { throw CommandFailed(script: "up \(options)", result: result) }
    }

    /// The TTL of the first answer; nil: none came. The first requests may be lost while neighbours are looked for.
    func ping(_ from: TestHost, _ address: String) throws -> Int? {
        for _ in 0..<4 {
            let result = try from.run(["ping", "-c", "1", "-W", "1", address])
            if let ttl = result.output.firstMatch(of: #/ttl=(\d+)/#).flatMap({ Int($0.1) }) { return ttl }
        }
        return nil
    }

    /// Whether a TCP connection to a server on that host is answered, and as whom the server sees the client.
    func peer(_ from: TestHost, _ server: TestHost, _ address: String) throws -> String? {
        let log = try server.start(
            [
                "python3", "-c",
                "import socket; s = socket.create_server(('', 4711)); c = s.accept(); print(c[1][0], flush=True)",
            ])
        defer {
            log.signal(SignalNumber.kill)
            _ = log.wait()
        }
        for _ in 0..<50 where try !server.sh("ss -Hltn sport = 4711").contains("4711") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let client = try from.run(
            ["python3", "-c", "import socket, sys; socket.create_connection((sys.argv[1], 4711), 2)", address])
        guard client.status == 0 else { return nil }
        for _ in 0..<50 where log.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 50) }
        return String(log.outputSoFar.dropLast())
    }
}

@Suite struct FirewallTrafficTests {
    @Test func whoReachesWhom() throws {
        let site = try Site()
        try site.up("--deny 300:100")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        #expect(try site.ping(site.host(200), "fd00:10::10") == 63)
        #expect(try site.ping(site.host(100), "192.0.2.2") == 63, "from a VLAN to the outside")
        #expect(try site.ping(site.outside, "172.16.20.10") == nil, "new connections from outside are dropped")
        #expect(try site.ping(site.host(300), "172.16.10.10") == nil, "a denied pair")
        #expect(
            try site.ping(site.host(100), "172.16.30.10") == 63, "the other way is not denied, and answers come back")
        let rules = try site.router.vrouter("status --json").output
        #expect(rules.contains("new: from outside into a VLAN"))
        // Without its rule, the outside gets in: it was the rule that kept it out.
        try site.router.sh("nft delete table inet vrouter")
        #expect(try site.ping(site.outside, "172.16.20.10") == 63)
    }

    @Test func asWhomTheyAreSeen() throws {
        let site = try Site()
        for (mode, betweenVLANs, outside) in [
            ("vlans", "172.16.20.1", "172.16.10.10"), ("uplink", "172.16.10.10", "192.0.2.1"),
            ("all", "172.16.20.1", "192.0.2.1"), ("none", "172.16.10.10", "172.16.10.10"),
        ] {
            try site.up("--masquerade \(mode)")
            #expect(
                try site.peer(site.host(100), site.host(200), "172.16.20.10") == betweenVLANs, "--masquerade \(mode)")
            #expect(try site.peer(site.host(100), site.outside, "192.0.2.2") == outside, "--masquerade \(mode)")
        }
    }

    @Test func gatewaysAnswerForThemselvesOnly() throws {
        let site = try Site()
        try site.up()
        let own = try site.host(100).run(["arping", "-c", "2", "-w", "2", "-I", "enp0s8.100", "172.16.10.1"])
        #expect(own.status == 0, "\(own)")
        let other = try site.host(100).run(["arping", "-c", "2", "-w", "2", "-I", "enp0s8.100", "172.16.20.1"])
        #expect(other.status != 0 && other.output.contains("Received 0 response"), "\(other)")
    }

    /// A TCP session between two VLANs, while a third one comes and goes and the first one's neighbour changes.
    @Test func aSessionOnAnUntouchedVLANLosesNothing() throws {
        let site = try Site()
        try site.up()
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        let server = try site.host(200).start(["iperf3", "-s", "-1"])
        for _ in 0..<50 where try !site.host(200).sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
        // Paced, so that whatever is lost was lost by a change and not by a full queue.
        let client = try site.host(100).start(["iperf3", "-c", "172.16.20.10", "-t", "6", "-b", "20M", "-J"])
        ThisProcess.sleep(milliseconds: 1500)
        let without300 = "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24,fd00:20::1/64"
        for change in [
            without300, "\(without300) --vlan 300=172.16.31.1/24", "\(without300) --vlan 400=172.16.40.1/24",
            Site.vlans,
        ] {
            let result = try site.router.vrouter("up \(change)")
            #expect(result.status == 0 && !result.output.contains("nothing to do"), "\(result)")
        }
        let result = client.wait()
        _ = server.wait()
        #expect(result.status == 0, "\(result)")
        // Segments sent again that the receiver did not have: the others were late, which a busy machine is, and their
        // receiver says so (RFC 2883).
        let counters = try site.host(100).sh("nstat -asz TcpRetransSegs TcpExtTCPDSACKRecv TcpExtTCPDSACKOfoRecv")
        func counter(_ name: String) throws -> Int {
            let line = counters.split(separator: "\n").first { $0.hasPrefix(name) }
            return try #require(line.flatMap { Int($0.split(separator: " ")[1]) }, "\(counters)")
        }
        #expect(
            try counter("TcpRetransSegs") <= counter("TcpExtTCPDSACKRecv") + counter("TcpExtTCPDSACKOfoRecv"),
            "\(counters)")
        let received = try #require(
            result.output.firstMatch(of: #/"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/#).flatMap { Int($0.1) })
        #expect(received > 10_000_000, "the session ran: \(received) octets")
    }

    @Test(arguments: ["auto", "ebpf"]) func jumboFramesAndSuperFrames(_ driver: String) throws {
        let site = try Site(mtu: 9000)
        try site.up("--vlan-driver \(driver)")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        // 8972 + 8 (ICMP) + 20 (IPv4) = 9000, not to be fragmented.
        let jumbo = try site.host(100).run([
            "ping", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", "8972", "172.16.20.10",
        ])
        #expect(jumbo.status == 0, "\(jumbo)")
        let capture = try site.fabric.start(
            [
                "timeout", "20", "tcpdump", "-i", "router", "-nn", "-e", "-l", "--immediate-mode", "-c", "1",
                "greater 20000",
            ])
        let server = try site.host(200).start(["iperf3", "-s", "-1"])
        for _ in 0..<50 where try !site.host(200).sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let client = try site.host(100).run(["iperf3", "-c", "172.16.20.10", "-t", isEmulated ? "4" : "2", "-J"])
        _ = server.wait()
        let received =
            client.output.firstMatch(of: #/"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/#).flatMap { Int($0.1) } ?? 0
        #expect(received > 20_000_000, "\(client)")
        let seen = capture.wait()
        #expect(seen.output.contains("vlan "), "a super-frame crossed the trunk whole: \(seen)")
    }

    @Test func tagsOnTheTrunk() throws {
        let site = try Site()
        try site.up()
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        let capture = try site.fabric.start(
            ["tcpdump", "-i", "router", "-nn", "-e", "-l", "--immediate-mode", "-c", "4", "icmp or (vlan and icmp)"])
        ThisProcess.sleep(milliseconds: isEmulated ? 3000 : 700)
        _ = try site.host(100).run(["ping", "-c", "2", "-i", "0.3", "-W", "1", "172.16.20.10"])
        let text = capture.wait().output
        let lines = text.split(separator: "\n").map(String.init)
        let tags = lines.compactMap { $0.firstMatch(of: #/vlan (\d+),/#).map { String($0.1) } }
        // A request comes in on 100 and leaves on 200, the answer comes in on 200 and leaves on 100.
        #expect(tags == ["100", "200", "200", "100"], "\(text)")
        #expect(lines.first?.contains("172.16.10.10 > 172.16.20.10: ICMP echo request") == true, "\(text)")
    }

    @Test func counters() throws {
        let site = try Site()
        try site.up()
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        _ = try site.host(100).run(["ping", "-c", "8", "-i", "0.1", "-W", "1", "172.16.20.10"])
        let output = try site.router.sh(
            "\(Product.path) status --json | jq -c '.vlans[] | [.id, .received.packets, .sent.packets]'")
        let rows = output.split(separator: "\n").map {
            $0.dropFirst().dropLast().split(separator: ",").compactMap { Int($0) }
        }
        #expect(rows.map(\.first) == [100, 200, 300])
        #expect(rows[0][1] >= 8 && rows[0][2] >= 8 && rows[1][1] >= 8 && rows[1][2] >= 8, "\(output)")
    }
}
