import Kernel
import TestSupport
import Testing

//  host ┬ enp0s8 ──── cable   (one namespace; nobody answers: these tests are about what the host becomes)
//       ├ enp0s8.100
//       └ enp0s8.200
private let article = "--vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"

@Suite struct UpAndDownTests {
    /// With the kernel's VLAN devices, where it has them, and with ours.
    @Test(arguments: ["", "--vlan-driver ebpf"]) func downLeavesTheHostAsUpFoundIt(driver: String) throws {
        let host = try TestHost()
        // A host with a past: forwarding on one interface, foreign rules, an odd parameter, a foreign clsact hook.
        try host.sh(
            """
            ip link add foreign0 type veth peer name foreign1
            ip link set foreign0 up
            ip address add 10.9.0.1/24 dev foreign0
            echo 1 >/proc/sys/net/ipv4/conf/foreign0/forwarding
            echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects
            echo 1 >/proc/sys/net/ipv6/conf/foreign1/forwarding
            nft add table inet foreign
            nft 'add chain inet foreign forward { type filter hook forward priority 10; policy accept; }'
            nft add rule inet foreign forward iifname foreign0 counter accept
            """)
        let before = try host.snapshot()
        let up = try host.vrouter(
            "up --parent enp0s8 --vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24 \(driver)")
        #expect(up.status == 0, "\(up)")
        try requireChanged(host, since: before)
        let usesKernels = try driver.isEmpty && host.hasVLANDevices
        let links = try host.sh("ip -d link show dev enp0s8.100")
        #expect(links.contains("vlan protocol 802.1Q") == usesKernels, "\(links)")
        // On a clsact hook, or on a newer kernel's.
        let filters = try host.sh("tc filter show dev enp0s8 ingress; tc filter show dev enp0s8.100 egress")
        let programs =
            try host.programsByID().map(\.id) + filters.matches(of: #/ id (\d+) /#).compactMap { UInt32($0.1) }
        #expect(programs.isEmpty == usesKernels, "\(filters)")
        let down = try host.vrouter("down")
        #expect(down.status == 0, "\(down)")
        try requireUnchanged(host, since: before)
        for program in programs {
            #expect(
                try host.run(["bpftool", "prog", "show", "id", "\(program)"]).status != 0, "a program is still loaded")
        }
        let again = try host.vrouter("down")
        #expect(again.status == 0 && again.output == "nothing to do\n")
        try requireUnchanged(host, since: before)
    }

    @Test func upMakesTheGateways() throws {
        let host = try TestHost()
        let up = try host.vrouter("up --parent enp0s8 \(article)")
        #expect(up.status == 0, "\(up)")
        let addresses = try host.sh("ip -br address show dev enp0s8.100; ip -br address show dev enp0s8.200")
        #expect(addresses.contains("172.16.10.1/24") && addresses.contains("172.16.20.1/24"))
        #expect(try host.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n")
        #expect(try host.sh("cat /proc/sys/net/ipv4/conf/enp0s8.100/arp_ignore") == "1\n")
        let parent = try host.sh("ip -br link show dev enp0s8")
        #expect(parent.contains(" UP "), "the parent was down and is up: \(parent)")
        let rules = try host.sh("nft list table inet vrouter")
        #expect(rules.contains("masquerade") && rules.contains("enp0s8.100") && rules.contains("enp0s8.200"))
        if try host.hasVLANDevices {
            let link = try host.sh("ip -d link show dev enp0s8.100")
            #expect(link.contains("vlan protocol 802.1Q id 100 <REORDER_HDR>"), "\(link)")
        } else {
            let programs =
                try host.programs() + [
                    host.sh("tc filter show dev enp0s8 ingress; tc filter show dev enp0s8.100 egress")
                ]
            #expect(programs.contains { $0.contains("vlan_pop") } && programs.contains { $0.contains("vlan_push") })
        }
    }

    /// A host that learns its default route from router advertisements goes on to do so while it forwards.
    @Test func theUplinkKeepsTheRouteThatItLearns() throws {
        let host = try TestHost()
        let provider = try TestHost(trunk: false)
        try host.sh("ip link add eth0 type veth peer name out netns \(provider.name); ip link set eth0 up")
        try provider.sh("ip link set out up")
        // The route lasts for so many seconds; 0 takes it away (RFC 4861).
        func advertise(_ seconds: Int) throws {
            let script = """
                import socket, struct, sys
                s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, int(sys.argv[1]), 0, 0),
                    ('ff02::1', 0, 0, socket.if_nametoindex('out')))
                """
            let sent = try provider.run(["python3", "-c", script, "\(seconds)"])
            try #require(sent.status == 0, "\(sent)")
        }
        func hasRoute() throws -> Bool { try host.sh("ip -6 route show default").contains("dev eth0 proto ra") }
        func accepts() throws -> String { try host.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra") }
        try eventually("no route at first") {
            try advertise(1800)
            return try hasRoute()
        }
        try #require(try accepts() == "1\n")

        let up = try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24,fd00:10::1/64 --uplink eth0")
        #expect(up.status == 0, "\(up)")
        #expect(try hasRoute() && accepts() == "2\n")
        try advertise(0)
        try eventually("what the router says is not heeded") { try !hasRoute() }
        try advertise(1800)
        try eventually("the route does not come back") { try hasRoute() }
        #expect(try host.vrouter("down").status == 0)
        #expect(try hasRoute() && accepts() == "1\n")
    }

    @Test func secondUpDoesNothing() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(article)").status == 0)
        let before = try host.snapshot()
        let again = try host.vrouter("up \(article)")
        #expect(again.status == 0 && again.output.hasPrefix("nothing to do\n"), "\(again)")
        try requireUnchanged(host, since: before)
        let handles = try host.sh("nft -a list table inet vrouter")
        _ = try host.vrouter("up \(article)")
        #expect(try host.sh("nft -a list table inet vrouter") == handles, "the ruleset was committed again")
    }

    @Test func dryRunChangesNothing() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let dry = try host.vrouter("up --dry-run --parent enp0s8 \(article)")
        #expect(dry.status == 0)
        #expect(dry.output.contains("ip address add 172.16.10.1/24 brd + dev enp0s8.100"))
        #expect(dry.output.contains("sysctl -w net.ipv4.ip_forward=1"))
        #expect(dry.output.contains("nft -f -"))
        try requireUnchanged(host, since: before)
    }

    @Test func dryRunNeedsNoPrivileges() throws {
        let host = try TestHost()
        let dry = try host.run(
            [
                "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
                "--bounding-set=-all",
            ]
                + [Product.path] + "up --dry-run --parent enp0s8 \(article)".split(separator: " ").map(String.init))
        #expect(dry.status == 0 && dry.output.contains("ip address add 172.16.10.1/24"), "\(dry)")
        let real = try host.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
                + [Product.path] + "up --parent enp0s8 \(article)".split(separator: " ").map(String.init))
        #expect(real.status == 77 && real.errors.contains("remedy:"), "\(real)")
    }

    @Test func aChangedSetAppliesTheDifference() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(article)").status == 0)
        let index = try host.sh("ip -o link show dev enp0s8.100 | cut -d: -f1")
        let changed = try host.vrouter("up --vlan 100=172.16.10.254/24 --vlan 300=172.16.30.1/24,fd00:30::1/64")
        #expect(changed.status == 0, "\(changed)")
        #expect(try host.sh("ip -o link show dev enp0s8.100 | cut -d: -f1") == index, "VLAN 100 was made anew")
        let addresses = try host.sh("ip -br address")
        #expect(addresses.contains("172.16.10.254/24") && !addresses.contains("172.16.10.1/24"))
        #expect(addresses.contains("enp0s8.300") && !addresses.contains("enp0s8.200"))
        let rules = try host.sh("nft list table inet vrouter")
        #expect(rules.contains("enp0s8.300") && !rules.contains("enp0s8.200"))
        #expect(try host.sh("cat /proc/sys/net/ipv6/conf/all/forwarding") == "1\n")
        // Without IPv6 again, its switch is put back.
        #expect(try host.vrouter("up \(article)").status == 0)
        #expect(try host.sh("cat /proc/sys/net/ipv6/conf/all/forwarding") == "0\n")
    }

    @Test func driftIsSeenAndRepaired() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(article)").status == 0)
        #expect(try host.vrouter("status").status == 0)
        for damage in [
            "nft flush chain inet vrouter forward", "nft delete table inet vrouter", "ip link del enp0s8.100",
            "ip link set enp0s8.200 down", "ip address flush dev enp0s8.200", "sysctl -qw net.ipv4.ip_forward=0",
            "ip link set enp0s8 down",
        ] {
            try host.sh(damage)
            let status = try host.vrouter("status")
            #expect(status.status == 1 && status.output.contains("drift:"), "\(damage): \(status)")
            let doctor = try host.vrouter("doctor")
            #expect(doctor.status == 1 && doctor.output.contains("✗ state"), "\(damage): \(doctor)")
            let up = try host.vrouter("up \(article)")
            #expect(up.status == 0 && !up.output.contains("nothing to do"), "\(damage): \(up)")
            let repaired = try host.vrouter("status")
            #expect(repaired.status == 0, "\(damage): \(repaired)")
        }
    }

    @Test func anExistingInterfaceIsAdoptedOrRefused() throws {
        let host = try TestHost()
        if try host.hasVLANDevices {
            // It has been up before, which leaves traces that nobody can remove.
            try host.sh(
                """
                ip link add link enp0s8 name enp0s8.100 type vlan id 100; ip link set enp0s8 up; ip link set enp0s8.100 up
                ip link set enp0s8.100 down; ip link set enp0s8 down; ip address add 172.16.10.1/24 brd + dev enp0s8.100
                """)
            let before = try host.snapshot()
            let up = try host.vrouter("up --parent enp0s8 \(article)")
            #expect(up.status == 0, "\(up)")
            #expect(try host.vrouter("status").output.contains("enp0s8.100 (adopted)"))
            #expect(try host.vrouter("down").status == 0)
            try requireUnchanged(host, since: before)
            try host.sh("ip link del enp0s8.100; ip link add link enp0s8 name enp0s8.100 type vlan id 99")
        } else {
            try host.sh("ip link add enp0s8.100 type veth peer name other")
        }
        let before = try host.snapshot()
        let refused = try host.vrouter("up --parent enp0s8 \(article)")
        #expect(refused.status == 64 && refused.errors.contains("enp0s8.100 exists and is"), "\(refused)")
        try requireUnchanged(host, since: before)
    }

    /// The kernel takes the later addresses of a subnet away with the first one.
    @Test func theFirstAddressOfASubnetGoesAlone() throws {
        let host = try TestHost()
        #expect(
            try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24,172.16.10.2/24,172.16.10.3/24").status == 0)
        try host.sh("ip address add 172.16.10.7/24 dev enp0s8.100")
        #expect(try host.vrouter("up --vlan 100=172.16.10.2/24,172.16.10.4/24").status == 0)
        let addresses = try host.sh("ip -4 -o address show dev enp0s8.100 | grep -o 'inet [^ ]*' | sort")
        #expect(addresses == "inet 172.16.10.2/24\ninet 172.16.10.4/24\ninet 172.16.10.7/24\n", "\(addresses)")
        #expect(try host.vrouter("status").status == 0)
    }

    /// Somebody renames what vrouter made or uses; `down` finds all of it.
    @Test(arguments: ["auto", "ebpf"]) func downFindsWhatWasRenamed(_ driver: String) throws {
        let host = try TestHost()
        let before = try host.snapshot()
        #expect(try host.vrouter("up --parent enp0s8 \(article) --vlan-driver \(driver)").status == 0)
        try host.sh(
            """
            ip link set enp0s8.100 down; ip link set enp0s8.100 name other
            ip link set enp0s8 down; ip link set enp0s8 name trunk; ip link set trunk up
            """)
        ThisProcess.sleep(milliseconds: 300)
        #expect(try host.sh("ip -br link").contains("enp0s8.200"), "the gateways outlive a new name of their parent")
        let down = try host.vrouter("down")
        #expect(down.status == 0, "\(down)")
        try host.sh("ip link set trunk down; ip link set trunk name enp0s8")
        try requireUnchanged(host, since: before)
    }

    @Test func downCleansUpBehindAParentThatIsGone() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(article) --vlan-driver ebpf").status == 0)
        try host.stopFollower()
        try host.sh("ip link del enp0s8")
        #expect(try host.sh("ip -br link").contains("enp0s8.100"), "without a follower the gateway stays")
        #expect(try host.vrouter("down").status == 0)
        let left = try host.sh("ip -br link")
        #expect(!left.contains("enp0s8") && !left.contains("vr"), "\(left)")
    }

    @Test func longNamesBecomeShort() throws {
        let host = try TestHost(trunk: false)
        try host.sh("ip link add enp130s31f6d1 type veth peer name cable; ip link set enp130s31f6d1 up")
        #expect(try host.vrouter("up --parent enp130s31f6d1 --vlan 4094=172.16.10.1/24").status == 0)
        #expect(try host.sh("ip -br link").contains("vlan4094"))
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func theParentIsFoundByItself() throws {
        let host = try TestHost(trunk: false)
        let none = try host.vrouter("up \(article)")
        #expect(none.status == 64 && none.errors.contains("no Ethernet interface"), "\(none)")
        try host.sh("ip link add enp0s8 type veth peer name cable; ip link set enp0s8 up")
        let one = try host.vrouter("up \(article)")
        #expect(one.status == 0, "\(one)")
        #expect(try host.vrouter("down").status == 0)
        try host.sh("ip link set cable up")
        let two = try host.vrouter("up \(article)")
        #expect(
            two.status == 64 && (two.errors.contains("cable, enp0s8") || two.errors.contains("enp0s8, cable")), "\(two)"
        )
    }

    @Test func manyVLANs() throws {
        let host = try TestHost()
        let vlans = (1...500).map { "--vlan \($0)=10.\($0 / 250).\($0 % 250).1/24" }.joined(separator: " ")
        let before = try host.snapshot()
        let up = try host.vrouter("up --parent enp0s8 \(vlans)")
        #expect(up.status == 0, "\(up.errors)")
        #expect(try host.sh("ip -br address | grep -c '^enp0s8[.]'") == "500\n")
        #expect(try host.vrouter("up \(vlans)").output.hasPrefix("nothing to do\n"))
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: before)
    }
}

extension TestHost {
    /// Whether the kernel makes VLAN devices: by trying, as a user would.
    var hasVLANDevices: Bool {
        get throws {
            try run([
                "sh", "-c", "ip link add link enp0s8 name probe type vlan id 4000 2>/dev/null && ip link del probe",
            ]).status == 0
        }
    }
}
