import CLinux
import FoundationEssentials
import Packets
import SystemPackage
import TestSupport
import Testing

@testable import Kernel

/// The copy of the kernel's tables against what `ip` shows.
///
///     eth1 ── peer-eth1     eth2 ── peer-eth2     eth3 ── peer-eth3      all in one host, addresses on eth1, eth2 and eth3
@Suite struct KernelTablesTests {
    private static let links = ["eth1", "eth2", "eth3"]
    /// How much of what is random: emulated, a program takes a hundred times as long to start.
    private static let share = ThisProcess.environment["VROUTER_TEST_IN_VM"] == "1" ? 5 : 1

    private static func host() throws -> TestHost {
        let host = try TestHost(trunk: false)
        try host.sh(
            """
            ip link set lo up
            for link in eth1 eth2 eth3; do
                ip link add name $link type veth peer name peer-$link
                ip link set peer-$link addrgenmode none up
                ip link set $link up
            done
            ip address add 10.1.0.1/24 dev eth1; ip address add 10.2.0.1/24 dev eth2; ip address add 10.3.0.1/24 dev eth3
            ip address add 10.1.0.7/24 dev eth1; ip address add 10.2.9.1/32 dev eth2
            ip address add fd00:1::1/64 dev eth1; ip address add fd00:2::1/64 dev eth2; ip address add fd00:3::1/64 dev eth3
            """)
        return host
    }

    private func monitor(_ host: TestHost) throws -> MonitorBox {
        try Namespace.run(in: host.name) { () throws(KernelError) in MonitorBox(try KernelMonitor()) }
    }

    /// A noncopyable value, for the way out of a namespace.
    private final class MonitorBox {
        var monitor: KernelMonitor
        init(_ monitor: consuming KernelMonitor) { self.monitor = monitor }
    }

    // MARK: Routes

    /// What `ip` says about a route, in words of its own.
    private struct Shown: Decodable {
        struct Via: Decodable { var host: String }
        struct Hop: Decodable {
            var dev: String?
            var gateway: String?
            var via: Via?
            var weight: Int?
        }
        struct Metric: Decodable { var mtu: UInt32? }

        var type: String?
        var dst: String
        var dev: String?
        var gateway: String?
        var via: Via?
        var table: String?
        var `protocol`: String?
        var scope: String?
        var metric: UInt32?
        var tos: String?
        var prefsrc: String?
        var nexthops: [Hop]?
        var metrics: [Metric]?
        var nhid: UInt32?

        func words(_ isV4: Bool) -> String {
            let hops = (nexthops ?? [Hop(dev: dev, gateway: gateway, via: via)]).map { hop in
                "\(hop.dev ?? "-") \(hop.gateway ?? hop.via?.host ?? "-") \(hop.weight ?? 1)"
            }
            let destination = dst == "default" ? (isV4 ? "0.0.0.0/0" : "::/0") : dst
            let width = destination.contains(":") ? 128 : 32
            return [
                type ?? "1", destination.contains("/") ? destination : "\(destination)/\(width)", table ?? "254",
                "metric \(metric ?? 0)", "tos \(tos ?? "0")", "proto \(self.protocol ?? "3")", "scope \(scope ?? "0")",
                "src \(isV4 ? prefsrc ?? "-" : "-")", "mtu \(metrics?.first?.mtu ?? 0)", "nhid \(nhid ?? 0)",
            ].joined(separator: " ") + " "
                + (hops == ["- - 1"] ? "" : (isV4 ? hops : hops.sorted()).joined(separator: ", "))
        }
    }

    private func shown(_ host: TestHost) throws -> [String] {
        try ["-4", "-6"].flatMap { family in
            let text = try host.sh("ip -d -N -j \(family) route show table all")
            return try JSONDecoder().decode([Shown].self, from: Data(text.utf8)).map { $0.words(family == "-4") }
        }.sorted()
    }

    private func words(_ tables: KernelTables) -> [String] {
        return tables.routes.all.map { route in
            let properties = route.properties
            let hops = properties.nextHops.map { hop in
                "\(tables.links[hop.linkIndex]?.name ?? "-") \(hop.gateway?.description ?? "-") \(hop.weight)"
            }
            let tos = String(route.typeOfService, radix: 16)
            return [
                "\(properties.kind.rawValue)", "\(route.destination)", "\(route.table)",
                "metric \(route.priority)", "tos \(tos == "0" ? "0" : "0x" + (tos.count < 2 ? "0" : "") + tos)",
                "proto \(properties.routingProtocol)", "scope \(properties.scope)",
                "src \(properties.preferredSource?.description ?? "-")", "mtu \(properties.mtu ?? 0)",
                "nhid \(properties.nextHopID ?? 0)",
            ].joined(separator: " ") + " "
                + (route.destination.family == .v4 ? hops : hops.sorted()).joined(separator: ", ")
        }.sorted()
    }

    private func requireSame(_ host: TestHost, _ box: MonitorBox, _ comment: String) throws {
        var mine: [String] = []
        var theirs: [String] = []
        // A carrier comes and goes some time after the command that causes it.
        for _ in 0..<50 {
            theirs = try shown(host)
            try box.monitor.update()
            mine = words(box.monitor.tables)
            if mine == theirs { return }
            ThisProcess.sleep(milliseconds: 20)
        }
        Issue.record("\(differences(theirs, mine).joined(separator: "\n"))\n\(comment)")
        throw CancellationError()
    }

    /// One change, as `ip` takes it. Many are refused: that is part of it.
    private func randomChange(_ generator: inout some RandomNumberGenerator) -> String {
        func pick(_ list: [String]) -> String { list.randomElement(using: &generator)! }
        let isV4 = Bool.random(using: &generator)
        let link = pick(Self.links)
        let number = Self.links.firstIndex(of: link)! + 1
        switch Int.random(in: 0..<30, using: &generator) {
        case 0: return "link set \(link) \(pick(["up", "down", "up"]))"
        case 1: return "link set peer-\(link) \(pick(["up", "down", "up", "up"]))"
        case 2: return "address \(pick(["add", "del"])) 10.\(number).0.1/24 dev \(link)"
        case 3: return "address \(pick(["add", "del"])) 10.2.9.1/32 dev eth2"
        case 4: return "address \(pick(["add", "del"])) fd00:\(number)::1/64 dev \(link)"
        case 5: return "nexthop replace id \(number) via 10.\(number).0.\(pick(["8", "9"])) dev \(link)"
        case 6: return "nexthop replace id 9 group \(pick(["1/2", "2/3", "1/2,5/3", "1"]))"
        case 7: return "nexthop del id \(pick(["1", "2", "9"]))"
        default: break
        }
        let prefixes =
            isV4
            ? [
                "default", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.1", "198.51.100.0/24", "203.0.113.128/26",
                "10.0.0.0/8",
            ]
            : ["default", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1", "fd00:9::/64"]
        func gateway(_ number: Int) -> String {
            let host = pick(["8", "9"])
            return isV4 ? "10.\(number).0.\(host)" : "fd00:\(number)::\(host)"
        }
        let way: String
        switch Int.random(in: 0..<9, using: &generator) {
        case 0: way = "dev \(link)"
        case 1...3: way = "via \(gateway(number)) dev \(link)"
        case 4, 5:
            way = Self.links.enumerated().shuffled(using: &generator).prefix(2).map { other, link in
                "nexthop via \(gateway(other + 1)) dev \(link) weight \(pick(["1", "2", "7"]))"
            }.joined(separator: " ")
        case 6: way = isV4 ? "via inet6 fd00:\(number)::8 dev \(link)" : "dev \(link)"
        case 7: way = isV4 ? pick(["nhid 1", "nhid 9", "nhid 2"]) : "via \(gateway(number)) dev \(link)"
        default:
            way =
                isV4
                ? "via \(gateway(number)) dev \(link) src \(pick(["10.2.9.1", "10.\(number).0.1", "10.1.0.7"]))"
                : "via \(gateway(number)) dev \(link) mtu lock 1300"
        }
        let kind = pick(["", "", "", "", "", "blackhole ", "unreachable ", "prohibit ", "throw "])
        // Metrics of their own where the kernel does not show all that it has: IPv6 next hops of one route can have different MTUs, and
        // what stands between two next hops of a route is left out.
        let metric =
            isV4 || kind.isEmpty && way.contains("via") && !way.contains("mtu")
            ? pick(["", "", " metric 10", " metric 20"])
            : !kind.isEmpty ? " metric 30" : way.contains("mtu") ? " metric 40" : " metric 50"
        let table = pick(["", "", "", " table 100", " table default", " table local"])
        let tos = isV4 ? pick(["", "", "", "", " tos 0x10"]) : ""
        let verb = pick(["add", "add", "append", "prepend", "replace", "del", "del"])
        return (isV4 ? "" : "-6 ")
            + "route \(verb) \(kind)\(pick(prefixes))\(tos) \(kind.isEmpty ? way : "")\(metric)\(table)"
    }

    @Test(arguments: 0..<4) func routesAreTheKernelsAfterAnyChanges(_ round: Int) throws {
        let host = try Self.host()
        let box = try monitor(host)
        try requireSame(host, box, "at first")
        var decisions: [IPPrefix: RouteTables.Decision] = [:]
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<(25 / Self.share) {
            var run: [String] = []
            for _ in 0..<Int.random(in: 1...12, using: &generator) { run.append(randomChange(&generator)) }
            for line in run { _ = try host.run(["ip"] + line.split(separator: " ").map(String.init)) }
            try requireSame(host, box, "after, in its last part:\n\(run.joined(separator: "\n"))")

            // The decisions that it calls changed are all that have.
            for prefix in box.monitor.takeChanges().prefixes {
                decisions[prefix] = box.monitor.tables.decision(for: prefix)
            }
            var all: [IPPrefix: RouteTables.Decision] = [:]
            for family in IPFamily.allCases { box.monitor.tables.forEachDecision(family) { all[$0] = $1 } }
            try #require(
                decisions == all,
                "\(differences(all.map { "\($0)" }.sorted(), decisions.map { "\($0)" }.sorted()).joined(separator: "\n"))\nafter, in its last part:\n\(run.joined(separator: "\n"))"
            )
        }
    }

    private struct Got: Decodable {
        var type: String?
        var dev: String?
        var gateway: String?
        var via: Shown.Via?
    }

    /// Against `ip route get`, wherever it claims to know.
    @Test func decisionsAreTheKernels() throws {
        let host = try Self.host()
        let box = try monitor(host)
        var generator = SystemRandomNumberGenerator()
        var known: [String: Int] = [:]
        for _ in 0..<4 {
            for _ in 0..<40 {
                let change = randomChange(&generator)
                // What turns everything off shows little.
                if change.hasPrefix("link") || change.hasPrefix("address del") { continue }
                if change.contains("table local") || change.contains("default") { continue }
                _ = try host.run(["ip"] + change.split(separator: " ").map(String.init))
            }
            try requireSame(host, box, "")
            for text in [
                "192.0.2.1", "192.0.2.2", "192.0.2.200", "198.51.100.9", "203.0.113.130", "203.0.113.1", "10.77.0.1",
                "10.1.0.1", "10.1.0.200", "10.1.0.255", "10.2.9.1", "127.0.0.1", "8.8.8.8", "2001:db8:1::1",
                "2001:db8:1::2", "2001:db8:2::1", "fd00:9::5", "fd00:1::77", "fd00:2::1", "2620::1",
            ] {
                let address = try #require(IPAddress(text))
                let lengths = (0...address.family.width).reversed()
                let decision = lengths.lazy.compactMap { length in
                    box.monitor.tables.decision(for: IPPrefix(address, length: length))
                }.first
                let result = try host.run(["ip", "-d", "-j", "route", "get", text])
                let got = try? JSONDecoder().decode([Got].self, from: Data(result.output.utf8)).first
                let comment: Comment = "\(text): \(String(describing: decision)), \(result)"
                switch decision {
                case .forward(let hops, _):
                    let words = hops.map { hop in
                        "\(box.monitor.tables.links[hop.linkIndex]?.name ?? "-") \(hop.gateway?.description ?? "-")"
                    }
                    let word = "\(got?.dev ?? "-") \(got?.gateway ?? got?.via?.host ?? "-")"
                    #expect(got?.type == "unicast" && words.contains(word), comment)
                    known["forward", default: 0] += 1
                case .local, .broadcast:
                    #expect(["local", "broadcast", "multicast", "anycast"].contains(got?.type ?? ""), comment)
                    known["local", default: 0] += 1
                case .refuse, nil:
                    #expect(result.status != 0 || got?.type == "unreachable", comment)
                    known["refuse", default: 0] += 1
                case .kernel: break
                }
            }
        }
        #expect(known.count == 3, "\(known)")
    }

    @Test func readingAgainChangesNothing() throws {
        let host = try Self.host()
        let box = try monitor(host)
        try requireSame(host, box, "")
        #expect(!box.monitor.takeChanges().isEmpty)
        var tables = box.monitor.tables
        try Namespace.run(in: host.name) { () throws(KernelError) in try tables.read(try NetlinkSocket()) }
        // IPv6 addresses become usable some time after they were added.
        func changedIPv4() -> Set<String> {
            Set(tables.takeChanges().prefixes.filter { $0.family == .v4 }.map(\.description))
        }
        #expect(changedIPv4() == [])
        // What happened unseen is all that is found.
        try host.sh("ip route add 192.0.2.0/24 via 10.1.0.8; ip route del 10.2.0.0/24 dev eth2")
        try Namespace.run(in: host.name) { () throws(KernelError) in try tables.read(try NetlinkSocket()) }
        #expect(changedIPv4() == ["192.0.2.0/24", "10.2.0.0/24"])
    }

    /// More than fits into the socket.
    @Test func announcementsThatWereLostAreMadeUpFor() throws {
        let host = try Self.host()
        let box = try monitor(host)
        let witness = try Namespace.run(in: host.name) { () throws(KernelError) in
            SocketBox(try NetlinkSocket(groups: KernelTables.groups))
        }
        let count = 50_000
        let batch = (0..<count).map { "route add 20.\($0 >> 8).\($0 & 255).0/24 via 10.1.0.8\n" }.joined()
        #expect(try host.run(["ip", "-batch", "-"], input: batch).status == 0)
        #expect(throws: KernelError.self) {
            while witness.socket.wait(milliseconds: 0) { _ = try witness.socket.receive() }
        }
        let before = box.monitor.tables.routes.count
        try box.monitor.update()
        #expect(box.monitor.tables.routes.count == before + count)
        let prefix = IPPrefix(try #require(IPAddress("20.100.7.0")), length: 24)
        #expect(box.monitor.tables.decision(for: prefix) != nil)
        #expect(box.monitor.takeChanges().prefixes.contains(prefix))
    }

    private final class SocketBox {
        let socket: NetlinkSocket
        init(_ socket: consuming NetlinkSocket) { self.socket = socket }
    }

    // MARK: The rest

    @Test func neighboursAreTheKernels() throws {
        let host = try Self.host()
        let box = try monitor(host)
        struct Shown: Decodable {
            var dst: String
            var dev: String
            var lladdr: String?
        }
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20 {
            let lines = (0..<10).map { _ in
                let link = Self.links.randomElement(using: &generator)!
                let address = ["10.1.0.8", "10.2.0.8", "fd00:1::8", "fd00:2::8"].randomElement(using: &generator)!
                let state = ["permanent", "noarp", "stale"].randomElement(using: &generator)!
                return Int.random(in: 0..<12, using: &generator) == 0
                    ? "link set \(link) \(Bool.random(using: &generator) ? "up" : "down")"
                    : Bool.random(using: &generator)
                        ? "neighbour replace \(address) lladdr 02:00:00:00:00:0\(Int.random(in: 1...9)) nud \(state) dev \(link)"
                        : "neighbour del \(address) dev \(link)"
            }
            for line in lines { _ = try host.run(["ip"] + line.split(separator: " ").map(String.init)) }
            try box.monitor.update()
            let text = try host.sh("ip -j neighbour show nud all")
            let theirs = Set(
                try JSONDecoder().decode([Shown].self, from: Data(text.utf8)).filter {
                    $0.lladdr != nil && $0.dst.contains(".8") || $0.dst.contains("::8")
                }
                .map { "\($0.dst) \($0.dev) \($0.lladdr ?? "-")" })
            let mine = Set(
                box.monitor.tables.neighbors.values.filter {
                    "\($0.key.address)".contains(".8") || "\($0.key.address)".contains("::8")
                }.map {
                    "\($0.key.address) \(box.monitor.tables.links[$0.key.linkIndex]?.name ?? "-") \($0.macAddress?.description ?? "-")"
                })
            try #require(mine == theirs, "\(lines.joined(separator: "\n"))")
        }
    }

    ///     host: eth1 10.1.0.1 ── eth0 10.1.0.2: other
    @Test func aNeighbourInUseIsResolvedAndChecked() throws {
        let host = try Self.host()
        let other = try TestHost(trunk: false)
        try host.sh("ip link set peer-eth1 netns \(other.name) name eth0")
        try other.sh("ip link set eth0 up; ip address add 10.1.0.2/24 dev eth0; ip address add fd00:1::2/64 dev eth0")
        // The kernel tells of one that is in use again when it asks, which is five seconds later.
        try host.sh(
            "sysctl -qw net.ipv4.neigh.eth1.delay_first_probe_time=0 net.ipv6.neigh.eth1.delay_first_probe_time=0")
        let mac = try other.sh("ip -j link show eth0 | jq -r '.[0].address'").split(separator: "\n").joined()
        let box = try monitor(host)
        let link = try #require(box.monitor.tables.links.values.first { $0.name == "eth1" })
        func wait(_ condition: () -> Bool) throws -> Bool {
            for _ in 0..<200 {
                try box.monitor.update()
                if condition() { return true }
                ThisProcess.sleep(milliseconds: 50)
            }
            return false
        }
        for text in ["10.1.0.2", "fd00:1::2"] {
            let key = Neighbor.Key(linkIndex: link.index, address: try #require(IPAddress(text)))
            func use() throws {
                try Namespace.run(in: host.name) { () throws(KernelError) in
                    var batch = NetlinkBatch()
                    batch.useNeighbor(key)
                    try NetlinkSocket().execute(batch)
                }
            }
            #expect(box.monitor.tables.neighbors[key] == nil)
            try use()
            #expect(try wait { box.monitor.tables.neighbors[key]?.isValid ?? false }, "\(text)")
            #expect(box.monitor.tables.neighbors[key]?.macAddress?.description == mac)
            // One that has become stale is asked again.
            try host.sh("ip neighbour replace \(text) lladdr \(mac) nud stale dev eth1")
            #expect(try wait { box.monitor.tables.neighbors[key]?.state == 4 })
            try use()
            #expect(try wait { ![nil, 4].contains(box.monitor.tables.neighbors[key]?.state) })
        }
    }

    @Test func rulesOfAnAdministratorAreSeen() throws {
        let host = try Self.host()
        let box = try monitor(host)
        for rule in [
            "pref 100 table 100", "from 10.0.0.0/8 table 100", "fwmark 7 table 100", "iif eth1 table main",
            "not to 192.0.2.0/24 table 100", "pref 5 blackhole", "table main suppress_prefixlength 0",
            "pref 32766 table 9",
        ] {
            for (option, family) in [("-4", IPFamily.v4), ("-6", .v6)] where option == "-4" || !rule.contains(".") {
                try box.monitor.update()
                #expect(box.monitor.tables.areRulesDefault(family))
                _ = box.monitor.takeChanges()
                try host.sh("ip \(option) rule add \(rule)")
                try box.monitor.update()
                #expect(!box.monitor.tables.areRulesDefault(family), "\(rule)")
                #expect(box.monitor.takeChanges().rules)
                try host.sh("ip \(option) rule del \(rule)")
            }
        }
        try host.sh("ip rule del pref 32766")
        try box.monitor.update()
        #expect(!box.monitor.tables.areRulesDefault(.v4) && box.monitor.tables.areRulesDefault(.v6))
    }

    @Test func settingsAreTheKernels() throws {
        let host = try Self.host()
        let box = try monitor(host)
        func requireSame() throws {
            try box.monitor.update()
            let names = Dictionary(
                uniqueKeysWithValues: box.monitor.tables.links.values.map {
                    (NetworkSettings.Scope.link($0.index), $0.name)
                })
            #expect(box.monitor.tables.settings.count > 8)
            for (key, settings) in box.monitor.tables.settings {
                let name = key.scope == .all ? "all" : key.scope == .default ? "default" : names[key.scope] ?? "?"
                let folder = "/proc/sys/net/\(key.family == .v4 ? "ipv4" : "ipv6")/conf/\(name)"
                #expect(try host.sh("cat \(folder)/forwarding") == "\(settings.forwarding ?? -1)\n", "\(folder)")
                guard key.family == .v4 else { continue }
                #expect(try host.sh("cat \(folder)/rp_filter") == "\(settings.reversePathFilter ?? -1)\n", "\(folder)")
            }
        }
        try requireSame()
        try host.sh(
            """
            sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.eth1.rp_filter=2 net.ipv4.conf.eth2.forwarding=0
            sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth3.forwarding=0 net.ipv4.conf.all.rp_filter=1
            ip link add late type dummy 2>/dev/null || ip link add late type veth peer name later
            """)
        try requireSame()
        try host.sh("ip link del late; sysctl -qw net.ipv4.ip_forward=0")
        try requireSame()
    }

    @Test func whatIsAnnouncedIsNotTrusted() throws {
        let host = try Self.host()
        try host.sh(
            """
            ip route add 192.0.2.0/24 nexthop via 10.1.0.8 weight 3 nexthop via inet6 fd00:2::8 dev eth2
            ip -6 route add 2001:db8::/32 nexthop via fd00:1::8 nexthop via fd00:2::8
            ip route add 198.51.100.0/24 via 10.1.0.8 mtu lock 1400; ip rule add fwmark 7 table 100
            """)
        let messages = try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket()
            var result: [NetlinkMessage] = []
            func dump(_ type: Int, _ header: some BitwiseCopyable) throws(KernelError) {
                var request = NetlinkBatch()
                request.add("list", type: type, flags: NLM_F_ROOT | NLM_F_MATCH, header: header)
                result += try socket.dump(request)
            }
            try dump(RTM_GETLINK, ifinfomsg())
            try dump(RTM_GETADDR, ifaddrmsg())
            try dump(RTM_GETROUTE, rtmsg())
            try dump(RTM_GETRULE, fib_rule_hdr())
            try dump(RTM_GETNETCONF, netconfmsg())
            return result
        }
        #expect(messages.count > 40)
        var tables = KernelTables()
        var generator = SystemRandomNumberGenerator()
        for round in 0..<(30_000 / Self.share) {
            let message = messages.randomElement(using: &generator)!
            var payload = Array(message.payload.prefix(Int.random(in: 0...message.payload.count, using: &generator)))
            if round % 4 != 0 { payload = Array(message.payload) }
            for _ in 0..<Int.random(in: 0...3, using: &generator) where !payload.isEmpty {
                payload[Int.random(in: 0..<payload.count, using: &generator)] = .random(
                    in: 0 ... .max, using: &generator)
            }
            // Each kind of message has its opposite one number above it.
            let type = message.type + UInt16.random(in: 0...1, using: &generator)
            let flags = [0, UInt16(NLM_F_REPLACE), UInt16(NLM_F_APPEND)].randomElement(using: &generator)!
            tables.apply(NetlinkMessage(type: type, flags: flags, sequence: 0, payload: payload[...]))
        }
        var decisions: [IPPrefix: RouteTables.Decision] = [:]
        for family in IPFamily.allCases { tables.forEachDecision(family) { decisions[$0] = $1 } }
        for prefix in tables.takeChanges().prefixes { #expect(tables.decision(for: prefix) == decisions[prefix]) }
    }
}
