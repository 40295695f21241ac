import FoundationEssentials
import Kernel
import TestSupport
import Testing

//  d1, d2, c1 ─ host1 ┐
//  d3, d4, c2 ─ host2 ┼ switch      (the lab's own namespaces, made by `vrouter lab`)
//               host3 ┘
@Suite struct LabTests {
    /// What `vrouter lab --json` is documented to print.
    struct Report: Decodable {
        struct Check: Decodable {
            var name: String
            var phase: String
            var source: String
            var destination: String
            var address: String
            var expectedTTL: Int?
            var receivedTTL: Int?
            var milliseconds: Double?
            var sent: Int
            var received: Int
            var passed: Bool
        }
        var driver: String
        var kernel: String
        var checks: [Check]
        var routes: [String: [String]]
        var passed: Bool

        init(_ json: some StringProtocol) throws {
            self = try JSONDecoder().decode(Report.self, from: Data(json.utf8))
        }
    }

    /// Runs a shell script where nothing is shared with another lab on this machine: with its own /run, network and processes.
    private func sh(_ script: String, environment: [String: String] = [:]) throws -> ChildProcess.Result {
        try ChildProcess.run(
            [
                "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-uc",
                "mount -t tmpfs tmpfs /run || exit; mkdir /run/netns; vrouter=$1; left() { \(Self.left); }; \(script)",
                "sh", Product.path(in: environment),
            ], environment: environment)
    }

    /// Prints what a lab could leave. Lock files are no more than that.
    private static let left = """
        ls /run/netns; find /run/vrouter ! -name '*.lock' -type f
        ip -o link | grep -v ' lo: '; grep -a . /proc/[0-9]*/comm | grep -Ev ':(sh|grep)$'
        """

    @Test func everythingHoldsAndNothingIsLeft() throws {
        let run = try sh("$vrouter lab --json; status=$?; left; exit $status")
        #expect(run.status == 0, "\(run)")
        let end = try #require(run.output.firstRange(of: "\n}\n")?.upperBound)
        #expect(run.output[end...] == "", "left behind")
        let report = try Report(run.output[..<end])
        #expect(report.passed)
        #expect(["8021q", "ebpf"].contains(report.driver))
        #expect(report.kernel == (try Sysctl("kernel/osrelease").read()))
        #expect(report.routes["d1"] == ["default via 172.16.10.1 dev eth0", "172.16.10.0/24 dev eth0"])
        #expect(
            report.routes["host3"] == ["172.16.10.0/24 dev enp0s8.100", "172.16.20.0/24 dev enp0s8.200"])

        let expected: [String: Int?] = [
            "before: c1 to c2": 64, "before: d1 to d3": 64, "before: d2 to d4": 64,
            "before: d1 to d2": nil, "before: d1 to d4": nil,
            "during: c1 to c2": 64,
            "after: d1 to host3": 64, "after: d1 to d2": 63, "after: d1 to d4": 63, "after: d2 to d1": 63,
            "after: d3 to d2": 63, "after: d3 to d4": 63, "after: d4 to d1": 63,
            "after: d1 to d3": 64, "after: d2 to d4": 64, "after: c1 to c2": 64,
        ]
        #expect(Set(report.checks.map(\.name)) == Set(expected.keys))
        for check in report.checks {
            #expect(check.passed, "\(check)")
            #expect(check.name == "\(check.phase): \(check.source) to \(check.destination)")
            #expect(check.expectedTTL == expected[check.name] ?? nil, "\(check)")
            #expect(check.receivedTTL == check.expectedTTL, "\(check)")
            #expect(check.received == (check.expectedTTL == nil ? 0 : check.sent) && check.sent > 0, "\(check)")
            #expect((check.milliseconds != nil) == (check.expectedTTL != nil), "\(check)")
        }
    }

    @Test func aKeptLabIsUsedAndRemoved() throws {
        let run = try sh(
            """
            echo NO LAB; $vrouter lab exec d1 -- true; echo $?
            $vrouter lab --keep >/run/transcript || exit
            echo SECOND; $vrouter lab; echo $?
            echo PING; $vrouter lab exec d4 -- ping -c1 -W1 172.16.10.10 | grep -o 'ttl=[0-9]*'
            echo NETNS; ip netns exec vrouter-lab-d1 ip -br address show dev eth0 | awk '{print $3}'
            echo STATUS; $vrouter lab exec d1 -- sh -c 'exit 42'; echo $?
            echo NO PROGRAM; $vrouter lab exec d1 -- no-such-program; echo $?
            echo UNKNOWN; $vrouter lab exec d9 -- true; echo $?
            $vrouter lab exec host1 -- sleep 60 &
            until grep -q sleep /proc/$!/comm; do sleep 0.01; done
            echo DOWN; $vrouter lab down; wait $!; echo $?; $vrouter lab down; left
            echo TRANSCRIPT; cat /run/transcript
            """)
        let parts = run.output.split(separator: "TRANSCRIPT\n", maxSplits: 1)
        try #require(parts.count == 2, "\(run)")
        #expect(
            parts[0]
                == """
                NO LAB
                64
                SECOND
                75
                PING
                ttl=63
                NETNS
                172.16.10.10/24
                STATUS
                42
                NO PROGRAM
                127
                UNKNOWN
                64
                DOWN
                the lab is removed
                137
                there is no lab

                """, "\(run)")
        #expect(run.errors.contains("remove it first: vrouter lab down"), "\(run)")
        #expect(
            run.errors.contains("choose one of: switch, host1, host2, host3, c1, d1, d2, c2, d3, d4"), "\(run)")

        let transcript = parts[1]
        for line in transcript.split(separator: "\n").prefix(8) { #expect(line.count <= 80, "\(line)") }
        for subnet in [10, 20, 86] {
            for host in [10, 11] { #expect(transcript.contains("172.16.\(subnet).\(host) "), "\(transcript)") }
        }
        #expect(transcript.contains("host3# vrouter up --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24\n"))
        #expect(transcript.contains("✓ d1 → d2 ") && transcript.contains("✓ all 16 checks passed"), "\(transcript)")
        #expect(!transcript.contains("\u{1b}"), "colours without a terminal")
    }

    @Test func aCheckThatFailsIsShown() throws {
        // The router's own answer has a TTL that is not 64: what d1 sees of it is wrong, everything else is right.
        let run = try sh(
            """
            while ! [ -e /run/netns/vrouter-lab-host3 ]; do sleep 0.01; done && \
            until ip netns exec vrouter-lab-host3 sh -c 'echo 99 >/proc/sys/net/ipv4/ip_default_ttl'; do sleep 0.01; done &
            $vrouter lab --json; status=$?; wait; left; exit $status
            """)
        #expect(run.status == 1, "\(run)")
        let end = try #require(run.output.firstRange(of: "\n}\n")?.upperBound)
        #expect(run.output[end...] == "", "left behind")
        let report = try Report(run.output[..<end])
        #expect(!report.passed)
        #expect(report.checks.filter { !$0.passed }.map(\.name) == ["after: d1 to host3"])
        #expect(report.checks.first { !$0.passed }?.receivedTTL == 99)
    }

    @Test func anUpThatFailsEndsTheLab() throws {
        let run = try sh(
            "$vrouter lab; status=$?; left; exit $status", environment: ["VROUTER_FAULT": "fail:1:after"])
        #expect(run.status == 70, "\(run)")
        #expect(run.errors.contains("step 1 was made to fail"), "\(run)")
        #expect(!run.output.contains("vrouter-lab-"), "left behind: \(run)")
    }

    @Test func anInterruptedLabIsRemoved() throws {
        let run = try sh(
            """
            $vrouter lab >/run/transcript & process=$!
            until [ -e /run/netns/vrouter-lab-d4 ]; do sleep 0.01; done
            kill -INT $process; wait $process; status=$?; left; exit $status
            """)
        #expect(run.status == 128 + 2, "\(run)")
        #expect(run.output == "", "left behind: \(run)")
    }

    @Test func twoLabsAtOnceAreRefusedAndAKilledOneIsRemoved() throws {
        let run = try sh(
            """
            $vrouter lab >/run/transcript & first=$!
            until [ -e /run/netns/vrouter-lab-d4 ]; do sleep 0.01; done
            $vrouter lab; echo $?
            kill -KILL $first; wait $first
            ls /run/netns | grep -c vrouter-lab-
            $vrouter lab | tail -n 1 | cut -d ' ' -f 1-5; left
            """)
        #expect(run.output == "75\n10\n✓ all 16 checks passed\n", "\(run)")
        #expect(run.errors.contains("another lab is running: process "), "\(run)")
        #expect(run.errors.contains("removing what a lab that was killed has left"), "\(run)")
    }

    @Test func withoutRootItSaysSo() throws {
        let run = try sh("cp $vrouter /run/vrouter-copy; setpriv --reuid=65534 --clear-groups /run/vrouter-copy lab")
        #expect(run.status == 77, "\(run)")
        #expect(run.errors.contains("remedy: sudo vrouter lab"), "\(run)")
    }

    @Test func withoutPingItSaysSo() throws {
        let run = try sh("PATH=/nowhere $vrouter lab")
        #expect(run.status == 69, "\(run)")
        #expect(run.errors.contains("apt-get install iputils-ping"), "\(run)")
    }
}
