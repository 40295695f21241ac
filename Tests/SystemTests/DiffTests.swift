import Kernel
import TestSupport
import Testing

/// `vrouter diff` says what `up` would do, and does nothing.
@Suite struct DiffTests {
    private static let vlans = "--vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 --masquerade none"

    @Test(whereItIsFast) func whatIsWantedAgainstWhatIs() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let none = try host.vrouter("diff")
        #expect(none.status == 64 && none.errors.contains("remedy:"), "\(none)")
        let first = try host.vrouter("diff --parent enp0s8 \(Self.vlans)")
        #expect(first.status == 1, "\(first)")
        #expect(first.output.contains("@@ -0,0 +1,") && first.output.contains("\n+\tset vlans {\n"), "\(first)")
        let dryRun = try host.vrouter("up --dry-run --parent enp0s8 \(Self.vlans)").output
        let commands = dryRun.split(separator: "\n").filter { $0.hasPrefix("ip ") || $0.hasPrefix("sysctl ") }
        #expect(!commands.isEmpty && commands.allSatisfy { first.output.contains("\n\($0)\n") }, "\(dryRun)\(first)")
        try requireUnchanged(host, since: before)

        #expect(try host.vrouter("up --parent enp0s8 \(Self.vlans)").status == 0)
        let asSetUp = try host.snapshot()
        for same in ["diff", "diff --parent enp0s8 \(Self.vlans)"] {
            let result = try host.vrouter(same)
            #expect(result.status == 0 && result.output.isEmpty && result.errors.isEmpty, "\(result)")
        }
        let file = TemporaryFile(
            """
            parent: enp0s8
            vlans: {100: 172.16.10.1/24, 200: 172.16.20.1/24, 300: 172.16.30.1/24}
            masquerade: none
            """)
        let more = try host.vrouter("diff -f \(file.path)")
        #expect(more.status == 1, "\(more)")
        #expect(
            more.output.hasPrefix(
                "--- the kernel's table inet vrouter\n+++ the wanted table inet vrouter\n@@ "), "\(more)")
        // Nothing else of the ruleset changes.
        let changed = more.output.split(separator: "\n").dropFirst(2).filter { "+-".contains($0.prefix(1)) }
        #expect(changed == ["+\t\t\t\"enp0s8.300\","], "\(more)")
        #expect(more.output.contains("\nip address add 172.16.30.1/24 brd + dev enp0s8.300\n"), "\(more)")
        let bad = try host.vrouter("diff --parent enp0s8 --vlan 100=172.16.10.0/24")
        #expect(bad.status == 64 && bad.output.isEmpty, "\(bad)")
        try requireUnchanged(host, since: asSetUp)
    }

    @Test(whereItIsFast) func whatOthersHaveChanged() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.vlans)").status == 0)
        try host.sh(
            """
            nft insert rule inet vrouter decide tcp dport 23 drop; nft 'delete element inet vrouter vlans { enp0s8.100 }'
            ip address del 172.16.20.1/24 dev enp0s8.200; sysctl -qw net.ipv4.ip_forward=0
            """)
        let before = try host.snapshot()
        let drift = try host.vrouter("diff")
        #expect(drift.status == 1, "\(drift)")
        let changed = drift.output.split(separator: "\n").filter { "+-".contains($0.prefix(1)) }.dropFirst(2)
        #expect(changed.contains("-\t\ttcp dport 23 drop"), "\(drift)")
        #expect(changed.contains { $0.hasPrefix("+") && $0.contains("\"enp0s8.100\"") }, "\(drift)")
        // What is as it was committed is the same, however `nft` writes it.
        #expect(!changed.contains { $0.contains("counter") }, "\(drift)")
        #expect(drift.output.contains("\nip address add 172.16.20.1/24 brd + dev enp0s8.200\n"), "\(drift)")
        #expect(drift.output.contains("\nsysctl -w net.ipv4.ip_forward=1\n"), "\(drift)")
        try requireUnchanged(host, since: before)

        let json = try host.sh(
            "\(Product.path) diff --json | jq -r '.differs, (.steps | length > 0), (.ruleset | contains(\"dport 23\"))'"
        )
        #expect(json == "true\ntrue\ntrue\n", "\(json)")
        // Without `nft`, it says that it cannot be shown.
        let without = try host.run([Product.path, "diff"], environment: ["PATH": "/nowhere"])
        #expect(
            without.status == 1 && without.output.contains("# note: somebody has changed the table inet vrouter")
                && !without.output.contains("@@"), "\(without)")
        try host.sh("nft delete table inet vrouter")
        let gone = try host.vrouter("diff")
        #expect(gone.status == 1 && gone.output.contains("@@ -0,0 +1,"), "\(gone)")
        #expect(try host.vrouter("up \(Self.vlans)").status == 0)
        #expect(try host.vrouter("diff").status == 0)
    }

    @Test(whereItIsFast) func withoutPrivileges() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 \(Self.vlans)").status == 0)
        func diff(_ options: String) throws -> ChildProcess.Result {
            try host.run(
                ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", Product.path, "diff"]
                    + options.split(separator: " ").map(String.init))
        }
        let same = try diff("")
        #expect(same.status == 0 && same.output.contains("# note: not permitted to see the kernel's rules"), "\(same)")
        let more = try diff("--parent enp0s8 \(Self.vlans) --vlan 300=172.16.30.1/24")
        #expect(
            more.status == 1 && more.output.contains("\n+\t\t\t\"enp0s8.300\",\n")
                && more.output.contains("not permitted to see"), "\(more)")
    }
}
