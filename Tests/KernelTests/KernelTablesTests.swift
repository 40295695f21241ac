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
        for _ in 0..<25 {
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
}
