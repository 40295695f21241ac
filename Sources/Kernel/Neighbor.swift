// The neighbour tables (ARP and NDP), as `ip neighbour` shows them.

import CLinux
import Packets

/// Who has an address on a link.
public struct Neighbor: Hashable, Sendable {
    public let address: IPAddress
    public let linkIndex: UInt32
    public let macAddress: MACAddress?
    /// NUD_ value.
    public let state: UInt16

    /// Whether the kernel sends to it without asking first (NUD_VALID).
    public var isValid: Bool {
        Int32(state) & (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY) != 0
    }
    /// Whether the kernel would ask again if it were used.
    public var isStale: Bool { Int32(state) & NUD_STALE != 0 }
}

extension Neighbor {
    /// struct ndmsg: family, interface index at 4, state at 8.
    init?(_ message: NetlinkMessage) {
        guard Int(message.type) == RTM_NEWNEIGH, let linkIndex = message.payload.load(UInt32.self, at: 4),
            let state = message.payload.load(UInt16.self, at: 8)
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<ndmsg>.size)
        guard let address = attributes[Int(NDA_DST)].flatMap({ IPAddress(octets: Array($0)) }) else { return nil }
        self.address = address
        self.linkIndex = linkIndex
        macAddress = attributes[Int(NDA_LLADDR)].flatMap { MACAddress(octets: Array($0)) }
        self.state = state
    }
}

extension NetlinkSocket {
    /// The neighbours of all links, both families.
    public func neighbors() throws(KernelError) -> [Neighbor] {
        var result: [Neighbor] = []
        for family in [AF_INET, AF_INET6] {
            var header = ndmsg()
            header.ndm_family = UInt8(family)
            var request = NetlinkBatch()
            request.add("list neighbours", type: Int(RTM_GETNEIGH), flags: NLM_F_DUMP, header: header)
            result += try dump(request).compactMap(Neighbor.init)
        }
        return result
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

    /// What a packet to a neighbour does: the kernel asks whether it is still there.
    public mutating func useNeighbor(_ neighbor: Neighbor) {
        var header = ndmsg()
        header.ndm_family = UInt8(neighbor.address.isV4 ? AF_INET : AF_INET6)
        header.ndm_ifindex = Int32(bitPattern: neighbor.linkIndex)
        header.ndm_state = neighbor.state
        header.ndm_flags = UInt8(NTF_USE)
        add("use neighbour \(neighbor.address)", type: RTM_NEWNEIGH, flags: NLM_F_ACK, header: header) {
            $0.put(Int(NDA_DST), neighbor.address.octets)
        }
    }
}
