import Kernel
import TestSupport
import Testing

/// The kernel's flow table takes connections that the rules have let through.
@Suite struct FlowtableTests {
    private static let up = "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"

    private static let kernelHasThem: Bool = {
        let answer = try? Namespace.runInNew { () throws(KernelError) in Nftables.flowtableAvailability() }
        return answer == .available
    }()

    @Test(.disabled(if: kernelHasThem, "this kernel has flow tables")) func whereTheKernelHasNone() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let on = try host.vrouter("\(Self.up) --flowtable on")
        #expect(on.status == 69 && on.errors.contains("--flowtable on: this kernel has no flow tables"), "\(on)")
        #expect(on.errors.contains("remedy: --flowtable auto does without"), "\(on)")
        try requireUnchanged(host, since: before)
        #expect(try host.vrouter("\(Self.up) --flowtable auto").status == 0)
        let status = try host.vrouter("status")
        #expect(status.status == 0 && status.output.contains("flow table: this kernel has none\n"), "\(status)")
        #expect(try host.vrouter("\(Self.up) --flowtable auto").output.hasPrefix("nothing to do\n"))
        #expect(try !host.sh("nft list ruleset").contains("flow"))
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: before)
    }

    //  far100 ─ VLAN 100 ┐
    //                    ├ cable ──── enp0s8 ─ router
    //  far200 ─ VLAN 200 ┘
    @Test(.enabled(if: kernelHasThem, "this kernel has no flow tables"), arguments: ["auto", "ebpf"])
    func connectionsPassTheRulesUntilTheyAreEstablished(_ driver: String) throws {
        let router = try TestHost()
        let hosts = try [100, 200].map { id in
            let host = try TestHost(trunk: false)
            try router.sh("ip link add link cable name v\(id) netns \(host.name) type vlan id \(id)")
            try host.sh(
                """
                ip link set lo up; ip address add 172.16.\(id / 10).10/24 dev v\(id); ip link set v\(id) up
                ip route add default via 172.16.\(id / 10).1
                """)
            return host
        }
        let before = try router.snapshot()
        let up = "\(Self.up) --vlan-driver \(driver) --flowtable on"
        let first = try router.vrouter(up)
        #expect(first.status == 0, "\(first)")
        #expect(try router.vrouter(up).output.hasPrefix("nothing to do\n"))
        #expect(try router.vrouter("status").output.contains("flow table: takes established connections\n"))

        let server = try hosts[1].start(["iperf3", "-s", "-1"])
        try eventually("no server") { try hosts[1].sh("ss -Hltn sport = 5201").contains("5201") }
        let client = try hosts[0].start(["iperf3", "-c", "172.16.20.10", "-t", "8", "-b", "2M", "-l", "8000", "-J"])
        func isOffloaded() throws -> Bool {
            try router.sh("conntrack -L -p tcp --orig-port-dst 5201 2>/dev/null").contains("[OFFLOAD]")
        }
        try eventually("not offloaded") { try isOffloaded() }
        let flows = try router.vrouter("flows --json")
        #expect(flows.output.contains("\"forwardedBy\" : \"flowtable\""), "\(flows)")
        // What is offloaded passes no rule; that it is translated is how it got there, and stays.
        func counted() throws -> Int {
            let line = try router.sh("nft list chain inet vrouter decide").split(separator: "\n").first {
                $0.contains("flow add")
            }
            return line.flatMap { $0.firstMatch(of: #/packets (\d+)/#) }.flatMap { Int($0.1) } ?? -1
        }
        let seen = try counted()
        ThisProcess.sleep(milliseconds: 1000)
        let later = try counted()
        #expect(seen > 0 && later < seen + 20, "rules do not see its packets: \(seen), \(later)")
        #expect(try hosts[1].sh("ss -Htn sport = 5201").contains("172.16.20.1:"), "it comes from the gateway")

        // A change makes the table anew: they fall back, and are taken again.
        let change = try router.vrouter("\(up) --vlan 300=172.16.30.1/24 --deny 300:100")
        #expect(change.status == 0, "\(change)")
        try eventually("not offloaded again") { try isOffloaded() }
        let result = client.wait()
        _ = server.wait()
        let received =
            result.output.firstMatch(of: #/"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/#).flatMap { Int($0.1) } ?? 0
        #expect(result.status == 0 && received > 1_500_000, "\(result)")

        // Without its interface, the flow table is not what it was.
        try router.sh("ip link del enp0s8.300")
        let drift = try router.vrouter("status")
        #expect(
            drift.status == 1 && drift.output.contains("drift: the table inet vrouter is not as it was committed\n"),
            "\(drift)")
        #expect(try router.vrouter("\(up) --vlan 300=172.16.30.1/24 --deny 300:100").status == 0)
        #expect(try router.vrouter("status").status == 0)
        #expect(try router.vrouter("down").status == 0)
        try requireUnchanged(router, since: before)
    }

    @Test(whereItIsFast) func notTogetherWithTheFastPath() throws {
        let host = try TestHost()
        for setting in ["auto", "on"] {
            let up = try host.vrouter("\(Self.up) --fast-path af-packet --flowtable \(setting)")
            #expect(
                up.status == 64 && up.errors.contains("--flowtable \(setting): there is a fast path as well"), "\(up)")
        }
    }
}
