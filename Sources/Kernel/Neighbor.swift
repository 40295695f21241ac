// Neighbours, as `ip neighbour` shows them: which MAC address an address of a link has (ARP, NDP).

import CLinux
import Packets

/// An entry of the kernel's neighbour table.
public struct Neighbor: Hashable, Sendable {
    public struct Key: Hashable, Sendable {
        public var linkIndex: UInt32
        public var address: IPAddress

        public init(linkIndex: UInt32, address: IPAddress) {
            self.linkIndex = linkIndex
            self.address = address
        }
    }

    public var key: Key
    /// nil: not known, or not one of six octets.
    public var macAddress: MACAddress?
    /// NUD_ values.
    public var state: UInt16
    /// NTF_ values.
    public var flags: UInt8

    /// Whether the kernel sends to the MAC address (NUD_VALID). It may be old: then it also finds out whether it still holds.
    public var isValid: Bool { state & Self.valid != 0 && macAddress != nil }

    /// Whether the kernel would ask after it if it were used.
    public var isStale: Bool { state & UInt16(NUD_STALE) != 0 }

    /// NUD_PERMANENT, NUD_NOARP, NUD_REACHABLE, NUD_PROBE, NUD_STALE and NUD_DELAY.
    private static let valid: UInt16 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08
}

extension Neighbor {
    /// nil for what is not an IPv4 or IPv6 neighbour: bridges' tables of MAC addresses, and addresses that are answered for (proxies).
    init?(_ message: NetlinkMessage) {
        // struct ndmsg { u8 family, u8, u16, s32 ifindex, u16 state, u8 flags, u8 type }
        guard Int(message.type) == RTM_NEWNEIGH || Int(message.type) == RTM_DELNEIGH,
            let family = message.payload.load(UInt8.self, at: 0), Int32(family) == AF_INET || Int32(family) == AF_INET6,
            let linkIndex = message.payload.load(UInt32.self, at: 4),
            let state = message.payload.load(UInt16.self, at: 8), let flags = message.payload.load(UInt8.self, at: 10),
            flags & UInt8(NTF_PROXY) == 0
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<ndmsg>.size)
        guard let address = attributes[Int(NDA_DST)].flatMap({ IPAddress(octets: $0) }) else { return nil }
        key = Key(linkIndex: linkIndex, address: address)
        macAddress = attributes[Int(NDA_LLADDR)].flatMap { MACAddress(octets: Array($0)) }
        self.state = state
        self.flags = flags
    }
}

extension NetlinkSocket {
    /// Every neighbour of the namespace, both families.
    public func neighbors() throws(KernelError) -> [Neighbor] {
        var request = NetlinkBatch()
        request.add("list neighbours", type: RTM_GETNEIGH, flags: NLM_F_DUMP, header: ndmsg())
        return try dump(request).compactMap(Neighbor.init)
    }
}

extension NetlinkBatch {
    /// `ip neighbour replace ADDRESS lladdr MAC nud permanent dev LINK`
    public mutating func addPermanentNeighbor(
        _ address: IPAddress, macAddress: MACAddress, linkIndex: UInt32, linkName: String
    ) {
        var header = ndmsg()
        header.ndm_family = UInt8(address.isV4 ? AF_INET : AF_INET6)
        header.ndm_ifindex = Int32(bitPattern: linkIndex)
        header.ndm_state = UInt16(NUD_PERMANENT)
        add(
            "add neighbour \(address) to \(linkName)", type: Int(RTM_NEWNEIGH),
            flags: NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, header: header
        ) {
            $0.put(Int(NDA_DST), address.octets)
            $0.put(Int(NDA_LLADDR), macAddress.octets)
        }
    }

    /// `ip neighbour replace ADDRESS dev LINK use`: as if the kernel itself had a packet for it. It looks for one that it does not
    /// know, checks one that has become stale, and keeps one that is in use.
    public mutating func useNeighbor(_ key: Neighbor.Key) {
        var header = ndmsg()
        header.ndm_family = UInt8(key.address.isV4 ? AF_INET : AF_INET6)
        header.ndm_ifindex = Int32(bitPattern: key.linkIndex)
        header.ndm_flags = UInt8(NTF_USE)
        add(
            "use neighbour \(key.address) of #\(key.linkIndex)", type: RTM_NEWNEIGH, flags: NLM_F_CREATE | NLM_F_ACK,
            header: header
        ) {
            $0.put(Int(NDA_DST), key.address.octets)
        }
    }
}
