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
        let doctor = try host.run(
            [Product.path, "doctor", "-f", "-"],
            input: "parent: enp0s8\nvlans: {100: 172.16.10.1/24}\nflowtable: on\n")
        #expect(doctor.status == 1 && doctor.output.contains("✗ flowtable: the kernel has no flow tables"), "\(doctor)")
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
    @Test(.enabled(if: kernelHasThem, "this kernel has no flow tables"))
    func connectionsPassTheRulesUntilTheyAreEstablished() throws {
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
        let server = try hosts[1].start(["iperf3", "-s"])
        defer { server.signal(SignalNumber.kill) }
        try eventually("no server") { try hosts[1].sh("ss -Hltn sport = 5201").contains("5201") }
        func isOffloaded() throws -> Bool {
            try router.sh("conntrack -L -p tcp --orig-port-dst 5201 2>/dev/null").contains("[OFFLOAD]")
        }
        /// How many packets the rule has seen that offloads them.
        func counted() throws -> Int {
            let line = try router.sh("nft list chain inet vrouter decide").split(separator: "\n").first {
                $0.contains("flow add")
            }
            return line.flatMap { $0.firstMatch(of: #/packets (\d+)/#) }.flatMap { Int($0.1) } ?? -1
        }
        /// In octets, by the connection that carries most.
        func arrived() throws -> Int {
            let line = try hosts[1].sh(
                "ss -Hnti sport = 5201 | grep -o 'bytes_received:[0-9]*' | sort -t: -k2 -n | tail -n 1")
            return line.firstMatch(of: #/:(\d+)/#).flatMap { Int($0.1) } ?? 0
        }
        func start() throws -> ChildProcess {
            let client = try hosts[0].start(["iperf3", "-c", "172.16.20.10", "-t", "60", "-b", "2M", "-l", "8000"])
            try eventually("not offloaded") { try isOffloaded() && arrived() > 0 }
            let (seen, octets) = try (counted(), arrived())
            try eventually("nothing arrives") { try arrived() > octets + 200_000 }
            let later = try counted()
            #expect(seen > 0 && later < seen + 20, "rules do not see its packets: \(seen), \(later)")
            return client
        }

        let ebpf = try router.vrouter("\(Self.up) --vlan-driver ebpf --flowtable on")
        #expect(ebpf.status == 0, "\(ebpf)")
        try start().signal(SignalNumber.kill)
        #expect(try router.vrouter("down").status == 0)
        try requireUnchanged(router, since: before)

        let up = "\(Self.up) --flowtable auto"
        #expect(try router.vrouter(up).status == 0)
        let client = try start()
        defer { client.signal(SignalNumber.kill) }
        let flows = try router.vrouter("flows --json")
        #expect(flows.output.contains("\"forwardedBy\" : \"flowtable\""), "\(flows)")
        #expect(try hosts[1].sh("ss -Htn sport = 5201").contains("172.16.20.1]:"), "it comes from the gateway")
        // A change makes the table anew: they fall back, and are taken again.
        #expect(try router.vrouter("\(up) --vlan 300=172.16.30.1/24").status == 0)
        let octets = try arrived()
        try eventually("not offloaded again") { try isOffloaded() && arrived() > octets + 100_000 }
        // What is denied ends, also where no rule sees it.
        let deny = try router.vrouter("\(up) --vlan 300=172.16.30.1/24 --deny 100:200")
        #expect(deny.output.contains("no longer allowed ended\n"), "\(deny)")
        let last = try arrived()
        ThisProcess.sleep(milliseconds: 1000)
        #expect(try arrived() == last && !isOffloaded())
        let again = try router.vrouter("\(up) --vlan 300=172.16.30.1/24 --deny 100:200")
        #expect(again.output.hasPrefix("nothing to do\n"), "\(again)")
        #expect(try router.vrouter("status").output.contains("flow table: takes established connections\n"))
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
