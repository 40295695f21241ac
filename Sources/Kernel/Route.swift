// The main routing table, as `ip route` shows it.

import CLinux
import Packets
import SystemPackage

/// A unicast route of the main table.
public struct Route: Hashable, Sendable {
    public let destination: IPPrefix
    public let gateway: IPAddress?
    public let linkIndex: UInt32?
    /// RTPROT_ value: 2 kernel, 3 boot, 4 static, 9 router advertisement, …
    public let routingProtocol: UInt8

    public var isDefault: Bool { destination.length == 0 }
    public var isFromRouterAdvertisement: Bool { routingProtocol == UInt8(RTPROT_RA) }

    /// nil for anything that is not a unicast route of the main table.
    init?(_ message: NetlinkMessage) {
        let header = message.payload
        guard Int(message.type) == RTM_NEWROUTE, let family = header.load(UInt8.self, at: 0),
            let length = header.load(UInt8.self, at: 1), let table = header.load(UInt8.self, at: 4),
            let routingProtocol = header.load(UInt8.self, at: 5), let type = header.load(UInt8.self, at: 7),
            table == UInt8(RT_TABLE_MAIN.rawValue), Int(type) == RTN_UNICAST,
            Int32(family) == AF_INET || Int32(family) == AF_INET6
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<rtmsg>.size)
        let any: IPAddress = Int32(family) == AF_INET ? .v4(IPv4Address(0)) : .v6(IPv6Address(0))
        let octets = attributes[Int(RTA_DST.rawValue)].map(Array.init)
        destination = IPPrefix(octets.flatMap { IPAddress(octets: $0) } ?? any, length: Int(length))
        gateway = attributes[Int(RTA_GATEWAY.rawValue)].flatMap { IPAddress(octets: Array($0)) }
        linkIndex = attributes.integer(Int(RTA_OIF.rawValue))
        self.routingProtocol = routingProtocol
    }
}

extension NetlinkSocket {
    /// The unicast routes of the main table, both families.
    public func routes() throws(KernelError) -> [Route] {
        var result: [Route] = []
        for family in [AF_INET, AF_INET6] {
            var header = rtmsg()
            header.rtm_family = UInt8(family)
            // Since Linux 4.20 the kernel looks at this, and leaves out the local table, which is several times larger.
            header.rtm_table = UInt8(RT_TABLE_MAIN.rawValue)
            var request = NetlinkBatch()
            request.add("list routes", type: RTM_GETROUTE, flags: NLM_F_DUMP, header: header)
            do {
                result += try dump(request).compactMap(Route.init)
            } catch {
                // A table that has never had a route does not exist.
                guard error.errno == .noSuchFileOrDirectory else { throw error }
            }
        }
        return result
    }
}

extension NetlinkBatch {
    /// `ip route add default via GATEWAY`
    public mutating func addDefaultRoute(via gateway: IPAddress) {
        let any: IPAddress = gateway.isV4 ? .v4(IPv4Address(0)) : .v6(IPv6Address(0))
        addRoute(to: IPPrefix(any, length: 0), via: gateway, linkIndex: nil)
    }

    /// `ip route add DESTINATION via GATEWAY dev LINK`
    public mutating func addRoute(to destination: IPPrefix, via gateway: IPAddress, linkIndex: UInt32?) {
        var header = rtmsg()
        header.rtm_family = UInt8(gateway.isV4 ? AF_INET : AF_INET6)
        header.rtm_dst_len = UInt8(destination.length)
        header.rtm_table = UInt8(RT_TABLE_MAIN.rawValue)
        header.rtm_protocol = UInt8(RTPROT_STATIC)
        header.rtm_scope = UInt8(RT_SCOPE_UNIVERSE.rawValue)
        header.rtm_type = UInt8(RTN_UNICAST)
        let what = destination.length == 0 ? "default route" : "route to \(destination)"
        add(
            "add \(what) via \(gateway)", type: RTM_NEWROUTE, flags: NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
            header: header
        ) {
            if destination.length > 0 { $0.put(Int(RTA_DST.rawValue), destination.network.octets) }
            $0.put(Int(RTA_GATEWAY.rawValue), gateway.octets)
            if let linkIndex { $0.put(Int(RTA_OIF.rawValue), linkIndex) }
        }
    }
}
