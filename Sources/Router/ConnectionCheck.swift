// Why a certain connection does not come about.

import Firewall
import Kernel
import Packets

/// Who wants to reach whom, and for what.
public struct AskedConnection: Sendable {
    public var source: IPAddress
    public var destination: IPAddress
    /// `tcp/443`, `udp/53`, `icmp`.
    public var service: Service

    /// - Parameters: as a person writes them.
    public init(from source: String, to destination: String, service: String) throws(Failure) {
        func address(_ option: String, _ text: String) throws(Failure) -> IPAddress {
            guard let address = IPAddress(text) else {
                throw Failure(
                    .usage, "\(option) \(text): not an IPv4 or IPv6 address",
                    remedy: "give a host's address, for example \(option) 172.16.10.10")
            }
            return address
        }
        self.source = try address("--from", source)
        self.destination = try address("--to", destination)
        guard self.source.family == self.destination.family else {
            throw Failure(
                .usage, "--from \(source) and --to \(destination) are of different families",
                remedy: "give two IPv4 addresses, or two of IPv6")
        }
        let parsed = try? Service(service)
        guard let parsed, parsed.source == nil, parsed.destination == nil, parsed.transport != .any,
            parsed.transport == .icmp || parsed.ports.count == 1 && parsed.ports[0].count == 1
        else {
            throw Failure(
                .usage, "--service \(service): not one service", remedy: "give for example tcp/443, udp/53 or icmp")
        }
        self.service = parsed
    }
}

extension Doctor {
    /// Where the two are, what the policy says of them, and whether the destination is there.
    static func connection(
        _ asked: AskedConnection, _ configuration: Configuration, _ host: Host, _ neighbors: [Neighbor]
    ) throws(Failure) -> [Finding] {
        let networks = VLANNetworks(configuration, on: host)
        let from = networks.place(of: asked.source)
        let to = networks.place(of: asked.destination)
        let names = Names(configuration)
        let way = "\(asked.source) (\(names.text(from))) to \(asked.destination) (\(names.text(to)))"
        if from == to, case .gateway = from {
            return [
                Finding("connection", .info, "\(way): hosts of one VLAN reach each other without the router")
            ]
        }
        for (address, place) in [(asked.source, from), (asked.destination, to)] where place == .interface("") {
            return [
                Finding(
                    "connection", .blocking, "no route leads to \(address)",
                    remedy: [
                        "ip route get \(address)", "vrouter up … --route \(address)/\(address.family.width)=GATEWAY",
                    ])
            ]
        }
        let packet = FirstPacket(
            from: from, to: to, source: asked.source, destination: asked.destination,
            transport: asked.service.transport.protocol(asked.source.family),
            destinationPort: asked.service.ports.first?.lowerBound ?? 0)
        let verdict = Verdicts(try configuration.policy()).verdict(on: packet)
        var findings = [policy(verdict, way, asked, names.zone(from), names.zone(to), names.denied(from, to))]
        if case .gateway(let name) = to, let link = host.link(name),
            configuration.vlans.contains(where: { vlan in
                configuration.interfaceName(vlan.id) == name
                    && vlan.addresses.contains { $0.prefix.contains(asked.destination) }
            })
        {
            findings.append(neighbor(asked.destination, on: link, neighbors))
        }
        return findings
    }

    private static func policy(
        _ verdict: Treatment.Verdict, _ way: String, _ asked: AskedConnection, _ from: Zone?, _ to: Zone?,
        _ denied: Configuration.DeniedPair?
    ) -> Finding {
        if verdict == .accept { return Finding("connection", .ok, "\(asked.service) from \(way) is let through") }
        let text = "new connections for \(asked.service) from \(way) are \(verdict == .reject ? "rejected" : "dropped")"
        if let denied { return Finding("connection", .blocking, text, remedy: ["leave out --deny \(denied)"]) }
        guard let from, let to else {
            return Finding(
                "connection", .blocking,
                "\(text): one of them is behind an interface that is neither a gateway nor an uplink",
                remedy: ["name its interface with --uplink"])
        }
        return Finding(
            "connection", .blocking, text,
            remedy: [
                "vrouter up … --policy \(from):\(to)=\(asked.service), with what else is accepted there (vrouter policy)"
            ])
    }

    private static func neighbor(_ address: IPAddress, on link: Link, _ neighbors: [Neighbor]) -> Finding {
        let entry = neighbors.first { $0.key == Neighbor.Key(linkIndex: link.index, address: address) }
        switch entry {
        case .some(let entry) where entry.isValid:
            return Finding("neighbour", .ok, "\(address) answers on \(link.name)")
        case .some:
            return Finding(
                "neighbour", .blocking, "nobody on \(link.name) answers for \(address)",
                remedy: ["see whether the host is up, in this VLAN, and has this address"])
        case .none:
            return Finding(
                "neighbour", .info, "nobody has asked for \(address) on \(link.name) yet", remedy: ["ping \(address)"])
        }
    }
}

/// Of places, for a person.
private struct Names {
    let configuration: Configuration

    init(_ configuration: Configuration) { self.configuration = configuration }

    private func vlan(_ place: FirstPacket.Place) -> Configuration.VLAN? {
        guard case .gateway(let name) = place else { return nil }
        return configuration.vlans.first { configuration.interfaceName($0.id) == name }
    }

    func text(_ place: FirstPacket.Place) -> String {
        switch place {
        case .gateway: vlan(place).map { "VLAN \($0.id), zone \($0.zone)" } ?? "?"
        case .interface(let name): "behind \(name)"
        case .router: "the router itself"
        }
    }

    func zone(_ place: FirstPacket.Place) -> Zone? {
        switch place {
        case .gateway: vlan(place)?.zone
        case .interface(let name):
            configuration.uplinks.isEmpty || configuration.uplinks.contains(name) ? .uplink : nil
        case .router: .router
        }
    }

    func denied(_ from: FirstPacket.Place, _ to: FirstPacket.Place) -> Configuration.DeniedPair? {
        guard let from = vlan(from), let to = vlan(to) else { return nil }
        return configuration.denied.first { $0.from == from.id && $0.to == to.id }
    }
}

extension Service.Transport {
    fileprivate func `protocol`(_ family: IPFamily) -> IPProtocol {
        switch self {
        case .tcp: .tcp
        case .udp: .udp
        case .icmp, .any: family == .v4 ? .icmp : .icmpv6
        }
    }
}
