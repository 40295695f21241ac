import CLinux
import CMnl
import CNftnl
import Firewall
import SystemPackage

/// nftables over netlink: what `nft` does, in the network namespace of the thread that made this.
///
/// Source: linux/netfilter/nf_tables.h and nfnetlink.h. Messages are built by libnftnl; what the kernel sends is read
/// here, with every length checked.
// Safe: the socket is private, open from init to deinit, and libmnl keeps nothing else.
@safe public struct Nftables: ~Copyable {
    private let socket: OpaquePointer

    /// - Throws: EPROTONOSUPPORT where the kernel has no netfilter over netlink.
    public init() throws(KernelError) {
        let type = Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        guard let socket = unsafe mnl_socket_open2(NETLINK_NETFILTER, type) else {
            throw KernelError("open a netfilter socket", .last)
        }
        guard unsafe mnl_socket_bind(socket, 0, 0) == 0 else {
            let failure = KernelError("bind a netfilter socket", .last)
            // It is open, and nobody else has it.
            _ = unsafe mnl_socket_close(socket)
            throw failure
        }
        // Say why, and do not repeat the request: an answer is then small, however large the request was.
        var on: Int32 = 1
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK] {
            // An older kernel says less. `on` outlives the call.
            _ = unsafe mnl_socket_setsockopt(socket, option, &on, socklen_t(MemoryLayout<Int32>.size))
        }
        unsafe self.socket = unsafe socket
    }

    deinit {
        // The socket is open: init succeeded, and nothing else closes it.
        _ = unsafe mnl_socket_close(socket)
    }

    /// A protocol family as nf_tables numbers it (NFPROTO_*, linux/netfilter.h).
    public struct Family: RawRepresentable, Hashable, Sendable, Codable, CustomStringConvertible {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        static let unspecified = Family(rawValue: 0)
        public static let inet = Family(rawValue: 1)
        public static let ip = Family(rawValue: 2)
        public static let arp = Family(rawValue: 3)
        public static let netdev = Family(rawValue: 5)
        public static let bridge = Family(rawValue: 7)
        public static let ip6 = Family(rawValue: 10)

        /// As nft writes it.
        public var description: String {
            switch self {
            case .inet: "inet"
            case .ip: "ip"
            case .arp: "arp"
            case .netdev: "netdev"
            case .bridge: "bridge"
            case .ip6: "ip6"
            default: "family \(rawValue)"
            }
        }
    }

    // MARK: Changing

    /// Puts `ruleset` in the place of the table of its name, in one transaction: packets meet the old table, or the new
    /// one. Counters start from zero.
    ///
    /// - Throws: EPERM without CAP_NET_ADMIN. Whatever is thrown, the old table is still there.
    public func replace(with ruleset: Ruleset) throws(KernelError) {
        try send(NftablesBatch(replacing: ruleset), commit: true)
    }

    /// Lets the kernel verify `ruleset` as `replace(with:)` would send it, and changes nothing.
    public func check(_ ruleset: Ruleset) throws(KernelError) {
        try send(NftablesBatch(replacing: ruleset), commit: false)
    }

    /// Removes a table with everything in it. False: it was not there.
    public func delete(table name: String, family: Family = .inet) throws(KernelError) -> Bool {
        guard NftablesSelection.table(name).canExist else { return false }
        do {
            try send(NftablesBatch(deleting: name, family: family), commit: true)
            return true
        } catch {
            if error.errno == .noSuchFileOrDirectory { return false }
            throw error
        }
    }

    func send(_ batch: NftablesBatch, commit: Bool) throws(KernelError) {
        var sawEnd = false
        var failure: KernelError?
        try request(batch.datagram(commit: commit)) { message in
            let operation = batch.operations[message.sequence] ?? "commit the nftables transaction"
            if let error = message.error(operation) {
                // Later messages fail because the first one did.
                failure = failure ?? error
            } else if message.isReport, message.sequence == batch.lastSequence {
                sawEnd = true
            }
            return true
        }
        if let failure { throw failure }
        guard sawEnd else { throw KernelError("commit the nftables transaction", .protocolError) }
    }

    // MARK: Reading

    /// Every message that the kernel answers a dump request with.
    ///
    /// - Throws: EINTR where the tables changed meanwhile.
    func dump(
        _ type: nf_tables_msg_types, _ family: Family, _ operation: String, _ selection: NftablesSelection = .everything
    ) throws(KernelError) -> [NetlinkMessage] {
        guard selection.canExist else { return [] }
        let bytes = nftablesRequest(type, family, selection, flags: UInt16(NLM_F_DUMP))
        var messages: [NetlinkMessage] = []
        var sawEnd = false
        var failure: KernelError?
        try request(bytes) { message in
            if message.flags & UInt16(NLM_F_DUMP_INTR) != 0 { failure = KernelError(operation, .interrupted) }
            if message.isReport {
                failure = message.error(operation) ?? failure
                sawEnd = true
            } else {
                messages.append(message)
            }
            return !sawEnd
        }
        if let failure { throw failure }
        guard sawEnd else { throw KernelError(operation, .protocolError) }
        return messages
    }

    /// The one message that the kernel answers with; nil: there is no such object.
    func get(
        _ type: nf_tables_msg_types, _ family: Family, _ operation: String, _ selection: NftablesSelection = .everything
    ) throws(KernelError) -> NetlinkMessage? {
        guard selection.canExist else { return nil }
        let bytes = nftablesRequest(type, family, selection, flags: 0)
        var answer: NetlinkMessage?
        var failure: KernelError?
        try request(bytes) { message in
            if message.isReport {
                failure = message.error(operation)
            } else {
                answer = message
            }
            return false
        }
        if let failure {
            if failure.errno == .noSuchFileOrDirectory { return nil }
            throw failure
        }
        guard let answer else { throw KernelError(operation, .protocolError) }
        return answer
    }

    // MARK: The socket

    /// Sends `bytes` in one datagram, then hands each message of the answer to `receive` until it returns false or there
    /// is nothing more.
    ///
    /// The kernel works while it is being called: when the send returns, the answer (of a dump: its next part) is in the
    /// receive queue. So an empty queue is the end, and nothing here ever waits.
    private func request(
        _ bytes: [UInt8], _ receive: (NetlinkMessage) -> Bool
    ) throws(KernelError) {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        // What an earlier request that ended in an error has left.
        while try receiveDatagram(into: &buffer, ignoringOverrun: true) != nil {}

        makeRoom(toSend: bytes.count)
        // The length is that of `bytes`, which outlives the call.
        let sent = unsafe bytes.withUnsafeBytes { unsafe mnl_socket_sendto(socket, $0.baseAddress, $0.count) }
        guard sent == bytes.count else { throw KernelError("send \(bytes.count) octets to nftables", .last) }

        while let count = try receiveDatagram(into: &buffer, ignoringOverrun: false) {
            for message in NetlinkMessage.parse(buffer[..<count]) where !receive(message) { return }
        }
    }

    /// The length of the next datagram, in octets; nil where none is queued.
    private func receiveDatagram(into buffer: inout [UInt8], ignoringOverrun: Bool) throws(KernelError) -> Int? {
        while true {
            // The length is that of `buffer`, which outlives the call.
            let count = unsafe buffer.withUnsafeMutableBytes {
                unsafe mnl_socket_recvfrom(socket, $0.baseAddress, $0.count)
            }
            if count >= 0 { return min(count, buffer.count) }
            switch Errno.last {
            case .wouldBlock: return nil
            case .interrupted: continue
            case .noBufferSpace where ignoringOverrun: continue
            case let failure: throw KernelError("receive from nftables", failure)
            }
        }
    }

    /// The kernel takes no datagram larger than the send buffer. Without CAP_NET_ADMIN in the first user namespace it
    /// grows up to net.core.wmem_max only; sending then says EMSGSIZE, if that was too little.
    private func makeRoom(toSend count: Int) {
        var size = Int32(clamping: count)
        // `size` outlives both calls; the descriptor is the open socket's.
        let descriptor = unsafe mnl_socket_get_fd(socket)
        let length = socklen_t(MemoryLayout<Int32>.size)
        if unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &size, length) != 0 {
            _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &size, length)
        }
    }
}

extension Nftables {
    public enum Availability: Hashable, Sendable {
        case available
        /// CAP_NET_ADMIN is missing: whether the kernel could is not known.
        case notPermitted
        /// The kernel lacks nf_tables, or a part of it that the router's rules need.
        case missing(KernelError)
    }

    /// Whether the kernel would take the router's rules. It verifies a ruleset that uses all of them, and keeps none.
    public static func availability() -> Availability { verdict(on: Ruleset(Policy(masquerade: .all))) }

    /// Whether the kernel would take a flow table and a rule that fills it.
    public static func flowtableAvailability() -> Availability {
        verdict(on: Ruleset(Policy(masquerade: .none), flowtable: []))
    }

    private static func verdict(on ruleset: Ruleset) -> Availability {
        do throws(KernelError) {
            let nftables = try Nftables()
            try nftables.check(ruleset)
            return .available
        } catch {
            return error.isPermission ? .notPermitted : .missing(error)
        }
    }
}
