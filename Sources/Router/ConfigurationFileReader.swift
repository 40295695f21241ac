// From a file's tree to a configuration. Every mistake is noted with its place; reading goes on behind it.

import Firewall
import Packets

/// The keys of a file's mappings. `packaging/vrouter.schema.json` has the same.
enum FileKey {
    enum Top: String, CaseIterable {
        case parent, uplink, vlans, masquerade
        case masqueradeIPv6 = "masquerade-ipv6"
        case deny, addresses, policy
        case portForwards = "port-forwards"
        case routes
        case clampsMSS = "mss-clamp"
        case coexist, flowtable
        case fastPath = "fast-path"
        case driver = "vlan-driver"
    }

    enum VLAN: String, CaseIterable { case addresses, parent, outer, name, mtu, zone, driver }
    enum Treatment: String, CaseIterable { case allow, otherwise, log, limit }
    enum PortForward: String, CaseIterable { case port, to }
    enum Route: String, CaseIterable { case to, via }
    enum FastPath: String, CaseIterable { case datapath, workers, from, connections }
}

/// What moves frames beside the kernel: the words of `fast-path` and `--fast-path`.
public enum FastPathDatapath: String, Sendable, CaseIterable {
    case none
    case afPacket = "af-packet"
}

struct ConfigurationFileReader {
    private(set) var mistakes: [FileMistake] = []
    private var places: [Configuration.Part: FileMark] = [:]
    /// Whether VLANs or address sets could not be read, to which other parts may refer.
    private var hasGaps = false

    private typealias Field = (mark: FileMark, value: FileNode)

    /// - Parameter parent: the trunk where the file names none. Where it fails, the name is empty.
    /// - Returns: what is right where there are no mistakes.
    mutating func read(_ root: FileNode?, parent: () -> String?) -> ConfigurationFile {
        var fields: [FileKey.Top: Field] = [:]
        if let root, !root.isMissing {
            if case .mapping = root.content {} else { hasGaps = true }
            fields = mapping(root, "the file", FileKey.Top.self)
        }
        places[.whole] = fields[.vlans]?.mark ?? root?.mark ?? FileMark()

        var name: String?
        if let field = fields[.parent] {
            name = text(field.value, "the name of an interface")
            places[.parent] = field.value.mark
        }
        var configuration = Configuration(parent: name ?? "")
        if fields[.parent] == nil { configuration.parent = parent() ?? "" }
        if let field = fields[.uplink] {
            for node in oneOrList(field.value, "the name of an interface") {
                guard let name = text(node, "the name of an interface") else { continue }
                places[.uplink(configuration.uplinks.count)] = node.mark
                configuration.uplinks.append(name)
            }
        }
        if let field = fields[.vlans] { readVLANs(field.value, into: &configuration) }
        if let field = fields[.masquerade] {
            readMasquerade(field.value, into: &configuration)
        }
        if let field = fields[.masqueradeIPv6] {
            configuration.masqueradeIPv6 = choice(field.value, Policy.Masquerade.self) ?? .none
        }
        if let field = fields[.deny] { readDenied(field.value, into: &configuration) }
        if let field = fields[.addresses] { readAddressSets(field.value, into: &configuration) }
        if let field = fields[.policy] { readPolicy(field.value, into: &configuration) }
        if let field = fields[.portForwards] { readPortForwards(field.value, into: &configuration) }
        if let field = fields[.routes] { readRoutes(field.value, into: &configuration) }
        if let field = fields[.clampsMSS] { configuration.clampsMSS = flag(field.value) ?? false }
        if let field = fields[.coexist] { configuration.coexists = flag(field.value) ?? false }
        if let field = fields[.flowtable] {
            places[.flowtable] = field.mark
            configuration.flowtable = choice(field.value, Configuration.Flowtable.self) ?? .off
        }
        if let field = fields[.fastPath] { configuration.fastPath = fastPath(field.value) }
        var driver: Driver?
        if let field = fields[.driver] {
            let words = ["auto"] + Driver.allCases.map(\.rawValue)
            driver = word(field.value, of: words).flatMap(Driver.init(rawValue:))
        }
        for problem in configuration.problems(isPartial: hasGaps) {
            // That it is not known is a mistake already.
            if problem.part == .parent, configuration.parent.isEmpty, name == nil { continue }
            note(places[problem.part] ?? places[.whole] ?? FileMark(), problem.objection)
        }
        return ConfigurationFile(mistakes.isEmpty ? configuration.normalized() : configuration, driver: driver)
    }

    // MARK: VLANs

    private mutating func readVLANs(_ node: FileNode, into configuration: inout Configuration) {
        for (key, value) in pairs(node, "'vlans'", "VLANs: 'ID: ADDRESS/LENGTH' each") {
            guard let word = text(key, "a VLAN id"),
                let (outer, id) = attempt(key.mark, { () throws(Objection) in try VLANID.nested(reading: word) })
            else {
                hasGaps = true
                continue
            }
            guard places[.vlan(id)] == nil else {
                note(key.mark, Objection("VLAN \(id) is given twice", "give each id once, whatever carries it"))
                continue
            }
            places[.vlan(id)] = key.mark
            var vlan = Configuration.VLAN(id: id, addresses: [])
            vlan.outer = outer
            places[.outer(id)] = key.mark
            if case .mapping = value.content {
                let fields = mapping(value, "VLAN \(id)", FileKey.VLAN.self)
                if let field = fields[.addresses] { readAddresses(field.value, into: &vlan) }
                if let field = fields[.parent] {
                    places[.trunk(id)] = field.value.mark
                    vlan.parent = text(field.value, "the name of an interface")
                }
                if let field = fields[.outer], let word = text(field.value, "a VLAN id") {
                    places[.outer(id)] = field.value.mark
                    vlan.outer = attempt(field.value.mark) { () throws(Objection) in
                        guard outer == nil else {
                            throw Objection("VLAN \(id) is within another one by its key", "leave 'outer' out")
                        }
                        return try VLANID(reading: word)
                    }
                }
                if let field = fields[.name] {
                    places[.name(id)] = field.value.mark
                    vlan.name = text(field.value, "the name of an interface")
                }
                if let field = fields[.mtu] {
                    places[.mtu(id)] = field.value.mark
                    vlan.mtu = number(field.value, 68...65535)
                }
                if let field = fields[.driver] {
                    places[.driver(id)] = field.value.mark
                    vlan.driver = choice(field.value, Driver.self)
                }
                if let field = fields[.zone], let name = text(field.value, "the name of a zone") {
                    places[.zone(id)] = field.value.mark
                    let zone = attempt(field.value.mark) { () throws(Objection) in try Zone(reading: name) }
                    if let zone { vlan.zone = zone } else { hasGaps = true }
                }
            } else {
                readAddresses(value, into: &vlan)
            }
            configuration.vlans.append(vlan)
        }
        configuration.vlans.sort { $0.id < $1.id }
    }

    private mutating func readAddresses(_ node: FileNode, into vlan: inout Configuration.VLAN) {
        if node.isMissing { hasGaps = true }
        for node in oneOrList(node, "an address, for example 172.16.10.1/24") {
            guard let word = text(node, "an address"),
                let address = attempt(node.mark, { () throws(Objection) in try InterfaceAddress(reading: word) })
            else {
                hasGaps = true
                continue
            }
            places[.address(vlan.id, vlan.addresses.count)] = node.mark
            vlan.addresses.append(address)
        }
    }

    // MARK: Who reaches whom

    /// One word, or one for each zone that is not to have the default.
    private mutating func readMasquerade(_ node: FileNode, into configuration: inout Configuration) {
        guard case .mapping = node.content else {
            configuration.masquerade = choice(node, Policy.Masquerade.self) ?? .vlans
            return
        }
        for (key, value) in pairs(node, "'masquerade'", "zones and whose packets are masqueraded") {
            guard let zone = zone(key), let mode = choice(value, Policy.Masquerade.self) else { continue }
            places[.masquerade(zone)] = key.mark
            configuration.zoneMasquerades[zone] = mode
        }
    }

    private mutating func readDenied(_ node: FileNode, into configuration: inout Configuration) {
        for node in oneOrList(node, "a pair of VLAN ids, for example 100:200") {
            guard let word = text(node, "a pair of VLAN ids without a space, for example 100:200"),
                let pair = attempt(
                    node.mark, { () throws(Objection) in try Configuration.DeniedPair(reading: word) })
            else { continue }
            places[.denied(pair)] = node.mark
            configuration.denied.append(pair)
        }
        configuration.denied = Set(configuration.denied).sorted()
    }

    private mutating func readAddressSets(_ node: FileNode, into configuration: inout Configuration) {
        for (key, value) in pairs(node, "'addresses'", "named lists of addresses: 'NAME: [ADDRESS]' each") {
            guard let name = text(key, "the name of an address set") else { continue }
            places[.addressSet(name)] = key.mark
            var blocks: [IPPrefix] = []
            for node in oneOrList(value, "an address or a network") {
                guard let word = text(node, "an address or a network") else { continue }
                let block = attempt(node.mark) { () throws(Objection) in
                    try IPPrefix(reading: word, takesAddresses: true)
                }
                if let block { blocks.append(block) }
            }
            configuration.matrix.addressSets[name] = blocks
        }
    }

    private mutating func readPolicy(_ node: FileNode, into configuration: inout Configuration) {
        let zones = Set(configuration.vlans.map(\.zone))
        for (key, value) in pairs(node, "'policy'", "zones and what they reach") {
            guard let from = zone(key) else { continue }
            places[.policy(from)] = key.mark
            guard case .mapping = value.content else {
                guard word(value, of: ["isolated"], "'isolated', or zones and what is allowed to them") != nil else {
                    continue
                }
                if !from.hasVLANs {
                    note(key.mark, "only a zone of VLANs can be isolated")
                    continue
                }
                for (pair, treatment) in ZoneMatrix.isolated(from, among: zones) {
                    places[.cell(pair)] = value.mark
                    configuration.matrix.cells[pair] = treatment
                }
                continue
            }
            for (key, value) in pairs(value, "", "") {
                guard let to = zone(key) else { continue }
                let pair = ZoneMatrix.Pair(from: from, to: to)
                places[.cell(pair)] = key.mark
                if let treatment = treatment(value, pair) { configuration.matrix.cells[pair] = treatment }
            }
        }
    }

    private mutating func zone(_ key: FileNode) -> Zone? {
        guard let name = text(key, "the name of a zone") else { return nil }
        return attempt(key.mark) { () throws(Objection) in try Zone(reading: name) }
    }

    private mutating func treatment(_ node: FileNode, _ pair: ZoneMatrix.Pair) -> Treatment? {
        switch node.content {
        case .scalar:
            return word(node, of: Treatment.Verdict.allCases.map(\.rawValue), "a list of services is possible, too")
                .flatMap(Treatment.Verdict.init(rawValue:)).map { Treatment($0) }
        case .list(let nodes): return Treatment(.drop, services: services(nodes, pair))
        case .mapping:
            let fields = mapping(node, "the policy", FileKey.Treatment.self)
            var result = Treatment(.drop)
            if let field = fields[.allow] {
                result.services = services(oneOrList(field.value, "a service, for example tcp/443"), pair)
            }
            if let field = fields[.otherwise] { result.verdict = choice(field.value, Treatment.Verdict.self) ?? .drop }
            if let field = fields[.log] { result.isLogged = flag(field.value) ?? false }
            if let field = fields[.limit] { result.connectionsPerSecond = number(field.value, 1...UInt32.max) }
            return result
        }
    }

    private mutating func services(_ nodes: [FileNode], _ pair: ZoneMatrix.Pair) -> [Service] {
        var result: [Service] = []
        for node in nodes {
            guard let word = text(node, "a service, for example tcp/443"),
                let service = attempt(node.mark, { () throws(Objection) in try Service(reading: word) })
            else { continue }
            places[.service(pair, result.count)] = node.mark
            result.append(service)
        }
        return result
    }

    // MARK: What leads elsewhere

    private mutating func readPortForwards(_ node: FileNode, into configuration: inout Configuration) {
        for node in list(node, "port forwards: '{port: tcp/8080, to: \"172.16.20.10:80\"}' each") {
            let fields = mapping(node, "a port forward", FileKey.PortForward.self)
            guard let port = required(fields, .port, node, "a port, for example tcp/8080"),
                let target = required(fields, .to, node, "an address and a port, for example \"172.16.20.10:80\""),
                let forward = attempt(
                    port.mark, { () throws(Objection) in try PortForward(port: port.text, to: target.text) })
            else { continue }
            places[.portForward(configuration.portForwards.count)] = target.mark
            configuration.portForwards.append(forward)
        }
    }

    private mutating func readRoutes(_ node: FileNode, into configuration: inout Configuration) {
        for node in list(node, "routes: '{to: 10.0.0.0/8, via: 172.16.20.254}' each") {
            let fields = mapping(node, "a route", FileKey.Route.self)
            guard let destination = required(fields, .to, node, "a network, for example 10.0.0.0/8"),
                let gateway = required(fields, .via, node, "the address of a router"),
                let route = attempt(
                    destination.mark,
                    { () throws(Objection) in
                        try Configuration.StaticRoute(to: destination.text, via: gateway.text)
                    })
            else { continue }
            places[.route(configuration.routes.count)] = gateway.mark
            configuration.routes.append(route)
        }
    }

    private mutating func required<Key>(
        _ fields: [Key: Field], _ key: Key, _ node: FileNode, _ what: String
    ) -> (mark: FileMark, text: String)? where Key: RawRepresentable<String> & Hashable {
        guard let field = fields[key] else {
            if case .mapping = node.content { note(node.mark, "'\(key.rawValue)' is missing: \(what)") }
            return nil
        }
        return text(field.value, what).map { (field.value.mark, $0) }
    }

    private mutating func fastPath(_ node: FileNode) -> Configuration.FastPath? {
        guard case .mapping = node.content else {
            let datapath = choice(node, FastPathDatapath.self)
            return datapath == .afPacket ? Configuration.FastPath() : nil
        }
        let fields = mapping(node, "'fast-path'", FileKey.FastPath.self)
        var result = Configuration.FastPath()
        if let field = fields[.workers] {
            places[.workers] = field.value.mark
            result.workers = Int(number(field.value, 0...UInt32.max) ?? 1)
        }
        if let field = fields[.from], let frames = number(field.value, 0...UInt32.max) { result.threshold = frames }
        if let field = fields[.connections] {
            places[.connections] = field.value.mark
            result.connections = number(field.value, 0...UInt32.max).map(Int.init) ?? result.connections
        }
        guard let field = fields[.datapath], choice(field.value, FastPathDatapath.self) == FastPathDatapath.none else {
            return result
        }
        for (key, other) in fields where key != .datapath {
            note(other.mark, "'\(key.rawValue)' is about a fast path, and there is none")
        }
        return nil
    }

    // MARK: Values

    private mutating func note(_ mark: FileMark, _ text: String) {
        mistakes.append(FileMistake(mark: mark, text: text))
    }

    private mutating func note(_ mark: FileMark, _ objection: Objection) {
        note(mark, "\(objection.message); \(objection.remedyInFile)")
    }

    private mutating func attempt<Result>(_ mark: FileMark, _ body: () throws(Objection) -> Result) -> Result? {
        do {
            return try body()
        } catch {
            note(mark, error)
            return nil
        }
    }

    private mutating func text(_ node: FileNode, _ what: String) -> String? {
        guard case .scalar(let text, _) = node.content else {
            note(node.mark, "here belongs \(what), and not a \(Self.kind(node))")
            return nil
        }
        guard !node.isMissing else {
            note(node.mark, "here belongs \(what), and there is nothing")
            return nil
        }
        return text
    }

    private static func kind(_ node: FileNode) -> String {
        switch node.content {
        case .scalar: "text"
        case .list: "list"
        case .mapping: "mapping"
        }
    }

    /// One of some words.
    private mutating func word(_ node: FileNode, of words: [String], _ more: String? = nil) -> String? {
        let what = words.count == 1 ? more ?? words[0] : "one of \(words.joined(separator: ", "))"
        guard let text = text(node, what) else { return nil }
        guard words.contains(text) else {
            let near = nearest(to: text, of: words).map { "; did you mean '\($0)'?" }
            note(node.mark, "'\(text)' is not \(what)\(near ?? (words.count > 1 ? more : nil).map { "; \($0)" } ?? "")")
            return nil
        }
        return text
    }

    private mutating func choice<Value>(_ node: FileNode, _: Value.Type) -> Value?
    where Value: RawRepresentable<String> & CaseIterable {
        word(node, of: Value.allCases.map(\.rawValue)).flatMap(Value.init(rawValue:))
    }

    private mutating func flag(_ node: FileNode) -> Bool? {
        let what = "true or false"
        guard let text = text(node, what) else { return nil }
        guard case .scalar(_, isPlain: true) = node.content, let value = Bool(text) else {
            note(node.mark, "'\(text)' is not \(what), without quotation marks")
            return nil
        }
        return value
    }

    private mutating func number(_ node: FileNode, _ range: ClosedRange<UInt32>) -> UInt32? {
        guard let text = text(node, "a number") else { return nil }
        guard case .scalar(_, isPlain: true) = node.content, let value = UInt32(text), String(value) == text,
            range.contains(value)
        else {
            note(
                node.mark, "'\(text)' is not a number from \(range.lowerBound) to \(range.upperBound), in digits alone")
            return nil
        }
        return value
    }

    /// A value alone is a list of one.
    private mutating func oneOrList(_ node: FileNode, _ what: String) -> [FileNode] {
        switch node.content {
        case .list(let nodes): return nodes
        case .scalar where !node.isMissing: return [node]
        default:
            note(
                node.mark,
                "here belongs \(what), or a list of such, and "
                    + (node.isMissing ? "there is nothing" : "not a \(Self.kind(node))"))
            return []
        }
    }

    private mutating func list(_ node: FileNode, _ what: String) -> [FileNode] {
        guard case .list(let nodes) = node.content else {
            note(node.mark, "here belongs a list of \(what)")
            return []
        }
        return nodes
    }

    private mutating func pairs(_ node: FileNode, _ name: String, _ what: String) -> [(key: FileNode, value: FileNode)]
    {
        guard case .mapping(let pairs) = node.content else {
            hasGaps = true
            note(
                node.mark,
                "\(name) is a mapping of \(what), and not \(node.isMissing ? "empty" : "a \(Self.kind(node))")")
            return []
        }
        return pairs
    }

    /// A mapping whose keys are known: those that it has.
    private mutating func mapping<Key>(_ node: FileNode, _ name: String, _: Key.Type) -> [Key: Field]
    where Key: RawRepresentable<String> & CaseIterable & Hashable {
        let names = Key.allCases.map(\.rawValue)
        guard case .mapping(let pairs) = node.content else {
            note(node.mark, "\(name) is a mapping of \(names.joined(separator: ", ")), and not a \(Self.kind(node))")
            return [:]
        }
        var result: [Key: Field] = [:]
        for (key, value) in pairs {
            guard let word = text(key, "one of \(names.joined(separator: ", "))") else { continue }
            guard let known = Key(rawValue: word) else {
                let near = nearest(to: word, of: names)
                // What stands below may be what other parts refer to.
                if let near, ["vlans", "addresses", "zone"].contains(near) { hasGaps = true }
                let hint = near.map { "did you mean '\($0)'?" } ?? "there are \(names.joined(separator: ", "))"
                note(key.mark, "unknown key '\(word)' in \(name); \(hint)")
                continue
            }
            result[known] = (key.mark, value)
        }
        return result
    }
}
