import Kernel
import TestSupport
import Testing

/// Each test makes every step of a change fail, or ends vrouter at it, and compares the whole host before and after.
@Suite struct FaultTests {
    static let first = "--vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"
    /// Drops VLAN 200 and gives its address to VLAN 300, changes the address of VLAN 100, begins with IPv6.
    static let second = "--vlan 100=172.16.10.254/24 --vlan 300=172.16.20.1/24,fd00:30::1/64"

    /// Every moment at which a change can be cut short: before each step, which is after the one before it, and after the last.
    private func moments(_ host: TestHost, _ arguments: String) throws -> [String] {
        let dry = try host.vrouter("\(arguments) --dry-run --json")
        let count = dry.output.matches(of: #/"summary" :/#).count
        // Fewer would mean that nothing is tested here.
        try #require(count >= 3, "\(dry)")
        return (0..<count).map { "\($0):before" } + ["\(count - 1):after"]
    }

    @Test func aFailedUpPutsEverythingBack() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        for moment in try moments(host, "up --parent enp0s8 \(Self.first)") {
            let up = try host.vrouter(
                "up --parent enp0s8 \(Self.first)", environment: ["VROUTER_FAULT": "fail:\(moment)"])
            #expect(up.status == 70 && up.errors.contains("was made to fail"), "\(up)")
            try requireUnchanged(host, since: before, "step \(moment)")
            #expect(try host.vrouter("status").status == 3)
        }
    }

    @Test func aFailedChangePutsTheFormerSetBack() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let before = try host.vlanSnapshot()
        for moment in try moments(host, "up \(Self.second)") {
            let up = try host.vrouter("up \(Self.second)", environment: ["VROUTER_FAULT": "fail:\(moment)"])
            #expect(up.status == 70, "\(up)")
            let status = try host.vrouter("status")
            #expect(status.status == 0, "step \(moment): \(status)")
            let changes = differences(before, try host.vlanSnapshot())
            try #require(changes.isEmpty, "step \(moment): \(changes.joined(separator: "\n"))")
            let again = try host.vrouter("up \(Self.first)")
            #expect(again.output.hasPrefix("nothing to do\n"), "step \(moment): \(again)")
        }
    }

    @Test func aKilledUpIsFinishedByUpAndTakenBackByDown() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        for moment in try moments(host, "up --parent enp0s8 \(Self.first)") {
            for recovery in ["up", "down"] {
                let killed = try host.vrouter(
                    "up --parent enp0s8 \(Self.first)", environment: ["VROUTER_FAULT": "kill:\(moment)"])
                #expect(killed.status == 128 + 9, "\(killed)")
                if recovery == "up" {
                    let up = try host.vrouter("up --parent enp0s8 \(Self.first)")
                    #expect(up.status == 0, "step \(moment): \(up)")
                    let status = try host.vrouter("status")
                    #expect(status.status == 0, "step \(moment): \(status)")
                }
                let down = try host.vrouter("down")
                #expect(down.status == 0, "step \(moment): \(down)")
                try requireUnchanged(host, since: before, "step \(moment), then \(recovery)")
            }
        }
    }

    @Test func aKilledChangeIsFinishedByUpAndTakenBackByDown() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let moments = try moments(host, "up \(Self.second)")
        let recoveries = [Self.first, Self.second, "down"]
        for (number, moment) in moments.enumerated() {
            // Emulated, all of them would take minutes: there, each moment has one of them in turn.
            for recovery in isEmulated ? [recoveries[number % recoveries.count]] : recoveries {
                #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
                let killed = try host.vrouter("up \(Self.second)", environment: ["VROUTER_FAULT": "kill:\(moment)"])
                #expect(killed.status == 128 + 9, "\(killed)")
                if recovery != "down" {
                    let up = try host.vrouter("up \(recovery)")
                    #expect(up.status == 0, "step \(moment), then up \(recovery): \(up)")
                    let status = try host.vrouter("status")
                    #expect(status.status == 0, "step \(moment), then up \(recovery): \(status)")
                    #expect(
                        try host.sh("ip -br link").contains("enp0s8.200") == (recovery == Self.first),
                        "step \(moment), then up \(recovery)")
                }
                #expect(try host.vrouter("down").status == 0)
                try requireUnchanged(host, since: before, "step \(moment), then \(recovery)")
            }
        }
    }

    @Test func aKilledDownIsFinishedByDown() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        for moment in try moments(host, "down") {
            #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
            let killed = try host.vrouter("down", environment: ["VROUTER_FAULT": "kill:\(moment)"])
            #expect(killed.status == 128 + 9, "\(killed)")
            #expect(try host.vrouter("down").status == 0)
            try requireUnchanged(host, since: before, "step \(moment)")
        }
    }

    /// What worked before a change that was cut short works after the next one that fails.
    @Test func aFailureBehindAnInterruptionGoesBackToWhatWasApplied() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let before = try host.vlanSnapshot()
        let moments = try moments(host, "up \(Self.second)")
        let killed = try host.vrouter(
            "up \(Self.second)", environment: ["VROUTER_FAULT": "kill:\(moments[moments.count / 2])"])
        #expect(killed.status == 128 + 9)
        let failed = try host.vrouter("up \(Self.second)", environment: ["VROUTER_FAULT": "fail:1:before"])
        #expect(failed.status == 70, "\(failed)")
        let changes = differences(before, try host.vlanSnapshot())
        try #require(changes.isEmpty, "\(changes.joined(separator: "\n"))")
        #expect(try host.vrouter("status").status == 0)
    }

    @Test func aSignalUndoesWhatWasDone() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let up = try host.start(
            [Product.withFaults, "up", "--parent", "enp0s8"] + Self.first.split(separator: " ").map(String.init),
            environment: ["VROUTER_FAULT": "stop:2:before"])
        try waitUntilStopped(up, host)
        up.signal(SignalNumber.terminate)
        up.signal(SignalNumber.resume)
        let result = up.wait()
        #expect(result.status == 130 && result.errors.contains("interrupted by signal 15"), "\(result)")
        try requireUnchanged(host, since: before)
    }

    private func waitUntilStopped(_ process: ChildProcess, _ host: TestHost) throws {
        for _ in 0..<200 where try host.sh("cut -d' ' -f3 /proc/\(process.processIdentifier)/stat") != "T\n" {
            ThisProcess.sleep(milliseconds: 50)
        }
    }

    @Test func twoAtOnceWaitForEachOther() throws {
        let host = try TestHost()
        let racers = try (0..<6).map { number in
            try host.start([
                Product.path, "up", "--parent", "enp0s8", "--vlan", "\(100 + number % 2)=172.16.10.1/24",
            ])
        }
        for racer in racers {
            let result = racer.wait()
            #expect(result.status == 0, "\(result)")
        }
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func theSecondSaysWhoHoldsTheLock() throws {
        let host = try TestHost()
        // Stopped while it holds the lock.
        let first = try host.start(
            [Product.withFaults, "up", "--parent", "enp0s8", "--vlan", "100=172.16.10.1/24"],
            environment: ["VROUTER_FAULT": "stop:0:before"])
        try waitUntilStopped(first, host)
        let waiting = try host.start([Product.path, "down"])
        ThisProcess.sleep(milliseconds: 1500)
        first.signal(SignalNumber.resume)
        #expect(first.wait().status == 0)
        let result = waiting.wait()
        #expect(result.status == 0)
        #expect(result.errors.contains("waiting for process \(first.processIdentifier) ("), "\(result)")
    }
}
