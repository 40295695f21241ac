// That something has changed in the network namespace: links, addresses, neighbours, routes, rules, or the firewall.

import CLinux
import SystemPackage

/// Tells when to look again. What has changed is for the one who looks to find out.
public struct ChangeEvents: ~Copyable {
    private let network: NetlinkSocket
    private let firewall: NetlinkSocket

    /// RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF, as a mask.
    private static let furtherGroups: UInt32 = 1 << 7 | 1 << 18 | 1 << 23 | 1 << 24
    /// NFNLGRP_NFTABLES, as a mask.
    private static let nftablesGroup: UInt32 = 1 << 6

    /// Everything that changes from here on is told.
    public init() throws(KernelError) {
        let network = try NetlinkSocket(
            groups: UInt32(
                RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR
                    | RTMGRP_IPV6_ROUTE) | Self.furtherGroups)
        firewall = try NetlinkSocket(.netfilter, groups: Self.nftablesGroup)
        self.network = network
    }

    /// Waits for a change, and takes all that are there.
    ///
    /// - Returns: whether there was one, or a signal came.
    public func wait(milliseconds: Int32) -> Bool {
        var descriptors = [network.descriptor, firewall.descriptor].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        let count = unsafe descriptors.withUnsafeMutableBufferPointer {
            unsafe poll($0.baseAddress, nfds_t($0.count), milliseconds)
        }
        guard count != 0 else { return false }
        network.discardPending()
        firewall.discardPending()
        return true
    }
}
