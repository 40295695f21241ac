import Kernel
import TestSupport
import Testing

/// What a file says happens, as if options had said it.
@Suite struct ConfigurationFileSystemTests {
    /// host 100 and 200 of Site, who reach each other; 300 may not reach 100.
    static let file = """
        parent: enp0s8
        vlans:
          100: [172.16.10.1/24, "fd00:10::1/64"]
          200: {addresses: [172.16.20.1/24, "fd00:20::1/64"], zone: vlans}
          300: 172.16.30.1/24
        masquerade: none
        deny: ["300:100"]
        """

    @Test func aFileRoutes() throws {
        let site = try Site()
        let file = TemporaryFile(Self.file)
        let up = try site.router.vrouter("up -f \(file.path)")
        #expect(up.status == 0 && up.output.contains("VLAN 300: enp0s8.300 is the gateway 172.16.30.1/24"), "\(up)")
        #expect(try site.ping(site.host(100), "172.16.20.10") == 63)
        #expect(try site.ping(site.host(300), "172.16.20.10") == 63)
        #expect(try site.host(300).run(["ping", "-c", "1", "-W", "1", "172.16.10.10"]).status == 1)

        // Options that say the same, standard input, what `show` and `init` print: nothing is to be done.
        let options = "\(Site.vlans) --masquerade none --deny 300:100"
        #expect(try site.router.vrouter("up --parent enp0s8 \(options)").output == "nothing to do\n")
        let input = try site.router.run([Product.path, "up", "-f", "-"], input: Self.file)
        #expect(input.output == "nothing to do\n", "\(input)")
        for words in [
            "config show", "config init", "config show -f \(file.path)", "config init --parent enp0s8 \(options)",
        ] {
            let text = try site.router.vrouter(words)
            let again = try site.router.run([Product.path, "up", "-f", "-"], input: text.output)
            #expect(again.output == "nothing to do\n", "\(words): \(text)\(again)")
        }
        #expect(
            try site.router.vrouter("rules -f \(file.path)").output
                == site.router.vrouter("rules --parent enp0s8 \(options)").output)
        #expect(try site.router.vrouter("doctor -f \(file.path)").output.contains("✓"))
        #expect(try site.router.vrouter("hosts -f \(file.path)").output.contains("--gateway 172.16.30.1"))
        #expect(try site.router.vrouter("down").status == 0)
    }

    @Test(whereItIsFast) func mistakesChangeNothing() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let file = TemporaryFile("parent: enp0s8\nvlans: {100: 172.16.10.1/24}\nmasquerades: none\ndeny: 100:200\n")
        for command in ["up", "up --dry-run", "rules", "config check", "config show", "config init", "doctor", "hosts"]
        {
            let result = try host.vrouter("\(command) -f \(file.path)")
            #expect(result.status == 64 && result.output.isEmpty, "\(command): \(result)")
            #expect(
                result.errors == """
                    vrouter: the configuration file has 2 mistakes, nothing was changed:
                    \(file.path):3:1: unknown key 'masquerades' in the file; did you mean 'masquerade'?
                    \(file.path):4:7: there is no VLAN 200 here; add it below 'vlans'

                    """, "\(command)")
        }
        for options in [
            "--vlan 100=172.16.10.1/24", "--mss-clamp", "--masquerade none", "--workers 2", "--vlan-driver ebpf",
            "--fast-path af-packet", "--zone 1=x",
        ] {
            let result = try host.vrouter("up -f \(file.path) \(options)")
            #expect(result.status == 64, "\(options)")
            #expect(
                result.errors.hasPrefix("vrouter: --file \(file.path) and \(options): the file says everything\n"),
                "\(options): \(result)")
        }
        try requireUnchanged(host, since: before)
        #expect(try host.vrouter("status").status == 3)
    }

    @Test(whereItIsFast) func check() throws {
        let host = try TestHost()
        let file = TemporaryFile("vlans: {100: 172.16.10.1/24, 200: {addresses: 172.16.20.1/24, zone: iot}}")
        let named = try host.vrouter("config check -f \(file.path)")
        #expect(
            named.status == 0
                && named.output == "\(file.path): 2 VLANs, 2 zones on a trunk that it does not name; no mistakes\n")
        let missing = try host.vrouter("config check -f /nowhere/x.yaml")
        #expect(
            missing.status == 64 && missing.errors.contains("/nowhere/x.yaml: the configuration file cannot be read"))
        let nothing = try host.vrouter("config show")
        #expect(nothing.status == 64 && nothing.errors.contains("vrouter is not up here"))
    }

    /// It begins with where the installed schema is, and nothing is lost by it.
    @Test(whereItIsFast) func initWritesANewFile() throws {
        let host = try TestHost()
        let file = TemporaryFile()
        let options =
            "--parent enp0s8 --vlan 100=172.16.10.1/24 --zone 100=iot --policy iot=isolated --fast-path af-packet"
        let first = try host.vrouter("config init \(options) -o \(file.path)")
        #expect(first.status == 0 && first.output.hasPrefix("\(file.path): written"), "\(first)")
        let text = String(decoding: try SmallFile.read(file.path), as: UTF8.self)
        #expect(text.hasPrefix("# yaml-language-server: $schema=/usr/local/share/vrouter/vrouter.schema.json\n"))
        #expect(
            try host.vrouter("config show -f \(file.path)").output == host.vrouter("config show \(options)").output)
        let second = try host.vrouter("config init --parent enp0s8 --vlan 200=172.16.20.1/24 -o \(file.path)")
        #expect(second.status == 64 && second.errors.contains("\(file.path) is there already"), "\(second)")
        #expect(String(decoding: try SmallFile.read(file.path), as: UTF8.self) == text)
        let nowhere = try host.vrouter("config init \(options) -o /nowhere/x.yaml")
        #expect(nowhere.status == 64 && nowhere.errors.contains("/nowhere/x.yaml cannot be written"), "\(nowhere)")
    }

    @Test func theReadmesExampleIsApplied() throws {
        let host = try TestHost()
        try host.sh(
            """
            ip link add eth0 type veth peer name outside
            ip link set outside up; ip link set eth0 up; ip address add 192.0.2.1/24 dev eth0
            """)
        let readme = "\(#filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined())/README.md"
        let text = String(decoding: try SmallFile.read(readme), as: UTF8.self)
        let block = try #require(text.firstMatch(of: #/```yaml\n((?s).*?)```/#))
        let before = try host.snapshot()
        let up = try host.run([Product.path, "up", "-f", "-"], input: String(block.1))
        #expect(up.status == 0 && up.output.contains("VLAN 300: enp0s8.300 is the gateway 172.16.30.1/24"), "\(up)")
        #expect(try host.sh("ip -o address show").contains("172.16.20.1/24"))
        #expect(try host.vrouter("down").status == 0)
        try requireUnchanged(host, since: before)
    }
}
