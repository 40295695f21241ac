// Neighbours, as `ip neighbour` shows and changes them.

import CLinux
import Packets

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
            "add neighbour \(address) to \(linkName)", type: RTM_NEWNEIGH,
            flags: NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, header: header
        ) {
            $0.put(NDA_DST, address.octets)
            $0.put(NDA_LLADDR, macAddress.octets)
        }
    }
}
