import Kernel
import TestSupport
import Testing

/// On a `Site`: zones and what else a configuration says of connections, as hosts see it.
@Suite struct PolicyTests {
    private static let zones = "--zone 100=servers --zone 200=iot"

    private func ask(_ from: TestHost, _ address: String, _ port: Int) throws -> String {
        let script = """
            import socket, sys
            try:
                socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5)
                print("connected")
            except ConnectionRefusedError: print("refused")
            except (TimeoutError, socket.timeout): print("silence")
            except OSError as error: print(error.strerror)
            """
        return String(try from.run(["python3", "-c", script, address, "\(port)"]).output.dropLast())
    }

    /// A server until the test ends.
    private func serve(_ host: TestHost, _ port: Int) throws -> ChildProcess {
        let script = """
            import socket, sys
            server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
            while True: connection = server.accept()[0]; connection.send(connection.getpeername()[0].encode())
            """
        let server = try host.start(["python3", "-c", script, "\(port)"])
        for _ in 0..<100 where try !host.sh("ss -Hltn sport = \(port)").contains("\(port)") {
            ThisProcess.sleep(milliseconds: 50)
        }
        return server
    }

    private func end(_ process: ChildProcess) {
        process.signal(SignalNumber.kill)
        _ = process.wait()
    }

    @Test(whereItIsFast) func anIsolatedZoneReachesTheOutsideOnly() throws {
        let site = try Site()
        try site.up("\(Self.zones) --policy iot=isolated --masquerade uplink")
        let iot = site.host(200)
        #expect(try site.ping(iot, "192.0.2.2") == 63, "the outside")
        #expect(try site.ping(iot, "172.16.20.1") == 64, "its own gateway")
        #expect(try site.ping(iot, "fd00:20::1") == 64, "its own gateway, found by neighbour discovery")
        #expect(try site.ping(iot, "172.16.10.10") == nil, "another zone")
        #expect(try site.ping(iot, "fd00:10::10") == nil, "another zone")
        #expect(try site.ping(iot, "172.16.10.1") == nil, "the router, by the gateway of a zone that it may not reach")
        #expect(try site.ping(iot, "fd00:10::1") == nil, "the router, by the gateway of a zone that it may not reach")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63, "others reach it, and are answered")
        #expect(try site.ping(site.host(100), "172.16.20.1") == 64, "others reach each gateway")
        let server = try serve(site.router, 22)
        defer { end(server) }
        #expect(try ask(iot, "172.16.20.1", 22) == "silence", "the router's programs")
        #expect(try ask(site.host(100), "172.16.10.1", 22) == "connected")
        // Without the word, all of it is reached.
        try site.up("\(Self.zones) --masquerade uplink")
        #expect(try site.ping(iot, "172.16.10.10") == 63)
        #expect(try site.ping(iot, "172.16.10.1") == 64)
        #expect(try ask(iot, "172.16.20.1", 22) == "connected")
    }

    @Test(whereItIsFast) func servicesAndHowTheRestIsRefused() throws {
        let site = try Site()
        let file = TemporaryFile(
            """
            parent: enp0s8
            masquerade: none
            vlans:
              100: {addresses: [172.16.10.1/24, "fd00:10::1/64"], zone: servers}
              200: {addresses: [172.16.20.1/24, "fd00:20::1/64"], zone: iot}
              300: 172.16.30.1/24
            addresses: {printers: [172.16.10.10, "fd00:10::10"]}
            policy:
              iot: {servers: {allow: [tcp/4711-4712 to printers, icmp], otherwise: reject, log: true}, vlans: drop}
            """)
        let up = try site.router.vrouter("up -f \(file.path)")
        try #require(up.status == 0, "\(up)")
        let servers = try [4711, 4713].map { try serve(site.host(100), $0) }
        defer { for server in servers { end(server) } }
        let iot = site.host(200)
        for address in ["172.16.10.10", "fd00:10::10"] {
            #expect(try ask(iot, address, 4711) == "connected")
            #expect(try ask(iot, address, 4712) == "refused", "let through, and refused by the host")
            #expect(try ask(iot, address, 4713) == "refused", "a reset from the router")
            #expect(try site.ping(iot, address) == 63)
        }
        // It was the router: without its rules the other port is open.
        let udp = try iot.run(["traceroute", "-U", "-p", "4713", "-q", "1", "-w", "1", "-m", "3", "-n", "172.16.10.10"])
        #expect(udp.output.contains("!X"), "administratively prohibited: \(udp)")
        let status = try site.router.vrouter("status --json").output
        #expect(status.contains("new: from zone iot to zone servers: rejected"))
        #expect(try site.ping(iot, "172.16.30.10") == nil)
        let table = try site.router.vrouter("policy")
        #expect(
            table.output.contains("tcp/4711-4712 to printers + icmp, else reject (logged)")
                && table.output.contains("printers   172.16.10.10/32, fd00:10::10/128"), "\(table)")
        let cell = try site.router.sh(
            "\(Product.path) policy --json | jq -c '.connections[] | select(.from == \"iot\" and .to == \"vlans\")'")
        #expect(
            cell == #"{"from":"iot","isLogged":false,"services":[],"to":"vlans","treatment":"drop","verdict":"drop"}"#
                + "\n")
        try site.router.sh("nft delete table inet vrouter")
        #expect(try ask(iot, "172.16.10.10", 4713) == "connected")
    }

    @Test(whereItIsFast) func aLimitLetsSoManyBegin() throws {
        let site = try Site()
        let file = TemporaryFile(
            """
            parent: enp0s8
            masquerade: none
            vlans: {100: {addresses: 172.16.10.1/24, zone: servers}, 200: {addresses: 172.16.20.1/24, zone: iot}}
            policy: {iot: {servers: {otherwise: accept, limit: 5}}}
            """)
        let up = try site.router.vrouter("up -f \(file.path)")
        try #require(up.status == 0, "\(up)")
        // Each with a port of its own, as fast as it goes.
        let script = """
            import socket
            for number in range(200):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sender.sendto(b"x", ("172.16.10.10", 9))
            """
        _ = try site.host(200).run(["python3", "-c", script])
        func packets(_ comment: String) throws -> Int {
            Int(
                try site.router.sh(
                    "\(Product.path) status --json | jq '[.. | objects | select(.comment == \"\(comment)\").packets] | add'"
                ).dropLast()) ?? -1
        }
        let within = try packets("new: from zone iot to zone servers: within its limit")
        let above = try packets("new: from zone iot to zone servers: above its limit")
        #expect((5...50).contains(within) && within + above == 200, "\(within) \(above)")
    }

    /// Sessions that could not begin any more end, although the one who answers goes on sending: that begins nothing.
    @Test(whereItIsFast) func aStricterPolicyEndsSessions() throws {
        let site = try Site()
        try site.up("\(Self.zones) --masquerade none")
        let server = try site.host(100).start([
            "python3", "-c",
            """
            import socket, time
            server = socket.create_server(("", 4711)); print("listens", flush=True); talk = server.accept()[0]
            while True: talk.send(b"x"); time.sleep(0.1)
            """,
        ])
        defer { end(server) }
        for _ in 0..<100 where server.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 50) }
        let client = try site.host(200).start([
            "python3", "-c",
            """
            import socket
            talk = socket.create_connection(("172.16.10.10", 4711)); talk.recv(1); print("begun", flush=True)
            while True: talk.recv(1)
            """,
        ])
        defer { end(client) }
        for _ in 0..<100 where client.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 50) }
        let flows = "\(Product.path) flows --json | jq '[.flows[] | select(.protocol == \"tcp\")] | length'"
        #expect(try site.router.sh(flows) == "1\n")
        let stricter = "up --parent enp0s8 \(Site.vlans) \(Self.zones) --masquerade none --policy iot:servers=drop"
        let change = try site.router.vrouter(stricter)
        #expect(change.status == 0 && change.output.contains("1 session that is no longer allowed ended"), "\(change)")
        // Several times as long as it takes to send the next segment, and to send it again.
        ThisProcess.sleep(milliseconds: 1500)
        #expect(try site.router.sh(flows) == "0\n")
        // Where the way back need not begin anew, the session is there again: it was that rule.
        try site.router.sh(
            """
            nft flush chain inet vrouter servers.iot
            nft add rule inet vrouter servers.iot accept
            """)
        ThisProcess.sleep(milliseconds: 3000)
        #expect(try site.router.sh(flows) == "1\n")
    }

    /// The fast path carries by the destination alone only what no zone has a say in.
    @Test(whereItIsFast) func noZoneIsBypassed() throws {
        let site = try Site()
        try site.upFast("--zone 300=iot --policy iot=isolated")
        let before = try site.router.forwarded()
        let flood = try site.host(300).run(["ping", "-c", "500", "-i", "0.002", "-W", "1", "172.16.10.10"])
        #expect(flood.output.contains("500 packets transmitted, 0 received"), "\(flood)")
        #expect(try site.router.forwarded() == before)
        #expect(try site.ping(site.host(100), "172.16.30.10") == 63, "the other way, and the answers")
        #expect(try site.ping(site.host(300), "172.16.20.10") == nil)
        try site.waitForWorkers()
    }

    @Test(whereItIsFast) func aForwardedPortLeadsIntoAVLAN() throws {
        let site = try Site()
        try site.up(
            "--masquerade uplink --port-forward tcp/8080=172.16.20.10:4711 --uplink uplink0 --zone 200=iot --policy vlans:iot=drop"
        )
        let server = try serve(site.host(200), 4711)
        defer { end(server) }
        #expect(try ask(site.outside, "192.0.2.1", 8080) == "connected", "from outside")
        #expect(try ask(site.outside, "192.0.2.1", 4711) == "refused", "the router has no such program")
        #expect(try ask(site.outside, "172.16.20.10", 4711) == "silence", "not by the host's own address")
        #expect(try ask(site.host(200), "192.0.2.1", 8080) == "connected", "from the host's own VLAN, and back")
        #expect(try ask(site.host(100), "192.0.2.1", 8080) == "silence", "from a zone that may not")
        #expect(try ask(site.host(100), "172.16.10.1", 8080) == "refused", "a gateway's ports are the router's own")
        try site.up("--masquerade uplink --uplink uplink0")
        #expect(try ask(site.outside, "192.0.2.1", 8080) == "refused")
    }

    @Test(whereItIsFast) func masqueradeForIPv6() throws {
        let site = try Site()
        try site.router.sh("ip address add 2001:db8::1/64 dev uplink0 nodad")
        try site.outside.sh(
            "ip address add 2001:db8::2/64 dev uplink0 nodad; ip -6 route add fd00::/16 via 2001:db8::1")
        let servers = try [site.outside, site.host(200)].map { try serve($0, 4711) }
        defer { for server in servers { end(server) } }
        func seenAs(_ address: String) throws -> String {
            let script = "import socket, sys; print(socket.create_connection((sys.argv[1], 4711), 2).recv(99).decode())"
            return String(try site.host(100).run(["python3", "-c", script, address]).output.dropLast())
        }
        for (mode, outside, inside) in [
            ("none", "fd00:10::10", "fd00:10::10"), ("uplink", "2001:db8::1", "fd00:10::10"),
            ("vlans", "fd00:10::10", "fd00:20::1"), ("all", "2001:db8::1", "fd00:20::1"),
        ] {
            try site.up("--masquerade-ipv6 \(mode)")
            #expect(try seenAs("2001:db8::2") == outside, "\(mode)")
            #expect(try seenAs("fd00:20::10") == inside, "\(mode)")
        }
    }

    @Test(whereItIsFast) func masqueradeByZone() throws {
        let site = try Site()
        try site.up("\(Self.zones) --masquerade none --masquerade-zone iot=all")
        func seen(_ from: Int, _ server: TestHost, _ address: String) throws -> String? {
            try site.peer(site.host(from), server, address)
        }
        #expect(try seen(100, site.host(200), "172.16.20.10") == "172.16.20.1", "into the zone")
        #expect(try seen(200, site.host(100), "172.16.10.10") == "172.16.20.10", "into another one")
        #expect(try seen(200, site.outside, "192.0.2.2") == "192.0.2.1", "out of the zone")
        #expect(try seen(100, site.outside, "192.0.2.2") == "172.16.10.10", "out of another one")
        let status = try site.router.vrouter("status").output
        #expect(status.contains("masquerade vlans, iot: all, servers: none, vlans: none"), "\(status)")
        let unknown = try site.router.vrouter(
            "up --parent enp0s8 \(Site.vlans) --masquerade-zone iott=all --zone 100=iot")
        #expect(unknown.status == 64 && unknown.errors.contains("did you mean 'iot'?"), "\(unknown)")
    }

    /// Between VLANs of different MTUs, where errors do not come through.
    @Test(whereItIsFast) func segmentsThatFit() throws {
        let site = try Site()
        func size() throws -> String {
            let capture = try site.host(200).start([
                "timeout", "10", "tcpdump", "-i", "any", "-nn", "-l", "--immediate-mode", "-c", "1",
                "tcp[tcpflags] & tcp-syn != 0",
            ])
            ThisProcess.sleep(milliseconds: isEmulated ? 3000 : 700)
            _ = try ask(site.host(100), "172.16.20.10", 4711)
            return capture.wait().output.firstMatch(of: #/mss (\d+)/#).map { String($0.1) } ?? ""
        }
        try site.up("--mtu 200=1300 --masquerade none")
        #expect(try size() == "1460", "what the host would announce")
        try site.up("--mtu 200=1300 --masquerade none --mss-clamp")
        #expect(try size() == "1260", "1300 less 40 octets of headers")
    }

    /// Whoever may not find the router does not find its neighbours either: that is never refused.
    @Test(whereItIsFast) func neighbourDiscoveryPassesAnyPolicy() throws {
        let site = try Site()
        try site.up("--zone 100=a --zone 200=b --policy a:self=drop --policy self:a=drop --masquerade none")
        try site.host(100).sh("ip -6 neigh flush dev enp0s8.100")
        try site.router.sh("ip -6 neigh flush dev enp0s8.100")
        #expect(try site.ping(site.host(100), "fd00:10::1") == nil, "the router itself")
        #expect(try site.ping(site.host(100), "fd00:20::10") == 63, "through it")
        #expect(try site.ping(site.router, "fd00:10::10") == nil)
    }

    @Test(whereItIsFast) func whatIptablesHasNoWordsForIsSaid() throws {
        let host = try TestHost()
        let vlans = "--parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"
        for (option, word) in [
            ("--zone 100=a --policy a=isolated", "policy"), ("--uplink eth0", "uplink"), ("--mss-clamp", "mss-clamp"),
            ("--port-forward tcp/80=172.16.20.10:80", "port-forwards"),
        ] {
            let result = try host.vrouter("rules \(vlans) \(option) --format iptables")
            #expect(
                result.status == 64 && result.errors.contains("there are no iptables rules for \(word)\n"), "\(result)")
        }
        #expect(try host.vrouter("rules \(vlans) --zone 100=a --format iptables").status == 0)
    }
}
