// Network interfaces, as `ip link` shows and changes them.

import CLinux
import Packets
import SystemPackage

/// A network interface of the namespace.
public struct Link: Hashable, Sendable {
    public let index: UInt32
    public let name: String
    /// `vlan`, `veth`, `bridge`, …; nil for hardware and the loopback interface.
    public let kind: String?
    /// ARPHRD_ value.
    public let hardwareType: UInt16
    /// IFF_ values.
    public let flags: UInt32
    /// The IP MTU, in octets: without Ethernet header and tag.
    public let mtu: UInt32
    public let macAddress: MACAddress?
    /// IFLA_LINK: the parent of a VLAN device, the other end of a veth pair. In another namespace where `isLowerElsewhere`.
    public let lowerIndex: UInt32?
    public let isLowerElsewhere: Bool
    /// Of the bridge or bond that it is a port of.
    public let masterIndex: UInt32?
    public let group: UInt32
    /// IF_OPER_ value, as text: `up`, `down`, `lowerlayerdown`, …
    public let operationalState: String
    public let vlan: VLAN?
    /// nil: IPv4 does not run on it.
    public let ipv4: IPv4Settings?
    /// net.ipv6.conf.NAME.forwarding; nil: IPv6 does not run on it.
    public let ipv6Forwarding: Int32?
    /// Frames and octets as the interface itself counts them.
    public let statistics: Statistics?

    /// What a `vlan` link adds.
    public struct VLAN: Hashable, Sendable {
        public let id: UInt16
        /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
        public let etherType: UInt16
        public let reordersHeader: Bool
    }

    /// Parameters below net.ipv4.conf.NAME, which the kernel sends along with the link: for thousands of links, reading them from
    /// /proc takes as long as everything else.
    public struct IPv4Settings: Hashable, Sendable {
        public var forwarding: Int32
        public var reversePathFilter: Int32
        public var arpFilter: Int32
        public var arpIgnore: Int32
        public var acceptLocal: Int32

        public init(
            forwarding: Int32 = 0, reversePathFilter: Int32 = 0, arpFilter: Int32 = 0, arpIgnore: Int32 = 0,
            acceptLocal: Int32 = 0
        ) {
            self.forwarding = forwarding
            self.reversePathFilter = reversePathFilter
            self.arpFilter = arpFilter
            self.arpIgnore = arpIgnore
            self.acceptLocal = acceptLocal
        }
    }

    public struct Statistics: Hashable, Sendable {
        public var receivedPackets: UInt64 = 0
        public var receivedBytes: UInt64 = 0
        public var sentPackets: UInt64 = 0
        public var sentBytes: UInt64 = 0

        public init() {}
    }

    public var isUp: Bool { flags & UInt32(IFF_UP) != 0 }
    public var hasCarrier: Bool { flags & LinkFlags.lowerUp != 0 }
    public var isLoopback: Bool { flags & UInt32(IFF_LOOPBACK) != 0 }
    public var isPromiscuous: Bool { flags & UInt32(IFF_PROMISC) != 0 }
    public var isEthernet: Bool { hardwareType == UInt16(ARPHRD_ETHER) && !isLoopback }
}

extension Link {
    init?(_ message: NetlinkMessage) {
        guard Int(message.type) == RTM_NEWLINK, let index = message.payload.load(UInt32.self, at: 4),
            let hardwareType = message.payload.load(UInt16.self, at: 2),
            let flags = message.payload.load(UInt32.self, at: 8)
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<ifinfomsg>.size)
        guard let name = attributes.string(IFLA_IFNAME) else { return nil }
        self.index = index
        self.name = name
        self.hardwareType = hardwareType
        self.flags = flags
        mtu = attributes.integer(IFLA_MTU) ?? 0
        macAddress = attributes[IFLA_ADDRESS].flatMap { MACAddress(octets: Array($0)) }
        lowerIndex = attributes.integer(IFLA_LINK)
        isLowerElsewhere = attributes[IFLA_LINK_NETNSID] != nil
        masterIndex = attributes.integer(IFLA_MASTER)
        group = attributes.integer(IFLA_GROUP) ?? 0
        let state: UInt8 = attributes.integer(IFLA_OPERSTATE) ?? 0
        let states = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"]
        operationalState = states.indices.contains(Int(state)) ? states[Int(state)] : "unknown"

        let info = attributes.nested(IFLA_LINKINFO)
        kind = info?.string(IFLA_INFO_KIND)
        if kind == "vlan", let data = info?.nested(IFLA_INFO_DATA),
            let id = data.integer(IFLA_VLAN_ID, UInt16.self)
        {
            let etherType = data.integer(IFLA_VLAN_PROTOCOL, UInt16.self).map(UInt16.init(bigEndian:))
            let flags = data[IFLA_VLAN_FLAGS]?.load(UInt32.self, at: 0) ?? 0
            vlan = VLAN(
                id: id, etherType: etherType ?? 0x8100,
                reordersHeader: flags & UInt32(VLAN_FLAG_REORDER_HDR.rawValue) != 0)
        } else {
            vlan = nil
        }

        let families = attributes.nested(IFLA_AF_SPEC)
        ipv4 = families?.nested(Int(AF_INET))?[Int(IFLA_INET_CONF)].flatMap(IPv4Settings.init)
        // DEVCONF_FORWARDING (linux/ipv6.h) is the first of them.
        ipv6Forwarding = families?.nested(Int(AF_INET6))?[Int(IFLA_INET6_CONF)]?.load(Int32.self, at: 0)

        if let counters = attributes[IFLA_STATS64],
            let receivedPackets = counters.load(UInt64.self, at: 0),
            let sentPackets = counters.load(UInt64.self, at: 8),
            let receivedBytes = counters.load(UInt64.self, at: 16), let sentBytes = counters.load(UInt64.self, at: 24)
        {
            var statistics = Statistics()
            statistics.receivedPackets = receivedPackets
            statistics.sentPackets = sentPackets
            statistics.receivedBytes = receivedBytes
            statistics.sentBytes = sentBytes
            self.statistics = statistics
        } else {
            statistics = nil
        }
    }
}

extension Link {
    /// One that is yet to be made, on another one: without an index.
    public init(foreseen name: String, on parent: Link, mtu: UInt32) {
        self.name = name
        self.mtu = mtu
        index = 0
        kind = nil
        hardwareType = parent.hardwareType
        flags = 0
        macAddress = parent.macAddress
        lowerIndex = parent.index
        isLowerElsewhere = false
        masterIndex = nil
        group = 0
        operationalState = "down"
        vlan = nil
        ipv4 = nil
        ipv6Forwarding = nil
        statistics = nil
    }
}

extension Link.IPv4Settings {
    /// IFLA_INET_CONF: all of an interface's parameters in the order of IPV4_DEVCONF_ (linux/ip.h), which counts from 1.
    init?(_ values: ArraySlice<UInt8>) {
        func value(_ number: Int) -> Int32? { values.load(Int32.self, at: 4 * (number - 1)) }
        guard let forwarding = value(1), let reversePathFilter = value(8), let arpFilter = value(13),
            let arpIgnore = value(19), let acceptLocal = value(23)
        else { return nil }
        self.init(
            forwarding: forwarding, reversePathFilter: reversePathFilter, arpFilter: arpFilter, arpIgnore: arpIgnore,
            acceptLocal: acceptLocal)
    }
}

extension Link {
    /// Of the calling thread's network namespace; nil: there is no such link.
    public static func index(of name: String) -> UInt32? {
        let index = unsafe if_nametoindex(name)
        return index == 0 ? nil : index
    }
}

/// IFF_ values that `net/if.h` lacks (linux/if.h).
enum LinkFlags {
    static let lowerUp: UInt32 = 1 << 16
}

extension NetlinkSocket {
    /// Every link of the namespace.
    public func links() throws(KernelError) -> [Link] {
        var request = NetlinkBatch()
        request.add("list links", type: RTM_GETLINK, flags: NLM_F_DUMP, header: ifinfomsg()) {
            // Without what IPv6 and virtual functions count: a quarter of each message, which nobody reads. The link's own stays.
            $0.put(IFLA_EXT_MASK, UInt32(RTEXT_FILTER_SKIP_STATS))
        }
        return try dump(request).compactMap(Link.init)
    }
}

extension NetlinkBatch {
    private static let create = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK

    /// `ip link add link PARENT name NAME group GROUP type vlan id ID reorder_hdr on`
    public mutating func addVLAN(name: String, parent: UInt32, id: VLANID, group: UInt32 = 0) {
        add("add link \(name)", type: RTM_NEWLINK, flags: Self.create, header: ifinfomsg()) {
            $0.put(IFLA_IFNAME, name)
            if group != 0 { $0.put(IFLA_GROUP, group) }
            $0.put(IFLA_LINK, parent)
            $0.nest(IFLA_LINKINFO) {
                $0.put(IFLA_INFO_KIND, "vlan")
                $0.nest(IFLA_INFO_DATA) {
                    $0.put(IFLA_VLAN_ID, id.rawValue)
                    // struct ifla_vlan_flags { flags, mask }
                    let reorder = UInt32(VLAN_FLAG_REORDER_HDR.rawValue)
                    $0.put(IFLA_VLAN_FLAGS, reorder.nativeBytes + reorder.nativeBytes)
                }
            }
        }
    }

    /// `ip link add NAME address MAC mtu MTU type veth peer name PEER mtu MTU group GROUP`
    public mutating func addVethPair(
        name: String, peer: String, macAddress: MACAddress? = nil, mtu: UInt32? = nil, peerMTU: UInt32? = nil,
        peerGroup: UInt32 = 0, peerNamespace: Int32? = nil
    ) {
        add("add link \(name)", type: RTM_NEWLINK, flags: Self.create, header: ifinfomsg()) {
            $0.put(IFLA_IFNAME, name)
            if let macAddress { $0.put(IFLA_ADDRESS, macAddress.octets) }
            if let mtu { $0.put(IFLA_MTU, mtu) }
            $0.nest(IFLA_LINKINFO) {
                $0.put(IFLA_INFO_KIND, "veth")
                $0.nest(IFLA_INFO_DATA) {
                    $0.nest(vethInfoPeer) {
                        $0.putHeader(ifinfomsg())
                        $0.put(IFLA_IFNAME, peer)
                        if let peerMTU { $0.put(IFLA_MTU, peerMTU) }
                        if peerGroup != 0 { $0.put(IFLA_GROUP, peerGroup) }
                        if let peerNamespace { $0.put(IFLA_NET_NS_FD, UInt32(peerNamespace)) }
                    }
                }
            }
        }
    }

    /// `ip link add NAME type bridge`
    public mutating func addBridge(name: String) {
        add("add link \(name)", type: RTM_NEWLINK, flags: Self.create, header: ifinfomsg()) {
            $0.put(IFLA_IFNAME, name)
            $0.nest(IFLA_LINKINFO) { $0.put(IFLA_INFO_KIND, "bridge") }
        }
    }

    /// `ip link add link PARENT name NAME netns NAMESPACE type macvlan mode bridge`
    public mutating func addMacvlan(name: String, parent: UInt32, namespace: Int32) {
        add("add link \(name)", type: RTM_NEWLINK, flags: Self.create, header: ifinfomsg()) {
            $0.put(IFLA_IFNAME, name)
            $0.put(IFLA_LINK, parent)
            $0.put(IFLA_NET_NS_FD, UInt32(namespace))
            $0.nest(IFLA_LINKINFO) {
                $0.put(IFLA_INFO_KIND, "macvlan")
                $0.nest(IFLA_INFO_DATA) {
                    $0.put(IFLA_MACVLAN_MODE, UInt32(MACVLAN_MODE_BRIDGE.rawValue))
                }
            }
        }
    }

    /// `ip link set dev LINK …`
    public mutating func setLink(
        _ link: LinkReference, up: Bool? = nil, promiscuous: Bool? = nil, mtu: UInt32? = nil,
        macAddress: MACAddress? = nil,
        group: UInt32? = nil, master: UInt32? = nil
    ) {
        var header = ifinfomsg()
        if case .index(let index) = link { header.ifi_index = Int32(bitPattern: index) }
        for (wanted, flag) in [(up, IFF_UP), (promiscuous, IFF_PROMISC)] {
            guard let wanted else { continue }
            header.ifi_change |= UInt32(flag)
            if wanted { header.ifi_flags |= UInt32(flag) }
        }
        add("set link \(link)", type: RTM_NEWLINK, flags: NLM_F_ACK, header: header) {
            if case .name(let name) = link { $0.put(IFLA_IFNAME, name) }
            if let mtu { $0.put(IFLA_MTU, mtu) }
            if let macAddress { $0.put(IFLA_ADDRESS, macAddress.octets) }
            if let group { $0.put(IFLA_GROUP, group) }
            if let master { $0.put(IFLA_MASTER, master) }
        }
    }

    /// `ip link del dev LINK`
    public mutating func deleteLink(_ link: LinkReference) {
        var header = ifinfomsg()
        if case .index(let index) = link { header.ifi_index = Int32(bitPattern: index) }
        add("delete link \(link)", type: RTM_DELLINK, flags: NLM_F_ACK, header: header) {
            if case .name(let name) = link { $0.put(IFLA_IFNAME, name) }
        }
    }

    /// `ip link del group GROUP`: all of them in one pass of the kernel, where one request each waits for every reader each time.
    mutating func deleteLinks(group: UInt32) {
        add("delete links of group \(group)", type: RTM_DELLINK, flags: NLM_F_ACK, header: ifinfomsg()) {
            $0.put(IFLA_GROUP, group)
        }
    }
}

extension NetlinkSocket {
    /// Deletes these links and no other, in time that does not grow with the square of their number.
    public func deleteLinks(where isDoomed: (Link) -> Bool) throws(KernelError) {
        let links = try links()
        let doomed = links.filter(isDoomed)
        guard doomed.count > 1 else {
            var batch = NetlinkBatch()
            for link in doomed { batch.deleteLink(.index(link.index)) }
            // The second end of a veth pair goes with the first.
            return try execute(batch, ignoring: [.operationNotSupportedByDevice])
        }
        // The kernel deletes a whole group at once. A veth pair goes with either end. A gateway's other end is the better one: it has
        // no IPv6, all of whose routes the kernel would look through at each change of an interface that has.
        let members = Set(
            doomed.map { $0.kind == "veth" && !$0.isLowerElsewhere ? $0.lowerIndex ?? $0.index : $0.index })
        let ends = links.filter { members.contains($0.index) }
        var batch = NetlinkBatch()
        if let group = ends.first?.group, group != 0,
            Set(links.lazy.filter { $0.group == group }.map(\.index)) == members
        {
            batch.deleteLinks(group: group)
        } else {
            // They do not have one to themselves: they are put in one that nobody uses, by index.
            let taken = Set(links.map(\.group))
            var group: UInt32
            repeat { group = .random(in: 0x1000_0000...0x7fff_ffff) } while taken.contains(group)
            for member in members { batch.setLink(.index(member), group: group) }
            batch.deleteLinks(group: group)
        }
        try execute(batch, ignoring: [.operationNotSupportedByDevice])
    }
}

/// How a request names a link.
public enum LinkReference: Hashable, Sendable, CustomStringConvertible {
    case index(UInt32)
    case name(String)

    public var description: String {
        switch self {
        case .index(let index): "#\(index)"
        case .name(let name): name
        }
    }
}

/// linux/veth.h
private let vethInfoPeer = 1

extension FixedWidthInteger {
    /// In host byte order.
    var nativeBytes: [UInt8] {
        (0..<(Self.bitWidth / 8)).map { index in
            #if _endian(little)
                UInt8(truncatingIfNeeded: self >> Self(8 * index))
            #else
                UInt8(truncatingIfNeeded: self >> Self(Self.bitWidth - 8 - 8 * index))
            #endif
        }
    }
}

extension NetlinkSocket {
    /// Whether the kernel can make VLAN devices. Asking may load the module, as adding one would; nothing else changes.
    public func supportsVLANs() throws(KernelError) -> Bool {
        var request = NetlinkBatch()
        // Known kinds refuse this for lack of an id (EINVAL), the unknown one before that.
        request.add("ask for VLAN devices", type: RTM_NEWLINK, flags: NLM_F_CREATE | NLM_F_ACK, header: ifinfomsg()) {
            $0.nest(IFLA_LINKINFO) { $0.put(IFLA_INFO_KIND, "vlan") }
        }
        do {
            try execute(request)
            return true
        } catch {
            switch error.errno {
            case .invalidArgument: return true
            case .notSupportedOnSocket: return false
            default: throw error
            }
        }
    }
}
