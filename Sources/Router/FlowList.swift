import DataPlane
import Forwarding
import Kernel
import Packets

/// The connections between the VLANs. Encoded, this is the document that `flows --json` prints; its fields are only ever added to.
///
/// It has those of TCP, UDP and echo requests. What passes without being tracked is no connection: the packets between VLANs that
/// the fast path takes by their destination alone.
public struct FlowList: Sendable, Encodable {
    /// By VLANs, then by protocol and addresses.
    public var flows: [Flow]

    public struct Flow: Sendable, Encodable {
        /// tcp, udp, icmp or icmpv6.
        public var `protocol`: String
        /// The VLAN of the host that began it.
        public var from: UInt16
        /// The VLAN of the host that it leads to.
        public var to: UInt16
        /// As the host that began it sends its packets.
        public var original: Endpoints
        /// As the other host gets them. The same, where nothing is translated.
        public var translated: Endpoints
        /// Of TCP: syn-sent, syn-recv, established, fin-wait, close-wait, last-ack, time-wait or close. Of others: unanswered,
        /// answered, or assured, which is both ways for a while.
        public var state: String
        /// In how many seconds the kernel forgets it, if nothing more comes.
        public var expires: UInt32
        /// Of the host that began it, by the kernel and by the fast path; absent: the kernel does not count them
        /// (net.netfilter.nf_conntrack_acct).
        public var sent: Counter?
        /// Of the other host.
        public var received: Counter?
        public var forwardedBy: Forwarder
        /// What the workers have forwarded of it; absent: it is not theirs.
        public var fastPath: Part?

        public struct Part: Hashable, Sendable, Encodable {
            public var sent: Counter
            public var received: Counter
        }
    }

    public struct Endpoints: Hashable, Sendable, Encodable {
        public var source: String
        public var destination: String
        /// Of TCP and UDP.
        public var sourcePort: UInt16?
        public var destinationPort: UInt16?
        /// Of echo requests.
        public var id: UInt16?
    }

    public struct Counter: Hashable, Sendable, Encodable {
        public var packets: UInt64
        /// Octets of the IP packets.
        public var bytes: UInt64
    }

    public enum Forwarder: String, Sendable, Encodable {
        /// By the kernel, packet by packet through its rules.
        case kernel
        /// By the kernel as soon as they arrive.
        case flowtable
        case fastPath = "fast-path"
    }

    /// Reads the calling thread's network namespace; needs CAP_NET_ADMIN. nil: vrouter is not up there.
    public static func read() throws(Failure) -> FlowList? {
        guard let state = try StateFile().load() else { return nil }
        let socket = try kernel { () throws(KernelError) in try NetlinkSocket() }
        let carried = try kernel { () throws(KernelError) in try Carried(trunk: state.parentIndex, socket) }
        let host = try Host.read(socket, nil)
        let networks = VLANNetworks(state.configuration, on: host)
        var flows: [(key: [UInt64], flow: Flow)] = []
        try kernel { () throws(KernelError) in
            var dump = try ConnectionDump()
            _ = try dump.read(limit: .max) { connection in
                if let flow = Flow(connection, networks, carried) { flows.append((connection.order(flow), flow)) }
            }
        }
        flows.sort { $0.key.lexicographicallyPrecedes($1.key) }
        return FlowList(flows: flows.map(\.flow))
    }
}

extension Connection {
    fileprivate func order(_ flow: FlowList.Flow) -> [UInt64] {
        [UInt64(flow.from), UInt64(flow.to), UInt64(original.protocolNumber)]
            + (original.source.octets + original.destination.octets).map(UInt64.init)
            + [UInt64(original.sourcePort), UInt64(original.destinationPort)]
    }
}

extension FlowList.Flow {
    /// nil where it does not lead from one VLAN to another.
    init?(_ connection: Connection, _ networks: VLANNetworks, _ carried: Carried) {
        guard let from = networks.vlan(of: connection.original.source),
            let to = networks.vlan(of: connection.reply.source), from != to
        else { return nil }
        switch IPProtocol(connection.original.protocolNumber) {
        case .tcp: self.protocol = "tcp"
        case .udp: self.protocol = "udp"
        case .icmp: self.protocol = "icmp"
        default: self.protocol = "icmpv6"
        }
        self.from = from.rawValue
        self.to = to.rawValue
        original = FlowList.Endpoints(connection.original)
        translated = FlowList.Endpoints(connection.reply.turned)
        state = connection.stateName
        expires = connection.timeout ?? 0
        sent = (connection.counters?.original).map { FlowList.Counter(packets: $0.packets, bytes: $0.octets) }
        received = (connection.counters?.reply).map { FlowList.Counter(packets: $0.packets, bytes: $0.octets) }
        forwardedBy = connection.isOffloaded ? .flowtable : .kernel
        guard let there = carried.counts[connection.original], let back = carried.counts[connection.reply] else {
            return
        }
        forwardedBy = .fastPath
        fastPath = Part(sent: there, received: back)
        // The kernel has not seen these.
        sent?.add(there)
        received?.add(back)
    }
}

extension FlowList.Counter {
    fileprivate mutating func add(_ other: Self) {
        packets &+= other.packets
        bytes &+= other.bytes
    }
}

/// The directions of connections that are the workers'.
struct Carried {
    private(set) var counts: [FlowTuple: FlowList.Counter] = [:]

    /// - Parameter trunk: the index of its interface.
    init(trunk: UInt32, _ socket: borrowing NetlinkSocket) throws(KernelError) {
        guard let maps = try OwnedFlowMaps.find(linkIndex: trunk, socket: socket) else { return }
        let memory = try FlowMemory(reading: maps)
        memory.forEachOwned { entry, count in
            let tuple = FlowTuple(
                source: entry.source, destination: entry.destination, protocolNumber: entry.transport.rawValue,
                sourcePort: entry.sourcePort, destinationPort: entry.destinationPort)
            // Workers count frames, with their Ethernet header.
            counts[tuple] = FlowList.Counter(packets: count.packets, bytes: count.bytes &- 14 &* count.packets)
        }
    }
}

extension FlowList.Endpoints {
    init(_ tuple: FlowTuple) {
        source = tuple.source.description
        destination = tuple.destination.description
        if tuple.isEcho {
            id = tuple.sourcePort
        } else {
            sourcePort = tuple.sourcePort
            destinationPort = tuple.destinationPort
        }
    }
}

extension FlowTuple {
    fileprivate var isEcho: Bool {
        [IPProtocol.icmp, .icmpv6].contains { $0.rawValue == protocolNumber }
    }

    /// The answers' addresses as those of what is answered.
    fileprivate var turned: FlowTuple {
        FlowTuple(
            source: destination, destination: source, protocolNumber: protocolNumber,
            sourcePort: isEcho ? sourcePort : destinationPort, destinationPort: isEcho ? destinationPort : sourcePort)
    }
}

extension Connection {
    fileprivate var stateName: String {
        guard let tcpState else { return isAssured ? "assured" : hasSeenReply ? "answered" : "unanswered" }
        // TCP_CONNTRACK_ of linux/netfilter/nf_conntrack_tcp.h, in order; the last is both ends' SYN at once.
        let names = [
            "none", "syn-sent", "syn-recv", "established", "fin-wait", "close-wait", "last-ack", "time-wait", "close",
            "syn-sent",
        ]
        return Int(tcpState) < names.count ? names[Int(tcpState)] : "unknown"
    }
}
