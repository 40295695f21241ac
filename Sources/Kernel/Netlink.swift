// The netlink protocol, as far as rtnetlink uses it: requests are written with libmnl, answers are read from copies with every
// length checked. RFC 3549; linux/netlink.h.

import CLinux
import CMnl
import Packets
import Synchronization
import SystemPackage

/// A socket in the network namespace of the thread that opened it.
@safe public struct NetlinkSocket: ~Copyable {
    private let socket: OpaquePointer
    /// Of the next request. No two requests of a socket have the same one, so that what is left of the answer to one is not taken
    /// for the answer to another.
    private let nextSequence = Atomic<UInt32>(1)

    /// Changes of links, to be received as messages like those of `links()`.
    public static let linkGroup = UInt32(RTMGRP_LINK)

    /// What a socket speaks with.
    public enum Family: Sendable {
        case route, netfilter

        fileprivate var number: Int32 { self == .route ? NETLINK_ROUTE : NETLINK_NETFILTER }
    }

    /// - Parameter groups: multicast groups, as a mask.
    public init(groups: UInt32 = 0) throws(KernelError) { try self.init(.route, groups: groups) }

    /// - Parameter queue: how much of what the kernel sends may wait, in octets. A large dump or event burst must not overrun it.
    public init(_ family: Family, groups: UInt32 = 0, queue: Int32 = 8 << 20) throws(KernelError) {
        // SAFETY: libmnl returns an owned handle or nil; deinit closes it.
        guard let socket = unsafe mnl_socket_open2(family.number, Int32(SOCK_CLOEXEC.rawValue)) else {
            throw KernelError("open a netlink socket", .last)
        }
        guard unsafe mnl_socket_bind(socket, groups, 0) == 0 else {
            let error = Errno.last
            unsafe mnl_socket_close(socket)
            throw KernelError("bind a netlink socket", error)
        }
        unsafe self.socket = unsafe socket
        // Without these the socket still works: errors are then less precise.
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK] {
            var on: Int32 = 1
            _ = unsafe mnl_socket_setsockopt(socket, Int32(option), &on, socklen_t(MemoryLayout<Int32>.size))
        }
        // It needs CAP_NET_ADMIN; without, what is allowed stays.
        var size = queue
        let descriptor = unsafe mnl_socket_get_fd(socket)
        _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &size, socklen_t(MemoryLayout<Int32>.size))
    }

    deinit {
        _ = unsafe mnl_socket_close(socket)
    }

    /// Everything the kernel answers to a dump request.
    func dump(_ request: borrowing NetlinkBatch) throws(KernelError) -> [NetlinkMessage] {
        var result: [NetlinkMessage] = []
        try dump(request) {
            result.append($0)
        } restart: {
            result = []
        }
        return result
    }

    /// The same, message by message.
    ///
    /// - Parameter restart: what has come so far is void.
    func dump(
        _ request: borrowing NetlinkBatch, _ body: (NetlinkMessage) -> Void, restart: () -> Void
    ) throws(KernelError) {
        let operation = request.operations.first ?? "dump"
        // A dump that the kernel could not finish in one consistent state is asked for again. Where thousands of interfaces have just come
        // up, it goes on to give them addresses for seconds.
        let deadline = ContinuousClock.now + .seconds(10)
        var pause: UInt32 = 1
        while true {
            // The kernel begins no dump before the socket has read the one before to its end.
            discardPending()
            let sequence = try send(request, from: 0, count: request.operations.count)
            var interrupted = false
            receiving: while true {
                for message in try receive(operation) where message.sequence == sequence {
                    interrupted = interrupted || message.flags & UInt16(NLM_F_DUMP_INTR) != 0
                    switch Int32(message.type) {
                    case NLMSG_DONE, NLMSG_ERROR:
                        // A dump that could not be finished says so at its end.
                        if let error = message.error(operation) { throw error }
                        break receiving
                    default: body(message)
                    }
                }
            }
            if !interrupted { return }
            restart()
            guard ContinuousClock.now < deadline else { break }
            ThisProcess.sleep(milliseconds: pause)
            pause = min(2 * pause, 100)
        }
        throw KernelError(
            operation, .resourceTemporarilyUnavailable, detail: "the table changes faster than it can be read")
    }

    /// Sends every request of the batch and waits for every acknowledgement. All requests of a chunk are carried out, also those
    /// after one that failed.
    /// - Throws: the first error, of those that `ignoring` does not list.
    public func execute(_ batch: borrowing NetlinkBatch, ignoring: Set<Errno> = []) throws(KernelError) {
        var start = 0
        while start < batch.operations.count {
            let count = min(Self.chunk, batch.operations.count - start)
            for case let error? in try execute(batch, from: start, count: count) where !ignoring.contains(error.errno) {
                throw error
            }
            start += count
        }
    }

    /// Sends every request of the batch, and returns what the kernel says to each; nil: it is done.
    public func errors(of batch: borrowing NetlinkBatch) throws(KernelError) -> [KernelError?] {
        var errors: [KernelError?] = []
        while errors.count < batch.operations.count {
            let count = min(Self.chunk, batch.operations.count - errors.count)
            errors += try execute(batch, from: errors.count, count: count)
        }
        return errors
    }

    /// Acknowledgements queue up in the socket's buffer while the kernel works through what was sent at once.
    private static let chunk = 100

    private func execute(
        _ batch: borrowing NetlinkBatch, from start: Int, count: Int
    ) throws(KernelError) -> [KernelError?] {
        let sequence = try send(batch, from: start, count: count)
        var errors: [KernelError?] = Array(repeating: nil, count: count)
        var acknowledged = 0
        while acknowledged < count {
            for message in try receive("receive an acknowledgement") where Int32(message.type) == NLMSG_ERROR {
                let number = Int(message.sequence &- sequence)
                guard number < count else { continue }
                acknowledged += 1
                errors[number] = message.error(batch.operations[start + number])
            }
        }
        return errors
    }

    /// Sends every request of the batch, of which none asks for an acknowledgement. What the kernel says of those that fail is thrown away.
    public func tell(_ batch: borrowing NetlinkBatch) throws(KernelError) {
        guard !batch.operations.isEmpty else { return }
        let chunk = 256
        for start in stride(from: 0, to: batch.operations.count, by: chunk) {
            _ = try send(batch, from: start, count: min(chunk, batch.operations.count - start))
        }
        // The kernel does what it is asked for while it is asked.
        discardPending()
    }

    /// Blocks until the kernel has sent something. An overrun (ENOBUFS) is an error: events were lost, state must be read again.
    public func receive(_ operation: String = "receive from netlink") throws(KernelError) -> [NetlinkMessage] {
        let capacity = 64 << 10
        var received = 0
        // Left as it is: an acknowledgement has 36 octets of it.
        let buffer = unsafe [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            received = unsafe mnl_socket_recvfrom(socket, buffer.baseAddress, capacity)
            // SAFETY: so many octets have been written.
            count = max(0, received)
        }
        guard received >= 0 else { throw KernelError(operation, .last) }
        return NetlinkMessage.parse(buffer[...])
    }

    var descriptor: Int32 { unsafe mnl_socket_get_fd(socket) }

    /// Who asked, as messages about what has changed say.
    private var port: UInt32 { unsafe mnl_socket_get_portid(socket) }

    /// Listens to a group, or no longer.
    func setMembership(_ group: nfnetlink_groups, _ isMember: Bool) throws(KernelError) {
        var number = group.rawValue
        let option = isMember ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP
        // SAFETY: the kernel reads the number within this call.
        let status = unsafe mnl_socket_setsockopt(
            socket, option, &number, socklen_t(MemoryLayout.size(ofValue: number)))
        guard status == 0 else { throw KernelError("\(isMember ? "join" : "leave") a netlink group", .last) }
    }

    /// Changes that another socket asks for are not told here.
    func ignore(_ other: borrowing NetlinkSocket) throws(KernelError) {
        // Classic BPF reads in network order; the field is in the machine's.
        let field = UInt32(MemoryLayout<nlmsghdr>.offset(of: \.nlmsg_pid) ?? 12)
        var filter = [
            sock_filter(code: UInt16(BPF_LD | BPF_W | BPF_ABS), jt: 0, jf: 0, k: field),
            sock_filter(code: UInt16(BPF_JMP | BPF_JEQ | BPF_K), jt: 0, jf: 1, k: other.port.bigEndian),
            sock_filter(code: UInt16(BPF_RET | BPF_K), jt: 0, jf: 0, k: 0),
            sock_filter(code: UInt16(BPF_RET | BPF_K), jt: 0, jf: 0, k: .max),
        ]
        let status = unsafe filter.withUnsafeMutableBufferPointer { filter in
            // SAFETY: the kernel copies the instructions within this call.
            var program = unsafe sock_fprog(len: UInt16(filter.count), filter: filter.baseAddress)
            return unsafe setsockopt(
                descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &program, socklen_t(MemoryLayout<sock_fprog>.size))
        }
        guard status == 0 else { throw KernelError("filter the events of a netlink socket", .last) }
    }

    /// Whether something comes within the time.
    public func wait(milliseconds: Int32) -> Bool {
        var descriptor = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&descriptor, 1, milliseconds) > 0
    }

    /// Takes what has come already and is not to be looked at.
    public func discardPending() {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        let descriptor = unsafe mnl_socket_get_fd(socket)
        repeat {
            while unsafe recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT)) > 0 {}
        } while Errno.last == .noBufferSpace || Errno.last == .interrupted
    }

    /// - Returns: the sequence number of the first request; those of the others follow.
    func send(_ batch: borrowing NetlinkBatch, from: Int, count: Int) throws(KernelError) -> UInt32 {
        let sequence = nextSequence.wrappingAdd(UInt32(truncatingIfNeeded: count), ordering: .relaxed).oldValue
        batch.number(from: from, count: count, first: sequence)
        let range = batch.range(from: from, count: count)
        let sent = unsafe mnl_socket_sendto(
            socket, batch.buffer.baseAddress?.advanced(by: range.lowerBound), range.count)
        guard sent >= 0 else { throw KernelError(batch.operations[from], .last) }
        return sequence
    }
}

/// Requests that are sent together; each is acknowledged.
@safe public struct NetlinkBatch: ~Copyable {
    /// What each request does, for its error.
    public private(set) var operations: [String] = []
    private var starts: [Int] = []
    private var used = 0
    fileprivate var buffer: UnsafeMutableRawBufferPointer

    /// No request of ours comes near this. libmnl checks nothing itself, so each request gets as much room before it is written.
    private static let largestRequest = 4096

    public init() {
        unsafe buffer = .allocate(byteCount: 4 * Self.largestRequest, alignment: 16)
    }

    deinit {
        unsafe buffer.deallocate()
    }

    /// The requests as they are sent.
    public var bytes: [UInt8] { unsafe Array(buffer[..<used]) }

    /// - Parameters:
    ///   - header: the fixed header of the family (`ifinfomsg`, `ifaddrmsg`, …), a plain C structure.
    ///   - attributes: writes the attributes behind it.
    mutating func add<Header: BitwiseCopyable>(
        _ operation: String, type: Int, flags: Int32 = 0, header: Header,
        attributes: (inout AttributeWriter) -> Void = { _ in }
    ) {
        if unsafe buffer.count - used < Self.largestRequest {
            let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: unsafe buffer.count * 2, alignment: 16)
            unsafe larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[..<used]))
            unsafe buffer.deallocate()
            unsafe buffer = unsafe larger
        }
        // SAFETY: `largestRequest` octets from here are ours, and AttributeWriter stops before their end.
        guard let start = unsafe buffer.baseAddress?.advanced(by: used),
            let message = unsafe mnl_nlmsg_put_header(start),
            let extra = unsafe mnl_nlmsg_put_extra_header(message, MemoryLayout<Header>.size)
        else { return }
        unsafe message.pointee.nlmsg_type = UInt16(type)
        unsafe message.pointee.nlmsg_flags = UInt16(NLM_F_REQUEST | flags)
        unsafe extra.storeBytes(of: header, as: Header.self)
        var writer = unsafe AttributeWriter(message: message, capacity: Self.largestRequest)
        attributes(&writer)
        precondition(!writer.overflowed, "a netlink request larger than \(Self.largestRequest) octets: \(operation)")
        operations.append(operation)
        starts.append(used)
        used += Int(unsafe message.pointee.nlmsg_len)
    }

    /// Gives requests their sequence numbers, when they are sent.
    fileprivate func number(from: Int, count: Int, first: UInt32) {
        for index in 0..<count {
            // SAFETY: a request begins here with its header, whose octets 8…11 are the number.
            unsafe buffer.storeBytes(
                of: first &+ UInt32(truncatingIfNeeded: index), toByteOffset: starts[from + index] + 8, as: UInt32.self)
        }
    }

    fileprivate func range(from: Int, count: Int) -> Range<Int> {
        starts[from]..<(from + count < starts.count ? starts[from + count] : used)
    }
}

/// Writes attributes behind a request's header, never beyond its room.
@safe struct AttributeWriter: ~Copyable {
    private let message: UnsafeMutablePointer<nlmsghdr>
    private let capacity: Int
    private(set) var overflowed = false

    fileprivate init(message: UnsafeMutablePointer<nlmsghdr>, capacity: Int) {
        unsafe self.message = unsafe message
        self.capacity = capacity
    }

    mutating func put(_ type: Int, _ value: UInt16) {
        let fits = unsafe mnl_attr_put_u16_check(message, capacity, UInt16(type), value)
        overflowed = overflowed || !fits
    }

    mutating func put(_ type: Int, _ value: UInt32) {
        let fits = unsafe mnl_attr_put_u32_check(message, capacity, UInt16(type), value)
        overflowed = overflowed || !fits
    }

    /// With a terminating zero.
    mutating func put(_ type: Int, _ value: String) {
        let fits = unsafe mnl_attr_put_strz_check(message, capacity, UInt16(type), value)
        overflowed = overflowed || !fits
    }

    mutating func put(_ type: Int, _ value: [UInt8]) {
        let fits = unsafe value.withUnsafeBytes {
            unsafe mnl_attr_put_check(message, capacity, UInt16(type), $0.count, $0.baseAddress)
        }
        overflowed = overflowed || !fits
    }

    mutating func nest(_ type: Int, _ body: (inout AttributeWriter) -> Void) {
        guard let nest = unsafe mnl_attr_nest_start_check(message, capacity, UInt16(type)) else {
            overflowed = true
            return
        }
        body(&self)
        // SAFETY: `nest` is inside this message, which does not move while it is written.
        unsafe mnl_attr_nest_end(message, nest)
    }

    /// A fixed header inside a nest, as a veth's peer description begins with.
    mutating func putHeader<Header: BitwiseCopyable>(_ header: Header) {
        guard Int(unsafe message.pointee.nlmsg_len) + MemoryLayout<Header>.size <= capacity,
            let extra = unsafe mnl_nlmsg_put_extra_header(message, MemoryLayout<Header>.size)
        else {
            overflowed = true
            return
        }
        unsafe extra.storeBytes(of: header, as: Header.self)
    }
}

/// One message as the kernel sent it: a copy, nothing in it trusted.
public struct NetlinkMessage: Sendable {
    public let type: UInt16
    public let flags: UInt16
    let sequence: UInt32
    public let payload: ArraySlice<UInt8>

    static func parse(_ bytes: ArraySlice<UInt8>) -> [NetlinkMessage] {
        var result: [NetlinkMessage] = []
        var rest = bytes
        while let length = rest.load(UInt32.self, at: 0), length >= 16, Int(length) <= rest.count,
            let type = rest.load(UInt16.self, at: 4), let flags = rest.load(UInt16.self, at: 6),
            let sequence = rest.load(UInt32.self, at: 8)
        {
            let payload = rest[(rest.startIndex + 16)..<(rest.startIndex + Int(length))]
            result.append(NetlinkMessage(type: type, flags: flags, sequence: sequence, payload: payload))
            rest = rest.dropFirst((Int(length) + 3) & ~3)
        }
        return result
    }

    /// What an NLMSG_ERROR message reports; nil for an acknowledgement.
    func error(_ operation: String) -> KernelError? {
        guard let code = payload.load(Int32.self, at: 0), code != 0 else { return nil }
        // Behind the code stands the request's header, or without NLM_F_CAPPED the whole request.
        var detail: String?
        if flags & UInt16(NLM_F_ACK_TLVS) != 0, let length = payload.load(UInt32.self, at: 4) {
            let request = flags & UInt16(NLM_F_CAPPED) != 0 ? 16 : Int(length)
            let attributes = Attributes(payload.dropFirst(4 + (request + 3) & ~3))
            detail = attributes.string(Int(NLMSGERR_ATTR_MSG.rawValue))
        }
        return KernelError(operation, Errno(rawValue: code == .min ? .max : -code), detail: detail)
    }

    /// The attributes behind a fixed header of `size` octets.
    func attributes(after size: Int) -> Attributes { Attributes(payload.dropFirst((size + 3) & ~3)) }
}

/// Attributes in their order, for those who look at each once.
struct AttributeSequence: Sequence, IteratorProtocol {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    mutating func next() -> (type: Int, value: ArraySlice<UInt8>)? {
        guard let length = rest.load(UInt16.self, at: 0), length >= 4, Int(length) <= rest.count,
            let type = rest.load(UInt16.self, at: 2)
        else { return nil }
        let value = rest[(rest.startIndex + 4)..<(rest.startIndex + Int(length))]
        rest = rest.dropFirst((Int(length) + 3) & ~3)
        return (Int(type) & attributeTypeMask, value)
    }
}

/// Attributes by type, the last one of a type winning. Unknown ones are kept.
struct Attributes {
    private let values: [(type: Int, value: ArraySlice<UInt8>)]

    init(_ bytes: ArraySlice<UInt8>) { values = Array(AttributeSequence(bytes)) }

    subscript(_ type: Int) -> ArraySlice<UInt8>? { values.last { $0.type == type }?.value }
    func integer<T: FixedWidthInteger>(_ type: Int, _: T.Type = T.self) -> T? { self[type]?.load(T.self, at: 0) }
    func nested(_ type: Int) -> Attributes? { self[type].map(Attributes.init) }

    func string(_ type: Int) -> String? {
        self[type].map { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}

/// Attribute types whose mask macros the importer drops (linux/netlink.h).
private let attributeTypeMask = 0x3fff

extension ArraySlice<UInt8> {
    /// An integer in host byte order, `offset` octets behind the slice's start; nil where that is beyond its end.
    func load<T: FixedWidthInteger>(_: T.Type, at offset: Int) -> T? {
        let size = T.bitWidth / 8
        guard offset >= 0, offset + size <= count else { return nil }
        var value: T = 0
        for index in 0..<size {
            #if _endian(little)
                value |= T(truncatingIfNeeded: self[startIndex + offset + index]) << T(8 * index)
            #else
                value |= T(truncatingIfNeeded: self[startIndex + offset + index]) << T(8 * (size - 1 - index))
            #endif
        }
        return value
    }
}

extension IPAddress {
    /// 4 or 16 octets in network order; otherwise nil.
    init?(octets: ArraySlice<UInt8>) {
        if octets.count == 4, let value = octets.load(UInt32.self, at: 0) {
            self = .v4(IPv4Address(UInt32(bigEndian: value)))
        } else if octets.count == 16, let value = octets.load(UInt128.self, at: 0) {
            self = .v6(IPv6Address(UInt128(bigEndian: value)))
        } else {
            return nil
        }
    }
}

extension Errno {
    /// What the last failed C call of this thread left.
    static var last: Errno { Errno(rawValue: vr_errno()) }
}
