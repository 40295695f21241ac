import Kernel
import TestSupport
import Testing

/// On a `Site`: who reaches whom, and as whom.
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
