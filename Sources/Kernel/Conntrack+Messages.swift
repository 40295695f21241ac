// The messages of connection tracking, read where they lie: a busy router sends a hundred thousand of them a second. Nothing here
// can trap: a length that does not fit ends the list that it is in.

import CLinux
import Packets

/// The messages of a datagram, one after the other.
struct MessageCursor {
    struct Message {
        var type: UInt16
        var sequence: UInt32
        /// What is behind the header.
        var payload: Range<Int>
    }

    private var rest: Range<Int>

    /// - Parameter range: where the datagram is in its buffer.
    init(_ range: Range<Int>) { rest = range }

    mutating func next(in octets: Span<UInt8>) -> Message? {
        // struct nlmsghdr { u32 length, u16 type, u16 flags, u32 sequence, u32 port }
        guard let length = octets.load(UInt32.self, in: rest, at: 0), length >= 16, Int(length) <= rest.count,
            let type = octets.load(UInt16.self, in: rest, at: 4),
            let sequence = octets.load(UInt32.self, in: rest, at: 8)
        else { return nil }
        let payload = rest.lowerBound + 16..<rest.lowerBound + Int(length)
        rest = min(payload.upperBound.alignedToFour, rest.upperBound)..<rest.upperBound
        return Message(type: type, sequence: sequence, payload: payload)
    }
}

/// Attributes, one after the other.
private struct AttributeCursor {
    private var rest: Range<Int>

    init(_ range: Range<Int>) { rest = range }

    mutating func next(in octets: Span<UInt8>) -> (type: UInt32, value: Range<Int>)? {
        guard let length = octets.load(UInt16.self, in: rest, at: 0), length >= 4, Int(length) <= rest.count,
            let type = octets.load(UInt16.self, in: rest, at: 2)
        else { return nil }
        let value = rest.lowerBound + 4..<rest.lowerBound + Int(length)
        rest = min(value.upperBound.alignedToFour, rest.upperBound)..<rest.upperBound
        // Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        return (UInt32(type & 0x3fff), value)
    }
}

extension Int {
    fileprivate var alignedToFour: Int { (self + 3) & ~3 }
}

extension Range<Int> {
    /// Without its first `count`.
    fileprivate func from(_ count: Int) -> Range<Int> { Swift.min(lowerBound + count, upperBound)..<upperBound }
}

extension Span<UInt8> {
    /// An integer in host byte order, `offset` octets behind the start of `range`; nil where that is beyond its end.
    @inline(__always)
    func load<T: FixedWidthInteger>(_: T.Type, in range: Range<Int>, at offset: Int) -> T? {
        guard let value: T = network(range.from(offset)) else { return nil }
        #if _endian(little)
            return value.byteSwapped
        #else
            return value
        #endif
    }

    /// An integer that begins `range`, in network byte order; nil where that is shorter.
    @inline(__always)
    func network<T: FixedWidthInteger>(_ range: Range<Int>) -> T? {
        let size = T.bitWidth / 8
        guard range.count >= size, range.lowerBound >= 0, range.upperBound <= count else { return nil }
        var value: T = 0
        for index in range.lowerBound..<range.lowerBound + size {
            value = value << (size == 1 ? 0 : 8) | T(truncatingIfNeeded: self[index])
        }
        return value
    }
}

func connectionType(_ type: cntl_msg_types) -> UInt16 {
    UInt16(NFNL_SUBSYS_CTNETLINK) << 8 | UInt16(truncatingIfNeeded: type.rawValue)
}

/// The header that netfilter's messages have before their attributes.
func nfgenmsg(_ family: IPFamily?) -> CLinux.nfgenmsg {
    var header = CLinux.nfgenmsg()
    header.nfgen_family = UInt8(family.map { $0 == .v4 ? AF_INET : AF_INET6 } ?? AF_UNSPEC)
    header.version = UInt8(NFNETLINK_V0)
    return header
}

extension MessageCursor.Message {
    /// nil for other messages, and for connections of other protocols.
    func connectionEvent(in octets: Span<UInt8>) -> ConnectionEvent? {
        switch type {
        case connectionType(IPCTNL_MSG_CT_NEW): Connection(in: octets, payload).map(ConnectionEvent.changed)
        case connectionType(IPCTNL_MSG_CT_DELETE): Connection(in: octets, payload).map(ConnectionEvent.ended)
        default: nil
        }
    }
}

extension Connection {
    /// nil for protocols other than TCP, UDP, ICMP echo and ICMPv6 echo.
    ///
    /// - Parameter payload: struct nfgenmsg, then attributes.
    init?(in octets: Span<UInt8>, _ payload: Range<Int>) {
        guard payload.count >= MemoryLayout<CLinux.nfgenmsg>.size else { return nil }
        var original: TupleReader?
        var reply: TupleReader?
        var status: UInt32 = 0
        var tcpState: UInt8?
        var timeout: UInt32?
        var hasHelper = false
        var hasMaster = false
        var mark: UInt32 = 0
        var zone: UInt16?
        var id: UInt32 = 0
        var sent: Counters.Direction?
        var answered: Counters.Direction?
        var attributes = AttributeCursor(payload.from(MemoryLayout<CLinux.nfgenmsg>.size))
        while let (type, value) = attributes.next(in: octets) {
            switch type {
            case CTA_TUPLE_ORIG.rawValue: original = TupleReader(in: octets, value)
            case CTA_TUPLE_REPLY.rawValue: reply = TupleReader(in: octets, value)
            case CTA_STATUS.rawValue: status = octets.network(value) ?? 0
            case CTA_PROTOINFO.rawValue: tcpState = Self.tcpState(in: octets, value)
            case CTA_TIMEOUT.rawValue: timeout = octets.network(value)
            case CTA_HELP.rawValue: hasHelper = true
            case CTA_TUPLE_MASTER.rawValue: hasMaster = true
            case CTA_MARK.rawValue: mark = octets.network(value) ?? 0
            case CTA_ZONE.rawValue: zone = octets.network(value)
            case CTA_ID.rawValue: id = octets.network(value) ?? 0
            case CTA_COUNTERS_ORIG.rawValue: sent = Counters.Direction(in: octets, value)
            case CTA_COUNTERS_REPLY.rawValue: answered = Counters.Direction(in: octets, value)
            default: break
            }
        }
        guard let first = original?.tuple, let second = reply?.tuple, first.protocolNumber == second.protocolNumber,
            first.source.isV4 == second.source.isV4
        else { return nil }
        var counters: Counters?
        if let sent, let answered { counters = Counters(original: sent, reply: answered) }
        self.init(
            original: first, reply: second, status: status, tcpState: tcpState, timeout: timeout, hasHelper: hasHelper,
            // An event names the other connection only where it is the first; its status bit stays.
            hasMaster: hasMaster || status & IPS_EXPECTED.rawValue != 0, mark: mark, zone: zone ?? original?.zone ?? 0,
            id: id, counters: counters)
    }

    private static func tcpState(in octets: Span<UInt8>, _ range: Range<Int>) -> UInt8? {
        var outer = AttributeCursor(range)
        while let (type, value) = outer.next(in: octets) {
            guard type == CTA_PROTOINFO_TCP.rawValue else { continue }
            var inner = AttributeCursor(value)
            while let (type, value) = inner.next(in: octets) {
                if type == CTA_PROTOINFO_TCP_STATE.rawValue { return octets.network(value) }
            }
        }
        return nil
    }
}

extension Connection.Counters.Direction {
    fileprivate init?(in octets: Span<UInt8>, _ range: Range<Int>) {
        var packets: UInt64?
        var count: UInt64?
        var attributes = AttributeCursor(range)
        while let (type, value) = attributes.next(in: octets) {
            switch type {
            case CTA_COUNTERS_PACKETS.rawValue: packets = octets.network(value)
            case CTA_COUNTERS_BYTES.rawValue: count = octets.network(value)
            default: break
            }
        }
        guard let packets, let count else { return nil }
        self.init(packets: packets, octets: count)
    }
}

/// One direction as the kernel writes it.
private struct TupleReader {
    /// nil: incomplete, or of another protocol.
    private(set) var tuple: FlowTuple?
    /// Where this direction alone is in a zone.
    private(set) var zone: UInt16?

    init(in octets: Span<UInt8>, _ range: Range<Int>) {
        var source: IPAddress?
        var destination: IPAddress?
        var ports: (number: UInt8, source: UInt16, destination: UInt16)?
        var attributes = AttributeCursor(range)
        while let (type, value) = attributes.next(in: octets) {
            switch type {
            case CTA_TUPLE_IP.rawValue: (source, destination) = Self.addresses(in: octets, value)
            case CTA_TUPLE_PROTO.rawValue: ports = Self.ports(in: octets, value)
            case CTA_TUPLE_ZONE.rawValue: zone = octets.network(value)
            default: break
            }
        }
        guard let source, let destination, let ports, source.isV4 == destination.isV4 else { return }
        switch IPProtocol(ports.number) {
        case .icmp where !source.isV4, .icmpv6 where source.isV4: return
        default: break
        }
        tuple = FlowTuple(
            source: source, destination: destination, protocolNumber: ports.number, sourcePort: ports.source,
            destinationPort: ports.destination)
    }

    private static func addresses(in octets: Span<UInt8>, _ range: Range<Int>) -> (IPAddress?, IPAddress?) {
        var source: IPAddress?
        var destination: IPAddress?
        var attributes = AttributeCursor(range)
        while let (type, value) = attributes.next(in: octets) {
            switch type {
            case CTA_IP_V4_SRC.rawValue: source = octets.network(value).map { .v4(IPv4Address($0)) }
            case CTA_IP_V4_DST.rawValue: destination = octets.network(value).map { .v4(IPv4Address($0)) }
            case CTA_IP_V6_SRC.rawValue: source = octets.network(value).map { .v6(IPv6Address($0)) }
            case CTA_IP_V6_DST.rawValue: destination = octets.network(value).map { .v6(IPv6Address($0)) }
            default: break
            }
        }
        return (source, destination)
    }

    private static func ports(
        in octets: Span<UInt8>, _ range: Range<Int>
    ) -> (number: UInt8, source: UInt16, destination: UInt16)? {
        var number: UInt8?
        var source: UInt16?
        var destination: UInt16?
        var echo: (id: UInt16?, type: UInt8?, code: UInt8?)
        var attributes = AttributeCursor(range)
        while let (type, value) = attributes.next(in: octets) {
            switch type {
            case CTA_PROTO_NUM.rawValue: number = octets.network(value)
            case CTA_PROTO_SRC_PORT.rawValue: source = octets.network(value)
            case CTA_PROTO_DST_PORT.rawValue: destination = octets.network(value)
            case CTA_PROTO_ICMP_ID.rawValue, CTA_PROTO_ICMPV6_ID.rawValue: echo.id = octets.network(value)
            case CTA_PROTO_ICMP_TYPE.rawValue, CTA_PROTO_ICMPV6_TYPE.rawValue: echo.type = octets.network(value)
            case CTA_PROTO_ICMP_CODE.rawValue, CTA_PROTO_ICMPV6_CODE.rawValue: echo.code = octets.network(value)
            default: break
            }
        }
        guard let number else { return nil }
        switch IPProtocol(number) {
        case .tcp, .udp:
            guard let source, let destination else { return nil }
            return (number, source, destination)
        case .icmp, .icmpv6:
            guard let id = echo.id, let type = echo.type, let code = echo.code, Self.isEcho(type, number)
            else { return nil }
            return (number, id, UInt16(type) << 8 | UInt16(code))
        default: return nil
        }
    }

    /// Request and reply (RFC 792, RFC 4443 §4).
    private static func isEcho(_ type: UInt8, _ number: UInt8) -> Bool {
        number == IPProtocol.icmp.rawValue ? type == 8 || type == 0 : type == 128 || type == 129
    }
}

extension AttributeWriter {
    /// The original direction of a connection, and its zone.
    mutating func put(_ tuple: FlowTuple, zone: UInt16) {
        nest(Int(CTA_TUPLE_ORIG.rawValue)) { writer in
            writer.nest(Int(CTA_TUPLE_IP.rawValue)) {
                switch (tuple.source, tuple.destination) {
                case (.v4(let source), .v4(let destination)):
                    $0.put(Int(CTA_IP_V4_SRC.rawValue), source.rawValue.bigEndian)
                    $0.put(Int(CTA_IP_V4_DST.rawValue), destination.rawValue.bigEndian)
                default:
                    $0.put(Int(CTA_IP_V6_SRC.rawValue), tuple.source.octets)
                    $0.put(Int(CTA_IP_V6_DST.rawValue), tuple.destination.octets)
                }
            }
            writer.nest(Int(CTA_TUPLE_PROTO.rawValue)) {
                $0.put(Int(CTA_PROTO_NUM.rawValue), [tuple.protocolNumber])
                let typeAndCode = tuple.destinationPort
                switch IPProtocol(tuple.protocolNumber) {
                case .icmp:
                    $0.put(Int(CTA_PROTO_ICMP_ID.rawValue), tuple.sourcePort.bigEndian)
                    $0.put(Int(CTA_PROTO_ICMP_TYPE.rawValue), [UInt8(typeAndCode >> 8)])
                    $0.put(Int(CTA_PROTO_ICMP_CODE.rawValue), [UInt8(typeAndCode & 0xff)])
                case .icmpv6:
                    $0.put(Int(CTA_PROTO_ICMPV6_ID.rawValue), tuple.sourcePort.bigEndian)
                    $0.put(Int(CTA_PROTO_ICMPV6_TYPE.rawValue), [UInt8(typeAndCode >> 8)])
                    $0.put(Int(CTA_PROTO_ICMPV6_CODE.rawValue), [UInt8(typeAndCode & 0xff)])
                default:
                    $0.put(Int(CTA_PROTO_SRC_PORT.rawValue), tuple.sourcePort.bigEndian)
                    $0.put(Int(CTA_PROTO_DST_PORT.rawValue), tuple.destinationPort.bigEndian)
                }
            }
        }
        if zone != 0 { put(Int(CTA_ZONE.rawValue), zone.bigEndian) }
    }
}
