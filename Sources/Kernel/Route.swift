// Routes of all tables, as `ip route show table all` shows them.

import CLinux
import Packets
import SystemPackage

/// A route of any table and type.
public struct Route: Hashable, Sendable {
    public var destination: IPPrefix
    public var table: UInt32
    /// Of several routes to one prefix, the lowest is used (`metric`).
    public var priority: UInt32
    /// IPv4 only; 0: any packet.
    public var typeOfService: UInt8
    public var properties: Properties

    /// What many routes have in common.
    public struct Properties: Hashable, Sendable {
        public var kind: Kind
        /// RTPROT_ value: 2 kernel, 3 boot, 4 static, 9 router advertisement, …
        public var routingProtocol: UInt8
        /// RT_SCOPE_ value.
        public var scope: UInt8
        /// Empty where the type says it all, and where the kernel names a next hop object alone.
        public var nextHops: [NextHop] = []
        /// IPv4 only: the kernel lets go of it with the address.
        public var preferredSource: IPv4Address?
        /// In octets, of the IP packet. Path MTU discovery does not change it where it is locked. IPv6 has one for each next hop and
        /// shows that of the first.
        public var mtu: UInt32?
        public var isMTULocked = false
        /// Of the object that the next hops come from.
        public var nextHopID: UInt32?
        /// Whether there is more to it than this structure knows: a source prefix, an encapsulation.
        public var isPlain = true

        public init(kind: Kind, routingProtocol: UInt8, scope: UInt8) {
            self.kind = kind
            self.routingProtocol = routingProtocol
            self.scope = scope
        }
    }

    /// RTN_ values.
    public struct Kind: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        public static let unicast = Kind(rawValue: UInt8(RTN_UNICAST))
        public static let local = Kind(rawValue: UInt8(RTN_LOCAL))
        public static let broadcast = Kind(rawValue: UInt8(RTN_BROADCAST))
        public static let anycast = Kind(rawValue: UInt8(RTN_ANYCAST))
        public static let multicast = Kind(rawValue: UInt8(RTN_MULTICAST))
        public static let blackhole = Kind(rawValue: UInt8(RTN_BLACKHOLE))
        public static let unreachable = Kind(rawValue: UInt8(RTN_UNREACHABLE))
        public static let prohibit = Kind(rawValue: UInt8(RTN_PROHIBIT))
        /// On to the next rule.
        public static let `throw` = Kind(rawValue: UInt8(RTN_THROW))
    }

    public struct NextHop: Hashable, Sendable {
        public var linkIndex: UInt32
        /// nil: the destination is on the link itself. An IPv4 route may have an IPv6 gateway.
        public var gateway: IPAddress?
        /// Its share among all of them, from 1.
        public var weight: UInt16 = 1

        public init(linkIndex: UInt32, gateway: IPAddress? = nil, weight: UInt16 = 1) {
            self.linkIndex = linkIndex
            self.gateway = gateway
            self.weight = weight
        }
    }

    public static let localTable = UInt32(RT_TABLE_LOCAL.rawValue)
    public static let mainTable = UInt32(RT_TABLE_MAIN.rawValue)
    public static let defaultTable = UInt32(RT_TABLE_DEFAULT.rawValue)

    /// Of the first next hop.
    public var gateway: IPAddress? { properties.nextHops.first?.gateway }
    /// Of the first next hop.
    public var linkIndex: UInt32? { properties.nextHops.first?.linkIndex }
    public var isDefault: Bool { destination.length == 0 }
    public var isFromRouterAdvertisement: Bool { properties.routingProtocol == UInt8(RTPROT_RA) }
}

extension Route {
    /// nil for anything that is not a route of IPv4 or IPv6, and for what IPv6 has only learned about one.
    init?(_ message: NetlinkMessage) {
        // struct rtmsg { family, dst_len, src_len, tos, table, protocol, scope, type, u32 flags }
        let header = message.payload
        guard Int(message.type) == RTM_NEWROUTE || Int(message.type) == RTM_DELROUTE, header.count >= 12,
            let flags = header.load(UInt32.self, at: 8), flags & UInt32(RTM_F_CLONED) == 0
        else { return nil }
        let first = header.startIndex
        let family = Int32(header[first])
        guard family == AF_INET || family == AF_INET6 else { return nil }
        let isV4 = family == AF_INET
        table = UInt32(header[first + 4])
        typeOfService = isV4 ? header[first + 3] : 0
        priority = 0
        var properties = Properties(
            kind: Kind(rawValue: header[first + 7]), routingProtocol: header[first + 5], scope: header[first + 6])
        properties.isPlain = header[first + 2] == 0
        var network: IPAddress = isV4 ? .v4(IPv4Address(0)) : .v6(IPv6Address(0))
        var hop = NextHop(linkIndex: 0)
        var hasHop = false
        for (type, value) in AttributeSequence(header.dropFirst(12)) {
            switch type {
            case RouteAttribute.destination: if let address = IPAddress(octets: value) { network = address }
            case RouteAttribute.link:
                hop.linkIndex = value.load(UInt32.self, at: 0) ?? 0
                hasHop = true
            case RouteAttribute.gateway, RouteAttribute.via:
                hop.gateway = Self.gateway(type, value)
                hasHop = true
            case RouteAttribute.priority: priority = value.load(UInt32.self, at: 0) ?? 0
            case RouteAttribute.table: table = value.load(UInt32.self, at: 0) ?? table
            case RouteAttribute.preferredSource:
                if case .v4(let address) = IPAddress(octets: value) { properties.preferredSource = address }
            case RouteAttribute.metrics:
                for (metric, value) in AttributeSequence(value) {
                    guard let number = value.load(UInt32.self, at: 0) else { continue }
                    if metric == Int(RTAX_MTU) { properties.mtu = number }
                    if metric == Int(RTAX_LOCK) { properties.isMTULocked = number & 1 << UInt32(RTAX_MTU) != 0 }
                }
            case RouteAttribute.multipath: properties.addNextHops(value)
            case RouteAttribute.nextHopID: properties.nextHopID = value.load(UInt32.self, at: 0)
            case RouteAttribute.encapsulationType, RouteAttribute.newDestination: properties.isPlain = false
            default: break
            }
        }
        if hasHop, properties.nextHops.isEmpty { properties.nextHops = [hop] }
        if !isV4, properties.nextHops.count > 1 {
            // Their order in IPv6 is that in which they came, and another one after some have gone and come back.
            properties.nextHops.sort {
                $0.linkIndex == $1.linkIndex
                    ? ($0.gateway?.octets ?? []).lexicographicallyPrecedes($1.gateway?.octets ?? [])
                    : $0.linkIndex < $1.linkIndex
            }
        }
        destination = IPPrefix(network, length: Int(header[first + 1]))
        self.properties = properties
    }

    /// RTA_GATEWAY is an address of the route's family, RTA_VIA (struct rtvia) one of any family behind two octets.
    fileprivate static func gateway(_ type: Int, _ value: ArraySlice<UInt8>) -> IPAddress? {
        IPAddress(octets: type == RouteAttribute.via ? value.dropFirst(2) : value)
    }
}

extension Route.Properties {
    /// RTA_MULTIPATH: struct rtnexthop { u16 len, u8 flags, u8 hops, s32 ifindex }, each with attributes of its own.
    fileprivate mutating func addNextHops(_ value: ArraySlice<UInt8>) {
        var rest = value
        while let length = rest.load(UInt16.self, at: 0), length >= 8, Int(length) <= rest.count,
            let link = rest.load(UInt32.self, at: 4), let hops = rest.load(UInt8.self, at: 3)
        {
            var hop = Route.NextHop(linkIndex: link, weight: UInt16(hops) + 1)
            for (type, value) in AttributeSequence(rest.prefix(Int(length)).dropFirst(8)) {
                switch type {
                case RouteAttribute.gateway, RouteAttribute.via: hop.gateway = Route.gateway(type, value)
                case RouteAttribute.encapsulationType: isPlain = false
                default: break
                }
            }
            nextHops.append(hop)
            rest = rest.dropFirst((Int(length) + 3) & ~3)
        }
    }
}

/// RTA_ values, as numbers that a switch takes (linux/rtnetlink.h).
private enum RouteAttribute {
    static let destination = Int(RTA_DST.rawValue)
    static let link = Int(RTA_OIF.rawValue)
    static let gateway = Int(RTA_GATEWAY.rawValue)
    static let priority = Int(RTA_PRIORITY.rawValue)
    static let preferredSource = Int(RTA_PREFSRC.rawValue)
    static let metrics = Int(RTA_METRICS.rawValue)
    static let multipath = Int(RTA_MULTIPATH.rawValue)
    static let table = Int(RTA_TABLE.rawValue)
    static let via = Int(RTA_VIA.rawValue)
    static let newDestination = Int(RTA_NEWDST.rawValue)
    static let encapsulationType = Int(RTA_ENCAP_TYPE.rawValue)
    static let nextHopID = Int(RTA_NH_ID.rawValue)
}

extension NetlinkSocket {
    /// The unicast routes of the main table, both families.
    public func routes() throws(KernelError) -> [Route] {
        var result: [Route] = []
        for family in IPFamily.allCases {
            var routes: [Route] = []
            // Since Linux 4.20 the kernel looks at the table, and leaves out the local one, which is several times larger.
            try forEachRoute(family, table: Route.mainTable) { route in
                if route.table == Route.mainTable, route.properties.kind == .unicast { routes.append(route) }
            } restart: {
                routes = []
            }
            result += routes
        }
        return result
    }

    /// The routes of a table, or of all (0), one by one: there may be millions.
    ///
    /// - Parameter restart: what has come so far is void.
    func forEachRoute(
        _ family: IPFamily, table: UInt32 = 0, _ body: (Route) -> Void, restart: () -> Void
    ) throws(KernelError) {
        var header = rtmsg()
        header.rtm_family = UInt8(family == .v4 ? AF_INET : AF_INET6)
        header.rtm_table = UInt8(clamping: table)
        var request = NetlinkBatch()
        request.add("list routes", type: RTM_GETROUTE, flags: NLM_F_DUMP, header: header)
        do {
            try dump(request, { message in if let route = Route(message) { body(route) } }, restart: restart)
        } catch {
            // A table that has never had a route does not exist.
            guard error.errno == .noSuchFileOrDirectory else { throw error }
        }
    }
}

extension NetlinkBatch {
    /// `ip route add default via GATEWAY`
    public mutating func addDefaultRoute(via gateway: IPAddress) {
        let any: IPAddress = gateway.isV4 ? .v4(IPv4Address(0)) : .v6(IPv6Address(0))
        addRoute(to: IPPrefix(any, length: 0), via: gateway, linkIndex: nil)
    }

    /// `ip route add DESTINATION via GATEWAY dev LINK`
    ///
    /// - Parameter isReplacement: no error if it is there (`ip route replace`).
    public mutating func addRoute(
        to destination: IPPrefix, via gateway: IPAddress, linkIndex: UInt32? = nil, isReplacement: Bool = false
    ) {
        let what = destination.length == 0 ? "default route" : "route to \(destination)"
        changeRoute(
            "add \(what) via \(gateway)", type: RTM_NEWROUTE,
            flags: NLM_F_CREATE | (isReplacement ? NLM_F_REPLACE : NLM_F_EXCL) | NLM_F_ACK, destination, gateway,
            linkIndex)
    }

    /// `ip route del DESTINATION via GATEWAY`
    public mutating func deleteRoute(to destination: IPPrefix, via gateway: IPAddress) {
        changeRoute(
            "delete route to \(destination) via \(gateway)", type: RTM_DELROUTE, flags: NLM_F_ACK, destination, gateway,
            nil)
    }

    private mutating func changeRoute(
        _ operation: String, type: Int, flags: Int32, _ destination: IPPrefix, _ gateway: IPAddress,
        _ linkIndex: UInt32?
    ) {
        var header = rtmsg()
        header.rtm_family = UInt8(gateway.isV4 ? AF_INET : AF_INET6)
        header.rtm_dst_len = UInt8(destination.length)
        header.rtm_table = UInt8(RT_TABLE_MAIN.rawValue)
        header.rtm_protocol = UInt8(RTPROT_STATIC)
        header.rtm_scope = UInt8(RT_SCOPE_UNIVERSE.rawValue)
        header.rtm_type = UInt8(RTN_UNICAST)
        add(operation, type: type, flags: flags, header: header) {
            if destination.length > 0 { $0.put(Int(RTA_DST.rawValue), destination.network.octets) }
            $0.put(Int(RTA_GATEWAY.rawValue), gateway.octets)
            if let linkIndex { $0.put(Int(RTA_OIF.rawValue), linkIndex) }
        }
    }
}
