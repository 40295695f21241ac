// From a configuration to the text of a file that says it.

import Firewall
import Packets

extension ConfigurationFile {
    public enum Style: Sendable {
        /// Everything that can be said, also what holds without being said.
        case complete
        /// To be edited: what differs from what holds otherwise, and comments about the rest.
        ///
        /// - schema: the path of the file's JSON Schema, for editors.
        case commented(schema: String)

        fileprivate var isComplete: Bool { if case .complete = self { true } else { false } }
    }

    /// What reads as the same configuration again.
    public func text(_ style: Style) -> String {
        var writer = Writer(style: style)
        writer.write(self)
        return writer.text
    }
}

private struct Writer {
    let style: ConfigurationFile.Style
    private(set) var text = ""

    init(style: ConfigurationFile.Style) { self.style = style }

    mutating func write(_ file: ConfigurationFile) {
        let configuration = file.configuration
        if case .commented(let schema) = style {
            line("# yaml-language-server: $schema=\(schema)")
            line(
                "# The router between VLANs, for `vrouter up -f FILE`; `vrouter config check -f FILE` looks for mistakes."
            )
        }
        section("The interface on the trunk port.")
        line("parent: \(quoted(configuration.parent))")
        section("Interfaces behind which the outside is; without any, all that are no gateways.")
        entry("uplink", list(configuration.uplinks), example: "[eth0]", isSaid: !configuration.uplinks.isEmpty)

        section(
            "The router's addresses in each VLAN; the interface that carries it (parent) or the VLAN around it (outer); the name of the router's",
            "interface in it, its MTU in octets, the zone that the VLAN is in, and how the interface is made, if not as all (driver)."
        )
        line("vlans:")
        for vlan in configuration.vlans { write(vlan, configuration) }

        section("Whose IPv4 packets get the router's address as their source: vlans, uplink, all, none; and IPv6.")
        let zones = configuration.zoneMasquerades.sorted { $0.key < $1.key }.map {
            "\(quoted($0.key.name)): \($0.value.rawValue)"
        }
        // Beside zones, nothing else is said: see `Configuration.normalized`.
        line("masquerade: \(zones.isEmpty ? configuration.masquerade.rawValue : "{\(zones.joined(separator: ", "))}")")
        entry(
            "masquerade-ipv6", configuration.masqueradeIPv6.rawValue, isSaid: configuration.masqueradeIPv6 != .none)
        section("Pairs of VLANs: from the first, nobody opens connections to the second.")
        entry(
            "deny", list(configuration.denied.map(\.description)), example: "[\"100:300\"]",
            isSaid: !configuration.denied.isEmpty)
        writeAddressSets(configuration.matrix)
        writePolicy(configuration)
        writeForwardsAndRoutes(configuration)
        section("Whether TCP connections are told of a smaller MTU on their way.")
        entry("mss-clamp", configuration.clampsMSS ? "true" : "false", isSaid: configuration.clampsMSS)
        section(
            "Whether rules go to Docker's, ufw's and firewalld's chains that let the VLANs pass there. This router's own rules still decide."
        )
        entry("coexist", configuration.coexists ? "true" : "false", example: "true", isSaid: configuration.coexists)
        section(
            "Whether connections that are established bypass the rules, by the kernel's flow table: off; auto, where the kernel has them; on."
        )
        entry(
            "flowtable", quoted(configuration.flowtable.rawValue), example: "auto",
            isSaid: configuration.flowtable != .off)
        section("What forwards between VLANs beside the kernel: none, or af-packet, workers in user space.")
        if let fastPath = configuration.fastPath {
            line(
                "fast-path: {datapath: af-packet, workers: \(fastPath.workers), from: \(fastPath.threshold), "
                    + "connections: \(fastPath.connections)}")
        } else {
            entry("fast-path", "none", isSaid: false)
        }
        section("How the gateway interfaces are made: auto, 8021q, ebpf.")
        entry("vlan-driver", file.driver?.rawValue ?? "auto", isSaid: file.driver != nil)
    }

    private mutating func write(_ vlan: Configuration.VLAN, _ configuration: Configuration) {
        let addresses = list(vlan.addresses.map(\.description))
        var rest: [String] = []
        if let outer = vlan.outer { rest.append("outer: \(outer)") }
        if let parent = vlan.parent { rest.append("parent: \(quoted(parent))") }
        if let name = vlan.name {
            rest.append("name: \(quoted(name))")
        } else if style.isComplete {
            rest.append("name: \(quoted(configuration.defaultName(of: vlan)))")
        }
        if let mtu = vlan.mtu { rest.append("mtu: \(mtu)") }
        if vlan.zone != .vlans || style.isComplete { rest.append("zone: \(quoted(vlan.zone.name))") }
        if let driver = vlan.driver { rest.append("driver: \(quoted(driver.rawValue))") }
        guard !rest.isEmpty else {
            // Without an address it only carries others.
            guard !vlan.addresses.isEmpty else { return line("  \(vlan.id): {}") }
            line("  \(vlan.id): \(vlan.addresses.count == 1 ? quoted(vlan.addresses[0].description) : addresses)")
            return
        }
        line("  \(vlan.id):")
        if !vlan.addresses.isEmpty { line("    addresses: \(addresses)") }
        for each in rest { line("    \(each)") }
    }

    private mutating func writeAddressSets(_ matrix: ZoneMatrix) {
        section("Named addresses, for services.")
        guard !matrix.addressSets.isEmpty else {
            return entry("addresses", "{}", example: "{printers: [172.16.20.9, 172.16.20.16/28]}", isSaid: false)
        }
        line("addresses:")
        for (name, blocks) in matrix.addressSets.sorted(by: { $0.key < $1.key }) {
            line("  \(quoted(name)): \(list(blocks.map(\.shortText)))")
        }
    }

    private mutating func writePolicy(_ configuration: Configuration) {
        section(
            "Who opens connections to whom, by zones: those of VLANs, 'vlans' (where a VLAN has none), 'uplink' and 'self', the router.",
            "What is not said: VLANs reach each other and the outside, the outside reaches no VLAN.")
        let matrix = configuration.matrix
        guard !matrix.cells.isEmpty else {
            return entry("policy", "{}", example: "{vlans: {self: [udp/53, udp/67, icmp]}}", isSaid: false)
        }
        line("policy:")
        let zones = Set(configuration.vlans.map(\.zone))
        for from in Set(matrix.cells.keys.map(\.from)).sorted() {
            let row = matrix.cells.filter { $0.key.from == from }
            if from.hasVLANs, row == ZoneMatrix.isolated(from, among: zones) {
                line("  \(quoted(from.name)): isolated")
                continue
            }
            line("  \(quoted(from.name)):")
            for (pair, treatment) in row.sorted(by: { $0.key < $1.key }) {
                line("    \(quoted(pair.to.name)): \(value(treatment))")
            }
        }
    }

    private func value(_ treatment: Treatment) -> String {
        let services = list(treatment.services.map(\.description))
        guard treatment.isLogged || treatment.connectionsPerSecond != nil || treatment.verdict == .reject
        else {
            return treatment.services.isEmpty ? treatment.verdict.rawValue : services
        }
        if treatment == Treatment(.reject) { return treatment.verdict.rawValue }
        var parts = treatment.services.isEmpty ? [] : ["allow: \(services)"]
        parts.append("otherwise: \(treatment.verdict.rawValue)")
        if treatment.isLogged { parts.append("log: true") }
        if let limit = treatment.connectionsPerSecond { parts.append("limit: \(limit)") }
        return "{\(parts.joined(separator: ", "))}"
    }

    private mutating func writeForwardsAndRoutes(_ configuration: Configuration) {
        section("Ports of the router's that lead to hosts in VLANs.")
        if configuration.portForwards.isEmpty {
            entry("port-forwards", "[]", example: "[{port: tcp/8080, to: \"172.16.20.10:80\"}]", isSaid: false)
        } else {
            line("port-forwards:")
        }
        for forward in configuration.portForwards {
            line("  - {port: \(forward.transport.rawValue)/\(forward.port), to: \(quoted(forward.target))}")
        }
        section("Networks behind other routers.")
        if configuration.routes.isEmpty {
            entry("routes", "[]", example: "[{to: 10.0.0.0/8, via: 172.16.20.254}]", isSaid: false)
        } else {
            line("routes:")
        }
        for route in configuration.routes {
            line("  - {to: \(quoted("\(route.destination)")), via: \(quoted("\(route.gateway)"))}")
        }
    }

    // MARK: Lines

    private mutating func line(_ line: String) { text += line + "\n" }

    private mutating func section(_ comments: String...) {
        guard !style.isComplete else { return }
        line("")
        for comment in comments { line("# \(comment)") }
    }

    /// A key with its value; in a file to be edited, as a comment where it says nothing new.
    private mutating func entry(_ key: String, _ value: String, example: String? = nil, isSaid: Bool) {
        if isSaid || style.isComplete {
            line("\(key): \(value)")
        } else {
            line("# \(key): \(example ?? value)")
        }
    }

    private func list(_ values: [String]) -> String { "[\(values.map(quoted).joined(separator: ", "))]" }
}

/// As a scalar that every reader of YAML 1.1 and 1.2 takes for a text.
private func quoted(_ text: String) -> String {
    let reserved = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"]
    func isLetter(_ octet: UInt8) -> Bool { (0x61...0x7a).contains(octet | 0x20) }
    func isDigit(_ octet: UInt8) -> Bool { (0x30...0x39).contains(octet) }
    let octets = text.utf8
    let isName =
        octets.first.map(isLetter) == true && !reserved.contains(text.lowercased())
        && octets.allSatisfy { isLetter($0) || isDigit($0) || "._-/".utf8.contains($0) }
    // No number has three dots.
    let isIPv4 =
        octets.filter { $0 == UInt8(ascii: ".") }.count == 3 && octets.first.map(isDigit) == true
        && octets.allSatisfy { isDigit($0) || "./".utf8.contains($0) }
    if isName || isIPv4 { return text }
    let escaped = text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
    return "\"\(escaped)\""
}
