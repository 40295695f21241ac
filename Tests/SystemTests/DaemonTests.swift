import Kernel
import TestSupport
import Testing

/// Waits for something to become true; a machine that is emulated gets longer.
func eventually(
    _ comment: @autoclosure () -> Comment, within seconds: Int = 15, sourceLocation: SourceLocation = #_sourceLocation,
    _ holds: () throws -> Bool
) throws {
    let deadline = ContinuousClock.now + .seconds(isEmulated ? 4 * seconds : seconds)
    repeat {
        if try holds() { return }
        ThisProcess.sleep(milliseconds: 50)
    } while ContinuousClock.now < deadline
    Issue.record(comment(), sourceLocation: sourceLocation)
}

/// A `vrouter run`, and what it tells its manager.
final class Service {
    let host: TestHost
    private let path: String
    private let process: ChildProcess
    private let manager: ChildProcess
    private var hasEnded = false

    /// Returns once it is ready.
    ///
    /// - Parameter wrapper: a command that runs it.
    init(
        _ host: TestHost, _ options: String, under wrapper: String = "",
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        self.host = host
        let path = "/run/\(host.name).notify-\(UInt32.random(in: 0 ... .max))"
        self.path = path
        let manager = try host.start([
            "python3", "-uc",
            """
            import os, socket, sys
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1]); print('listens')
            while True: print(s.recv(4096).decode())
            """, path,
        ])
        try eventually("no manager") { manager.outputSoFar.contains("listens") }
        let process = try host.start(
            ["sh", "-c", "exec \(wrapper) \(Product.path) run \(options) 2>&1"],
            environment: ["NOTIFY_SOCKET": path, "JOURNAL_STREAM": "1:2"])
        try eventually("not ready: \(process.outputSoFar)", sourceLocation: sourceLocation) {
            manager.outputSoFar.contains("READY=1")
        }
        self.manager = manager
        self.process = process
    }

    deinit {
        _ = try? SmallFile.delete(path)
        manager.signal(SignalNumber.kill)
        _ = manager.wait()
        if !hasEnded {
            process.signal(SignalNumber.kill)
            _ = process.wait()
        }
    }

    var log: String { process.outputSoFar }
    var told: String { manager.outputSoFar }
    var identifier: Int32 { process.processIdentifier }

    func signal(_ name: String) throws { try host.sh("kill -\(name) \(identifier)") }

    /// Its exit status.
    func end(_ name: String = "TERM") throws -> Int32 {
        try signal(name)
        hasEnded = true
        return process.wait().status
    }

    /// Waits for a line that was not there `since`.
    func logs(
        _ words: String, since: String = "", within seconds: Int = 15,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try eventually("no '\(words)' in \(log)", within: seconds, sourceLocation: sourceLocation) {
            log.dropFirst(since.count).contains(words)
        }
    }
}

/// `vrouter run` keeps the host as it set it up, whatever others do to it.
@Suite struct DaemonTests {
    private static let vlans = "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24 --masquerade none"

    private func waitForSoundness(
        _ host: TestHost, _ what: String, within seconds: Int = 15,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        var status = try host.vrouter("status")
        try eventually("\(what): \(status)", within: seconds, sourceLocation: sourceLocation) {
            status = try host.vrouter("status")
            return status.status == 0
        }
    }

    @Test func whatKeepsPacketsFromPassingIsSaid() throws {
        let host = try TestHost()
        try host.sh("nft 'table ip other { chain forward { type filter hook forward priority 0; policy drop; }; }'")
        let service = try Service(host, "--parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24")
        try eventually("\(service.log)") { service.log.contains("the chain ip other forward") }
        #expect(try service.end() == 0)
    }

    /// Each of these is announced: they are put back at once, well before it looks by itself.
    @Test func whatOthersUndoIsPutBack() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let service = try Service(host, "--parent enp0s8 \(Self.vlans)")
        #expect(service.log.hasPrefix("<6>VLANs 100, 200 on enp0s8 set up, with "), "\(service.log)")
        let status = try host.vrouter("status")
        #expect(
            status.status == 0
                && status.output.contains("(process \(service.identifier)) keeps VLANs 100, 200 on enp0s8"), "\(status)"
        )
        let asSetUp = try host.vlanSnapshot()
        let drifts = [
            ("ip link del enp0s8.100", "enp0s8.100 is gone"),
            ("ip address del 172.16.20.1/24 dev enp0s8.200", "enp0s8.200 lacks the address 172.16.20.1/24"),
            ("sysctl -qw net.ipv4.ip_forward=0", "net.ipv4.ip_forward is not 1"),
            ("sysctl -qw net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.all.forwarding is not 1"),
            ("nft flush ruleset", "the table inet vrouter is not as it was committed (nft, process "),
            (
                "nft add rule inet vrouter forward drop",
                "the table inet vrouter is not as it was committed (nft, process "
            ),
            ("ip link set enp0s8.100 down", "enp0s8.100 is down"),
            ("ip link set enp0s8 down", "put back: enp0s8 is down"),
        ]
        for (command, words) in drifts {
            let log = service.log
            // With the last of them, a VLAN device has been down three times.
            #expect(!log.contains("again and again"), "\(log)")
            try host.sh(command)
            try service.logs(words, since: log, within: 5)
            try waitForSoundness(host, command)
        }
        let changes = differences(asSetUp, try host.vlanSnapshot())
        #expect(changes.isEmpty, "\(changes.joined(separator: "\n"))")
        #expect(try service.end() == 0)
        #expect(service.told.contains("STOPPING=1"))
        try requireUnchanged(host, since: before)
    }

    /// Nothing announces these.
    @Test(whereItIsFast) func itLooksByItself() throws {
        let host = try TestHost()
        let service = try Service(
            host, "--parent enp0s8 \(Self.vlans) --vlan-driver ebpf --fast-path af-packet --fast-path-from 0")
        // The filter of the fast path comes with its first look at what is set up.
        func whenFastPathHasFrames() throws -> [String] {
            var snapshot: [String] = []
            try eventually("the fast path gets no frames") {
                snapshot = try host.vlanSnapshot()
                return snapshot.contains { $0.contains("frame_taken") }
            }
            return snapshot
        }
        let asSetUp = try whenFastPathHasFrames()
        let log = service.log
        try host.sh(
            "for process in $(pgrep -f '[v]router (follow|forward)'); do if [ /proc/$process/ns/net -ef /proc/self/ns/net ]; then kill -9 $process; fi; done"
        )
        let programs = try host.programsByID()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            guard let trunk = Link.index(of: "enp0s8") else { return }
            for program in programs where program.text.contains("ingress of enp0s8: vlan_pop") {
                try TCX.detach(program: program.id, linkIndex: trunk, hook: .ingress)
            }
        }
        if programs.isEmpty { try host.sh("tc qdisc del dev enp0s8 clsact") }
        for complaint in [
            "nothing follows the parent's carrier", "the VLAN program is not on enp0s8",
            "the fast path does not forward",
        ] {
            try service.logs(complaint, since: log, within: 30)
        }
        try waitForSoundness(host, "processes and programs")
        let changes = differences(asSetUp, try whenFastPathHasFrames())
        #expect(changes.isEmpty, "\(changes.joined(separator: "\n"))")
        #expect(try service.end() == 0)
    }

    @Test(arguments: ["auto", "ebpf"]) func aTrunkMayComeAndGo(_ driver: String) throws {
        let host = try TestHost(trunk: false)
        func plug() throws { try host.sh("ip link add enp0s8 type veth peer name cable; ip link set cable up") }
        let service = try Service(host, "--parent enp0s8 \(Self.vlans) --vlan-driver \(driver)")
        try service.logs("there is no interface enp0s8: waits for it")
        let waiting = try host.vrouter("status")
        #expect(waiting.status == 3 && waiting.output.contains("waits for enp0s8"), "\(waiting)")
        try plug()
        try service.logs("VLANs 100, 200 on enp0s8 set up")
        try waitForSoundness(host, "plugged")
        for time in 1...2 {
            let log = service.log
            try host.sh("ip link del enp0s8")
            try service.logs("waits for it", since: log)
            let gone = try host.vrouter("status")
            #expect(gone.status == 1 && gone.output.contains("waits for enp0s8"), "\(gone)")
            try plug()
            try service.logs("enp0s8.200 is gone", since: log)
            try waitForSoundness(host, "plugged again, for the \(time). time")
            #expect(try host.sh("ip -4 -o address").contains("172.16.20.1/24"))
        }
        #expect(try service.end() == 0)
        #expect(try host.vrouter("status").status == 3)
    }

    @Test(whereItIsFast) func whatIsDoneByHandIsFollowed() throws {
        let host = try TestHost()
        let service = try Service(host, "--parent enp0s8 \(Self.vlans)")
        #expect(try host.vrouter("up --vlan 300=172.16.30.1/24").status == 0)
        try service.logs("`vrouter up` by hand: keeps VLAN 300 on enp0s8 from now on")
        try host.sh("ip link del enp0s8.300")
        try service.logs("enp0s8.300 is gone")
        try waitForSoundness(host, "of what was set up by hand")
        #expect(try host.vrouter("down").status == 0)
        try service.logs("`vrouter down` by hand: keeps nothing")
        // A look by itself must not bring it back: a reload does.
        let idle = try host.vrouter("status")
        #expect(idle.status == 3 && idle.output.contains("keeps nothing"), "\(idle)")
        try service.signal("HUP")
        try service.logs("reads its configuration again")
        try waitForSoundness(host, "reloaded")
        #expect(try host.sh("ip -4 -o address").contains("172.16.20.1/24"))
        #expect(
            service.told.firstMatch(of: #/RELOADING=1\nMONOTONIC_USEC=\d+\n[^$]*READY=1/#) != nil, "\(service.told)")
        let log = service.log
        #expect(!log.contains("put back: the table"), "its own changes are no drift: \(log)")
        #expect(try service.end("INT") == 0)
    }

    @Test(whereItIsFast) func aBadConfigurationIsNotTaken() throws {
        let host = try TestHost()
        try host.sh(
            "ip link set enp0s8 up; ip link del cable; ip link add enp0s8 type veth peer name cable; ip link set enp0s8 up"
        )
        let service = try Service(host, Self.vlans)
        #expect(try host.vrouter("down").status == 0)
        try service.logs("keeps nothing")
        // Which one the trunk is can no longer be said.
        try host.sh("ip link set cable up; ip link set enp0s8 up")
        try service.signal("HUP")
        try service.logs(
            "<3>the new configuration is not taken, the one before goes on: several interfaces could be the trunk")
        #expect(try host.vrouter("status").status == 3)
        try host.sh("ip link set cable down")
        try service.signal("HUP")
        try service.logs("set up, with", since: service.log)
        #expect(try service.end() == 0)
    }

    /// SIGHUP applies what was written into the file since, and keeps the former configuration where that is broken.
    @Test(whereItIsFast) func theFileIsReadAgain() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let file = TemporaryFile(
            "parent: enp0s8\nvlans: {100: 172.16.10.1/24, 200: 172.16.20.1/24}\nmasquerade: none\n")
        func edit(_ text: String) throws {
            _ = try ChildProcess.run(["tee", file.path], input: "parent: enp0s8\nmasquerade: none\n\(text)")
        }
        let service = try Service(host, "-f \(file.path)")
        let index = try host.sh("ip -o link show dev enp0s8.100 | cut -d: -f1")
        try edit("vlans: {100: 172.16.10.1/24, 300: 172.16.30.1/24}\ndeny: ['300:100']\n")
        try service.signal("HUP")
        try service.logs("VLANs 100, 300 on enp0s8 set up")
        let addresses = try host.sh("ip -4 -o address")
        #expect(addresses.contains("172.16.30.1/24") && !addresses.contains("172.16.20.1/24"), "\(addresses)")
        #expect(try host.sh("nft list table inet vrouter").contains("\"enp0s8.300\" . \"enp0s8.100\" : goto denied"))
        #expect(try host.sh("ip -o link show dev enp0s8.100 | cut -d: -f1") == index, "VLAN 100 was made anew")
        #expect(try host.vrouter("diff -f \(file.path)").status == 0)

        let reloaded = try host.snapshot()
        let mistakes = [
            ("vlans: {100: 172.16.10.1/24\n", "mistake"),
            ("vlans: {100: 172.16.10.0/24}\n", "172.16.10.0 is the address of the subnet"),
            ("vlans: {100: 172.16.10.1/24}\nrouter: yes\n", ":4:1: unknown key 'router'"),
            // Only the host knows what is wrong with this one.
            ("vlans: {100: 172.16.10.1/24}\nroutes: [{to: 10.0.0.0/8, via: 192.0.2.1}]\n", "192.0.2.1"),
        ]
        for (text, words) in mistakes {
            let log = service.log
            try edit(text)
            try service.signal("HUP")
            try service.logs("<3>the new configuration is not taken, the one before goes on: ", since: log)
            try service.logs(words, since: log)
            try requireUnchanged(host, since: reloaded, text)
        }
        #expect(try host.vrouter("status").output.contains("keeps VLANs 100, 300 on enp0s8"))
        // And is still kept.
        try host.sh("ip link del enp0s8.300")
        try service.logs("put back: enp0s8.300 is gone")
        try waitForSoundness(host, "the former configuration")
        #expect(try service.end() == 0)
        try requireUnchanged(host, since: before)
    }

    @Test(whereItIsFast) func itFindsEverythingInPlace() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let bad = try host.vrouter("run --parent enp0s8 --vlan 100=172.16.10.0/24")
        #expect(bad.status == 64, "\(bad)")
        let service = try Service(host, "--parent enp0s8 \(Self.vlans)")
        let second = try host.vrouter("run --parent enp0s8 \(Self.vlans)")
        #expect(second.status == 75 && second.errors.contains("another vrouter run is at work here"), "\(second)")
        let asSetUp = try host.snapshot()
        #expect(try service.end("KILL") == 128 + 9)
        let next = try Service(host, "--parent enp0s8 \(Self.vlans) --keep")
        #expect(next.log == "<6>finds everything in place\n", "\(next.log)")
        #expect(try next.end() == 0)
        #expect(next.log.contains("leaves everything up"))
        let changes = differences(asSetUp, try host.snapshot()).filter { !$0.contains("vrouter run") }
        #expect(changes.isEmpty, "\(changes)")
        let last = try Service(host, "--parent enp0s8 \(Self.vlans)")
        #expect(try last.end() == 0)
        try requireUnchanged(host, since: before)
    }

    /// What somebody else undoes again and again is put back ever more seldom, and what he leaves alone as soon as ever.
    @Test(whereItIsFast) func aFightIsNotFoughtForEver() throws {
        let host = try TestHost()
        let service = try Service(host, "--parent enp0s8 \(Self.vlans)")
        let other = try host.start(
            ["sh", "-c", "while :; do nft delete table inet vrouter 2>/dev/null; sleep 0.05; done"])
        defer {
            other.signal(SignalNumber.kill)
            _ = other.wait()
        }
        try service.logs("<4>somebody undoes it again and again (nft, process ")
        try service.logs("not put back for 2 s")
        let log = service.log
        try host.sh("ip link del enp0s8.100")
        try service.logs("enp0s8.100 is gone", since: log, within: 2)
        #expect(service.log.matches(of: #/put back:/#).count <= 8, "\(service.log)")
    }

    /// Nobody is there to take it back but the daemon.
    @Test(whereItIsFast) func itTakesAForgottenChangeBack() throws {
        let host = try TestHost()
        let service = try Service(host, "--parent enp0s8 \(Self.vlans)")
        #expect(try host.vrouter("up --vlan 300=172.16.30.1/24 --confirm 1").status == 0)
        let json = try host.vrouter("status --json").output
        let process = try #require(
            json.matches(of: #/"process" : (\d+)/#).map(\.1).first { $0 != "\(service.identifier)" })
        try host.sh("kill -9 \(process)")
        try service.logs("an unconfirmed change was over its time: all is back to the VLANs 100, 200 as they were")
        try waitForSoundness(host, "taken back")
        #expect(try host.sh("ip -4 -o address").contains("172.16.20.1/24"))
    }
}
