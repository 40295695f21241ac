// That something has changed of what vrouter sets up: links, addresses, routes, parameters, traffic control, nftables.

import CLinux
import CNftnl
import SystemPackage

/// Tells when to look again, and who has changed rules. What has changed is for the one who looks to find out.
public struct HostEvents: ~Copyable {
    private let network: NetlinkSocket
    private let firewall: NetlinkSocket

    private static let networkGroups =
        UInt32(
            RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE)
        | [RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF].reduce(0) { $0 | 1 << ($1.rawValue - 1) }

    /// A transaction of nftables, by whom.
    public struct Commit: Hashable, Sendable {
        public let process: Int32
        /// At most 15 octets: `nft`, `dockerd`, …
        public let name: String
    }

    /// Everything that changes from here on is told.
    public init() throws(KernelError) {
        let network = try NetlinkSocket(groups: Self.networkGroups)
        firewall = try NetlinkSocket(.netfilter, groups: 1 << (UInt32(NFNLGRP_NFTABLES.rawValue) - 1))
        self.network = network
    }

    /// Waits for anything, for something to read from one of `others`, for a signal, or for the time to end.
    public func wait(milliseconds: Int32, others: [Int32] = []) {
        var descriptors = ([network.descriptor, firewall.descriptor] + others).map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        _ = unsafe descriptors.withUnsafeMutableBufferPointer {
            unsafe poll($0.baseAddress, nfds_t($0.count), milliseconds)
        }
    }

    /// Takes everything that has come.
    ///
    /// - Returns: whether there was anything that could concern vrouter, and all commits, in their order.
    public func take() -> (isAny: Bool, commits: [Commit]) {
        var isAny = false
        var commits: [Commit] = []
        receive(network) { message in
            // Routes come by the thousand where a routing protocol learns them; that one comes takes none away.
            isAny = isAny || Int(message.type) != RTM_NEWROUTE
        } lost: {
            isAny = true
        }
        receive(firewall) { message in
            isAny = true
            guard message.isA(NFT_MSG_NEWGEN) else { return }
            commits.append(
                Commit(
                    process: Int32(
                        truncatingIfNeeded: message.attributes.networkInteger(NFTA_GEN_PROC_PID.rawValue) ?? 0),
                    name: message.attributes.string(NFTA_GEN_PROC_NAME.rawValue)))
        } lost: {
            isAny = true
        }
        return (isAny, commits)
    }

    private func receive(
        _ socket: borrowing NetlinkSocket, _ body: (NetlinkMessage) -> Void, lost: () -> Void
    ) {
        while socket.wait(milliseconds: 0) {
            do {
                for message in try socket.receive("read the kernel's announcements") { body(message) }
            } catch {
                // More than there was room for: looking again is all that one of them would have caused.
                lost()
                if error.errno != .noBufferSpace, error.errno != .interrupted { return }
            }
        }
    }
}
