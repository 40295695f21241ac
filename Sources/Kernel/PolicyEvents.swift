// That something has changed which decides about packets beside the routes: nftables, or traffic control.

import CLinux
import SystemPackage

/// Tells when to look again. What has changed is for the one who looks to find out.
public struct PolicyEvents: ~Copyable {
    private let firewall: NetlinkSocket
    private let trafficControl: NetlinkSocket

    /// NFNLGRP_NFTABLES and RTNLGRP_TC, as masks.
    private static let nftablesGroup: UInt32 = 1 << 6
    private static let trafficControlGroup: UInt32 = 1 << 3

    /// Everything that changes from here on is told.
    public init() throws(KernelError) {
        let firewall = try NetlinkSocket(.netfilter, groups: Self.nftablesGroup)
        trafficControl = try NetlinkSocket(groups: Self.trafficControlGroup)
        self.firewall = firewall
    }

    /// Waits for a change, for something to read from one of `others`, for a signal, or for the time to end.
    ///
    /// - Returns: whether there was a change; all that are there have been taken.
    public func wait(milliseconds: Int32, others: [Int32]) -> Bool {
        var descriptors = ([firewall.descriptor, trafficControl.descriptor] + others).map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        let count = unsafe descriptors.withUnsafeMutableBufferPointer {
            unsafe poll($0.baseAddress, nfds_t($0.count), milliseconds)
        }
        guard count > 0, descriptors.prefix(2).contains(where: { $0.revents != 0 }) else { return false }
        firewall.discardPending()
        trafficControl.discardPending()
        return true
    }
}
