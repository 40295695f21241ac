// Connections, as `conntrack` shows them: what the kernel's connection tracking knows, its events, and what can be changed.
//
// It begins to track in a namespace when something there first needs it, such as a rule with `ct`. Source:
// linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c.

import CLinux
import Packets
import SystemPackage

/// One direction of a connection. For ICMP and ICMPv6 echo, the source port is the id, the destination port is type << 8 | code.
public struct FlowTuple: Hashable, Sendable {
    public var source, destination: IPAddress
    public var protocolNumber: UInt8
    public var sourcePort, destinationPort: UInt16

    public init(
        source: IPAddress, destination: IPAddress, protocolNumber: UInt8, sourcePort: UInt16, destinationPort: UInt16
    ) {
        self.source = source
        self.destination = destination
        self.protocolNumber = protocolNumber
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
    }
}

/// A connection of TCP, UDP, ICMP echo or ICMPv6 echo.
public struct Connection: Hashable, Sendable {
    /// As its first packet came, before any translation.
    public var original: FlowTuple
    /// As its answers come: what the original is translated to, turned around.
    public var reply: FlowTuple
    /// IPS_ bits.
    public var status: UInt32
    /// TCP_CONNTRACK_; nil for other protocols, and where the message does not say: an event does only if it has changed.
    public var tcpState: UInt8?
    /// In seconds; nil: it has ended.
    public var timeout: UInt32?
    /// Whether one of the kernel's helpers reads along, and may change what is in the packets: FTP, SIP, …
    public var hasHelper: Bool
    /// Whether it belongs to another connection, as FTP's data does.
    public var hasMaster: Bool
    public var mark: UInt32
    public var zone: UInt16
    /// Tells it from one that had the same addresses before; 0 where the message does not say.
    public var id: UInt32
    /// nil where net.netfilter.nf_conntrack_acct is off, and in events before the last one.
    public var counters: Counters?

    public struct Counters: Hashable, Sendable {
        public struct Direction: Hashable, Sendable {
            public var packets, octets: UInt64

            public init(packets: UInt64, octets: UInt64) {
                self.packets = packets
                self.octets = octets
            }
        }

        public var original, reply: Direction

        public init(original: Direction, reply: Direction) {
            self.original = original
            self.reply = reply
        }
    }

    public init(
        original: FlowTuple, reply: FlowTuple, status: UInt32, tcpState: UInt8? = nil, timeout: UInt32? = nil,
        hasHelper: Bool = false, hasMaster: Bool = false, mark: UInt32 = 0, zone: UInt16 = 0, id: UInt32 = 0,
        counters: Counters? = nil
    ) {
        self.original = original
        self.reply = reply
        self.status = status
        self.tcpState = tcpState
        self.timeout = timeout
        self.hasHelper = hasHelper
        self.hasMaster = hasMaster
        self.mark = mark
        self.zone = zone
        self.id = id
        self.counters = counters
    }

    public var isExpected: Bool { status & IPS_EXPECTED.rawValue != 0 }
    public var hasSeenReply: Bool { status & IPS_SEEN_REPLY.rawValue != 0 }
    /// It is not given up when the table is full: TCP that is established, UDP that has gone both ways for a while.
    public var isAssured: Bool { status & IPS_ASSURED.rawValue != 0 }
    public var isConfirmed: Bool { status & IPS_CONFIRMED.rawValue != 0 }
    public var isDying: Bool { status & IPS_DYING.rawValue != 0 }
    public var hasSourceTranslation: Bool { status & IPS_SRC_NAT.rawValue != 0 }
    public var hasDestinationTranslation: Bool { status & IPS_DST_NAT.rawValue != 0 }
    /// Octets are put in or taken out: TCP's sequence numbers change on the way.
    /// Whether it is in a flow table.
    public var isOffloaded: Bool { status & IPS_OFFLOAD.rawValue != 0 }
    public var adjustsSequence: Bool { status & IPS_SEQ_ADJUST.rawValue != 0 }

    /// Of TCP.
    public var isEstablished: Bool { tcpState.map(UInt32.init) == TCP_CONNTRACK_ESTABLISHED.rawValue }
}

// MARK: Events

public enum ConnectionEvent: Hashable, Sendable {
    /// IPCTNL_MSG_CT_NEW. There has been an answer, the TCP state is another, or somebody has changed it over netlink.
    case changed(Connection)
    /// IPCTNL_MSG_CT_DELETE. Time-out, state and counters may be missing.
    case ended(Connection)
}

/// What happens to the connections of the calling thread's namespace from here on, except that they begin: a connection is told
/// when it is first answered, so that a flood of requests alone says nothing.
///
/// The kernel tells nothing of a connection that began when nobody listened (net.netfilter.nf_conntrack_events = 2, the usual
/// value), not even its end; and nothing at all where the value is 0. Those, only a dump finds.
public struct ConnectionEvents: ~Copyable {
    private let socket: NetlinkSocket
    /// One event comes in one datagram: this many are fetched in one call of the kernel.
    private static let datagrams = 64
    /// In octets. An event has 200 to 400; names of security contexts make it longer.
    private static let slot = 4096
    private var buffer = [UInt8](repeating: 0, count: datagrams * slot)
    private var lengths = [UInt32](repeating: 0, count: datagrams)

    /// NFNLGRP_CONNTRACK_UPDATE and NFNLGRP_CONNTRACK_DESTROY, as masks.
    private static let groups: UInt32 = 1 << 1 | 1 << 2

    /// - Parameter queue: how much may wait, in octets; an event takes about 1 KiB of the kernel's memory.
    public init(queue: Int32 = 32 << 20) throws(KernelError) {
        socket = try NetlinkSocket(.netfilter, groups: Self.groups, queue: queue)
    }

    /// Whether the kernel tells anything in the calling thread's namespace (net.netfilter.nf_conntrack_events).
    public static var areOn: Bool { (try? Sysctl("net/netfilter/nf_conntrack_events").read()) ?? nil != "0" }

    /// Ready to be read where something has happened, for `poll`.
    public var descriptor: Int32 { socket.descriptor }

    /// From here on, changes that this socket asks for are not told.
    public func ignore(_ socket: borrowing NetlinkSocket) throws(KernelError) { try self.socket.ignore(socket) }

    /// Whether ends are told from here on; at first they are. The kernel writes them down only where somebody listens, which takes
    /// a tenth of the time that it needs to forward a connection that is refused.
    public func tellEnds(_ isWanted: Bool) throws(KernelError) {
        try socket.setMembership(NFNLGRP_CONNTRACK_DESTROY, isWanted)
    }

    public enum Outcome: Hashable, Sendable {
        /// Nothing more has happened.
        case upToDate
        /// There may be more.
        case limitReached
        /// Events are lost, and what waited has been thrown away: only a dump, begun after this, says what is.
        case overrun
    }

    /// Reads what has come, without waiting.
    ///
    /// - Parameter limit: of messages, also of those that nobody is told of.
    public mutating func read(limit: Int, _ body: (ConnectionEvent) -> Void) throws(KernelError) -> Outcome {
        var rest = limit
        while rest > 0 {
            let wanted = min(rest, Self.datagrams)
            let count = receive(wanted)
            if count < 0 {
                switch Errno.last {
                case .wouldBlock: return .upToDate
                case .interrupted: continue
                case .noBufferSpace:
                    socket.discardPending()
                    return .overrun
                case let error: throw KernelError("read connection events", error)
                }
            }
            let octets = buffer.span
            for index in 0..<count {
                let length = Int(lengths[index])
                // Cut off: what it said is lost.
                guard length <= Self.slot else {
                    socket.discardPending()
                    return .overrun
                }
                var messages = MessageCursor(index * Self.slot..<index * Self.slot + length)
                while let message = messages.next(in: octets) {
                    if let event = message.connectionEvent(in: octets) { body(event) }
                }
            }
            rest -= count
            if count < wanted { return .upToDate }
        }
        return .limitReached
    }

    /// - Returns: how many datagrams have come, each at the start of its slot; -1: errno says why none.
    private mutating func receive(_ count: Int) -> Int {
        // SAFETY: both arrays outlive the call, and have room for `datagrams` slots, which `count` does not exceed.
        Int(
            unsafe vr_receive_messages(
                socket.descriptor, &buffer, UInt32(Self.slot), &lengths, UInt32(clamping: min(count, Self.datagrams))))
    }
}

// MARK: Listing

/// All connections of the calling thread's namespace, read in portions, so that something else can be done in between.
///
/// Connections that begin or end meanwhile may be in it, or not; one that lasts is.
public struct ConnectionDump: ~Copyable {
    private let socket: NetlinkSocket
    private let sequence: UInt32
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    private var messages = MessageCursor(0..<0)
    private var isFinished = false

    /// - Parameter family: nil: both.
    public init(family: IPFamily? = nil) throws(KernelError) {
        let socket = try NetlinkSocket(.netfilter)
        var request = NetlinkBatch()
        request.listConnections(family)
        sequence = try socket.send(request, from: 0, count: 1)
        self.socket = socket
    }

    /// Reads on. The kernel answers at once: this does not wait.
    ///
    /// - Parameter limit: of messages, also of those that nobody is told of.
    /// - Returns: whether that was all.
    public mutating func read(limit: Int, _ body: (Connection) -> Void) throws(KernelError) -> Bool {
        var rest = limit
        while !isFinished, rest > 0 {
            var messages = messages
            guard let message = messages.next(in: buffer.span) else {
                try receive()
                continue
            }
            self.messages = messages
            guard message.sequence == sequence else { continue }
            switch Int32(message.type) {
            case NLMSG_DONE, NLMSG_ERROR:
                isFinished = true
                // Both begin with an error number; an acknowledgement's is 0.
                if let code = buffer.span.load(Int32.self, in: message.payload, at: 0), code < 0, code > Int32.min {
                    throw KernelError(Self.operation, Errno(rawValue: -code))
                }
            default:
                rest -= 1
                if case .changed(let connection)? = message.connectionEvent(in: buffer.span) { body(connection) }
            }
        }
        return isFinished
    }

    static let operation = "list connections"

    private mutating func receive() throws(KernelError) {
        let descriptor = socket.descriptor
        let capacity = buffer.count
        while true {
            // SAFETY: the buffer outlives the call, which writes at most as much as it holds.
            let count = unsafe recv(descriptor, &buffer, capacity, 0)
            if count < 0, Errno.last == .interrupted { continue }
            guard count > 0 else { throw KernelError(Self.operation, count == 0 ? .protocolError : .last) }
            messages = MessageCursor(0..<count)
            return
        }
    }
}

extension NetlinkSocket {
    /// Every connection of the namespace, both families. The socket is one of netfilter's.
    public func connections() throws(KernelError) -> [Connection] {
        var request = NetlinkBatch()
        request.listConnections(nil)
        var result: [Connection] = []
        try dump(request) { message in
            guard message.type == connectionType(IPCTNL_MSG_CT_NEW) else { return }
            let payload = Array(message.payload)
            if let connection = Connection(in: payload.span, payload.indices) { result.append(connection) }
        } restart: {
            result = []
        }
        return result
    }
}

// MARK: Changing

extension NetlinkBatch {
    fileprivate mutating func listConnections(_ family: IPFamily?) {
        add(
            ConnectionDump.operation, type: Int(connectionType(IPCTNL_MSG_CT_GET)), flags: NLM_F_DUMP,
            header: nfgenmsg(family))
    }

    /// `conntrack -U … --timeout SECONDS`. Where it is TCP's, the kernel can be told not to look at sequence numbers and windows in
    /// either direction any more: it does not see them all.
    ///
    /// Fails with ENOENT where the connection has ended, with ETIME where it is just ending, and with EPERM where its time-out is
    /// fixed. It is an event, also for whoever asked for it.
    ///
    /// - Parameters:
    ///   - timeout: in seconds; nil: as it is.
    ///   - isAcknowledged: false: for `NetlinkSocket.tell`.
    public mutating func refreshConnection(
        _ original: FlowTuple, zone: UInt16 = 0, timeout: UInt32?, isLiberal: Bool = false, isAcknowledged: Bool = true
    ) {
        add(
            isAcknowledged ? "refresh \(original)" : "refresh connections",
            type: Int(connectionType(IPCTNL_MSG_CT_NEW)), flags: isAcknowledged ? NLM_F_ACK : 0,
            header: nfgenmsg(original.source.family)
        ) {
            $0.put(original, zone: zone)
            if let timeout { $0.put(Int(CTA_TIMEOUT.rawValue), timeout.bigEndian) }
            guard isLiberal, original.protocolNumber == IPProtocol.tcp.rawValue else { return }
            $0.nest(Int(CTA_PROTOINFO.rawValue)) {
                $0.nest(Int(CTA_PROTOINFO_TCP.rawValue)) {
                    for direction in [CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY] {
                        // struct nf_ct_tcp_flags: the flags, and which of them are meant.
                        let liberal = UInt8(IP_CT_TCP_FLAG_BE_LIBERAL)
                        $0.put(Int(direction.rawValue), [liberal, liberal])
                    }
                }
            }
        }
    }

    /// Asks whether there is this connection: EEXIST says so, and ENOENT that there is none. Changes nothing, and is no event.
    public mutating func lookForConnection(_ original: FlowTuple, zone: UInt16 = 0) {
        // To be made, but not over one that is there (NLM_F_EXCL), nor where there is none (without NLM_F_CREATE).
        add(
            "look for a connection", type: Int(connectionType(IPCTNL_MSG_CT_NEW)), flags: NLM_F_EXCL | NLM_F_ACK,
            header: nfgenmsg(original.source.family)
        ) { $0.put(original, zone: zone) }
    }

    /// `conntrack -D …`: this one connection. Fails with ENOENT where it has ended.
    ///
    /// - Parameter id: none but the connection with this id.
    public mutating func deleteConnection(_ original: FlowTuple, zone: UInt16 = 0, id: UInt32? = nil) {
        add(
            "delete \(original)", type: Int(connectionType(IPCTNL_MSG_CT_DELETE)), flags: NLM_F_ACK,
            header: nfgenmsg(original.source.family)
        ) {
            $0.put(original, zone: zone)
            if let id { $0.put(Int(CTA_ID.rawValue), id.bigEndian) }
        }
    }
}

extension FlowTuple: CustomStringConvertible {
    public var description: String {
        switch IPProtocol(protocolNumber) {
        case .icmp, .icmpv6: "echo connection \(source) to \(destination), id \(sourcePort)"
        default:
            "\(protocolNumber == IPProtocol.tcp.rawValue ? "TCP" : protocolNumber == IPProtocol.udp.rawValue ? "UDP" : "protocol \(protocolNumber)") connection \(source) port \(sourcePort) to \(destination) port \(destinationPort)"
        }
    }
}
