import Firewall
import FoundationEssentials
import Kernel
import Packets
import TestSupport
import Testing

@testable import Router

/// A file's text, read as one named `f`.
private func read(_ text: String) throws(Failure) -> ConfigurationFile { try read(Array(text.utf8)) }

private func read(_ octets: [UInt8]) throws(Failure) -> ConfigurationFile {
    try ConfigurationFile(octets, name: "f") { "found0" }
}

/// What is wrong with a text, without the line that tells how much it is.
private func mistakes(_ octets: [UInt8]) -> [String] {
    do {
        _ = try read(octets)
        return []
    } catch {
        return error.message.split(separator: "\n").dropFirst().map(String.init)
    }
}

@Suite struct ConfigurationFileTests {
    /// Everything that a file can say.
    static let everything = """
        # A comment, with 'quotation marks' & other signs: *these*
        parent: enp0s8
        uplink: [eth0, eth1]
        vlans:
          100: 172.16.10.1/24
          200:
            addresses: [172.16.20.1/24, fd00:20::1/64]
            name: servers0
            mtu: 1500
            zone: servers
          "300": {addresses: 172.16.30.1/24, zone: iot}
          400: {addresses: [172.16.40.1/24], parent: enp0s9}
        masquerade: uplink
        masquerade-ipv6: all
        deny: [100:300, '300:40']
        addresses:
          printers: [172.16.20.9, 172.16.20.16/28, 172.16.20.17, "fd00:20::9"]
        policy:
          iot: isolated
          servers:
            iot: reject
            uplink: [tcp/443, "udp/53,67"]
          vlans:
            servers: {allow: [tcp/80, icmp, any to printers], otherwise: reject, log: true, limit: 100}
        port-forwards:
          - {port: tcp/8080, to: "172.16.20.10:80"}
          - port: udp/53
            to: "[fd00:20::10]"
        routes:
          - {to: 10.0.0.0/8, via: 172.16.20.254}
        mss-clamp: true
        fast-path: {workers: 2, from: 0}
        vlan-driver: ebpf
        """

    @Test func everythingIsRead() throws {
        let text = Self.everything.replacing("'300:40'", with: "'300:400'")
        let file = try read(text)
        var expected = try Configuration(
            parent: "enp0s8",
            vlans: [
                "100=172.16.10.1/24", "200=172.16.20.1/24,fd00:20::1/64", "300=172.16.30.1/24", "400=172.16.40.1/24",
            ],
            masquerade: .uplink, denied: ["100:300", "300:400"])
        expected.vlans[1].name = "servers0"
        expected.vlans[1].mtu = 1500
        let (servers, iot) = (try #require(Zone("servers")), try #require(Zone("iot")))
        expected.vlans[1].zone = servers
        expected.vlans[2].zone = iot
        expected.vlans[3].parent = "enp0s9"
        expected.uplinks = ["eth0", "eth1"]
        expected.masqueradeIPv6 = .all
        // Without those that others contain, in order.
        expected.matrix.addressSets["printers"] = try ["172.16.20.9/32", "172.16.20.16/28", "fd00:20::9/128"].map {
            try InterfaceAddress($0).prefix
        }
        expected.matrix.cells = ZoneMatrix.isolated(iot, among: [.vlans, servers, iot])
        expected.matrix.cells[.init(from: servers, to: iot)] = Treatment(.reject)
        expected.matrix.cells[.init(from: servers, to: .uplink)] = Treatment(
            .drop, services: [Service(.tcp, ports: [443...443]), Service(.udp, ports: [53...53, 67...67])])
        expected.matrix.cells[.init(from: .vlans, to: servers)] = Treatment(
            .reject,
            services: [Service(.tcp, ports: [80...80]), Service(.icmp), Service(.any, destination: "printers")],
            isLogged: true, connectionsPerSecond: 100)
        expected.portForwards = [
            PortForward(.tcp, port: 8080, host: try #require(IPAddress("172.16.20.10")), hostPort: 80),
            PortForward(.udp, port: 53, host: try #require(IPAddress("fd00:20::10")), hostPort: 53),
        ]
        expected.routes = [
            .init(
                destination: try InterfaceAddress("10.0.0.0/8").prefix,
                gateway: try #require(IPAddress("172.16.20.254")))
        ]
        expected.clampsMSS = true
        expected.fastPath = Configuration.FastPath(workers: 2, threshold: 0)
        #expect(file.configuration == expected)
        #expect(file.driver == .ebpf)
    }

    @Test func whatIsNotSaid() throws {
        let file = try read("vlans: {100: 172.16.10.1/24}")
        #expect(
            file == ConfigurationFile(try Configuration(parent: "found0", vlans: ["100=172.16.10.1/24"]), driver: nil))
        // JSON is YAML, also with tabs.
        #expect(try read("{\n\t\"vlans\": {\"100\": [\"172.16.10.1/24\"]},\n\t\"vlan-driver\": \"auto\"}") == file)
        // What has several spellings has one value.
        let spelled =
            "parent: found0\nvlans: {100: {addresses: 172.16.10.1/24, name: found0.100, parent: found0, zone: vlans}}"
        #expect(try read(spelled) == file)
        #expect(try read("\u{feff}---\nvlans: {100: 172.16.10.1/24}\n...\n") == file)
    }

    struct Bad: Sendable {
        var text: String
        var says: [String]

        init(_ text: String, _ says: String...) {
            self.text = text
            self.says = says
        }
    }

    /// A file that is right, to which the mistakes are added.
    static let good = """
        parent: p
        vlans: {1: 10.0.1.1/24, 2: {addresses: ["fd00:2::1/64", 10.0.2.1/24], zone: iot}}
        addresses: {printers: [10.0.1.9]}

        """

    static let bad = [
        // YAML itself
        Bad("a: [", "f:2:1: not YAML: while parsing a flow node: did not find expected node content"),
        Bad(
            "vlans: {}\n\tx: 1",
            "f:2:1: not YAML: while scanning for the next token: found character that cannot start any token"),
        Bad("vlans: \u{1}", "f:1:8: not YAML: control characters are not allowed"),
        Bad("vlans: {1: 10.0.1.1/24}\nvlans: {}", "f:1:1: 'vlans' is given twice"),
        Bad("vlans: {1: 10.0.1.1/24}\n---\nx: 1", "f:2:1: a second document begins here"),
        Bad("deny: *x", "f:1:7: not YAML: found undefined alias"),
        Bad("deny: &x [1:2]", "f:1:7: anchors ('&name') are not supported"),
        Bad("deny: &x [1:2]\npolicy: *x", "f:2:9: aliases ('*x') are not supported"),
        Bad("vlans: !!set {}", "f:1:8: tags ('tag:yaml.org,2002:set') are not supported"),
        Bad("parent: !mine p", "f:1:9: tags ('!mine') are not supported"),
        Bad(String(repeating: "[", count: 5000), "f:1:1: not YAML: while parsing: it is nested too deeply"),
        Bad("", "f:1:1: no VLAN given; write one below 'vlans', for example 100: 172.16.10.1/24"),
        Bad(
            "- vlans",
            "f:1:1: the file is a mapping of parent, uplink, vlans, masquerade, masquerade-ipv6, deny, addresses, policy, "
                + "port-forwards, routes, mss-clamp, coexist, flowtable, fast-path, vlan-driver, and not a list"),
        // keys
        Bad(good + "masquerde: none", "f:4:1: unknown key 'masquerde' in the file; did you mean 'masquerade'?"),
        Bad(
            "vlans: {1: {adresses: 10.0.1.1/24}}",
            "f:1:13: unknown key 'adresses' in VLAN 1; did you mean 'addresses'?"),
        Bad(
            good + "fast-path: {speed: 3}",
            "f:4:13: unknown key 'speed' in 'fast-path'; there are datapath, workers, from, connections"),
        Bad(
            good + "routes: [{to: 10.9.0.0/16, gateway: 10.0.1.9}]",
            "f:4:10: 'via' is missing: the address of a router",
            "f:4:28: unknown key 'gateway' in a route; there are to, via"),
        Bad("vlans: {1: 10.0.1.1/24, \"1\": 10.0.2.1/24}", "f:1:9: '1' is given twice"),
        // types
        Bad("vlans: [1, 2]", "f:1:8: 'vlans' is a mapping of VLANs: 'ID: ADDRESS/LENGTH' each, and not a list"),
        Bad("vlans:", "f:1:7: 'vlans' is a mapping of VLANs: 'ID: ADDRESS/LENGTH' each, and not empty"),
        Bad(
            "vlans: {1: }",
            "f:1:12: here belongs an address, for example 172.16.10.1/24, or a list of such, and there is nothing"),
        Bad("vlans: {1: []}", "f:1:9: VLAN 1 has no address; write for example addresses: 172.16.10.1/24"),
        Bad(good + "mss-clamp: yes", "f:4:12: 'yes' is not true or false, without quotation marks"),
        Bad(good + "mss-clamp: 'true'", "f:4:12: 'true' is not true or false, without quotation marks"),
        Bad(
            good + "uplink: {a: b}",
            "f:4:9: here belongs the name of an interface, or a list of such, and not a mapping"),
        Bad(
            good + "deny: [1: 2]",
            "f:4:8: here belongs a pair of VLAN ids without a space, for example 100:200, and not a mapping"),
        Bad(good + "masquerade: [none]", "f:4:13: here belongs one of vlans, uplink, all, none, and not a list"),
        Bad(
            good + "port-forwards: {port: tcp/80, to: 10.0.1.9}",
            "f:4:16: here belongs a list of port forwards: '{port: tcp/8080, to: \"172.16.20.10:80\"}' each"),
        Bad(
            good + "? [a]\n: b",
            "f:4:3: here belongs one of parent, uplink, vlans, masquerade, masquerade-ipv6, deny, addresses, policy, "
                + "port-forwards, routes, mss-clamp, coexist, flowtable, fast-path, vlan-driver, and not a list"),
        // values
        Bad(
            "parent: p\nvlans: {1: {outer: 2}, 2: {outer: 1, addresses: 10.0.2.1/24}, 3: {addresses: 10.0.3.1/24, outer: 4}}",
            "f:2:20: VLAN 2 is itself within another one; frames have at most two tags",
            "f:2:35: VLAN 1 is itself within another one; frames have at most two tags",
            "f:2:98: there is no VLAN 4 here; add it below 'vlans'"),
        Bad(
            "parent: p\nvlans: {1: 10.0.1.1/24, 1.2: {outer: 1, addresses: 10.0.2.1/24}, 2: 10.0.2.1/24, 4.3: 10.0.3.1/24}",
            "f:2:38: VLAN 2 is within another one by its key; leave 'outer' out",
            "f:2:66: VLAN 2 is given twice; give each id once, whatever carries it",
            "f:2:82: there is no VLAN 4 here; add it below 'vlans'"),
        Bad("vlans: {1.2.3: 10.0.1.1/24}", "f:1:9: '2.3' is not a VLAN id; use an id from 1 to 4094"),
        Bad("vlans: {4095: 10.0.1.1/24}", "f:1:9: 4095 is reserved; use an id from 1 to 4094"),
        Bad("vlans: {0x64: 10.0.1.1/24}", "f:1:9: '0x64' is not a VLAN id; use an id from 1 to 4094"),
        Bad(
            "vlans: {1: 10.0.1.1}",
            "f:1:12: '10.0.1.1' has no prefix length; add the length of the subnet's prefix: 10.0.1.1/24"),
        Bad(
            "vlans: {1: 10.0.1.0/24}",
            "f:1:12: 10.0.1.0 is the address of the subnet 10.0.1.0/24 itself; give the address that the hosts use as their gateway"
        ),
        Bad("vlans: {1: [10.0.1.1/24, 10.0.1.1/24]}", "f:1:26: the address is given twice; give each address once"),
        Bad(
            "vlans: {1: 10.0.1.1/16,\n 2: 10.0.2.1/24}",
            "f:2:5: the subnets 10.0.0.0/16 of VLAN 1 and 10.0.2.0/24 of VLAN 2 overlap; give each VLAN a subnet of its own"
        ),
        Bad(
            "vlans: {1: {addresses: 10.0.1.1/24, mtu: 67}}",
            "f:1:42: '67' is not a number from 68 to 65535, in digits alone"),
        Bad(
            "vlans: {1: {addresses: 10.0.1.1/24, mtu: 1_500}}",
            "f:1:42: '1_500' is not a number from 68 to 65535, in digits alone"),
        Bad(
            "vlans: {1: {addresses: 'fd00::1/64', mtu: 1279}}",
            "f:1:43: an MTU of 1279 octets is not possible; give one from 1280 to 65535, as the VLAN has an IPv6 address"
        ),
        Bad(
            "vlans: {1: {addresses: 10.0.1.1/24, name: a;b}}",
            "f:1:43: the interface name 'a;b' contains ';', which a shell reads as something else; choose another name"),
        Bad(
            "vlans: {1: {addresses: 10.0.1.1/24, name: sixteenlettersss}}",
            "f:1:43: the interface name 'sixteenlettersss' has 16 octets, and not 1 to 15; choose another name"),
        Bad(
            "parent: p\nvlans: {1: {addresses: 10.0.1.1/24, name: p.2}, 2: 10.0.2.1/24}",
            "f:2:49: the gateway of VLAN 2 would have the name p.2, which is that of VLAN 1; give each interface a name of its own"
        ),
        Bad(
            "parent: p\nvlans: {1: {addresses: 10.0.1.1/24, name: p}}",
            "f:2:43: the gateway of VLAN 1 would have the name p, which is the trunk's; give each interface a name of its own"
        ),
        Bad(
            good + "uplink: p.1",
            "f:2:9: the gateway of VLAN 1 would have the name p.1, which is an uplink's; give each interface a name of its own"
        ),
        Bad(good + "uplink: [eth0, eth0]", "f:4:16: eth0 is given twice; give each uplink once"),
        Bad(good + "masquerade: some", "f:4:13: 'some' is not one of vlans, uplink, all, none; did you mean 'none'?"),
        Bad(good + "vlan-driver: 8021", "f:4:14: '8021' is not one of auto, 8021q, ebpf; did you mean '8021q'?"),
        Bad(good + "deny: 1:3", "f:4:7: there is no VLAN 3 here; add it below 'vlans'"),
        Bad(good + "deny: [1:2, 1-2]", "f:4:13: '1-2' is not a pair of VLAN ids; write FROM:TO, for example 100:200"),
        Bad(
            good + "fast-path: {workers: 65}",
            "f:4:22: 65 is not a number of workers; give one from 1 to 64, not more than there are processors"),
        Bad(good + "fast-path: {datapath: none, from: 0}", "f:4:29: 'from' is about a fast path, and there is none"),
        // zones
        Bad(
            "vlans: {1: {addresses: 10.0.1.1/24, zone: self}}",
            "f:1:43: the zone 'self' has no VLANs; choose another name"),
        Bad(good + "policy: {iott: isolated}", "f:4:10: no VLAN is in a zone 'iott'; did you mean 'iot'?"),
        Bad(
            good + "policy: {iot: {servers: drop}}",
            "f:4:16: no VLAN is in a zone 'servers'; write 'zone: servers' for a VLAN"),
        Bad(
            good + "policy: {iot: isolate}",
            "f:4:15: 'isolate' is not 'isolated', or zones and what is allowed to them; did you mean 'isolated'?"),
        Bad(good + "policy: {self: isolated}", "f:4:10: only a zone of VLANs can be isolated"),
        Bad(
            good + "policy: {uplink: {uplink: drop}}",
            "f:4:19: what goes from 'uplink' to 'uplink' is not vrouter's; name a zone of VLANs, or another one"),
        Bad(
            good + "policy: {iot: {vlans: deny}}",
            "f:4:23: 'deny' is not one of accept, reject, drop; a list of services is possible, too"),
        Bad(
            good + "policy: {iot: {vlans: [http]}}",
            "f:4:24: 'http' is none of any, tcp, udp, icmp; write a service as tcp/443, udp/53,5353, tcp/8000-8100, icmp or any"
        ),
        Bad(
            good + "policy: {iot: {vlans: [any to printer]}}",
            "f:4:24: there is no address set 'printer'; did you mean 'printers'?"),
        Bad(
            good + "policy: {iot: {vlans: {allow: icmp, otherwise: accept}}}",
            "f:4:16: services are allowed where everything is accepted; leave them out, or drop or reject the rest"),
        Bad(
            good + "policy: {iot: {vlans: {limit: 10}}}",
            "f:4:16: there is a limit where nothing is accepted; leave it out, or accept something"),
        Bad(
            good + "policy: {iot: {vlans: {otherwise: accept, log: true}}}",
            "f:4:16: refused connections are logged where none is refused; leave it out, or refuse something"),
        Bad(
            "vlans: {1: 10.0.1.1/24}\naddresses: {p: [10.0.1.9/24]}",
            "f:2:17: 10.0.1.9/24 is an address in a network and not the network; write 10.0.1.0/24"),
        Bad(
            good + "flowtable: auto\nfast-path: af-packet",
            "f:4:1: there is a fast path as well, and a connection can only be forwarded by one of the two; leave out 'flowtable' or 'fast-path'"
        ),
        // what leads elsewhere
        Bad(
            good + "port-forwards: [{port: tcp, to: 10.0.1.9}]",
            "f:4:24: 'tcp' is not a port of TCP or UDP; write it as tcp/8080"),
        Bad(
            good + "port-forwards: [{port: tcp/80, to: 10.0.1.9:http}]",
            "f:4:24: '10.0.1.9:http' is not an address and a port; write it as 172.16.20.10:80 or [fd00:20::10]:80"),
        Bad(
            good + "port-forwards: [{port: tcp/80, to: 192.0.2.1}]",
            "f:4:36: 192.0.2.1 is in no VLAN's subnet; give the address of a host in a VLAN"),
        Bad(
            good + "port-forwards: [{port: tcp/80, to: 10.0.1.1}]",
            "f:4:36: 10.0.1.1 is the router's own address; give the address of a host in a VLAN"),
        Bad(
            good + "port-forwards: [{port: tcp/80, to: 10.0.1.8}, {port: tcp/80, to: 10.0.1.9}]",
            "f:4:66: tcp/80 is forwarded twice; forward each port to one host"),
        Bad(
            good + "routes: [{to: 10.9.0.0/16, via: fd00::9}]",
            "f:4:33: 10.9.0.0/16 and fd00::9 are of different families; give a router with an address of the network's family"
        ),
        Bad(
            good + "routes: [{to: 10.9.0.0/16, via: 10.0.1.255}]",
            "f:4:33: 10.0.1.255 is the broadcast address of 10.0.1.0/24; give the address of a router in a VLAN or behind the uplink"
        ),
        Bad(
            good + "routes: [{to: 10.0.1.0/24, via: 10.0.2.9}]",
            "f:4:33: 10.0.1.0/24 is the subnet of VLAN 1 itself; leave the route out"),
        Bad(
            good + "routes: [{to: 10.9.0.1/16, via: 10.0.2.9}]",
            "f:4:15: 10.9.0.1/16 is an address in a network and not the network; write 10.9.0.0/16"),
        // Several, in order; what cannot be read has no consequences.
        Bad(
            "vlans:\n  1: 10.0.1.0\n  2: 10.0.2.1/24\nport-forwards: [{port: tcp/80, to: 10.0.1.9}]\nmasquerade: x\nuplik: eth0",
            "f:2:6: '10.0.1.0' has no prefix length; add the length of the subnet's prefix: 10.0.1.0/24",
            "f:5:13: 'x' is not one of vlans, uplink, all, none",
            "f:6:1: unknown key 'uplik' in the file; did you mean 'uplink'?"),
    ]

    @Test(arguments: bad) func everyMistakeHasItsPlace(_ bad: Bad) {
        #expect(mistakes(Array(bad.text.utf8)) == bad.says, "\(bad.text)")
    }

    @Test func theFirstLineTellsHowMany() {
        let one = #expect(throws: Failure.self) { try read("") }
        #expect(one?.kind == .usage)
        #expect(one?.message.hasPrefix("the configuration file has a mistake, nothing was changed:\nf:1:1: ") == true)
        let many = (1...59).map { "x\($0): 1\n" }.joined()
        let lines = #expect(throws: Failure.self) { try read(many) }?.message.split(separator: "\n") ?? []
        #expect(lines.first == "the configuration file has 60 mistakes, nothing was changed:")
        #expect(lines.count == 52 && lines.last == "… and 10 more")
    }

    @Test func octetsThatAreNoText() {
        #expect(mistakes(Array("vlans: {}\n# gr".utf8) + [0xfc, 0x6e]) == ["f:2:5: the file is not UTF-8"])
        let wide = "\nx".utf16.flatMap { [UInt8($0 & 0xff), UInt8($0 >> 8)] }
        #expect(mistakes(wide) == ["f:2:1: not YAML: control characters are not allowed"])
        let large = [UInt8](repeating: UInt8(ascii: "#"), count: ConfigurationFile.largest + 1)
        #expect(mistakes(large) == ["f:1:4194305: the file has more than 4 MiB"])
    }

    /// Each line doubles the tree; a key has to be compared, and a comparison visits all of it.
    @Test func aliasesThatWouldFillTheMemory() {
        var text = "k0: &k0 [x, x]\n"
        for level in 1...40 { text += "k\(level): &k\(level) [*k\(level - 1), *k\(level - 1)]\n" }
        #expect(mistakes(Array((text + "? *k40\n: x\n").utf8)) == ["f:2:10: aliases ('*k0') are not supported"])
    }

    @Test func filesThatCannotBeRead() {
        let missing = #expect(throws: Failure.self) { try ConfigurationFile(path: "/nowhere/x") { "p" } }
        #expect(missing?.message == "/nowhere/x: the configuration file cannot be read: No such file or directory")
        let folder = #expect(throws: Failure.self) { try ConfigurationFile(path: "/etc") { "p" } }
        #expect(folder?.kind == .usage)
        // Mistakes of the file come before what the host lacks.
        func noTrunk() throws(Failure) -> String { throw Failure(.usage, "no trunk") }
        let both = #expect(throws: Failure.self) {
            try ConfigurationFile(Array("x: 1".utf8), name: "f", parent: noTrunk)
        }
        #expect(both?.message.contains("f:1:1: unknown key 'x'") == true)
        let alone = #expect(throws: Failure.self) {
            try ConfigurationFile(Array("vlans: {1: 10.0.1.1/24}".utf8), name: "f", parent: noTrunk)
        }
        #expect(alone?.message == "no trunk")
    }

    @Test func whatIsWrittenReadsTheSame() throws {
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<150 {
            let file = GeneratedConfiguration.file(using: &generator)
            #expect(file.configuration.problems().isEmpty, "the test's own: \(file.configuration)")
            for style in [ConfigurationFile.Style.complete, .commented(schema: "/x")] {
                let text = file.text(style)
                do {
                    let again = try read(text)
                    guard again == file else {
                        Issue.record("\(text)\n\(again.text(.complete))")
                        return
                    }
                    #expect(again.text(style) == text)
                } catch {
                    Issue.record("\(error)\n\(text)")
                    return
                }
            }
        }
    }

    /// A damaged file is read or refused, and a refusal has a place.
    @Test func damagedFiles() {
        var generator = SeededGenerator(seed: 11)
        let whole = Array(Self.everything.utf8)
        let signs = Array("{}[]:,-?&*#|>!%@'\"\\\n\t \u{0}x1./é~".utf8) + [0xff]
        for _ in 0..<1500 {
            var octets = whole
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                let at = Int.random(in: 0..<octets.count, using: &generator)
                let end = min(octets.count, at + Int.random(in: 1...40, using: &generator))
                switch Int.random(in: 0..<5, using: &generator) {
                case 0: octets[at] = signs.randomElement(using: &generator) ?? 0
                case 1: octets.insert(signs.randomElement(using: &generator) ?? 0, at: at)
                case 2: octets.removeSubrange(at..<end)
                case 3:
                    octets.insert(contentsOf: octets[at..<end], at: Int.random(in: 0..<octets.count, using: &generator))
                default: octets.removeLast(min(octets.count - 1, Int.random(in: 0...200, using: &generator)))
                }
            }
            do {
                let file = try read(octets)
                #expect((try? read(file.text(.complete))) == file)
            } catch {
                let lines = error.message.split(separator: "\n")
                #expect(error.kind == .usage && lines.count > 1)
                #expect(lines.dropFirst().allSatisfy { $0.hasPrefix("f:") || $0.hasPrefix("… and ") }, "\(error)")
            }
        }
    }

    @Test func wordsThatAreNear() {
        #expect(nearest(to: "adresses", of: ["addresses", "name"]) == "addresses")
        #expect(nearest(to: "vlnas", of: ["vlans", "via"]) == "vlans")
        #expect(nearest(to: "Zone", of: ["zone"]) == "zone")
        #expect(nearest(to: "speed", of: ["workers", "from"]) == nil)
        #expect(nearest(to: "xyz", of: ["via"]) == nil)
    }
}

@Suite struct ConfigurationOptionsTests {
    private func options(_ change: (inout Configuration.Options) -> Void) throws(Failure) -> Configuration {
        var options = Configuration.Options()
        change(&options)
        return try Configuration(
            parent: "p", vlans: ["1=10.0.1.1/24", "2=10.0.2.1/24,fd00:2::1/64"], options: options)
    }

    @Test func sayTheSameAsAFile() throws {
        let said = try options {
            $0.trunks = ["1=q"]
            $0.names = ["2=servers0"]
            $0.mtus = ["1=576"]
            $0.zones = ["1=iot"]
            $0.uplinks = ["eth0"]
            $0.masqueradeIPv6 = .uplink
            $0.policies = ["iot=isolated", "vlans:uplink=tcp/443+udp/53,67+icmp", "vlans:iot=reject"]
            $0.portForwards = ["tcp/8080=10.0.2.9:80", "udp/53=[fd00:2::9]:53"]
            $0.routes = ["10.9.0.0/16=10.0.2.254"]
            $0.clampsMSS = true
        }
        let file = try read(
            """
            parent: p
            vlans:
              1: {addresses: 10.0.1.1/24, parent: q, mtu: 576, zone: iot}
              2: {addresses: [10.0.2.1/24, fd00:2::1/64], name: servers0}
            uplink: eth0
            masquerade-ipv6: uplink
            policy:
              iot: isolated
              vlans: {uplink: [tcp/443, "udp/53,67", icmp], iot: reject}
            port-forwards:
              - {port: tcp/8080, to: 10.0.2.9:80}
              - {port: udp/53, to: "[fd00:2::9]:53"}
            routes: [{to: 10.9.0.0/16, via: 10.0.2.254}]
            mss-clamp: true
            """)
        #expect(said == file.configuration)
        #expect(try read(file.text(.commented(schema: "/x"))) == file)
    }

    struct Bad: Sendable {
        var says: String
        var change: @Sendable (inout Configuration.Options) -> Void
    }

    static let bad = [
        Bad(says: "--name 2: no '='") { $0.names = ["2"] },
        Bad(says: "--name 3=x: there is no VLAN 3 here") { $0.names = ["3=x"] },
        Bad(says: "--name 2=b: VLAN 2 has one already") { $0.names = ["2=a", "2=b"] },
        Bad(says: "--name 2=a+: the interface name 'a+' cannot be written in a firewall rule or a command") {
            $0.names = ["2=a+"]
        },
        Bad(says: "--name 2=p.1: the gateway of VLAN 2 would have the name p.1, which is that of VLAN 1") {
            $0.names = ["2=p.1"]
        },
        Bad(says: "--trunk 2=a/b: the interface name 'a/b' cannot be written in a firewall rule or a command") {
            $0.trunks = ["2=a/b"]
        },
        Bad(says: "--outer 2=3: there is no VLAN 3 here") { $0.outers = ["2=3"] },
        Bad(says: "--outer 1=1: VLAN 1 is itself within another one") { $0.outers = ["1=1"] },
        Bad(says: "--outer 1=2: VLAN 2 is itself within another one") { $0.outers = ["1=2", "2=1"] },
        Bad(says: "--outer 1=2: VLAN 1 is within VLAN 2, whose interface carries it") {
            $0.outers = ["1=2"]
            $0.trunks = ["1=q"]
        },
        Bad(says: "--mtu 2=1279: an MTU of 1279 octets is not possible") { $0.mtus = ["2=1279"] },
        Bad(says: "--mtu 1=large: 'large' is not a number of octets") { $0.mtus = ["1=large"] },
        Bad(says: "--zone 1=9: '9' is not a zone's name") { $0.zones = ["1=9"] },
        Bad(says: "--zone 1=uplink: the zone 'uplink' has no VLANs") { $0.zones = ["1=uplink"] },
        Bad(says: "--vlan 2: the gateway of VLAN 2 would have the name p.2, which is an uplink's") {
            $0.uplinks = ["p.2"]
        },
        Bad(says: "--policy vlans:iot: no VLAN is in a zone 'iot'") { $0.policies = ["vlans:iot=drop"] },
        Bad(says: "--policy vlans:uplink=tcp/0: '0' is neither a port") { $0.policies = ["vlans:uplink=tcp/0"] },
        Bad(says: "--policy vlans=drop: 'vlans' is not a pair of zones") { $0.policies = ["vlans=drop"] },
        Bad(says: "--policy vlans:self=drop: from vlans to self there is a treatment already") {
            $0.policies = ["vlans=isolated", "vlans:self=drop"]
        },
        Bad(says: "--port-forward tcp/80=10.9.9.9:80: 10.9.9.9 is in no VLAN's subnet") {
            $0.portForwards = ["tcp/80=10.9.9.9"]
        },
        Bad(says: "--port-forward icmp=10.0.1.9: 'icmp' is not a port of TCP or UDP") {
            $0.portForwards = ["icmp=10.0.1.9"]
        },
        Bad(says: "--route 10.9.0.0/16=10.0.1.1: 10.0.1.1 is the router's own address") {
            $0.routes = ["10.9.0.0/16=10.0.1.1"]
        },
    ]

    @Test(arguments: bad) func everyMistakeNamesItsOption(_ bad: Bad) {
        let failure = #expect(throws: Failure.self) { try options(bad.change) }
        let message = failure?.message ?? ""
        #expect(message.hasPrefix(bad.says), "\(message)")
        #expect(failure?.kind == .usage && failure?.remedy != nil)
    }

    /// A VLAN that only carries others has no address.
    @Test func oneVLANWithinAnother() throws {
        var options = Configuration.Options()
        options.outers = ["2=1"]
        let said = try Configuration(parent: "p", vlans: ["1=", "2=10.0.2.1/24"], options: options)
        #expect(said == (try read("parent: p\nvlans: {1: {}, 2: {addresses: 10.0.2.1/24, outer: 1}}").configuration))
        #expect(said.interfaceName(said.vlans[1].id) == "p.1.2")
        // The same in short.
        let short = ["1=", "1.2=10.0.2.1/24"]
        #expect(said == (try Configuration(parent: "p", vlans: short)))
        #expect(said == (try read("parent: p\nvlans: {1: {}, \"1.2\": 10.0.2.1/24}").configuration))
        let twice = #expect(throws: Failure.self) { try Configuration(parent: "p", vlans: short, options: options) }
        #expect(twice?.message == "--outer 2=1: --vlan says that VLAN 2 is within another one")
        let three = #expect(throws: Failure.self) { try Configuration(parent: "p", vlans: ["1.2.3=10.0.2.1/24"]) }
        #expect(three?.message == "--vlan 1.2.3=10.0.2.1/24: '2.3' is not a VLAN id")
        let alone = #expect(throws: Failure.self) { try Configuration(parent: "p", vlans: ["1="]) }
        #expect(alone?.message == "--vlan 1: VLAN 1 has no address")
    }

    @Test func theTrunkMayBeTheUplink() throws {
        #expect(try options { $0.uplinks = ["p"] }.uplinks == ["p"])
    }
}
