import Kernel
import TestSupport
import Testing

//  host h100 ─┐ VLAN 100                 ┌─ enp0s8 ─ router
//  host h200 ─┤ VLAN 200 ── switch ──────┘
//  host h300 ─┘ VLAN 300
//
// One host keeps talking to both of the others, while the rules between them change.
@Suite struct SessionTests {
    /// Translated between VLANs or not, IPv4 or IPv6.
    @Test(arguments: [("vlans", "172.16."), ("none", "172.16."), ("none", "fd00:")].prefix(isEmulated ? 1 : 3))
    func aSessionEndsThatIsNoLongerAllowed(masquerade: String, net: String) throws {
        let site = try Site()
        try site.up("--masquerade \(masquerade)")
        func address(_ id: Int) -> String { "\(net)\(id / 10)\(net == "fd00:" ? "::10" : ".10")" }
        let denied = try LiveSession(site.host(100), site.host(200), address(200))
        let other = try LiveSession(site.host(200), site.host(100), address(100))
        try #require(denied.goesOn() && other.goesOn())

        let options = "up --parent enp0s8 \(Site.vlans) --masquerade \(masquerade) --deny 100:200"
        let dry = try site.router.vrouter("\(options) --dry-run")
        let commands = dry.output.split(separator: "\n").filter { $0.hasPrefix("conntrack -D") }
        #expect(commands.count { $0.contains("-p tcp") } == 1, "\(dry)")
        #expect(commands.allSatisfy { $0.contains("--orig-src \(address(100)) --orig-dst \(address(200)) ") }, "\(dry)")
        #expect(denied.goesOn(), "a dry run ended it")

        // One that fails ends none.
        let steps = try site.router.vrouter("\(options) --dry-run --json").output.ranges(of: "\"summary\"").count
        let failed = try site.router.vrouter(options, environment: ["VROUTER_FAULT": "fail:\(steps - 1):before"])
        #expect(steps == 2 && failed.status == 70, "\(failed)")
        #expect(denied.goesOn(), "an up that failed ended it")

        let up = try site.router.vrouter(options)
        #expect(up.status == 0 && up.output.contains(" no longer allowed ended\n"), "\(up)")
        #expect(denied.ends())
        #expect(other.goesOn(), "another session ended, too")
        let again = try site.router.vrouter(options)
        #expect(again.output.hasPrefix("nothing to do\n"), "\(again)")
        #expect(other.goesOn())
    }
}

/// A TCP connection over which both ends keep sending, each by itself.
final class LiveSession {
    private static let server = """
        import socket, threading, time
        listener = socket.create_server(("::", 4712), family=socket.AF_INET6, dualstack_ipv6=True)
        connection = listener.accept()[0]
        def read():
            while connection.recv(100):
                pass
        threading.Thread(target=read, daemon=True).start()
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)
        """

    /// Says a word for each that it gets, and a last one when there is none for three seconds.
    private static let client = """
        import socket, sys, time
        connection = socket.create_connection((sys.argv[1], 4712), 10)
        connection.settimeout(3)
        try:
            while True:
                connection.sendall(b"x")
                connection.recv(100)
                print("alive", flush=True)
                time.sleep(0.05)
        except OSError as error:
            print("dead", error, flush=True)
        time.sleep(600)
        """

    private let server, client: ChildProcess

    init(_ from: TestHost, _ to: TestHost, _ address: String) throws {
        server = try to.start(["python3", "-c", Self.server])
        for _ in 0..<200 where try !to.sh("ss -Hltn sport = 4712").contains("4712") {
            ThisProcess.sleep(milliseconds: 50)
        }
        client = try from.start(["python3", "-c", Self.client, address])
    }

    var answers: Int { client.outputSoFar.split(separator: "\n").filter { $0 == "alive" }.count }
    var isDead: Bool { client.outputSoFar.contains("dead") }

    /// Whether so many more answers come.
    func goesOn(_ more: Int = 10) -> Bool { wait { self.answers >= before + more } }
    func ends() -> Bool { wait { self.isDead } }

    private var before: Int = 0
    private func wait(_ condition: () -> Bool) -> Bool {
        before = answers
        for _ in 0..<600 {
            if condition() { return true }
            ThisProcess.sleep(milliseconds: 50)
        }
        return false
    }

    deinit {
        for process in [client, server] {
            process.signal(SignalNumber.kill)
            _ = process.wait()
        }
    }
}
