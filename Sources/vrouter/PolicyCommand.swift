import ArgumentParser
import Firewall
import Packets
import Router

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Show who may open connections to whom, zone by zone.",
        discussion: """
            Rows are where a connection comes from, columns where it goes. It is what the options or the file say; without any, what `up` \
            has applied here. Answers always come back. 'self' is the router, 'uplink' the outside.
            """)

    @OptionGroup var routing: RoutingOptions

    @Flag(help: "Print it as JSON.")
    var json = false

    func run() throws {
        let configuration = try routing.configurationOrRunning().configuration
        let report = PolicyReport(configuration)
        if json { return try printJSON(report) }
        var zones = Table(["zone", "VLANs"])
        for zone in report.zones { zones.add([zone.name, zone.vlans.map { "\($0)" }.joined(separator: ", ")]) }
        print(zones.text)
        var table = Table(["from \\ to"] + report.columns)
        for from in report.columns {
            table.add(
                [from]
                    + report.columns.map { to in
                        report.connections.first { $0.from == from && $0.to == to }?.treatment ?? "-"
                    })
        }
        print(table.text, terminator: "")
        if !report.denied.isEmpty {
            print(
                "\ndenied, whatever stands above: \(report.denied.map { "VLAN \($0.from) to \($0.to)" }.joined(separator: ", "))"
            )
        }
        if !report.addresses.isEmpty {
            print()
            var sets = Table(["addresses", ""])
            for (name, blocks) in report.addresses.sorted(by: { $0.key < $1.key }) {
                sets.add([name, blocks.joined(separator: ", ")])
            }
            print(sets.text, terminator: "")
        }
    }
}

private struct PolicyReport: Encodable {
    struct Member: Encodable {
        var name: String
        var vlans: [UInt16]
    }

    struct Connection: Encodable {
        var from: String
        var to: String
        /// For a person.
        var treatment: String
        /// Of what no service names.
        var verdict: Treatment.Verdict
        var services: [String]
        var isLogged: Bool
        var connectionsPerSecond: UInt32?
    }

    struct Pair: Encodable {
        var from: UInt16
        var to: UInt16
    }

    var zones: [Member]
    var connections: [Connection]
    var denied: [Pair]
    var addresses: [String: [String]]

    init(_ configuration: Configuration) {
        let members = Dictionary(grouping: configuration.vlans, by: \.zone)
        zones = members.sorted { $0.key < $1.key }.map { zone, vlans in
            Member(name: zone.name, vlans: vlans.map(\.id.rawValue))
        }
        let all = members.keys.sorted() + [.uplink, .router]
        connections = all.flatMap { from in
            all.filter { from != $0 || from.hasVLANs }.map { to in
                Connection(from: from, to: to, configuration.matrix.treatment(from: from, to: to))
            }
        }
        denied = configuration.denied.map { Pair(from: $0.from.rawValue, to: $0.to.rawValue) }
        addresses = configuration.matrix.addressSets.mapValues { $0.map(\.description) }
    }

    var columns: [String] { zones.map(\.name) + [Zone.uplink.name, Zone.router.name] }
}

extension PolicyReport.Connection {
    fileprivate init(from: Zone, to: Zone, _ treatment: Treatment) {
        self.from = from.name
        self.to = to.name
        self.treatment = treatment.description
        verdict = treatment.verdict
        services = treatment.services.map(\.description)
        isLogged = treatment.isLogged
        connectionsPerSecond = treatment.connectionsPerSecond
    }
}
