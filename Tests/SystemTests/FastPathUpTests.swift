import Kernel
import TestSupport
import Testing

//  host ┬ enp0s8 ──── cable   (one namespace; nobody answers)
//       ├ enp0s8.100
//       ├ enp0s8.200
//       └ vrouter forward
//
/// How the fast path comes and goes with `up` and `down`.
@Suite struct FastPathUpTests {
    private static let fast = "--masquerade none --fast-path af-packet"
    private static let first = "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24 \(fast)"
    private static let second = "--vlan 100=172.16.10.254/24 --vlan 300=172.16.20.1/24,fd00:30::1/64 \(fast)"

    @Test func downLeavesTheHostAsUpFoundIt() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        for isKilled in [false, true] {
            let up = try host.vrouter("up --parent enp0s8 \(Self.first)")
            #expect(up.status == 0, "\(up)")
            #expect(try host.vrouter("status").status == 0)
            if isKilled { try host.sh("kill -9 \(host.forwarder())") }
            let down = try host.vrouter("down")
            #expect(down.status == 0, "\(down)")
            try requireUnchanged(host, since: before, isKilled ? "after kill -9" : "")
        }
    }

    @Test func upMakesWhatIsWantedAndNoMore() throws {
        let host = try TestHost()
        let untouched = try host.snapshot()
        let dry = try host.vrouter("up --dry-run --parent enp0s8 \(Self.first)")
        #expect(dry.status == 0 && dry.output.contains("vrouter forward &"), "\(dry)")
        try requireUnchanged(host, since: untouched, "--dry-run")

        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let process = try host.forwarder()
        let before = try host.snapshot()
        let again = try host.vrouter("up \(Self.first)")
        #expect(again.status == 0 && again.output.hasPrefix("nothing to do\n"), "\(again)")
        try requireUnchanged(host, since: before, "up again")
        #expect(try host.forwarder() == process)

        let changed = try host.vrouter("up \(Self.second)")
        #expect(changed.status == 0, "\(changed)")
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.fastPath()?.process != nil)
        let more = try host.vrouter("up \(Self.second) --workers 3")
        #expect(more.status == 0, "\(more)")
        #expect(try host.fastPath()?.workers.count == 3)

        let without = try host.vrouter("up \(Self.second.replacing(" --fast-path af-packet", with: ""))")
        #expect(without.status == 0, "\(without)")
        #expect(try host.fastPath() == nil)
        let rules = try host.sh("nft list table inet vrouter")
        #expect(!rules.contains("notrack"), "\(rules)")
        let left = try host.snapshot().filter { $0.contains("frame_taken") || $0.contains("vrouter forward") }
        #expect(left.isEmpty, "\(left)")
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: untouched, "down")
    }

    /// Every moment at which a change can be cut short.
    private func moments(_ host: TestHost, _ arguments: String) throws -> [String] {
        let dry = try host.vrouter("\(arguments) --dry-run --json")
        let count = dry.output.matches(of: #/"summary" :/#).count
        try #require(count >= 2 && dry.output.contains("vrouter forward &"), "\(dry)")
        return (0..<count).map { "\($0):before" } + ["\(count - 1):after"]
    }

    @Test(whereItIsFast) func aFailedUpPutsEverythingBack() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        for moment in try moments(host, "up --parent enp0s8 \(Self.first)") {
            let up = try host.vrouter(
                "up --parent enp0s8 \(Self.first)", environment: ["VROUTER_FAULT": "fail:\(moment)"])
            #expect(up.status == 70 && up.errors.contains("was made to fail"), "\(up)")
            try requireUnchanged(host, since: before, "step \(moment)")
        }
    }

    @Test(whereItIsFast) func aKilledUpIsFinishedByUpAndTakenBackByDown() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let recoveries = ["up", "down"]
        for (number, moment) in try moments(host, "up --parent enp0s8 \(Self.first)").enumerated() {
            for recovery in isEmulated ? [recoveries[number % 2]] : recoveries {
                let killed = try host.vrouter(
                    "up --parent enp0s8 \(Self.first)", environment: ["VROUTER_FAULT": "kill:\(moment)"])
                #expect(killed.status == 128 + 9, "\(killed)")
                if recovery == "up" {
                    let up = try host.vrouter("up \(Self.first)")
                    #expect(up.status == 0, "step \(moment): \(up)")
                    let status = try host.vrouter("status")
                    #expect(status.status == 0, "step \(moment): \(status)")
                    #expect(try host.fastPath()?.process != nil, "step \(moment)")
                }
                #expect(try host.vrouter("down").status == 0)
                try requireUnchanged(host, since: before, "step \(moment), then \(recovery)")
            }
        }
    }

    /// From a set without the fast path to another one with it: the former set works after a failure, and has none.
    @Test func aFailedChangePutsTheFormerSetBack() throws {
        let host = try TestHost()
        let plain = Self.first.replacing(" --fast-path af-packet", with: "")
        for (from, to) in [(plain, Self.first), (Self.first, Self.second)] {
            #expect(try host.vrouter("up --parent enp0s8 \(from)").status == 0)
            let all = try moments(host, "up \(to)")
            for moment in isEmulated ? [all[all.count / 2], all[all.count - 1]] : all {
                let up = try host.vrouter("up \(to)", environment: ["VROUTER_FAULT": "fail:\(moment)"])
                #expect(up.status == 70, "\(up)")
                let status = try host.vrouter("status")
                #expect(status.status == 0, "step \(moment): \(status)")
                #expect((try host.fastPath()?.process != nil) == (from != plain), "step \(moment)")
                let again = try host.vrouter("up \(from)")
                #expect(again.output.hasPrefix("nothing to do\n"), "step \(moment): \(again)")
            }
        }
    }

    @Test func inTheForeground() throws {
        let host = try TestHost()
        let early = try host.vrouter("forward")
        #expect(early.status == 64 && early.errors.contains("remedy:"), "\(early)")
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let second = try host.vrouter("forward")
        #expect(second.status == 75 && second.errors.contains("another vrouter forward"), "\(second)")
        let detached = try host.forwarder()
        try host.sh("kill \(detached)")
        for _ in 0..<200 {
            if try host.fastPath()?.process == nil { break }
            ThisProcess.sleep(milliseconds: 20)
        }

        // A service manager that listens.
        let path = "/run/\(host.name).notify"
        let manager = try host.start(
            [
                "python3", "-c",
                """
                import socket, sys
                manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                manager.bind(sys.argv[1])
                print("bound", flush=True)
                print(manager.recv(4096).decode(), flush=True)
                """, path,
            ])
        defer { _ = try? host.sh("rm -f \(path)") }
        for _ in 0..<500 where manager.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 10) }
        let service = try host.start([Product.path, "forward"], environment: ["NOTIFY_SOCKET": path])
        let told = manager.wait()
        #expect(told.output.contains("READY=1"), "\(told)")
        #expect(try host.forwarder() == Int(service.processIdentifier))
        #expect(try host.vrouter("forward").status == 75)
        #expect(try host.vrouter("up \(Self.first)").output.hasPrefix("nothing to do\n"))
        service.signal(SignalNumber.terminate)
        let end = service.wait()
        #expect(end.status == 0 || end.status == 128 + 15, "\(end)")
        #expect(try host.fastPath()?.process == nil)
    }

    @Test func withoutTheRightToPacketSockets() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let command = [Product.path, "up", "--parent", "enp0s8"] + Self.first.split(separator: " ").map(String.init)
        let result = try host.run(["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"] + command)
        #expect(result.status == 77 && result.errors.contains("CAP_NET_RAW"), "\(result)")
        try requireUnchanged(host, since: before)
    }

    @Test func aKernelThatCannotDoIt() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let command = [Product.path, "up", "--parent", "enp0s8"] + Self.first.split(separator: " ").map(String.init)
        let result = try host.run(BadInputTests.lacking("bpf", command))
        #expect(result.status == 69 && result.errors.contains("remedy:"), "\(result)")
        if try host.hasVLANDevices { #expect(result.errors.contains("--fast-path af-packet"), "\(result)") }
        try requireUnchanged(host, since: before)
    }
}
