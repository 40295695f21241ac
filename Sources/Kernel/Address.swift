// Addresses of interfaces, as `ip address` shows and changes them.

import CLinux
import Packets

/// An address that an interface has.
public struct Address: Hashable, Sendable {
    public let linkIndex: UInt32
    public let value: InterfaceAddress
}

extension Address {
    init?(_ message: NetlinkMessage) {
        guard Int(message.type) == RTM_NEWADDR || Int(message.type) == RTM_DELADDR,
            let linkIndex = message.payload.load(UInt32.self, at: 4),
            let prefixLength = message.payload.load(UInt8.self, at: 1)
        else { return nil }
        let attributes = message.attributes(after: MemoryLayout<ifaddrmsg>.size)
        // IFA_LOCAL is the address itself; on point-to-point links IFA_ADDRESS is the peer's. IPv6 often has IFA_ADDRESS alone.
        guard let octets = attributes[IFA_LOCAL] ?? attributes[IFA_ADDRESS],
            let address = IPAddress(octets: Array(octets))
        else { return nil }
        self.linkIndex = linkIndex
        value = InterfaceAddress(address, prefixLength: Int(prefixLength))
    }
}

extension NetlinkSocket {
    /// Every address of the namespace, both families.
    public func addresses() throws(KernelError) -> [Address] {
        var request = NetlinkBatch()
        request.add("list addresses", type: RTM_GETADDR, flags: NLM_F_DUMP, header: ifaddrmsg())
        return try dump(request).compactMap(Address.init)
    }
}

extension NetlinkBatch {
    /// `ip address add ADDRESS brd + dev LINK`
    ///
    /// - Parameter isReplacement: no error if it is there (`ip address replace`).
    public mutating func addAddress(
        _ address: InterfaceAddress, linkIndex: UInt32, linkName: String, isReplacement: Bool = false
    ) {
        changeAddress(
            "add address \(address) to \(linkName)", type: RTM_NEWADDR,
            flags: NLM_F_CREATE | (isReplacement ? NLM_F_REPLACE : NLM_F_EXCL) | NLM_F_ACK, address, linkIndex)
    }

    /// `ip address del ADDRESS dev LINK`
    public mutating func deleteAddress(_ address: InterfaceAddress, linkIndex: UInt32, linkName: String) {
        changeAddress(
            "delete address \(address) from \(linkName)", type: RTM_DELADDR, flags: NLM_F_ACK, address, linkIndex)
    }

    private mutating func changeAddress(
        _ operation: String, type: Int, flags: Int32, _ address: InterfaceAddress, _ linkIndex: UInt32
    ) {
        var header = ifaddrmsg()
        header.ifa_family = UInt8(address.address.isV4 ? AF_INET : AF_INET6)
        header.ifa_prefixlen = UInt8(address.prefixLength)
        header.ifa_index = linkIndex
        add(operation, type: type, flags: flags, header: header) {
            $0.put(IFA_LOCAL, address.address.octets)
            $0.put(IFA_ADDRESS, address.address.octets)
            if type == RTM_NEWADDR, let broadcast = address.broadcast {
                $0.put(IFA_BROADCAST, broadcast.octets)
            }
        }
    }
}
