// A configuration as options of a command say it.

import Firewall
import Packets

extension Configuration {
    /// What options say beyond the VLANs and their addresses, each as it was written.
    public struct Options: Sendable {
        /// `ID=INTERFACE` each: what carries the VLAN, where it is not the parent.
        public var trunks: [String] = []
        /// `ID=OUTER` each: the VLAN in whose frames the VLAN's are.
        public var outers: [String] = []
        /// `ID=NAME` each: the gateway interfaces' names.
        public var names: [String] = []
        /// `ID=OCTETS` each.
        public var mtus: [String] = []
        /// `ID=DRIVER` each.
        public var drivers: [String] = []
        /// `ID=ZONE` each.
        public var zones: [String] = []
        public var uplinks: [String] = []
        public var masqueradeIPv6 = Policy.Masquerade.none
        /// `ZONE=MODE` each.
        public var zoneMasquerades: [String] = []
        /// `FROM:TO=TREATMENT` or `ZONE=isolated` each.
        public var policies: [String] = []
        /// `TRANSPORT/PORT=HOST:PORT` each.
        public var portForwards: [String] = []
        /// `DESTINATION=GATEWAY` each.
        public var routes: [String] = []
        public var clampsMSS = false
        public var coexists = false
        public var flowtable = Flowtable.off

        public init() {}
    }

    /// - Parameters:
    ///   - vlans: `ID=ADDRESS/LENGTH[,ADDRESS/LENGTH…]` each; `ID=` only carries others.
    ///   - denied: `FROM:TO` each, VLAN ids.
    /// - Throws: the first thing that is wrong, with the option that says it.
    public init(
        parent: String, vlans: [String], masquerade: Policy.Masquerade = .vlans, denied: [String] = [],
        fastPath: FastPath? = nil, options: Options = Options()
    ) throws(Failure) {
        self.init(parent: parent)
        self.fastPath = fastPath
        self.masquerade = masquerade
        uplinks = options.uplinks
        masqueradeIPv6 = options.masqueradeIPv6
        clampsMSS = options.clampsMSS
        coexists = options.coexists
        flowtable = options.flowtable
        for text in vlans { self.vlans.append(try Self.parseVLAN(text)) }
        self.vlans.sort { $0.id < $1.id }
        for (first, second) in zip(self.vlans, self.vlans.dropFirst()) where first.id == second.id {
            throw Failure(
                .usage, "VLAN \(first.id) is given twice",
                remedy: "give all its addresses at once: --vlan \(first.id)=ADDRESS/LENGTH,ADDRESS/LENGTH")
        }
        for text in denied {
            self.denied.append(
                try Self.reading("--deny \(text)") { () throws(Objection) in try DeniedPair(reading: text) })
        }
        self.denied = Set(self.denied).sorted()
        try each(options.trunks, "--trunk", "200=enp0s9") { (vlan, text) throws(Objection) in vlan.parent = text }
        try each(options.outers, "--outer", "200=100") { (vlan, text) throws(Objection) in
            guard vlan.outer == nil else {
                throw Objection("--vlan says that VLAN \(vlan.id) is within another one", "say it once")
            }
            vlan.outer = try VLANID(reading: text)
        }
        try each(options.names, "--name", "100=servers0") { (vlan, text) throws(Objection) in vlan.name = text }
        try each(options.mtus, "--mtu", "100=9000") { (vlan, text) throws(Objection) in
            vlan.mtu = try UInt32(octets: text)
        }
        try each(options.drivers, "--driver", "100=ebpf") { (vlan, text) throws(Objection) in
            guard let driver = Driver(rawValue: text) else {
                throw Objection("'\(text)' is not a driver", "write 8021q or ebpf")
            }
            vlan.driver = driver
        }
        try each(options.zones, "--zone", "100=servers") { (vlan, text) throws(Objection) in
            vlan.zone = try Zone(reading: text)
        }
        for text in options.zoneMasquerades {
            let (zone, mode) = try Self.halves(text, "--masquerade-zone", "iot=uplink")
            try Self.reading("--masquerade-zone \(text)") { () throws(Objection) in
                let zone = try Zone(reading: zone)
                guard let mode = Policy.Masquerade(rawValue: mode) else {
                    throw Objection("'\(mode)' is not a way to masquerade", "write vlans, uplink, all or none")
                }
                guard zoneMasquerades.updateValue(mode, forKey: zone) == nil else {
                    throw Objection("zone \(zone) has one already", "give it once for each zone")
                }
            }
        }
        for text in options.policies { try addPolicy(text) }
        for text in options.portForwards {
            let (port, host) = try Self.halves(text, "--port-forward", "tcp/8080=172.16.20.10:80")
            portForwards.append(
                try Self.reading("--port-forward \(text)") { () throws(Objection) in
                    try PortForward(port: port, to: host)
                })
        }
        for text in options.routes {
            let (destination, gateway) = try Self.halves(text, "--route", "10.0.0.0/8=172.16.20.254")
            routes.append(
                try Self.reading("--route \(text)") { () throws(Objection) in
                    try StaticRoute(to: destination, via: gateway)
                })
        }
        if let problem = problems().first {
            let option = option(saying: problem.part)
            throw Failure(
                .usage, (option.map { "\($0): " } ?? "") + problem.objection.message, remedy: problem.objection.remedy)
        }
        self = normalized()
        _ = try policy()
    }

    private static func parseVLAN(_ text: String) throws(Failure) -> VLAN {
        guard let equals = text.firstIndex(of: "=") else {
            throw Failure(
                .usage, "--vlan \(text): no '='",
                remedy: "write the VLAN id and the gateway's address: --vlan \(text)=172.16.10.1/24")
        }
        return try reading("--vlan \(text)") { () throws(Objection) in
            let (outer, id) = try VLANID.nested(reading: text[..<equals])
            let list = text[text.index(after: equals)...]
            var addresses: [InterfaceAddress] = []
            // None: it may carry others.
            for part in list.isEmpty ? [] : list.split(separator: ",", omittingEmptySubsequences: false) {
                addresses.append(try InterfaceAddress(reading: part))
            }
            var vlan = VLAN(id: id, addresses: addresses)
            vlan.outer = outer
            return vlan
        }
    }

    /// Applies an option `ID=VALUE` to its VLAN.
    private mutating func each(
        _ texts: [String], _ option: String, _ example: String,
        set: (inout VLAN, String) throws(Objection) -> Void
    ) throws(Failure) {
        var seen: Set<VLANID> = []
        let places = Dictionary(vlans.enumerated().map { ($1.id, $0) }, uniquingKeysWith: { first, _ in first })
        for text in texts {
            let (id, value) = try Self.halves(text, option, example)
            try Self.reading("\(option) \(text)") { () throws(Objection) in
                let id = try VLANID(reading: id)
                guard let place = places[id] else { throw .unknownVLAN(id) }
                guard seen.insert(id).inserted else {
                    throw Objection("VLAN \(id) has one already", "give it once for each VLAN")
                }
                try set(&vlans[place], value)
            }
        }
    }

    private mutating func addPolicy(_ text: String) throws(Failure) {
        let (zones, treatment) = try Self.halves(text, "--policy", "servers:uplink=tcp/443+udp/53")
        let row = try Self.reading("--policy \(text)") { () throws(Objection) in
            let ends = zones.split(separator: ":", omittingEmptySubsequences: false)
            if ends.count == 1, treatment == "isolated" {
                return ZoneMatrix.isolated(try Zone(reading: ends[0]), among: Set(vlans.map(\.zone)))
            }
            guard ends.count == 2 else {
                throw Objection(
                    "'\(zones)' is not a pair of zones", "write FROM:TO=TREATMENT, for example iot:servers=drop")
            }
            let pair = ZoneMatrix.Pair(from: try Zone(reading: ends[0]), to: try Zone(reading: ends[1]))
            return [pair: try Treatment(reading: treatment)]
        }
        for (pair, treatment) in row {
            guard matrix.cells.updateValue(treatment, forKey: pair) == nil else {
                throw Failure(
                    .usage, "--policy \(text): from \(pair.from) to \(pair.to) there is a treatment already",
                    remedy: "give one for each pair of zones")
            }
        }
    }

    private static func halves(_ text: String, _ option: String, _ example: String) throws(Failure) -> (String, String)
    {
        guard let equals = text.firstIndex(of: "=") else {
            throw Failure(.usage, "\(option) \(text): no '='", remedy: "for example \(option) \(example)")
        }
        return (String(text[..<equals]), String(text[text.index(after: equals)...]))
    }

    private static func reading<Result>(
        _ option: String, _ body: () throws(Objection) -> Result
    ) throws(Failure) -> Result {
        do {
            return try body()
        } catch {
            throw Failure(.usage, "\(option): \(error.message)", remedy: error.remedy)
        }
    }

    /// The option that says a part; nil: none, or not one that is always given.
    private func option(saying part: Part) -> String? {
        switch part {
        case .whole, .parent, .addressSet: return nil
        case .flowtable: return "--flowtable \(flowtable.rawValue)"
        case .workers: return fastPath.map { "--workers \($0.workers)" }
        case .connections: return fastPath.map { "--fast-path-connections \($0.connections)" }
        case .vlan(let id): return "--vlan \(id)"
        case .address(let id, let index):
            return vlan(id).map { "--vlan \(id)=\($0.addresses[index])" }
        case .trunk(let id): return vlan(id)?.parent.map { "--trunk \(id)=\($0)" }
        case .outer(let id): return vlan(id)?.outer.map { "--outer \(id)=\($0)" }
        case .name(let id): return vlan(id)?.name.map { "--name \(id)=\($0)" }
        case .mtu(let id): return vlan(id)?.mtu.map { "--mtu \(id)=\($0)" }
        case .driver(let id): return "--driver \(id)" + (vlan(id)?.driver.map { "=\($0.rawValue)" } ?? "")
        case .zone(let id): return vlan(id).map { "--zone \(id)=\($0.zone)" }
        case .masquerade(let zone): return "--masquerade-zone \(zone)=\(zoneMasquerades[zone]?.rawValue ?? "")"
        case .uplink(let index): return "--uplink \(uplinks[index])"
        case .denied(let pair): return "--deny \(pair)"
        case .policy(let zone): return "--policy \(zone)"
        case .cell(let pair), .service(let pair, _): return "--policy \(pair.from):\(pair.to)"
        case .portForward(let index):
            let forward = portForwards[index]
            return "--port-forward \(forward.transport.rawValue)/\(forward.port)=\(forward.target)"
        case .route(let index): return "--route \(routes[index].destination)=\(routes[index].gateway)"
        }
    }
}
