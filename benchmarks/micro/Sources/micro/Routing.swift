import Foundation
import Packets
import Routing

/// Longest-prefix match: look-ups by table and traffic, memory, and the time until a changed route is published.
struct RoutingBenchmark {
    /// The program of benchmarks/peers/rte_lpm, if it is to be measured beside.
    let peer: String?
    let rounds: Int
    private var report = Report()

    struct Report: Codable {
        var lookups: [Lookups] = []
        var tables: [Table] = []
        var changes: [Changes] = []
    }
    struct Lookups: Codable {
        let table: String
        let traffic: String
        let results: [Result]
    }
    struct Table: Codable {
        let table: String
        let routes: Int
        /// Octets, in use and reserved.
        let used: Int
        let reserved: Int
        /// What DIR-24-8 takes for the same; IPv4 only.
        let dir24x8: Int?
        /// Seconds to insert and publish all, by who.
        let inserting: [String: Double]
    }
    struct Changes: Codable {
        let table: String
        /// Microseconds from the change to what is published.
        let median: Double
        let p99: Double
        let max: Double
        let defaultRoute: Double
    }

    init(peer: String?, rounds: Int) {
        self.peer = peer
        self.rounds = rounds
    }

    mutating func run() throws -> Report {
        let real = try Routes.real(32)
        try measure(real)
        try measure(Routes.million(real))
        try measure(Routes.real(128))
        return report
    }

    private mutating func measure(_ routes: Routes) throws {
        let family = routes.width == 32 ? "IPv4" : "IPv6"
        let name = "\(routes.name), \(family)"
        let traffic = Traffic.all(routes)

        // The order in which routes come is nobody's to choose.
        var random = Repeatable(state: 3)
        let shuffled = routes.list.shuffled(using: &random)
        var table = RouteTable()
        let start = nanoseconds()
        for route in shuffled { table.insert(routes.prefix(route), target: route.target) }
        _ = table.publish()
        var inserting = ["vrouter": Double(nanoseconds() - start) / 1e9]

        var peers: [Peer] = []
        if let peer {
            let folder = FileManager.default.temporaryDirectory.appending(path: "vrouter-micro-\(getpid())")
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(at: folder) }
            let routesFile = folder.appending(path: "routes")
            try Data(shuffled.flatMap { bytes($0.network, routes.width) + word($0.length) + word($0.target) })
                .write(to: routesFile)
            var files: [URL] = []
            for (i, each) in traffic.enumerated() {
                files.append(folder.appending(path: "traffic-\(i)"))
                try Data(each.addresses.flatMap { bytes($0, routes.width) }).write(to: files[i])
            }
            for (name, kind) in routes.width == 32
                ? [("rte_lpm", "lpm"), ("rte_fib", "fib")] : [("rte_fib6", "fib6")]
            {
                peers.append(try Peer(peer, name: name, kind: kind, routes: routesFile, traffic: files))
                inserting[name] = peers.last!.inserting
            }
        }

        // All take turns: what disturbs the machine for a moment is in one round of several rows, not in all rounds of one.
        var cases: [[Case]] = []
        for (i, each) in traffic.enumerated() {
            // The table is the same each time, for nothing has changed.
            var sum: UInt64 = 0
            cases.append(
                routes.width == 32
                    ? cases4(table.publish(), each) { sum = $0 } : cases6(table.publish(), each) { sum = $0 })
            for peer in peers {
                cases[i].append(
                    Case(name: peer.name) {
                        let answer = try peer.ask("\(i)")
                        guard answer.count == 2, let time = Double(answer[0]), UInt64(answer[1]) == sum else {
                            throw Problem("\(name), \(each.name): \(peer.name) finds \(answer), not \(sum)")
                        }
                        return time
                    })
            }
        }
        var results = try interleaved(cases.flatMap { $0 }, rounds: rounds)[...]
        for (row, each) in zip(cases, traffic) {
            report.lookups.append(
                Lookups(table: name, traffic: each.name, results: Array(results.prefix(row.count))))
            results = results.dropFirst(row.count)
        }
        // Nobody shall have the table when it is changed.
        cases = []

        let size = table.publishedSize
        report.tables.append(
            Table(
                table: name, routes: routes.list.count, used: size.used, reserved: size.reserved,
                dir24x8: routes.width == 32 ? routes.dir24x8 : nil, inserting: inserting))
        report.changes.append(changes(name, routes, &table))
    }

    private func cases4(_ table: ForwardingTable, _ traffic: Traffic, _ found: @escaping (UInt64) -> Void) -> [Case] {
        let addresses = traffic.addresses.map { UInt32($0) }
        return [
            Case(name: "bulk") {
                var sum: UInt64 = 0
                let time = timed(addresses.count) {
                    sum = 0
                    var targets = InlineArray<64, UInt32>(repeating: 0)
                    var start = 0
                    while start < addresses.count {
                        var span = targets.mutableSpan
                        table.lookup(ipv4: addresses.span.extracting(start..<start + 64), into: &span)
                        for i in 0..<64 { sum &+= UInt64(targets[i]) }
                        start += 64
                    }
                }
                found(sum)
                return time
            },
            Case(name: "single") {
                var sum: UInt64 = 0
                let time = timed(addresses.count) {
                    sum = 0
                    for address in addresses { sum &+= UInt64(table.lookup(ipv4: address)) }
                }
                found(sum)
                return time
            },
        ]
    }

    private func cases6(_ table: ForwardingTable, _ traffic: Traffic, _ found: @escaping (UInt64) -> Void) -> [Case] {
        let addresses = traffic.addresses
        return [
            Case(name: "bulk") {
                var sum: UInt64 = 0
                let time = timed(addresses.count) {
                    sum = 0
                    var targets = InlineArray<64, UInt32>(repeating: 0)
                    var start = 0
                    while start < addresses.count {
                        var span = targets.mutableSpan
                        table.lookup(ipv6: addresses.span.extracting(start..<start + 64), into: &span)
                        for i in 0..<64 { sum &+= UInt64(targets[i]) }
                        start += 64
                    }
                }
                found(sum)
                return time
            },
            Case(name: "single") {
                var sum: UInt64 = 0
                let time = timed(addresses.count) {
                    sum = 0
                    for address in addresses {
                        let high = UInt64(truncatingIfNeeded: address >> 64)
                        sum &+= UInt64(table.lookup(ipv6: high, low: UInt64(truncatingIfNeeded: address)))
                    }
                }
                found(sum)
                return time
            },
        ]
    }

    /// Routes removed and put back, one by one, each change published. A reader has each version until the next.
    private func changes(_ name: String, _ routes: Routes, _ table: inout RouteTable) -> Changes {
        var random = Repeatable(state: 11)
        var times: [Double] = []
        var reader = table.publish()
        func time(_ table: inout RouteTable, _ change: (inout RouteTable) -> Void) -> Double {
            let start = nanoseconds(CLOCK_THREAD_CPUTIME_ID)
            change(&table)
            let next = table.publish()
            let time = Double(nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start) / 1000
            reader = next
            return time
        }
        for _ in 0..<10_000 {
            let route = routes.list.randomElement(using: &random)!
            let prefix = routes.prefix(route)
            times.append(time(&table) { $0.remove(prefix) })
            times.append(time(&table) { $0.insert(prefix, target: route.target) })
        }
        let anywhere = routes.prefix(Route(network: 0, length: 0, target: 0))
        var defaults: [Double] = []
        for target in 1...101 { defaults.append(time(&table) { $0.insert(anywhere, target: UInt32(target)) }) }
        withExtendedLifetime(reader) {}
        times.sort()
        return Changes(
            table: name, median: times.median, p99: times[times.count * 99 / 100], max: times.last!,
            defaultRoute: defaults.median)
    }
}

/// In network order where it is an IPv6 address, else in the machine's.
private func bytes(_ address: UInt128, _ width: Int) -> [UInt8] {
    width == 32
        ? word(UInt32(address)) : (0..<16).map { UInt8(truncatingIfNeeded: address >> UInt128(120 - 8 * $0)) }
}

private func word(_ number: some BinaryInteger) -> [UInt8] {
    let number = UInt32(number)
    return (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }  // x86-64's order, as the peer reads it
}

extension RoutingBenchmark.Report {
    var text: String {
        var parts: [String] = []
        for name in tables.map(\.table) {
            let rows = lookups.filter { $0.table == name }
            let names = rows[0].results.map(\.name)
            parts.append(
                table(
                    ["\(name): ns per look-up"] + names,
                    rows.map { row in
                        [row.traffic] + row.results.map { $0.median.text(1) + " (" + $0.rounds.min()!.text(1) + ")" }
                    }))
        }
        parts.append(
            table(
                [
                    "memory", "routes", "MiB in use", "MiB reserved", "MiB of DIR-24-8",
                    "seconds to insert and publish all",
                ],
                tables.map {
                    [
                        $0.table, String($0.routes), mebibytes($0.used), mebibytes($0.reserved),
                        $0.dir24x8.map(mebibytes) ?? "",
                        $0.inserting.sorted { $0.key > $1.key }.map { "\($0.key) \($0.value.text(1))" }
                            .joined(separator: ", "),
                    ]
                }))
        parts.append(
            table(
                ["one change, published: µs", "median", "99 %", "largest", "default route, median"],
                changes.map { [$0.table, $0.median.text(1), $0.p99.text(1), $0.max.text(1), $0.defaultRoute.text(1)] }))
        return parts.joined(separator: "\n\n")
    }

    private func mebibytes(_ octets: Int) -> String { (Double(octets) / 1_048_576).text() }
}
