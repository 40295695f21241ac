import Kernel
import TestSupport
import Testing

/// What a configuration says of the interfaces themselves: their names and MTUs, the trunks that carry them, and routes behind them.
@Suite struct InterfacesTests {
    private static let vlans = """
        masquerade: none
        vlans:
          100: {addresses: [172.16.10.1/24, "fd00:10::1/64"], name: lan0}
          200: {addresses: [172.16.20.1/24, "fd00:20::1/64"], mtu: 1400}
        """
    private static let routes = """

        routes:
          - {to: 10.9.0.0/16, via: 172.16.20.10}
          - {to: "fd00:9::/32", via: "fd00:20::10"}
        """

    private func up(_ host: TestHost, _ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws
        -> ChildProcess.Result
    {
        let result = try host.run([Product.path, "up", "-f", "-"], input: "parent: enp0s8\n" + text)
        #expect(result.status == 0, "\(result)", sourceLocation: sourceLocation)
        return result
    }

    @Test func namesMTUsAndRoutes() throws {
        let site = try Site()
        let before = try site.router.snapshot()
        // Behind the host in VLAN 200 there is another network.
        try site.host(200).sh("ip address add 10.9.0.1/32 dev lo; ip address add fd00:9::1/128 dev lo nodad")
        _ = try up(site.router, Self.vlans + Self.routes)
        #expect(try site.router.sh("ip -o -4 address show dev lan0").contains("172.16.10.1/24"))
        for address in ["172.16.20.10", "10.9.0.1", "fd00:9::1"] {
            #expect(try site.ping(site.host(100), address) == 63, "\(address)")
        }
        // 1373 + 8 (ICMP) + 20 (IPv4) = 1401, not to be fragmented.
        let large = try site.host(100).run(["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1373", "172.16.20.10"])
        #expect(large.status == 1 && large.output.contains("mtu = 1400"), "\(large)")
        #expect(try up(site.router, Self.vlans + Self.routes).output == "nothing to do\n")

        // Whatever of it somebody changes, the next `up` puts back.
        for (change, complaint) in [
            ("ip route del 10.9.0.0/16", "the route to 10.9.0.0/16 via 172.16.20.10 is gone"),
            ("ip -6 route del fd00:9::/32", "the route to fd00:9::/32 via fd00:20::10 is gone"),
            ("ip link set enp0s8.200 mtu 1500", "enp0s8.200 has not the MTU 1400"),
        ] {
            try site.router.sh(change)
            let status = try site.router.vrouter("status")
            #expect(status.status == 1 && status.output.contains("drift: \(complaint)\n"), "\(status)")
            _ = try up(site.router, Self.vlans + Self.routes)
            #expect(try site.router.vrouter("status").status == 0, "\(change)")
        }
        // The gateway interface of the routes goes and comes back, and they with it.
        try site.router.sh("ip link del enp0s8.200")
        _ = try up(site.router, Self.vlans + Self.routes)
        #expect(try site.ping(site.host(100), "10.9.0.1") == 63)
        _ = try up(site.router, Self.vlans)
        #expect(try !site.router.sh("ip route; ip -6 route").contains(" via "))
        #expect(try site.router.vrouter("down").status == 0)
        try requireUnchanged(site.router, since: before)
    }

    @Test func whatCannotBe() throws {
        let host = try TestHost()
        try host.sh("ip link set lo up; ip route add 10.9.0.0/16 dev lo")
        let before = try host.snapshot()
        for (text, reason) in [
            (Self.vlans + Self.routes, "the route to 10.9.0.0/16 via 172.16.20.10: there is one already, dev lo"),
            (Self.vlans.replacing("mtu: 1400", with: "mtu: 1600"), "an MTU of 1600 is more than enp0s8 carries (1500)"),
            (
                Self.vlans.replacing("mtu: 1400", with: "parent: enp0s9"),
                "there is no interface 'enp0s9'"
            ),
        ] {
            let result = try host.run([Product.path, "up", "-f", "-"], input: "parent: enp0s8\n" + text)
            #expect(result.status == 64 && result.errors.contains(reason), "\(result)")
            try requireUnchanged(host, since: before, reason)
        }
    }

    //  h100, h200 ── switch ── enp0s8 ─ router ─ enp0s9 ── host in VLAN 400
    /// One VLAN by BPF programs on a kernel that has VLAN devices, where the others have those; elsewhere, the kernel has none to give.
    @Test func aVLANMayHaveADriverOfItsOwn() throws {
        let site = try Site()
        let before = try site.router.snapshot()
        let up = "up --parent enp0s8 \(Site.vlans) --masquerade none"
        for (options, words) in [
            ("--driver 200=veth", "'veth' is not a driver"),
            ("--driver 200=ebpf --fast-path af-packet", "the fast path needs one for all"),
            ("--driver 300=ebpf --outer 300=200", "VLAN 300 is within VLAN 200, which has another driver"),
        ] {
            let result = try site.router.vrouter("\(up) \(options)")
            #expect(result.status == 64 && result.errors.contains(words), "\(result)")
        }
        guard try site.router.hasVLANDevices else {
            let result = try site.router.vrouter("\(up) --driver 200=8021q")
            #expect(result.status == 69 && result.errors.contains("this kernel has no VLAN devices"), "\(result)")
            return try requireUnchanged(site.router, since: before)
        }
        let mixed = try site.router.vrouter("\(up) --driver 200=ebpf")
        #expect(mixed.status == 0, "\(mixed)")
        let links = try site.router.sh("ip -d -o link")
        #expect(links.contains("vlan protocol 802.1Q id 100") && !links.contains("802.1Q id 200"), "\(links)")
        for (from, address) in [
            (100, "172.16.20.10"), (200, "172.16.30.10"), (200, "fd00:10::10"), (300, "172.16.10.10"),
        ] {
            #expect(try site.ping(site.host(from), address) == 63, "\(from) to \(address)")
        }
        #expect(try site.router.vrouter("\(up) --driver 200=ebpf").output.hasPrefix("nothing to do\n"))
        let other = try site.router.vrouter(up)
        #expect(
            other.status == 64 && other.errors.contains("--driver 200=8021q: the gateway interface is made with ebpf"),
            "\(other)")
        // What only the programs need goes with the only VLAN that needs them.
        let without = try site.router.vrouter(
            "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 300=172.16.30.1/24 --masquerade none")
        #expect(without.status == 0, "\(without)")
        #expect(try !site.router.sh("ip -d -o link show enp0s8; tc qdisc show").contains("clsact"))
        #expect(try site.ping(site.host(100), "172.16.30.10") == 63)
        let again = try site.router.vrouter("\(up) --driver 200=ebpf")
        #expect(again.status == 0, "\(again)")
        #expect(try site.router.vrouter("status").status == 0)
        #expect(try site.router.vrouter("down").status == 0)
        try requireUnchanged(site.router, since: before)
    }

    @Test func aVLANOnASecondTrunk() throws {
        let site = try Site()
        let far = try TestHost(trunk: false)
        // An interface that has been up once keeps its queueing discipline.
        try site.router.sh(
            "ip link add enp0s9 type veth peer name enp0s8 netns \(far.name); ip link set enp0s9 up; ip link set enp0s9 down"
        )
        let before = try site.router.snapshot()
        try far.sh("ip link set lo up; ip link set enp0s8 addrgenmode none up")
        #expect(
            try far.vrouter("up --parent enp0s8 --vlan 400=172.16.40.10/24 --masquerade none").status == 0)
        try far.sh("ip route add default via 172.16.40.1")

        let first = Self.vlans
        let both = first + "\n  400: {addresses: 172.16.40.1/24, parent: enp0s9}\n"
        _ = try up(site.router, first)
        let one = try site.router.snapshot()
        _ = try up(site.router, both)
        #expect(try site.ping(site.host(100), "172.16.40.10") == 63)
        #expect(try site.ping(far, "172.16.20.10") == 63)
        #expect(try site.router.vrouter("status").status == 0)
        #expect(try site.router.vrouter("doctor").status == 0)
        #expect(try up(site.router, both).output == "nothing to do\n")
        // What happens to one trunk is nothing to the other.
        try site.router.sh("ip link set enp0s9 down")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        _ = try up(site.router, both)
        #expect(try site.ping(site.host(100), "172.16.40.10") == 63)

        _ = try up(site.router, first)
        try requireUnchanged(site.router, since: one)
        #expect(try site.router.vrouter("down").status == 0)
        try requireUnchanged(site.router, since: before)
    }

    //  h100, h200 ── switch ── enp0s8 ─ router, whose VLAN 500 is within VLAN 100
    @Test func aVLANWithinAnother() throws {
        let site = try Site()
        let before = try site.router.snapshot()
        let inner = try TestHost(trunk: false)
        try site.fabric.sh(
            """
            ip link add inner type veth peer name enp0s8 netns \(inner.name)
            ip link set inner master switch addrgenmode none up
            """)
        try inner.sh("ip link set lo up; ip link set enp0s8 addrgenmode none up")
        let joined = try inner.vrouter(
            "up --parent enp0s8 --vlan 100= --vlan 100.500=172.16.50.10/24 --masquerade none")
        #expect(joined.status == 0, "\(joined)")
        try inner.sh("ip route add default via 172.16.50.1")
        let text = Self.vlans + "\n  500: {addresses: 172.16.50.1/24, outer: 100}\n"
        _ = try up(site.router, text)
        #expect(try site.ping(inner, "172.16.20.10") == 63)
        #expect(try site.ping(site.host(100), "172.16.50.10") == 63, "from the outer one into the inner one")
        let capture = try site.fabric.start(
            [
                "tcpdump", "-i", "inner", "-nn", "-e", "-l", "--immediate-mode", "-c", "2",
                "vlan 100 and vlan 500 and icmp",
            ])
        for _ in 0..<100 where try !site.fabric.sh("ip -o -d link show inner").contains("promiscuity 2") {
            ThisProcess.sleep(milliseconds: 50)
        }
        #expect(try site.ping(inner, "172.16.20.10") == 63)
        let seen = capture.wait()
        #expect(seen.output.matches(of: #/vlan 100, .*vlan 500, /#).count == 2, "\(seen)")
        #expect(try up(site.router, text).output == "nothing to do\n")
        #expect(try site.router.vrouter("status").status == 0)
        #expect(try site.router.vrouter("down").status == 0)
        try requireUnchanged(site.router, since: before)
    }
}
