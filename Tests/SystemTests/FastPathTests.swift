import Kernel
import TestSupport
import Testing

//  host h100 ─┐ VLAN 100                 ┌─ enp0s8 ─ router ─ uplink0 ── outside
//  host h200 ─┤ VLAN 200 ── switch ──────┘             │
//  host h300 ─┘ VLAN 300                        vrouter forward
//
/// What the workers of the fast path forward arrives as from the kernel, and they forward only what is theirs.
@Suite struct FastPathTests {
    /// By the kernel's VLAN devices, where it has them, and by ours.
    @Test(arguments: ["", "--vlan-driver ebpf"]) func bothFamiliesPassTheWorkers(driver: String) throws {
        let site = try Site()
        try site.upFast(driver)
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        #expect(try site.ping(site.host(100), "fd00:20::10") == 63)
        let before = try (site.router.forwarded(), site.router.forwardedByKernel(), site.router.forwardedByVLAN())
        for address in ["172.16.20.10", "fd00:20::10"] {
            let ping = try site.host(100).run(["ping", "-c", "20", "-i", "0.01", "-W", "2", address])
            #expect(ping.status == 0 && ping.output.contains(" 0% packet loss"), "\(ping)")
            #expect(!ping.output.contains("DUP"), "\(ping)")
        }
        let after = try (site.router.forwarded(), site.router.forwardedByKernel(), site.router.forwardedByVLAN())
        let (workers, kernel) = (after.0 - before.0, after.1 - before.1)
        #expect(workers + kernel == 80, "requests and answers")
        // Each VLAN, but the third, has sent as much as it has received.
        let byVLAN = zip(before.2, after.2).map { [$1.received - $0.received, $1.sent - $0.sent] }
        let half = workers / 2
        #expect(
            byVLAN.count == 3 && byVLAN[0].reduce(0, +) == workers && byVLAN[1] == byVLAN[0].reversed()
                && abs(byVLAN[0][0] - half) <= kernel && byVLAN[2] == [0, 0], "\(byVLAN), \(workers)")
        // Emulated, a worker may once not be heard of for as long as makes it seem dead.
        #expect(kernel <= (isEmulated ? 4 : 0), "the kernel forwarded none of them")
    }

    /// What people try first.
    @Test func theUsualTools() throws {
        let site = try Site()
        try site.upFast()
        let client = site.host(100)
        for (tool, hops) in [
            ("traceroute -n -q 1 -w 2 172.16.20.10", ["172.16.10.1", "172.16.20.10"]),
            ("traceroute -6 -n -q 1 -w 2 fd00:20::10", ["fd00:10::1", "fd00:20::10"]),
            ("mtr -n -r -c 1 172.16.20.10", ["172.16.10.1", "172.16.20.10"]),
            ("arping -c 1 -w 2 -I enp0s8.100 172.16.10.1", ["Received 1 response"]),
            ("ping -c 3 -i 0.2 -W 2 -s 4000 172.16.20.10", [" 0% packet loss"]),
            ("ping -c 3 -i 0.2 -W 2 -s 4000 fd00:20::10", [" 0% packet loss"]),
        ] {
            let result = try client.run(tool.split(separator: " ").map(String.init))
            for hop in hops { #expect(result.output.contains(hop), "\(tool): \(result)") }
        }
        let before = try site.router.forwarded()
        let server = try site.host(200).start(["iperf3", "-s"])
        for _ in 0..<50 where try !site.host(200).sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
        for options in ["-c 172.16.20.10 -t 1", "-c fd00:20::10 -t 1 -R", "-c 172.16.20.10 -t 1 -u -b 4M -l 1000"] {
            let run = try client.run(["iperf3", "-J"] + options.split(separator: " ").map(String.init))
            let received = run.output.matches(of: #/"bytes":\s*(\d+)/#).compactMap { Int($0.1) }.max() ?? 0
            #expect(run.status == 0 && received > 100_000, "\(options): \(run)")
        }
        server.signal(SignalNumber.terminate)
        _ = server.wait()
        #expect(try site.router.forwarded() - before > 300, "datagrams pass the workers")
        // A way that is narrower behind the router: it says so to the sender.
        try site.router.sh("ip link set enp0s8.200 mtu 1300")
        for (address, host) in [("172.16.20.10", ""), ("fd00:20::10", "-6 ")] {
            var path = ""
            // The workers hear of it a moment later.
            for _ in 0..<5 where !path.contains("pmtu 1300") { path = try client.sh("tracepath -n \(host)\(address)") }
            #expect(path.contains("pmtu 1300") && path.contains("reached"), "\(path)")
        }
    }

    /// Segments that travel as one frame are the kernel's, and so is the rest of their connection, with the answers: two ways would
    /// reorder it, and a worker that is woken for each answer takes the time of those who send.
    @Test(arguments: [false, true]) func aConnectionOfSuperFramesStaysWithTheKernel(isTranslated: Bool) throws {
        let site = try Site()
        try isTranslated ? site.upFlows() : site.upFast()
        let server = try site.host(200).start(["iperf3", "-s", "-1"])
        for _ in 0..<50 where try !site.host(200).sh("ss -Hltn sport = 5201").contains("5201") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let before = try (site.router.forwarded(), site.router.forwardedByKernel())
        let client = try site.host(100).run(["iperf3", "-c", "172.16.20.10", "-t", isEmulated ? "4" : "1"])
        _ = server.wait()
        #expect(client.status == 0, "\(client)")
        let after = try (site.router.forwarded(), site.router.forwardedByKernel())
        let (workers, kernel) = (after.0 - before.0, after.1 - before.1)
        #expect(kernel > 1000 && workers < kernel / 20, "\(workers) by workers, \(kernel) by the kernel")
    }

    @Test func whatIsNotTheirsIsTheKernels() throws {
        let site = try Site()
        // A connection has its first packets there, whatever comes after.
        for (options, reason) in [
            ("--masquerade vlans", "masquerade vlans"), ("--masquerade none --deny 300:100", nil),
        ] {
            try site.up("\(options) --fast-path af-packet --fast-path-from 0")
            let from = site.host(100)
            let to = reason == nil ? "172.16.30.10" : "172.16.20.10"
            let before = try site.router.forwarded()
            for _ in 0..<3 { #expect(try site.ping(from, to) == 63, "\(options)") }
            let status = try #require(try site.router.fastPath())
            #expect(status.forwarded == before, "\(options)")
            if let reason {
                #expect(status.onlyKnownConnections.contains { $0.contains(reason) }, "\(status)")
                #expect(try site.router.vrouter("status").output.contains(reason))
            } else {
                #expect(try site.ping(site.host(300), "172.16.10.10") == nil, "denied, with a fast path as without")
            }
        }
    }

    static let changes = [
        Change(
            make:
                "nft 'add table inet foreign; add chain inet foreign f { type filter hook forward priority 10; policy drop; }'",
            undo: "nft delete table inet foreign"),
        Change(
            make: """
                nft 'add table inet foreign; add chain inet foreign f { type filter hook forward priority 10; }; \
                add rule inet foreign f counter'
                """, undo: "nft delete table inet foreign", arrives: true),
        Change(make: "ip rule add from 172.16.10.10 prohibit", undo: "ip rule del from 172.16.10.10 prohibit"),
        Change(make: "ip route add blackhole 172.16.20.10/32", undo: "ip route del blackhole 172.16.20.10/32"),
        Change(make: "sysctl -qw net.ipv4.ip_forward=0", undo: "sysctl -qw net.ipv4.ip_forward=1"),
        Change(make: "ip link set enp0s8.200 down", undo: "ip link set enp0s8.200 up"),
        Change(
            make: "sysctl -qw net/ipv4/conf/enp0s8.100/rp_filter=1; ip route add 172.16.10.10/32 dev enp0s8.300",
            undo: "ip route del 172.16.10.10/32 dev enp0s8.300; sysctl -qw net/ipv4/conf/enp0s8.100/rp_filter=0"),
        Change(
            make: "ip neigh replace 172.16.20.10 lladdr 02:00:00:00:99:99 dev enp0s8.200 nud permanent",
            undo: "ip neigh del 172.16.20.10 dev enp0s8.200"),
        Change(make: "ip neigh del 172.16.20.10 dev enp0s8.200", undo: "true", arrives: true),
    ]

    /// Whatever ends the workers' part, or changes a way, does so at once; and it comes back.
    @Test(whereItIsFast) func changesHoldAtOnce() throws {
        let site = try Site()
        try site.upFast()
        for change in Self.changes {
            try site.expectSoon(change, to: "172.16.20.10")
            try site.waitForWorkers()
        }
    }

    @Test(whereItIsFast) func aRouteThroughARouterInAVLAN() throws {
        let site = try Site()
        try site.upFast()
        try site.host(200).sh("ip address add 10.50.0.1/32 dev lo")
        // Where there is no route, there is nobody to send to.
        try site.router.sh("ip route add 10.50.0.0/16 via 172.16.30.10")
        let route = Change(make: "ip route replace 10.50.0.0/16 via 172.16.20.10", undo: "true", arrives: true)
        try site.expectSoon(route, to: "10.50.0.1")
        var byWorkers = 0
        for _ in 0..<20 where byWorkers != 20 {
            let before = try site.router.forwarded()
            #expect(try site.host(100).run(["ping", "-c", "10", "-i", "0.01", "10.50.0.1"]).status == 0)
            byWorkers = try site.router.forwarded() - before
        }
        #expect(byWorkers == 20, "requests and answers")
        for way in ["replace 10.50.0.0/16 via 172.16.30.10", "add blackhole 10.50.0.0/24", "del 10.50.0.0/16"] {
            try site.expectSoon(Change(make: "ip route \(way)", undo: "true"), to: "10.50.0.1")
            try site.router.sh("ip route flush 10.50.0.0/24; ip route replace 10.50.0.0/16 via 172.16.20.10")
            _ = try site.ping(site.host(100), "10.50.0.1")
        }
    }

    /// Several ways of equal cost: what goes from one address to another has one of them, and all are used.
    @Test func equalCostPaths() throws {
        let site = try Site()
        try site.upFast()
        let other = try site.addHost(200, "172.16.20.11")
        for host in [site.host(200), other] { try host.sh("ip route add local 10.50.0.0/24 dev lo") }
        _ = try site.ping(site.host(100), "172.16.20.11")
        try site.router.sh("ip route add 10.50.0.0/24 nexthop via 172.16.20.10 nexthop via 172.16.20.11")
        ThisProcess.sleep(milliseconds: isEmulated ? 500 : 100)
        var told = ""
        try site.workersForward(atLeast: 700) {
            told = try site.converse(
                """
                servers = [end(host, "", socket.SOCK_DGRAM, 8000) for host in ("200", "other")]
                for number in range(1, 41):
                    counts = [0, 0]
                    for port in range(20):
                        client = end("100", "", socket.SOCK_DGRAM)
                        client.connect((f"10.50.0.{number}", 8000))
                        client.send(b"which?")
                        ready = select.select(servers, [], [], 5 * slowness)[0]
                        counts[servers.index(ready[0])] += 1
                        ready[0].recvfrom(100)
                    print(*counts)
                """, others: ["other": other])
        }
        let flows = told.split(separator: "\n")
        let (first, second) = (flows.filter { $0 == "20 0" }.count, flows.filter { $0 == "0 20" }.count)
        // The kernel, which has a packet now and then, may choose the other way for it.
        #expect(first > 8 && second > 8 && first + second > 36, "\(told)")
    }

    /// An address moves to another host, which says so to everybody: as a pair of servers does when one of them dies.
    @Test(whereItIsFast) func anAddressThatMoves() throws {
        let site = try Site()
        try site.upFast()
        let standby = try site.addHost(200, "172.16.20.11")
        let router = site.router
        func expectAtStandby(_ arrives: Bool, _ move: () throws -> Void) throws {
            // The machine may be busy once, not three times.
            var reports: [NumberedPackets.Report] = []
            for _ in 0..<3 {
                try standby.sh("ip address del 172.16.20.50/24 dev enp0s8.200 2>/dev/null || true")
                try site.host(200).sh("ip address replace 172.16.20.50/24 dev enp0s8.200")
                try site.host(200).sh("arping -q -U -c 1 -I enp0s8.200 172.16.20.50")
                _ = try site.ping(site.host(100), "172.16.20.50")
                let before = try (router.forwarded(), router.forwardedByKernel())
                let stream = try NumberedPackets(from: site.host(100), to: standby, "172.16.20.50")
                ThisProcess.sleep(milliseconds: isEmulated ? 300 : 100)
                try move()
                ThisProcess.sleep(milliseconds: isEmulated ? 300 : 50)
                stream.mark()
                ThisProcess.sleep(milliseconds: isEmulated ? 300 : 100)
                let report = try stream.report()
                let after = try (router.forwarded(), router.forwardedByKernel())
                let (workers, kernel) = (after.0 - before.0, after.1 - before.1)
                #expect(report.phases[0].lost > 0 && report.phases[1].sent > 10, "\(report)")
                #expect(report.twice == 0 && workers > 10 * kernel, "\(workers) by workers, \(kernel) by the kernel")
                if report.phases[1].lost == (arrives ? 0 : report.phases[1].sent) { return }
                reports.append(report)
            }
            Issue.record("\(reports)")
        }
        let take = "ip address replace 172.16.20.50/24 dev enp0s8.200"
        try expectAtStandby(true) {
            try site.host(200).sh("ip address del 172.16.20.50/24 dev enp0s8.200")
            try standby.sh("\(take); arping -q -U -c 1 -I enp0s8.200 172.16.20.50")
        }
        // Nobody who is silent gets anything: it is by what it says that the other one does.
        if !isEmulated { try expectAtStandby(false) { try standby.sh(take) } }
    }

    /// BIRD tells the kernel of a route, the kernel tells the workers.
    @Test(whereItIsFast) func aRoutingDaemon() throws {
        let site = try Site()
        try site.upFast()
        try site.host(200).sh("ip address add 10.60.0.1/32 dev lo")
        let files = "/run/\(site.router.name).bird"
        try site.router.sh(
            """
            cat >\(files).conf <<-'END'
                router id 172.16.10.1;
                protocol device {}
                protocol kernel { ipv4 { export all; }; }
                protocol static hosts { disabled; ipv4; route 10.60.0.0/24 via 172.16.20.10; }
            END
            """)
        let daemon = try site.router.start(
            ["bird", "-f", "-c", "\(files).conf", "-s", "\(files).ctl", "-P", "\(files).pid"])
        defer {
            daemon.signal(SignalNumber.kill)
            _ = daemon.wait()
            _ = try? site.router.sh("rm -f \(files).*")
        }
        for _ in 0..<200 where try site.router.run(["birdc", "-s", "\(files).ctl", "show", "status"]).status != 0 {
            ThisProcess.sleep(milliseconds: 20)
        }
        let (enable, disable) = ("birdc -s \(files).ctl enable hosts", "birdc -s \(files).ctl disable hosts")
        for _ in 0..<(isEmulated ? 1 : 3) {
            let before = try (site.router.forwarded(), site.router.forwardedByKernel())
            try site.expectSoon(Change(make: enable, undo: "true", arrives: true), to: "10.60.0.1")
            let after = try (site.router.forwarded(), site.router.forwardedByKernel())
            let (workers, kernel) = (after.0 - before.0, after.1 - before.1)
            #expect(workers > kernel, "\(workers) by workers, \(kernel) by the kernel")
            #expect(try site.router.sh("ip route show 10.60.0.0/24").contains("proto bird"))
            try site.expectSoon(Change(make: disable, undo: enable), to: "10.60.0.1")
            try site.router.sh(disable)
        }
    }
}
