import Kernel
import TestSupport
import Testing

/// Each trouble is made for real, found, and gone after the remedy that the finding names.
@Suite struct DoctorTests {
    private static let up = "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"

    private func host() throws -> TestHost {
        let host = try TestHost()
        try host.quietBridges()
        return host
    }

    @Test func nothingBlocksAHealthyHost() throws {
        let host = try host()
        let before = try host.vrouter("doctor")
        #expect(
            before.status == 0 && before.output.contains("forwarding is off; `vrouter up` switches it on"), "\(before)")
        #expect(try host.vrouter(Self.up).status == 0)
        let after = try host.vrouter("doctor")
        #expect(after.status == 0, "\(after)")
        for check in [
            "permissions", "nf-tables", "vlan-driver", "state", "forwarding", "rp-filter", "foreign-firewall", "mtu",
        ] {
            #expect(after.output.contains("✓ \(check):"), "\(check): \(after.output)")
        }
        let json = try host.sh("\(Product.path) doctor --json | jq -r '.[] | .check + \" \" + .severity'")
        #expect(json.contains("state ok"))
    }

    /// On a `Site`: something between the router and a host carries less than both believe.
    @Test(whereItIsFast) func aBlackHoleIsFound() throws {
        let site = try Site()
        try site.up()
        for (id, address) in [(100, "fd00:10::10"), (200, "fd00:20::10")] {
            _ = try site.ping(site.host(id), "172.16.\(id / 10).1")
            _ = try site.ping(site.router, address)
        }
        let healthy = try site.router.vrouter("doctor")
        #expect(healthy.status == 0 && !healthy.output.contains("black-hole"), "\(healthy)")
        try site.fabric.sh("ip link set h200 mtu 1400")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63, "ping works")
        let sick = try site.router.vrouter("doctor")
        #expect(sick.status == 1, "\(sick)")
        for address in ["172.16.20.10", "fd00:20::10"] {
            #expect(
                sick.output.contains(
                    "✗ black-hole: \(address) in VLAN 200 answers small packets, but not those of 1500 octets"),
                "\(sick)")
        }
        #expect(!sick.output.contains("VLAN 100 answers"), "\(sick)")
        // The remedy, on both sides.
        try site.host(200).sh("ip link set enp0s8.200 mtu 1300")
        let other = try site.router.vrouter("up --parent enp0s8 \(Site.vlans) --mtu 200=1300")
        #expect(other.status == 0, "\(other)")
        let unequal = try site.router.vrouter("doctor")
        #expect(
            unequal.status == 0 && !unequal.output.contains("black-hole")
                && unequal.output.contains("VLAN 200 carries 1300 octets and VLAN 100 1500"), "\(unequal)")
        try site.up("--mtu 200=1300 --mss-clamp")
        #expect(try !site.router.vrouter("doctor").output.contains("carries 1300"))
        let unprivileged = try site.router.run([
            "setpriv", "--bounding-set=-all", "--inh-caps=-all", Product.path, "doctor",
        ])
        #expect(unprivileged.status == 1 && !unprivileged.output.contains("black-hole"), "\(unprivileged)")
    }

    /// On a `Site`: what the doctor says of a connection is what becomes of it.
    @Test(whereItIsFast) func aConnectionIsExplained() throws {
        let site = try Site()
        try site.up("--zone 200=iot --policy iot:vlans=icmp --deny 100:300 --masquerade uplink")
        for id in [100, 200, 300] { _ = try site.ping(site.host(id), "172.16.\(id / 10).1") }
        func ask(_ options: String) throws -> (Int32, String) {
            let result = try site.router.vrouter("doctor \(options)")
            return (result.status, result.output + result.errors)
        }
        let cases: [(String, Int32, String)] = [
            (
                "--from 172.16.20.10 --to 172.16.10.10", 0,
                "✓ connection: icmp from 172.16.20.10 (VLAN 200, zone iot) to 172.16.10.10 (VLAN 100, zone vlans) is let through"
            ),
            ("--from 172.16.20.10 --to 172.16.10.10", 0, "✓ neighbour: 172.16.10.10 answers on enp0s8.100"),
            (
                "--from 172.16.20.10 --to 172.16.10.10 --service tcp/443", 1,
                "→ vrouter up … --policy iot:vlans=tcp/443, with what else"
            ),
            ("--from 172.16.10.10 --to 172.16.30.10 --service udp/53", 1, "→ leave out --deny 100:300"),
            ("--from 192.0.2.2 --to 172.16.10.10", 1, "from 192.0.2.2 (behind uplink0) to 172.16.10.10"),
            ("--from 172.16.20.10 --to 172.16.10.1", 1, "(the router itself) are dropped"),
            ("--from 172.16.20.10 --to 172.16.20.1 --service tcp/22", 0, "(the router itself) is let through"),
            ("--from 172.16.10.10 --to 172.16.10.11", 0, "reach each other without the router"),
            ("--from 172.16.10.10 --to 203.0.113.1", 1, "no route leads to 203.0.113.1"),
            ("--from 172.16.10.10 --to fd00:20::10", 64, "are of different families"),
            ("--from 172.16.10.10 --to 172.16.20.10 --service tcp", 64, "--service tcp: not one service"),
            ("--from 172.16.10 --to 172.16.20.10", 64, "--from 172.16.10: not an IPv4 or IPv6 address"),
            ("--from 172.16.10.10", 64, "belong together"),
        ]
        for (options, status, words) in cases {
            let (code, text) = try ask(options)
            #expect(code == status && text.contains(words), "\(options): \(code) \(text)")
        }
        #expect(try site.ping(site.host(200), "172.16.10.10") == 63)
        #expect(try site.ping(site.host(200), "172.16.10.1") == nil)
        _ = try site.ping(site.router, "172.16.20.77")
        #expect(
            try ask("--from 172.16.10.10 --to 172.16.20.77").1.contains("✗ neighbour: nobody on enp0s8.200 answers"))
    }

    // Chains as those programs make them, as far as names, hooks and policies go.
    @Test(arguments: [
        (
            "Docker's", "ip",
            "nft add table ip filter; nft add chain ip filter DOCKER-USER; "
                + "nft 'add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }'; "
                + "nft add rule ip filter FORWARD counter jump DOCKER-USER"
        ),
        (
            "ufw's", "ip",
            "nft add table ip filter; nft add chain ip filter ufw-user-forward; "
                + "nft 'add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }'; "
                + "nft add rule ip filter FORWARD counter jump ufw-user-forward"
        ),
        ("made with iptables", "ip", "iptables -P FORWARD DROP"),
        ("made with iptables", "ip6", "ip6tables -P FORWARD DROP"),
        (
            "firewalld's", "inet",
            // As firewalld ends its chain: no policy, a reject.
            "nft add table inet firewalld; "
                + "nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }'; "
                + "nft add rule inet firewalld filter_FORWARD ct state established,related accept; "
                + "nft add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited"
        ),
        (
            "an administrator's own", "inet",
            "nft add table inet mine; "
                + "nft 'add chain inet mine guard { type filter hook forward priority -10; policy drop; }'"
        ),
    ]) func aForeignFirewall(_ owner: String, _ family: String, _ make: String) throws {
        let host = try host()
        try host.sh(make)
        let up = try host.vrouter(Self.up)
        #expect(
            up.status == 0 && up.output.contains("✗ foreign-firewall: the chain \(family) "), "up says it too: \(up)")
        let doctor = try host.vrouter("doctor")
        #expect(doctor.status == 1 && doctor.output.contains("(\(owner)) drops"), "\(doctor)")
        let remedies = doctor.output.split(separator: "\n").filter { $0.contains("→ ") && $0.contains("enp0s8.") }
            .map { $0.replacing("    → ", with: "") }
        try #require(!remedies.isEmpty)
        // ufw and firewalld are not here: they would add rules to chains of their own.
        if owner == "firewalld's" {
            #expect(
                remedies.count == 2
                    && remedies[0].hasPrefix("firewall-cmd --permanent --zone=trusted --add-interface=enp0s8.100"))
            try host.sh(
                "nft 'insert rule inet firewalld filter_FORWARD iifname { \"enp0s8.100\", \"enp0s8.200\" } accept'")
        } else if owner == "ufw's" {
            #expect(remedies == ["ufw route allow in on enp0s8.100", "ufw route allow in on enp0s8.200"])
            try host.sh("nft 'add rule ip filter ufw-user-forward iifname \"enp0s8.*\" counter accept'")
        } else {
            try host.sh(remedies.joined(separator: "\n"))
        }
        let cured = try host.vrouter("doctor")
        #expect(cured.status == 0, "\(cured)")
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func strictReversePathFilter() throws {
        let host = try host()
        #expect(try host.vrouter(Self.up).status == 0)
        try host.sh("echo 1 >/proc/sys/net/ipv4/conf/enp0s8.100/rp_filter")
        let strict = try host.vrouter("doctor")
        #expect(
            strict.status == 0 && strict.output.contains("· rp-filter: strict reverse path filter on enp0s8.100:"),
            "\(strict)")
        #expect(strict.output.contains("sysctl -w net.ipv4.conf.enp0s8/100.rp_filter=2"))
        try host.sh("sysctl -qw net.ipv4.conf.enp0s8/100.rp_filter=2")
        #expect(try host.vrouter("doctor").output.contains("✓ rp-filter"))
        // The greater of the two numbers counts.
        try host.sh(
            "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/enp0s8.100/rp_filter")
        #expect(try host.vrouter("doctor").output.contains("· rp-filter: strict reverse path filter on enp0s8.100"))
    }

    @Test func mtu() throws {
        let host = try host()
        #expect(try host.vrouter(Self.up).status == 0)
        try host.sh("ip link set enp0s8 mtu 1400")
        // The gateways follow.
        for _ in 0..<60 where try !host.sh("ip -o link show dev enp0s8.100").contains("mtu 1400") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let small = try host.vrouter("doctor")
        #expect(small.status == 0 && small.output.contains("! mtu: enp0s8 has MTU 1400"), "\(small)")
        try host.sh("ip link set enp0s8 mtu 500")
        let tiny = try host.vrouter("doctor")
        #expect(tiny.status == 1 && tiny.output.contains("✗ mtu: enp0s8 has MTU 500"), "\(tiny)")
    }

    @Test func anotherWayToTheSubnet() throws {
        let host = try host()
        try host.sh("ip address add 192.0.2.1/24 dev cable; ip route add 172.16.10.0/24 via 192.0.2.2")
        let up = try host.vrouter(Self.up)
        #expect(
            up.output.contains("✗ routes: 172.16.10.0/24, the subnet of VLAN 100, is also routed by cable"), "\(up)")
        #expect(try host.vrouter("doctor").status == 1)
        try host.sh("ip route del 172.16.10.0/24 dev cable")
        #expect(try host.vrouter("doctor").status == 0)
    }

    @Test func forwardingSwitchedOff() throws {
        let host = try host()
        #expect(try host.vrouter(Self.up).status == 0)
        try host.sh("sysctl -qw net.ipv4.ip_forward=0")
        let off = try host.vrouter("doctor")
        #expect(off.status == 1 && off.output.contains("✗ forwarding: IPv4 forwarding is off"), "\(off)")
    }

    @Test func withoutPrivileges() throws {
        let host = try host()
        let result = try host.run([
            "setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", Product.path, "doctor",
        ])
        #expect(result.status == 1 && result.output.contains("✗ permissions:"), "\(result)")
    }
}
