// What has to hold within a configuration, whoever has written it.

import Firewall
import Kernel
import Packets

extension Configuration {
    /// A part of a configuration, to say where something is wrong.
    enum Part: Hashable {
        case whole
        case parent
        case uplink(Int)
        case vlan(VLANID)
        case address(VLANID, Int)
        /// Of the interface that carries the VLAN.
        case trunk(VLANID)
        case outer(VLANID)
        case name(VLANID)
        case mtu(VLANID)
        case zone(VLANID)
        case driver(VLANID)
        /// What is said of a zone's masquerading.
        case masquerade(Zone)
        case denied(DeniedPair)
        case addressSet(String)
        /// All that is said of connections from a zone.
        case policy(Zone)
        case cell(ZoneMatrix.Pair)
        case service(ZoneMatrix.Pair, Int)
        case portForward(Int)
        case route(Int)
        case flowtable
        case workers
        case connections
    }

    struct Problem: Hashable {
        var part: Part
        var objection: Objection
    }

    /// Everything that is wrong.
    ///
    /// - Parameter isPartial: parts could not be read; what refers to others may refer to those.
    func problems(isPartial: Bool = false) -> [Problem] {
        var checks = Checks(configuration: self)
        if vlans.isEmpty, !isPartial {
            checks.report(
                .whole, "no VLAN given", "--vlan ID=ADDRESS/LENGTH, for example --vlan 100=172.16.10.1/24",
                inFile: "write one below 'vlans', for example 100: 172.16.10.1/24")
        }
        // A name follows from that of the VLAN around, and so without end where they go in a circle.
        if checks.outerVLANs() { checks.names() }
        if !isPartial { checks.gatewaysWithoutAddress() }
        checks.addresses()
        checks.sizes()
        checks.zones()
        checks.drivers()
        checks.flowtable()
        checks.workers()
        if !isPartial {
            checks.denied()
            checks.references()
        }
        checks.matrix()
        checks.forwards(isPartial: isPartial)
        checks.routes(isPartial: isPartial)
        return checks.problems
    }

    /// Of its gateway interface, where none is given.
    func defaultName(of vlan: VLAN) -> String { Self.interfaceName(vlan.id, on: parent(of: vlan)) }

    /// The same with what has several spellings in one of them.
    func normalized() -> Configuration {
        var result = self
        for (index, vlan) in vlans.enumerated() {
            if vlan.parent == parent { result.vlans[index].parent = nil }
            if vlan.name == defaultName(of: vlan) { result.vlans[index].name = nil }
        }
        result.matrix = matrix.normalized()
        // Of what is said of all zones, only what differs from what holds where nothing is said.
        if !zoneMasquerades.isEmpty {
            let modes = Dictionary(vlans.map { ($0.zone, masquerade(of: $0)) }, uniquingKeysWith: { first, _ in first })
            let isOne = Set(modes.values).count == 1
            result.masquerade = isOne ? modes.values.first ?? masquerade : .vlans
            result.zoneMasquerades = isOne ? [:] : modes.filter { $0.value != .vlans }
        }
        return result
    }
}

private struct Checks {
    let configuration: Configuration
    var problems: [Configuration.Problem] = []
    /// Of all gateways, in order.
    private let subnets: [(block: IPPrefix, id: VLANID)]

    init(configuration: Configuration) {
        self.configuration = configuration
        subnets = configuration.vlans.flatMap { vlan in vlan.addresses.map { ($0.prefix, vlan.id) } }
    }

    mutating func report(
        _ part: Configuration.Part, _ message: String, _ remedy: String, inFile: String? = nil
    ) {
        problems.append(
            Configuration.Problem(part: part, objection: Objection(message, remedy, inFile: inFile)))
    }

    // MARK: Interfaces

    mutating func names() {
        let parent = configuration.parent
        if let reason = Self.reason(against: parent) {
            report(.parent, reason, "rename it: ip link set dev '\(parent)' down name NAME")
        }
        var taken: [String: String] = [parent: "the trunk's"]
        for vlan in configuration.vlans {
            guard let trunk = vlan.parent, taken.updateValue("a trunk's", forKey: trunk) == nil else { continue }
            if let reason = Self.reason(against: trunk) {
                report(.trunk(vlan.id), reason, "rename it: ip link set dev '\(trunk)' down name NAME")
            }
        }
        for (index, name) in configuration.uplinks.enumerated() {
            if let reason = Self.reason(against: name) {
                report(.uplink(index), reason, "rename it: ip link set dev '\(name)' down name NAME")
            }
            if configuration.uplinks[..<index].contains(name) {
                report(.uplink(index), "\(name) is given twice", "give each uplink once")
            }
            // The trunk may be the uplink, too: by its frames without a tag.
            if taken[name] == nil { taken[name] = "an uplink's" }
        }
        for vlan in configuration.vlans {
            let name = vlan.name ?? configuration.defaultName(of: vlan)
            if vlan.name != nil, let reason = Self.reason(against: name) {
                report(.name(vlan.id), reason, "choose another name")
            } else if let other = taken[name] {
                let part = vlan.name == nil ? Configuration.Part.vlan(vlan.id) : .name(vlan.id)
                report(
                    part, "the gateway of VLAN \(vlan.id) would have the name \(name), which is \(other)",
                    "give each interface a name of its own")
            } else {
                taken[name] = "that of VLAN \(vlan.id)"
            }
        }
    }

    /// - Returns: whether each VLAN has at most one around it.
    mutating func outerVLANs() -> Bool {
        let vlans = Dictionary(configuration.vlans.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        var isFlat = true
        for vlan in configuration.vlans {
            guard let outer = vlan.outer else { continue }
            if vlan.parent != nil {
                report(
                    .outer(vlan.id), "VLAN \(vlan.id) is within VLAN \(outer), whose interface carries it",
                    "leave the trunk out that is given for it as well")
            }
            guard let around = vlans[outer] else {
                let objection = Objection.unknownVLAN(outer)
                problems.append(Configuration.Problem(part: .outer(vlan.id), objection: objection))
                continue
            }
            guard around.outer == nil else {
                isFlat = false
                report(
                    .outer(vlan.id), "VLAN \(outer) is itself within another one", "frames have at most two tags")
                continue
            }
        }
        return isFlat
    }

    mutating func gatewaysWithoutAddress() {
        let carriers = Set(configuration.vlans.compactMap(\.outer))
        for vlan in configuration.vlans where vlan.addresses.isEmpty && !carriers.contains(vlan.id) {
            report(
                .vlan(vlan.id), "VLAN \(vlan.id) has no address", "write for example --vlan \(vlan.id)=172.16.10.1/24",
                inFile: "write for example addresses: 172.16.10.1/24")
        }
    }

    /// Why an interface cannot have that name, or not one that rules and commands can hold; nil: it can.
    private static func reason(against name: String) -> String? {
        // Dry runs and remedies are commands that people paste into a shell.
        if let character = name.first(where: { "$;&|<>()[]{}#~?^%=,`!*'\"\\ ".contains($0) }) {
            return
                "the interface name '\(name)' contains '\(character)', which a shell reads as something else"
        }
        guard (1...Configuration.longestInterfaceName).contains(name.utf8.count) else {
            return "the interface name '\(name)' has \(name.utf8.count) octets, and not 1 to "
                + "\(Configuration.longestInterfaceName)"
        }
        guard name != ".", name != "..", name.utf8.first != UInt8(ascii: "-"),
            name.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f && !"/:+@".utf8.contains($0) })
        else { return "the interface name '\(name)' cannot be written in a firewall rule or a command" }
        return nil
    }

    mutating func sizes() {
        for vlan in configuration.vlans {
            guard let mtu = vlan.mtu else { continue }
            // RFC 791 §3.2 and RFC 8200 §5: what every link must carry.
            let least: UInt32 = vlan.addresses.contains { !$0.address.isV4 } ? 1280 : 68
            guard !(least...65535).contains(mtu) else { continue }
            report(
                .mtu(vlan.id), "an MTU of \(mtu) octets is not possible",
                "give one from \(least) to 65535" + (least == 68 ? "" : ", as the VLAN has an IPv6 address"))
        }
    }

    // MARK: Addresses

    mutating func addresses() {
        var blocks: [(prefix: IPPrefix, id: VLANID, index: Int)] = []
        var seen: Set<IPAddress> = []
        for vlan in configuration.vlans {
            for (index, address) in vlan.addresses.enumerated() {
                check(address, .address(vlan.id, index))
                // Every link has its own fe80::/10.
                if address.address.isLinkLocal { continue }
                guard seen.insert(address.address).inserted else {
                    report(.address(vlan.id, index), "the address is given twice", "give each address once")
                    continue
                }
                blocks.append((address.prefix, vlan.id, index))
            }
        }
        // In order, a block that overlaps another one follows one that contains it.
        blocks.sort { $0.prefix < $1.prefix }
        var outer: (prefix: IPPrefix, id: VLANID, index: Int)?
        for block in blocks {
            if let outer, outer.prefix.overlaps(block.prefix) {
                guard outer.id != block.id else { continue }
                report(
                    .address(block.id, block.index),
                    "the subnets \(outer.prefix) of VLAN \(outer.id) and \(block.prefix) of VLAN \(block.id) overlap",
                    "give each VLAN a subnet of its own")
            } else {
                outer = block
            }
        }
    }

    private mutating func check(_ address: InterfaceAddress, _ part: Configuration.Part) {
        let remedy = "give the address that the hosts use as their gateway"
        if address.prefixLength == 0 {
            report(part, "a subnet of prefix length 0 is the whole internet", "give the subnet's own length")
        } else if address.isNetworkAddress {
            report(part, "\(address.address) is the address of the subnet \(address.prefix) itself", remedy)
        } else if let broadcast = address.broadcast, address.address == .v4(broadcast) {
            report(part, "\(broadcast) is the broadcast address of \(address.prefix)", remedy)
        } else if let reason = Self.special(address.address) {
            report(part, "\(address.address) \(reason)", remedy)
        }
    }

    /// Why an address is no host's.
    private static func special(_ address: IPAddress) -> String? {
        specialBlocks.first { $0.0.contains(address) }?.1
    }

    private static let specialBlocks: [(IPPrefix, String)] = [
        ("0.0.0.0/8", "means 'this host'"), ("127.0.0.0/8", "is a loopback address"),
        ("224.0.0.0/4", "is a multicast address"), ("240.0.0.0/4", "is reserved"),
        ("::/127", "is unspecified or loopback"), ("::ffff:0:0/96", "is an IPv4 address in IPv6's form"),
        ("ff00::/8", "is a multicast address"),
    ].compactMap { block, reason in (try? InterfaceAddress(block)).map { ($0.prefix, reason) } }

    /// Why an address is not that of a host in a VLAN; nil: it is.
    private func reason(againstHost address: IPAddress) -> String? {
        for vlan in configuration.vlans {
            for gateway in vlan.addresses where gateway.prefix.contains(address) {
                let host = InterfaceAddress(address, prefixLength: gateway.prefixLength)
                if gateway.address == address { return "\(address) is the router's own address" }
                if host.isNetworkAddress { return "\(address) is the address of the subnet \(gateway.prefix) itself" }
                if host.broadcast.map({ .v4($0) == address }) == true {
                    return "\(address) is the broadcast address of \(gateway.prefix)"
                }
            }
        }
        return nil
    }

    // MARK: Who reaches whom

    mutating func denied() {
        let ids = Set(configuration.vlans.map(\.id))
        for pair in configuration.denied {
            for id in [pair.from, pair.to] where !ids.contains(id) {
                let objection = Objection.unknownVLAN(id)
                problems.append(Configuration.Problem(part: .denied(pair), objection: objection))
            }
            if pair.from == pair.to {
                report(
                    .denied(pair), "hosts of one VLAN reach each other without the router", "name two different VLANs")
            }
        }
    }

    mutating func drivers() {
        let vlans = Dictionary(configuration.vlans.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        for vlan in configuration.vlans {
            if vlan.driver != nil, configuration.fastPath != nil {
                report(
                    .driver(vlan.id), "VLAN \(vlan.id) has a driver of its own, and the fast path needs one for all",
                    "leave it out, and say --vlan-driver", inFile: "leave it out, and write 'vlan-driver'")
            }
            if let outer = vlan.outer, let around = vlans[outer], around.driver != vlan.driver {
                report(
                    .driver(vlan.id), "VLAN \(vlan.id) is within VLAN \(outer), which has another driver",
                    "give both the same")
            }
        }
    }

    mutating func zones() {
        for vlan in configuration.vlans where !vlan.zone.hasVLANs {
            report(.zone(vlan.id), "the zone '\(vlan.zone)' has no VLANs", "choose another name")
        }
    }

    /// Zones and address sets that there are.
    mutating func references() {
        let zones = Set(configuration.vlans.map(\.zone)).union([.vlans, .uplink, .router])
        let sets = configuration.matrix.addressSets
        for zone in configuration.zoneMasquerades.keys.sorted()
        where !configuration.vlans.contains(where: { $0.zone == zone }) {
            let near = nearest(to: zone.name, of: zones.filter(\.hasVLANs).map(\.name).sorted())
            report(
                .masquerade(zone), "no VLAN is in a zone '\(zone)'",
                near.map { "did you mean '\($0)'?" } ?? "put one there with --zone ID=\(zone)",
                inFile: near.map { "did you mean '\($0)'?" } ?? "write 'zone: \(zone)' for a VLAN")
        }
        var unknown: Set<Zone> = []
        for pair in configuration.matrix.cells.keys.sorted() {
            for zone in [pair.from, pair.to] where !zones.contains(zone) {
                // A row of an unknown zone is one mistake.
                guard zone == pair.to || unknown.insert(zone).inserted else { continue }
                let near = nearest(to: zone.name, of: zones.map(\.name).sorted())
                report(
                    zone == pair.from ? .policy(zone) : .cell(pair), "no VLAN is in a zone '\(zone)'",
                    near.map { "did you mean '\($0)'?" } ?? "put one there with --zone ID=\(zone)",
                    inFile: near.map { "did you mean '\($0)'?" } ?? "write 'zone: \(zone)' for a VLAN")
            }
            for (index, service) in (configuration.matrix.cells[pair]?.services ?? []).enumerated() {
                for name in [service.source, service.destination].compactMap(\.self) where sets[name] == nil {
                    let near = nearest(to: name, of: sets.keys.sorted())
                    report(
                        .service(pair, index), "there is no address set '\(name)'",
                        "address sets are written in a configuration file",
                        inFile: near.map { "did you mean '\($0)'?" } ?? "write it below 'addresses'")
                }
            }
        }
    }

    mutating func matrix() {
        for (pair, treatment) in configuration.matrix.cells.sorted(by: { $0.key < $1.key }) {
            if pair.from == pair.to, !pair.from.hasVLANs {
                report(
                    .cell(pair), "what goes from '\(pair.from)' to '\(pair.to)' is not vrouter's",
                    "name a zone of VLANs, or another one")
            }
            if treatment.verdict == .accept, !treatment.services.isEmpty {
                report(
                    .cell(pair), "services are allowed where everything is accepted",
                    "leave them out, or drop or reject the rest")
            }
            if treatment.verdict != .accept, treatment.services.isEmpty, treatment.connectionsPerSecond != nil {
                report(
                    .cell(pair), "there is a limit where nothing is accepted", "leave it out, or accept something")
            }
            if treatment.connectionsPerSecond == 0 {
                report(.cell(pair), "a limit of 0 accepts nothing", "give at least 1 connection a second")
            }
            if treatment.isUnconditionalAccept, treatment.isLogged {
                report(
                    .cell(pair), "refused connections are logged where none is refused",
                    "leave it out, or refuse something")
            }
        }
        for name in configuration.matrix.addressSets.keys.sorted() where Zone(name) == nil {
            report(
                .addressSet(name), "'\(name)' is not the name of an address set",
                "a name has at most 16 letters, digits, '-' and '_', and begins with a letter")
        }
    }

    // MARK: What leads elsewhere

    mutating func forwards(isPartial: Bool) {
        struct Port: Hashable {
            var transport: Service.Transport
            var number: UInt16
            var family: IPFamily
        }
        var seen: Set<Port> = []
        for (index, forward) in configuration.portForwards.enumerated() {
            let part = Configuration.Part.portForward(index)
            let port = Port(transport: forward.transport, number: forward.port, family: forward.host.family)
            if !seen.insert(port).inserted {
                report(
                    part, "\(forward.transport.rawValue)/\(forward.port) is forwarded twice",
                    "forward each port to one host")
            }
            if let reason = Self.special(forward.host).map({ "\(forward.host) \($0)" })
                ?? reason(againstHost: forward.host)
            {
                report(part, reason, "give the address of a host in a VLAN")
            } else if !isPartial, !subnets.contains(where: { $0.block.contains(forward.host) }) {
                report(part, "\(forward.host) is in no VLAN's subnet", "give the address of a host in a VLAN")
            }
        }
    }

    mutating func routes(isPartial: Bool) {
        var seen: Set<IPPrefix> = []
        for (index, route) in configuration.routes.enumerated() {
            let part = Configuration.Part.route(index)
            let (destination, gateway) = (route.destination, route.gateway)
            if !seen.insert(destination).inserted {
                report(part, "there are two routes to \(destination)", "give one")
            }
            if let subnet = subnets.first(where: { $0.block == destination }) {
                report(part, "\(destination) is the subnet of VLAN \(subnet.id) itself", "leave the route out")
            }
            if destination.length > 0, let reason = Self.special(destination.network) {
                report(part, "\(destination) \(reason)", "give a network of hosts")
            }
            if destination.family != gateway.family {
                report(
                    part, "\(destination) and \(gateway) are of different families",
                    "give a router with an address of the network's family")
            } else if gateway.isLinkLocal {
                report(
                    part, "\(gateway) may be on any link", "give an address of the router that is not link-local")
            } else if let reason = Self.special(gateway).map({ "\(gateway) \($0)" }) ?? reason(againstHost: gateway) {
                report(part, reason, "give the address of a router in a VLAN or behind the uplink")
            }
        }
    }

    // MARK: The fast path

    mutating func flowtable() {
        guard configuration.flowtable != .off, configuration.fastPath != nil else { return }
        report(
            .flowtable, "there is a fast path as well, and a connection can only be forwarded by one of the two",
            "leave out --flowtable, which the kernel's own forwarding profits from, or --fast-path",
            inFile: "leave out 'flowtable' or 'fast-path'")
    }

    mutating func workers() {
        guard let fastPath = configuration.fastPath else { return }
        if !(1...Ownership.mostWorkers).contains(fastPath.workers) {
            report(
                .workers, "\(fastPath.workers) is not a number of workers",
                "give one from 1 to \(Ownership.mostWorkers), not more than there are processors")
        }
        if !(1...Configuration.FastPath.mostConnections).contains(fastPath.connections) {
            report(
                .connections, "\(fastPath.connections) is not a number of connections",
                "give one from 1 to \(Configuration.FastPath.mostConnections); each takes about 600 octets of memory")
        }
    }
}
