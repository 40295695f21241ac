import ArgumentParser
import Router

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show the VLANs, their counters, and what is no longer as `up` left it.",
        discussion:
            "Exit status: 0 as `up` left it; 1 something drifted, or a change was cut short; 3 vrouter is not up here.")

    @Flag(help: "Print it as JSON.")
    var json = false

    func run() throws {
        let status = try reportingFailure { () throws(Failure) in try Status.read() }
        if json { try printJSON(status) } else { printTable(status) }
        if !status.active { throw ExitCode(3) }
        if status.interrupted || !status.drift.isEmpty || status.unconfirmed?.isForgotten == true { throw ExitCode(1) }
    }

    private func printTable(_ status: Status) {
        let service = status.service.map { "vrouter run (process \($0.process)) \($0.activity)" }
        guard status.active else {
            return print((["vrouter is not up here"] + [service].compactMap(\.self)).joined(separator: "\n"))
        }
        print("parent \(status.parent ?? "?")   driver \(status.driver?.rawValue ?? "?")   ", terminator: "")
        print("masquerade \(status.masquerade ?? "?")   ", terminator: "")
        print(
            "forwarding IPv4 \(status.forwarding.ipv4 ? "on" : "off"), IPv6 \(status.forwarding.ipv6 ? "on" : "off")\n")

        var vlans = Table([
            "VLAN", "interface", "state", "addresses", "packets in", "bytes in", "packets out", "bytes out",
        ])
        vlans.rightAligned = [0, 4, 5, 6, 7]
        for vlan in status.vlans {
            vlans.add([
                String(vlan.id), vlan.interface + (vlan.adopted ? " (adopted)" : ""), vlan.state,
                vlan.addresses.joined(separator: " "), String(vlan.received.packets), String(vlan.received.bytes),
                String(vlan.sent.packets), String(vlan.sent.bytes),
            ])
        }
        print(vlans.text)

        if let flowtable = status.flowtable {
            print("flow table: \(flowtable ? "takes established connections" : "this kernel has none")\n")
        }
        if let fastPath = status.fastPath { printFastPath(fastPath) }

        var rules = Table(["chain", "rule", "packets", "bytes"])
        rules.rightAligned = [2, 3]
        for rule in status.rules { rules.add([rule.chain, rule.comment, String(rule.packets), String(rule.bytes)]) }
        if !status.rules.isEmpty { print(rules.text) }
        if !status.acceptedIn.isEmpty {
            print("let pass in other firewalls: \(status.acceptedIn.joined(separator: ", "))\n")
        }

        var routes = Table(["route", "via", "interface"])
        for route in status.routes { routes.add([route.destination, route.gateway ?? "-", route.interface ?? "-"]) }
        if !status.routes.isEmpty { print(routes.text) }

        if status.interrupted { print("a change was cut short: `vrouter up …` or `vrouter down` finishes it") }
        if let service { print(service) }
        if let unconfirmed = status.unconfirmed { print(unconfirmed.line) }
        for line in status.drift { print("drift: \(line)") }
    }

    private func printFastPath(_ fastPath: FastPathStatus) {
        guard let process = fastPath.process else {
            return print("fast path: not running; the kernel forwards everything\n")
        }
        print("fast path: process \(process)")
        for obstacle in fastPath.obstacles { print("  the kernel forwards everything: \(obstacle)") }
        if fastPath.obstacles.isEmpty {
            for reason in fastPath.onlyKnownConnections { print("  only established connections: \(reason)") }
            print("  established connections that it carries: \(fastPath.connections)")
        }
        print("")
        var table = Table(["worker", "what became of frames", "packets", "bytes"])
        table.rightAligned = [0, 2, 3]
        for worker in fastPath.workers {
            table.add([
                String(worker.number), "forwarded", String(worker.forwarded.packets), String(worker.forwarded.bytes),
            ])
            for reason in worker.ended {
                table.add([String(worker.number), "ended: \(reason.description)", String(reason.packets), ""])
            }
        }
        print(table.text)
    }
}
