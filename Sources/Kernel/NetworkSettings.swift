// What the kernel tells about its parameters below net.ipv4.conf and net.ipv6.conf, and whose changes it announces.

import CLinux
import Packets

/// Parameters of an interface, or of all.
public struct NetworkSettings: Hashable, Sendable {
    public enum Scope: Hashable, Sendable {
        case link(UInt32)
        case all
        /// What new links begin with.
        case `default`
    }

    public struct Key: Hashable, Sendable {
        public var family: IPFamily
        public var scope: Scope

        public init(_ family: IPFamily, _ scope: Scope) {
            self.family = family
            self.scope = scope
        }
    }

    public var forwarding: Int32?
    /// rp_filter, of IPv4. The greater one of `all` and the link is in force: 1 strict, 2 loose.
    public var reversePathFilter: Int32?
    public var ignoresRoutesWithLinkDown: Int32?

    /// The kernel announces only what has changed.
    mutating func update(with other: NetworkSettings) {
        forwarding = other.forwarding ?? forwarding
        reversePathFilter = other.reversePathFilter ?? reversePathFilter
        ignoresRoutesWithLinkDown = other.ignoresRoutesWithLinkDown ?? ignoresRoutesWithLinkDown
    }
}

extension NetworkSettings {
    /// nil: neither of IPv4 nor of IPv6.
    static func read(_ message: NetlinkMessage) -> (key: Key, settings: NetworkSettings)? {
        guard Int(message.type) == RTM_NEWNETCONF || Int(message.type) == RTM_DELNETCONF,
            let family = message.payload.load(UInt8.self, at: 0), Int32(family) == AF_INET || Int32(family) == AF_INET6
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<netconfmsg>.size)
        guard let index = attributes.integer(Int(NETCONFA_IFINDEX), Int32.self) else { return nil }
        let scope: Scope =
            switch index {
            case NETCONFA_IFINDEX_ALL: .all
            case NETCONFA_IFINDEX_DEFAULT: .default
            default: .link(UInt32(bitPattern: index))
            }
        return (
            Key(Int32(family) == AF_INET ? .v4 : .v6, scope),
            NetworkSettings(
                forwarding: attributes.integer(Int(NETCONFA_FORWARDING)),
                reversePathFilter: attributes.integer(Int(NETCONFA_RP_FILTER)),
                ignoresRoutesWithLinkDown: attributes.integer(Int(NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN)))
        )
    }
}

extension NetlinkSocket {
    /// Of all links, both families.
    public func networkSettings() throws(KernelError) -> [NetworkSettings.Key: NetworkSettings] {
        var result: [NetworkSettings.Key: NetworkSettings] = [:]
        for family in [AF_INET, AF_INET6] {
            var header = netconfmsg()
            header.ncm_family = UInt8(family)
            var request = NetlinkBatch()
            request.add("list network settings", type: RTM_GETNETCONF, flags: NLM_F_DUMP, header: header)
            for case (let key, let settings)? in try dump(request).map(NetworkSettings.read) { result[key] = settings }
        }
        return result
    }
}
