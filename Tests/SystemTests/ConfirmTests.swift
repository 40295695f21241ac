import Kernel
import TestSupport
import Testing

/// `up --confirm`: what nobody confirms goes back by itself, whatever has become of whoever made the change.
@Suite struct ConfirmTests {
    private static let first = "--vlan 100=172.16.10.1/24 --masquerade none"
    private static let second = "--vlan 100=172.16.10.254/24 --vlan 200=172.16.20.1/24 --masquerade none"

    private func addresses(_ host: TestHost) throws -> String { try host.sh("ip -4 -o address") }

    private func isDown(_ host: TestHost) throws -> Bool { try host.vrouter("status").status == 3 }

    @Test(whereItIsFast) func whatIsNotConfirmedGoesBackToNothing() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let up = try host.vrouter("up --parent enp0s8 \(Self.first) --confirm 1")
        #expect(
            up.status == 0
                && up.output.contains("all goes back to nothing being set up, unless you run: vrouter confirm"), "\(up)"
        )
        try eventually("still up") { try isDown(host) }
        try eventually("a process is left") { try !host.snapshot().contains { $0.contains("vrouter revert") } }
        try requireUnchanged(host, since: before)
    }

    @Test(whereItIsFast) func whatIsConfirmedStays() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        #expect(try host.vrouter("confirm").status == 1, "nothing is there to confirm")
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first) --confirm 300").status == 0)
        let waiting = try host.vrouter("status")
        #expect(waiting.status == 0 && waiting.output.contains("unconfirmed: at "), "\(waiting)")
        let json = try host.vrouter("status --json").output
        #expect(json.contains("\"unconfirmed\" : {") && json.contains("\"seconds\" : "), "\(json)")
        #expect(try host.vrouter("confirm").output == "confirmed: the change stays\n")
        let status = try host.vrouter("status")
        #expect(status.status == 0 && !status.output.contains("unconfirmed"), "\(status)")
        let again = try host.vrouter("confirm")
        #expect(again.status == 1 && again.errors == "vrouter: nothing waits to be confirmed\n", "\(again)")
        #expect(try !host.snapshot().contains { $0.contains("vrouter revert") }, "it need not wait any more")
        // What changes nothing needs no confirmation.
        let same = try host.vrouter("up \(Self.first) --confirm 1")
        #expect(same.output == "nothing to do\n", "\(same)")
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: before)
    }

    /// However many changes came after it.
    @Test(whereItIsFast) func aChangeGoesBackToWhatWasConfirmedLast() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let before = try host.vlanSnapshot()
        #expect(try host.vrouter("up \(Self.second) --confirm 300").status == 0)
        let third = try host.vrouter("up \(Self.second) --deny 100:200")
        #expect(third.output.contains("all goes back to the VLAN 100 as they were"), "\(third)")
        let fourth = try host.vrouter("up \(Self.second) --deny 200:100 --confirm 1")
        #expect(fourth.status == 0, "\(fourth)")
        try eventually("not taken back") { try addresses(host).contains("172.16.10.1/24") }
        try eventually("a process is left") { try host.vlanSnapshot() == before }
        let status = try host.vrouter("status")
        #expect(status.status == 0 && !status.output.contains("unconfirmed"), "\(status)")
        // The way back by hand.
        #expect(try host.vrouter("up \(Self.second) --confirm 300").status == 0)
        #expect(try host.vrouter("up \(Self.first)").status == 0)
        #expect(try host.vrouter("confirm").status == 1, "what is confirmed already is not waited for")
        #expect(try host.vlanSnapshot() == before)
        // And by taking everything down.
        #expect(try host.vrouter("up \(Self.second) --confirm 300").status == 0)
        #expect(try host.vrouter("down").status == 0)
        #expect(try !host.snapshot().contains { $0.contains("vrouter revert") })
    }

    /// A connection that breaks ends its shell and everything of its session.
    @Test func itSurvivesTheTerminal() throws {
        let host = try TestHost()
        let session = try host.run([
            "setsid", "--wait", "sh", "-c",
            "\(Product.path) up --parent enp0s8 \(Self.first) --confirm 2 >/dev/null; kill -HUP 0; kill -KILL 0",
        ])
        #expect(session.status != 0, "the session was to be killed: \(session)")
        #expect(try !isDown(host), "it was up")
        try eventually("still up") { try isDown(host) }
    }

    @Test(whereItIsFast, arguments: ["kill", "stop"]) func aChangeThatEndsOrHangsHalfWayGoesBack(_ fault: String) throws
    {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        let before = try host.vlanSnapshot()
        let up = try host.start(
            [Product.withFaults, "up", "--confirm", "1"] + Self.second.split(separator: " ").map(String.init),
            environment: ["VROUTER_FAULT": "\(fault):2:after"])
        try eventually("half-way") {
            try addresses(host).contains("172.16.10.254/24") || !addresses(host).contains(".10.1/")
                || host.vrouter("status").output.contains("cut short")
        }
        try eventually("not taken back", within: 20) { try host.vlanSnapshot() == before }
        #expect(up.wait().status == 128 + 9)
        #expect(try host.vrouter("status").status == 0)
    }

    @Test(whereItIsFast) func whoKillsTheProcessIsTold() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.first)").status == 0)
        func forget() throws {
            #expect(try host.vrouter("up \(Self.second) --confirm 1").status == 0)
            let json = try host.vrouter("status --json").output
            let process = try #require(json.firstMatch(of: #/"process" : (\d+)/#)?.1)
            try host.sh("kill -9 \(process)")
            try eventually("not over") {
                try host.vrouter("status").output.contains("the time for `vrouter confirm` is over")
            }
            #expect(try host.vrouter("status").status == 1)
        }
        try forget()
        #expect(try host.vrouter("confirm").status == 0)
        #expect(try host.vrouter("up \(Self.first)").status == 0)
        try forget()
        #expect(try host.vrouter("up \(Self.second) --deny 100:200").status == 0)
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("confirm").status == 1)
        #expect(try host.vrouter("down").status == 0)
        #expect(try isDown(host))
    }

    @Test(whereItIsFast, arguments: ["0", "3601"]) func aTimeThatIsNone(_ seconds: String) throws {
        let host = try TestHost()
        let up = try host.vrouter("up --parent enp0s8 \(Self.first) --confirm \(seconds)")
        #expect(up.status == 64 && up.errors.contains("give 1 to 3600 seconds"), "\(up)")
        #expect(try isDown(host))
    }
}
