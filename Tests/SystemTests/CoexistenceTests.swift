import Kernel
import TestSupport
import Testing

/// Programs that drop what is forwarded, as far as their rules go.
enum OtherFirewall: String, CaseIterable, Sendable {
    case docker, docker28, ufw, dockerAndUFW, firewalld

    /// Makes its rules, as it does when it starts or reloads.
    func load(_ host: TestHost) throws {
        switch self {
        case .docker: try host.sh(Self.restore(Self.dockersRules))
        case .docker28: try host.sh(Self.restore(Self.docker28sRules))
        case .ufw: try host.sh(Self.startUFW)
        case .dockerAndUFW:
            try host.sh(Self.startUFW)
            try host.sh(Self.restore(Self.dockersRules, "--noflush"))
        case .firewalld: try host.sh(Self.startFirewalld)
        }
    }

    var places: [String] {
        switch self {
        case .docker, .docker28, .dockerAndUFW: ["ip filter DOCKER-USER", "ip6 filter DOCKER-USER"]
        case .ufw: ["ip filter ufw-user-forward", "ip6 filter ufw6-user-forward"]
        case .firewalld: ["inet firewalld filter_FORWARD"]
        }
    }

    private static func restore(_ rules: String, _ options: String = "") -> String {
        ["iptables", "ip6tables"].map { "\($0)-restore \(options) <<'END'\n\(rules)END\n" }.joined()
    }

    /// The chains that dockerd made before version 28, with one network, on a host where IPv6 is its as well.
    private static let dockersRules = """
        *filter
        :INPUT ACCEPT [0:0]
        :FORWARD DROP [0:0]
        :OUTPUT ACCEPT [0:0]
        :DOCKER - [0:0]
        :DOCKER-ISOLATION-STAGE-1 - [0:0]
        :DOCKER-ISOLATION-STAGE-2 - [0:0]
        :DOCKER-USER - [0:0]
        -I FORWARD -i docker0 -o docker0 -j ACCEPT
        -I FORWARD -i docker0 ! -o docker0 -j ACCEPT
        -I FORWARD -o docker0 -j DOCKER
        -I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        -I FORWARD -j DOCKER-ISOLATION-STAGE-1
        -I FORWARD -j DOCKER-USER
        -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
        -A DOCKER-ISOLATION-STAGE-1 -j RETURN
        -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
        -A DOCKER-ISOLATION-STAGE-2 -j RETURN
        -A DOCKER-USER -j RETURN
        COMMIT

        """

    /// Those of version 28: what concerns its networks is in chains of their own, and DOCKER-USER is empty.
    private static let docker28sRules = """
        *filter
        :INPUT ACCEPT [0:0]
        :FORWARD DROP [0:0]
        :OUTPUT ACCEPT [0:0]
        :DOCKER - [0:0]
        :DOCKER-BRIDGE - [0:0]
        :DOCKER-CT - [0:0]
        :DOCKER-FORWARD - [0:0]
        :DOCKER-ISOLATION-STAGE-1 - [0:0]
        :DOCKER-ISOLATION-STAGE-2 - [0:0]
        :DOCKER-USER - [0:0]
        -A FORWARD -j DOCKER-USER
        -A FORWARD -j DOCKER-FORWARD
        -A DOCKER ! -i docker0 -o docker0 -j DROP
        -A DOCKER-BRIDGE -o docker0 -j DOCKER
        -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        -A DOCKER-FORWARD -j DOCKER-CT
        -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
        -A DOCKER-FORWARD -j DOCKER-BRIDGE
        -A DOCKER-FORWARD -i docker0 -j ACCEPT
        -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
        -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
        COMMIT

        """

    /// The program itself: what `ufw enable` runs, with the rules that the Debian package brings, from a folder of its own.
    private static let startUFW = """
        ufw=$(command -v ufw)
        package=${ufw%/usr/sbin/ufw}
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        mkdir -p "$folder/etc/ufw" "$folder/etc/default" "$folder/lib"
        cp -r "$package/lib/ufw" "$folder/lib"
        cp "$package/usr/share/ufw/iptables/"*.rules "$folder/etc/ufw"
        echo ENABLED=yes >"$folder/etc/ufw/ufw.conf"
        # It is to make rules only, and to load no module.
        sed 's/^\\(IPT_SYSCTL\\|IPT_MODULES\\)=.*/\\1=/; s/^IPV6=.*/IPV6=yes/' "$package/etc/default/ufw" >"$folder/etc/default/ufw"
        sh "$folder/lib/ufw/ufw-init" --rootdir "$folder" --datadir "$folder" force-reload
        """

    /// The chains of version 1.3 (Debian 12) that forwarded packets meet, where no interface is in a zone: as `nft list ruleset` shows
    /// them after its core has applied its default configuration.
    private static let startFirewalld = """
        nft -f - <<'END'
        add table inet firewalld
        delete table inet firewalld
        table inet firewalld {
            chain filter_FORWARD_POLICIES_pre { }
            chain filter_FORWARD_POLICIES_post { }
            chain filter_FWD_public_pre { }
            chain filter_FWD_public_log { }
            chain filter_FWD_public_deny { }
            chain filter_FWD_public_allow { }
            chain filter_FWD_public_post { }
            chain filter_FWD_public {
                jump filter_FORWARD_POLICIES_pre
                jump filter_FWD_public_pre
                jump filter_FWD_public_log
                jump filter_FWD_public_deny
                jump filter_FWD_public_allow
                jump filter_FWD_public_post
                jump filter_FORWARD_POLICIES_post
                reject with icmpx admin-prohibited
            }
            chain filter_FORWARD_ZONES {
                goto filter_FWD_public
            }
            chain filter_FORWARD {
                type filter hook forward priority filter + 10; policy accept;
                ct state { established, related } accept
                ct status dnat accept
                iifname "lo" accept
                ct state invalid drop
                ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002:a00::/24 } reject with icmpv6 addr-unreachable
                jump filter_FORWARD_ZONES
                reject with icmpx admin-prohibited
            }
        }
        END
        """
}

/// `up --coexist` lets the VLANs pass where another firewall drops them.
@Suite struct CoexistenceTests {
    private static let vlans = "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24"
    private static let up = "up --parent enp0s8 \(vlans)"

    /// With its rules, and with nothing that would make `doctor` fail for other reasons.
    private func host(_ firewall: OtherFirewall) throws -> TestHost {
        let host = try TestHost()
        try host.quietBridges()
        try firewall.load(host)
        return host
    }

    @Test(whereItIsFast, arguments: [OtherFirewall.docker28, .dockerAndUFW, .ufw, .firewalld])
    func theVLANsPass(_ firewall: OtherFirewall) throws {
        let site = try Site()
        try site.router.quietBridges()
        let before = try site.router.snapshot()
        try firewall.load(site.router)
        let rules = try site.router.rules()
        func reaches(_ from: TestHost, _ to: TestHost, _ address: String) throws -> Bool {
            try site.peer(from, to, address) != nil
        }
        try site.up()
        #expect(try !reaches(site.host(100), site.host(200), "172.16.20.10"), "dropped without")
        let doctor = try site.router.vrouter("doctor")
        #expect(doctor.status == 1 && doctor.output.contains("→ vrouter up --coexist"), "\(doctor)")

        try site.up("--coexist --deny 300:100")
        #expect(try reaches(site.host(100), site.host(200), "172.16.20.10"))
        #expect(try reaches(site.host(100), site.outside, "192.0.2.2"))
        #expect(try site.ping(site.host(200), "fd00:10::10") == 63)
        #expect(try !reaches(site.host(300), site.host(100), "172.16.10.10"), "our own rules still decide")
        #expect(try !reaches(site.outside, site.host(100), "172.16.10.10"), "our own rules still decide")
        let healthy = try site.router.vrouter("doctor")
        #expect(healthy.status == 0 && healthy.output.contains("✓ foreign-firewall:"), "\(healthy)")
        let status = try site.router.vrouter("status")
        #expect(
            status.status == 0
                && status.output.contains("let pass in other firewalls: \(firewall.places.joined(separator: ", "))\n"),
            "\(status)")
        // Two for each gateway in each place, which iptables shows as what they are.
        let ours = try site.router.rules().filter {
            $0.contains("enp0s8.") && $0.contains("accept") && !$0.contains("elements")
        }
        #expect(ours.count == 6 * firewall.places.count, "\(ours)")
        if firewall != .firewalld {
            let listed = try site.router.sh("iptables -S; ip6tables -S").split(separator: "\n").filter {
                $0.contains("enp0s8.")
            }
            #expect(
                Set(listed.map { $0.replacing(#/^-A [^ ]+ /#, with: "") })
                    == Set(
                        [100, 200, 300].flatMap { id in
                            ["-i", "-o"].map {
                                "\($0) enp0s8.\(id) -m comment --comment \"vrouter up --coexist\" -j ACCEPT"
                            }
                        }))
        }
        let again = try site.router.vrouter("up --parent enp0s8 \(Site.vlans) --coexist --deny 300:100")
        #expect(again.output.hasPrefix("nothing to do\n"), "\(again)")

        // A VLAN that goes takes its rules along, and without the option all of them go.
        #expect(try site.router.vrouter("up --parent enp0s8 \(Self.vlans) --coexist").status == 0)
        #expect(try !site.router.rules().contains { $0.contains("enp0s8.300") })
        #expect(try site.router.vrouter("up --parent enp0s8 \(Self.vlans)").status == 0)
        #expect(try site.router.rules().filter { $0.contains("coexist") }.isEmpty)
        try site.up("--coexist")
        #expect(try site.router.vrouter("down").status == 0)
        #expect(differences(rules, try site.router.rules()) == [])
        try site.router.sh("nft flush ruleset")
        try requireUnchanged(site.router, since: before)
    }

    @Test func downLeavesTheirRulesAsTheyWere() throws {
        let host = try host(.docker)
        let before = try host.snapshot()
        let up = try host.vrouter("\(Self.up) --coexist")
        #expect(up.status == 0 && !up.output.contains("foreign-firewall"), "\(up)")
        #expect(try host.rules().filter { $0.contains("vrouter up --coexist") }.count == 2 * 4)
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: before)
    }

    /// A program that starts or reloads makes its chains anew.
    @Test(whereItIsFast, arguments: OtherFirewall.allCases) func whatAReloadLosesIsPutBack(_ firewall: OtherFirewall)
        throws
    {
        let host = try TestHost()
        try host.quietBridges()
        // The first rule that logs loads the kernel's loggers, which are seen in /proc/sys from then on: ufw has some.
        try host.sh(
            "nft 'add table inet first; add chain inet first c; add rule inet first c log'; nft delete table inet first"
        )
        let clean = try host.snapshot()
        #expect(try host.vrouter("\(Self.up) --coexist").status == 0, "before there is any")
        for _ in 0..<2 {
            try firewall.load(host)
            let status = try host.vrouter("status")
            #expect(status.status == 1, "\(status)")
            for place in firewall.places {
                let complaint = "drift: the chain \(place) lacks rules that accept enp0s8.100, enp0s8.200\n"
                #expect(status.output.contains(complaint), "\(status)")
            }
            #expect(try host.vrouter("\(Self.up) --coexist").status == 0)
            #expect(try host.vrouter("status").status == 0)
        }
        let theirs = try host.rules().filter { !$0.contains("vrouter up --coexist") }
        #expect(try host.vrouter("down").status == 0)
        #expect(
            differences(theirs, try host.rules()).allSatisfy { $0.hasPrefix("- ") }, "nothing but our table has gone")
        #expect(try !host.rules().contains { $0.contains("vrouter") })
        try host.sh("nft flush ruleset")
        try requireUnchanged(host, since: clean)
    }

    @Test(whereItIsFast) func vrouterRunPutsThemWhereAFirewallStartsLater() throws {
        let host = try TestHost()
        let service = try host.start(
            [Product.path, "run"] + "--parent enp0s8 \(Self.vlans) --coexist".split(separator: " ").map(String.init))
        defer {
            service.signal(SignalNumber.terminate)
            _ = service.wait()
        }
        try eventually("not up") { try host.vrouter("status").status == 0 }
        for firewall in [OtherFirewall.firewalld, .ufw] {
            try firewall.load(host)
            try eventually("\(firewall)", within: 5) {
                let status = try host.vrouter("status")
                return status.status == 0 && status.output.contains(firewall.places.joined(separator: ", "))
            }
        }
    }

    /// Cut short at any step, `up` and `down` leave nothing that the next of them does not find.
    @Test(whereItIsFast) func failuresAndKills() throws {
        let host = try host(.docker28)
        let before = try host.snapshot()
        let up = "\(Self.up) --coexist"
        let steps = try host.vrouter("\(up) --dry-run --json").output.matches(of: #/"summary" :/#).count
        try #require(steps > 3)
        for moment in (0..<steps).map({ "\($0):before" }) + ["\(steps - 1):after"] {
            let failed = try host.vrouter(up, environment: ["VROUTER_FAULT": "fail:\(moment)"])
            #expect(failed.status == 70, "\(failed)")
            try requireUnchanged(host, since: before, "failed at \(moment)")
            let killed = try host.vrouter(up, environment: ["VROUTER_FAULT": "kill:\(moment)"])
            #expect(killed.status == 128 + 9, "\(killed)")
            #expect(try host.vrouter("down").status == 0)
            try requireUnchanged(host, since: before, "killed at \(moment), then down")
        }
        #expect(try host.vrouter(up).status == 0)
        let count = try host.vrouter("down --dry-run --json").output.matches(of: #/"summary" :/#).count
        for moment in 0..<count {
            #expect(try host.vrouter(up).status == 0)
            _ = try host.vrouter("down", environment: ["VROUTER_FAULT": "kill:\(moment):after"])
            #expect(try host.vrouter("down").status == 0)
            try requireUnchanged(host, since: before, "down killed at \(moment)")
        }
    }

    /// Behind what an administrator says of some packets, and before what ends the chain.
    @Test(whereItIsFast) func theirPlaceInTheChain() throws {
        let host = try host(.docker)
        try host.sh(
            """
            iptables -I DOCKER-USER -i enp0s8.100 -d 10.1.0.0/16 -m comment --comment "vrouter up --coexist" -j DROP
            iptables -I DOCKER-USER -i enp0s8.1 -j ACCEPT
            """)
        let before = try host.sh("iptables -S; ip6tables -S")
        #expect(try host.vrouter("\(Self.up) --coexist").status == 0)
        let rules = try host.sh("iptables -S DOCKER-USER").split(separator: "\n").map(String.init)
        #expect(rules.count == 1 + 2 + 4 + 1 && rules[1].contains("-i enp0s8.1 ") && rules[2].hasSuffix("-j DROP"))
        #expect(
            rules[3...6].allSatisfy { $0.contains("vrouter up --coexist") } && rules[7] == "-A DOCKER-USER -j RETURN",
            "\(rules)")
        // Who saves iptables' rules and loads them again has ours among them, in iptables' own way of writing.
        try host.sh(
            "iptables-save | iptables-restore; iptables-save -t filter | grep 'coexist.*ACCEPT' | sed '1i*filter' | sed '$aCOMMIT' | iptables-restore --noflush"
        )
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("down").status == 0)
        #expect(try host.sh("iptables -S; ip6tables -S") == before)
    }

    /// The commands that `--dry-run` prints make the same rules.
    @Test(whereItIsFast, arguments: OtherFirewall.allCases) func dryRun(_ firewall: OtherFirewall) throws {
        let host = try host(firewall)
        func show() throws -> String { try host.sh("nft -s list ruleset; iptables -S; ip6tables -S") }
        let before = try show()
        let commands = try host.vrouter("\(Self.up) --coexist --dry-run").output.split(separator: "\n").filter {
            $0.contains("vrouter up --coexist")
        }
        #expect(try show() == before)
        #expect(try host.vrouter("\(Self.up) --coexist").status == 0)
        let after = try show()
        let removals = try host.vrouter("down --dry-run").output.split(separator: "\n").filter {
            $0.contains("vrouter up --coexist") || $0.hasPrefix("nft delete rule ")
        }
        #expect(commands.count == (firewall == .firewalld ? 4 : 8) && removals.count == commands.count)
        try host.sh(removals.joined(separator: "\n"))
        let complaints = try host.vrouter("status").output
        for place in firewall.places { #expect(complaints.contains("the chain \(place) lacks"), "\(complaints)") }
        try host.sh(commands.joined(separator: "\n"))
        // How iptables keeps a comment is its affair: nft does not show all of them.
        func plain(_ text: String) -> [String] {
            text.split(separator: "\n").map {
                String($0).replacing(" comment \"vrouter up --coexist\"", with: "").replacing("  ", with: " ")
            }
        }
        #expect(differences(plain(after), plain(try show())) == [])
        #expect(try host.vrouter("down").status == 0)
        #expect(try show() == before)
    }

    /// What an administrator has made himself, and a table that only its owner may change, are left alone.
    @Test(whereItIsFast) func whatIsLeftAlone() throws {
        let host = try TestHost()
        try host.sh(
            """
            iptables -P FORWARD DROP
            nft -f - <<'END'
            table inet mine { chain guard { type filter hook forward priority -10; policy drop; }; }
            END
            """)
        // An owner's table goes with it.
        let owner = try host.start([
            "sh", "-c",
            """
            { echo 'add table inet firewalld { flags owner; }'
              echo 'add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }'
              echo 'add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'
              sleep 60; } | nft -i
            """,
        ])
        defer {
            owner.signal(SignalNumber.kill)
            _ = owner.wait()
        }
        try eventually("no owned table: \(owner.outputSoFar)") {
            try host.sh("nft list ruleset").contains("flags owner")
        }
        let before = try host.rules()
        let up = try host.vrouter("\(Self.up) --coexist")
        #expect(up.status == 0, "\(up)")
        for words in [
            "ip filter FORWARD (made with iptables)", "inet mine guard (an administrator's own)",
            "firewalld's) drops whatever",
        ] {
            #expect(up.output.contains(words), "\(up)")
        }
        #expect(
            up.output.contains("only its maker can change its rules") && !up.output.contains("vrouter up --coexist"),
            "\(up)")
        #expect(try host.rules().filter { !$0.contains("vrouter") }.count >= before.count)
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("down").status == 0)
        #expect(differences(before, try host.rules()) == [])
    }
}

extension TestHost {
    /// All rules, without what is counted.
    fileprivate func rules() throws -> [String] {
        try sh("nft -s list ruleset").split(separator: "\n").map(String.init)
    }

    /// A container host's kernel has these on for new namespaces.
    func quietBridges() throws {
        try sh(
            "for p in iptables ip6tables arptables; do echo 0 >/proc/sys/net/bridge/bridge-nf-call-$p || true; done 2>/dev/null"
        )
    }
}
