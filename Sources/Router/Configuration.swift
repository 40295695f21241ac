import Firewall
import Kernel
import Packets

/// What a person wants: the VLANs of one trunk, and who may talk to whom.
public struct Configuration: Hashable, Sendable, Codable {
    /// The interface that carries the tagged frames, where a VLAN names no other.
    public var parent: String
    /// By id, ascending.
    public var vlans: [VLAN]
    public var masquerade: Policy.Masquerade
    /// Pairs whose new connections are dropped, ascending.
    public var denied: [DeniedPair]
    /// What forwards between VLANs beside the kernel; nil: nothing.
    public var fastPath: FastPath?
    /// Interfaces behind which the outside is; empty: all that are no gateways.
    public var uplinks: [String] = []
    /// Whose IPv6 source address is replaced.
    public var masqueradeIPv6 = Policy.Masquerade.none
    /// Who may open connections to whom, by the VLANs' zones.
    public var matrix = ZoneMatrix()
    public var portForwards: [PortForward] = []
    public var routes: [StaticRoute] = []
    /// Whether TCP connections are told of a smaller MTU on their way when they begin.
    public var clampsMSS = false

    /// A route to a network behind a router that is in one of the VLANs, or behind the uplink.
    public struct StaticRoute: Hashable, Sendable, Codable {
        public var destination: IPPrefix
        public var gateway: IPAddress

        public init(destination: IPPrefix, gateway: IPAddress) {
            self.destination = destination
            self.gateway = gateway
        }
    }

    /// Workers that move frames in user space.
    public struct FastPath: Hashable, Sendable, Codable {
        /// How many.
        public var workers: Int
        /// From so many frames a second on, on one processor, they forward; fewer are the kernel's, which need wake nobody for them.
        public var threshold: UInt32

        public static let defaultThreshold: UInt32 = 50_000
        /// How many connections of each family they can carry; others are the kernel's.
        public var connections: Int

        public static let defaultConnections = 50_000
        public static let mostConnections = 1 << 22

        public init(
            workers: Int = 1, threshold: UInt32 = defaultThreshold, connections: Int = defaultConnections
        ) throws(Failure) {
            guard (1...Ownership.mostWorkers).contains(workers) else {
                throw Failure(
                    .usage, "--workers \(workers): not a number of workers",
                    remedy: "give one from 1 to \(Ownership.mostWorkers), not more than there are processors")
            }
            guard (1...Self.mostConnections).contains(connections) else {
                throw Failure(
                    .usage, "--fast-path-connections \(connections): not a number of connections",
                    remedy: "give one from 1 to \(Self.mostConnections); each takes about 600 octets of memory")
            }
            self.workers = workers
            self.threshold = threshold
            self.connections = connections
        }
    }

    public struct VLAN: Hashable, Sendable, Codable {
        public var id: VLANID
        /// The gateway's addresses.
        public var addresses: [InterfaceAddress]
        /// The interface that carries its frames; nil: the configuration's.
        public var parent: String?
        /// The VLAN in whose frames its frames are carried, with two tags; nil: they have one.
        public var outer: VLANID?
        /// Of the gateway interface; nil: the parent's name and the id.
        public var name: String?
        /// In octets of IP; nil: the parent's.
        public var mtu: UInt32?
        public var zone: Zone

        public init(
            id: VLANID, addresses: [InterfaceAddress], parent: String? = nil, outer: VLANID? = nil,
            name: String? = nil, mtu: UInt32? = nil, zone: Zone = .vlans
        ) {
            self.id = id
            self.addresses = addresses
            self.parent = parent
            self.outer = outer
            self.name = name
            self.mtu = mtu
            self.zone = zone
        }
    }

    public struct DeniedPair: Hashable, Comparable, Sendable, Codable {
        public var from: VLANID
        public var to: VLANID

        public static func < (left: Self, right: Self) -> Bool { (left.from, left.to) < (right.from, right.to) }
    }

    /// Interface names are at most this long, in octets (IFNAMSIZ without the terminating zero).
    static let longestInterfaceName = 15

    /// - Parameters:
    ///   - vlans: `ID=ADDRESS/LENGTH[,ADDRESS/LENGTH…]` each.
    ///   - denied: `FROM:TO` each, VLAN ids.
    public init(
        parent: String, vlans: [String], masquerade: Policy.Masquerade = .vlans, denied: [String] = [],
        fastPath: FastPath? = nil
    ) throws(Failure) {
        self.parent = parent
        self.fastPath = fastPath
        self.masquerade = masquerade
        // Dry runs and remedies are commands that people paste into a shell.
        if let character = parent.first(where: { "$;&|<>()[]{}#~?^%=,`!*'\"\\ ".contains($0) }) {
            throw Failure(
                .usage, "the interface name '\(parent)' contains '\(character)', which a shell reads as something else",
                remedy: "rename it: ip link set dev '\(parent)' down name NAME")
        }
        self.vlans = []
        self.denied = []
        guard !vlans.isEmpty else {
            throw Failure(
                .usage, "no VLAN given", remedy: "--vlan ID=ADDRESS/LENGTH, for example --vlan 100=172.16.10.1/24")
        }
        for text in vlans { self.vlans.append(try Self.parseVLAN(text)) }
        self.vlans.sort { $0.id < $1.id }
        for (first, second) in zip(self.vlans, self.vlans.dropFirst()) where first.id == second.id {
            throw Failure(
                .usage, "VLAN \(first.id) is given twice",
                remedy: "give all its addresses at once: --vlan \(first.id)=ADDRESS/LENGTH,ADDRESS/LENGTH")
        }
        for text in denied { self.denied.append(try parseDenied(text)) }
        self.denied = Set(self.denied).sorted()
        try checkAddresses()
        _ = try policy()
    }

    private static func parseVLAN(_ text: String) throws(Failure) -> VLAN {
        guard let equals = text.firstIndex(of: "=") else {
            throw Failure(
                .usage, "--vlan \(text): no '='",
                remedy: "write the VLAN id and the gateway's address: --vlan \(text)=172.16.10.1/24")
        }
        let id = try parseID(text[..<equals], in: "--vlan \(text)")
        var addresses: [InterfaceAddress] = []
        for part in text[text.index(after: equals)...].split(separator: ",", omittingEmptySubsequences: false) {
            do {
                addresses.append(try InterfaceAddress(part))
            } catch {
                let remedy =
                    switch error {
                    case .noPrefixLength(let address): "add the length of the subnet's prefix: \(address)/24"
                    default: "write it as ADDRESS/LENGTH, for example 172.16.10.1/24 or fd00:10::1/64"
                    }
                throw Failure(.usage, "--vlan \(text): \(error)", remedy: remedy)
            }
        }
        return VLAN(id: id, addresses: addresses)
    }

    private static func parseID(_ text: some StringProtocol, in option: String) throws(Failure) -> VLANID {
        guard let number = UInt16(text), let id = VLANID(number), String(number) == text else {
            let reason =
                switch text {
                case "0": "0 marks frames that carry a priority and no VLAN"
                case "4095": "4095 is reserved"
                default: "'\(text)' is not a VLAN id"
                }
            throw Failure(.usage, "\(option): \(reason)", remedy: "use an id from 1 to 4094")
        }
        return id
    }

    private func parseDenied(_ text: String) throws(Failure) -> DeniedPair {
        let option = "--deny \(text)"
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw Failure(
                .usage, "\(option): not a pair of VLAN ids", remedy: "write FROM:TO, for example --deny 100:200")
        }
        let pair = DeniedPair(
            from: try Self.parseID(parts[0], in: option), to: try Self.parseID(parts[1], in: option))
        for id in [pair.from, pair.to] where !vlans.contains(where: { $0.id == id }) {
            throw Failure(
                .usage, "\(option): there is no VLAN \(id) here", remedy: "give it with --vlan \(id)=ADDRESS/LENGTH")
        }
        guard pair.from != pair.to else {
            throw Failure(
                .usage, "\(option): hosts of one VLAN reach each other without the router",
                remedy: "name two different VLANs")
        }
        return pair
    }

    private func checkAddresses() throws(Failure) {
        var blocks: [(prefix: IPPrefix, id: VLANID)] = []
        var seen: Set<IPAddress> = []
        for vlan in vlans {
            for address in vlan.addresses {
                let option = "--vlan \(vlan.id)=\(address)"
                try Self.check(address, option)
                // Every link has its own fe80::/10.
                if address.address.isLinkLocal { continue }
                guard seen.insert(address.address).inserted else {
                    throw Failure(.usage, "\(option): the address is given twice", remedy: "give each address once")
                }
                blocks.append((address.prefix, vlan.id))
            }
        }
        // Sorted by first address and then by size, a block that overlaps another one follows one that contains it.
        blocks.sort {
            let left = $0.prefix.network.octets
            let right = $1.prefix.network.octets
            if left.count != right.count { return left.count < right.count }
            return left == right ? $0.prefix.length < $1.prefix.length : left.lexicographicallyPrecedes(right)
        }
        var outer: (prefix: IPPrefix, id: VLANID)?
        for block in blocks {
            if let outer, outer.prefix.overlaps(block.prefix) {
                guard outer.id == block.id else {
                    throw Failure(
                        .usage,
                        "the subnets \(outer.prefix) of VLAN \(outer.id) and \(block.prefix) of VLAN \(block.id) overlap",
                        remedy: "give each VLAN a subnet of its own")
                }
            } else {
                outer = block
            }
        }
    }

    private static func check(_ address: InterfaceAddress, _ option: String) throws(Failure) {
        let remedy = "give the address that the hosts use as their gateway"
        guard address.prefixLength > 0 else {
            throw Failure(
                .usage, "\(option): a subnet of prefix length 0 is the whole internet",
                remedy: "give the subnet's own length")
        }
        if address.isNetworkAddress {
            throw Failure(
                .usage, "\(option): \(address.address) is the address of the subnet \(address.prefix) itself",
                remedy: remedy)
        }
        if let broadcast = address.broadcast, address.address == .v4(broadcast) {
            throw Failure(
                .usage, "\(option): \(broadcast) is the broadcast address of \(address.prefix)", remedy: remedy)
        }
        for (block, reason) in specialBlocks where block.contains(address.address) {
            throw Failure(.usage, "\(option): \(address.address) \(reason)", remedy: remedy)
        }
    }

    private static let specialBlocks: [(IPPrefix, String)] = [
        ("0.0.0.0/8", "means 'this host'"), ("127.0.0.0/8", "is a loopback address"),
        ("224.0.0.0/4", "is a multicast address"), ("240.0.0.0/4", "is reserved"),
        ("::/127", "is unspecified or loopback"), ("::ffff:0:0/96", "is an IPv4 address in IPv6's form"),
        ("ff00::/8", "is a multicast address"),
    ].compactMap { block, reason in (try? InterfaceAddress(block)).map { ($0.prefix, reason) } }

    /// Whether any gateway has an IPv4 address.
    public var usesIPv4: Bool { vlans.contains { $0.addresses.contains(where: \.address.isV4) } }
    /// Whether any gateway has an IPv6 address.
    public var usesIPv6: Bool { vlans.contains { $0.addresses.contains { !$0.address.isV4 } } }

    /// nil: none of these has that id.
    public func vlan(_ id: VLANID) -> VLAN? {
        var range = vlans.startIndex..<vlans.endIndex
        while !range.isEmpty {
            let middle = range.lowerBound + range.count / 2
            if vlans[middle].id == id { return vlans[middle] }
            range = vlans[middle].id < id ? middle + 1..<range.upperBound : range.lowerBound..<middle
        }
        return nil
    }

    /// The gateway interface of a VLAN.
    public func interfaceName(_ id: VLANID) -> String {
        let vlan = vlan(id)
        return vlan?.name ?? Self.interfaceName(id, on: vlan.map(parent(of:)) ?? parent)
    }

    /// The interface that carries a VLAN's frames.
    public func parent(of vlan: VLAN) -> String { vlan.outer.map(interfaceName) ?? vlan.parent ?? parent }

    /// Interfaces that are the gateway of one VLAN and carry others.
    var carriers: Set<String> { Set(vlans.compactMap(\.outer).map(interfaceName)) }

    /// All interfaces that carry VLANs, ascending.
    public var parents: [String] { Set(vlans.map(parent(of:))).sorted() }

    /// Of a gateway interface for which no name is given.

    static func interfaceName(_ id: VLANID, on parent: String) -> String {
        let name = "\(parent).\(id)"
        return name.utf8.count <= longestInterfaceName ? name : "vlan\(id)"
    }

    /// What the firewall needs to know of this.
    public func policy() throws(Failure) -> Policy {
        let gateways = vlans.map {
            Policy.Gateway(
                interface: $0.name ?? Self.interfaceName($0.id, on: parent(of: $0)), vlan: $0.id,
                prefixes: $0.addresses.map(\.prefix))
        }
        do {
            return try Policy(
                gateways: gateways, masquerade: masquerade,
                denied: denied.map { Policy.Pair(from: interfaceName($0.from), to: interfaceName($0.to)) },
                isUntracked: fastPath != nil)
        } catch {
            throw Failure(.usage, "\(error)", remedy: "rename \(parent): ip link set dev \(parent) name NAME")
        }
    }
}
