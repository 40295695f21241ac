// A packet socket (packet(7)) on the trunk, with a ring to receive from or to send from in memory that it shares with the kernel.
// One for each: what one processor writes as it receives is not what another one needs as it sends.

import CLinux
import Kernel
import Packets
import SystemPackage

/// Receives tagged frames of one interface, or sends on it.
public struct PacketSocket: ~Copyable, Sendable {
    let file: FileDescriptor
    /// Octets of a slot, a power of two.
    let slotSize: Int
    let slotCount: Int
    /// The slots.
    let memory: Mapping

    /// What a slot has before the frame: the kernel's header, room, the offload header and the Ethernet header's alignment.
    private static let overhead = 128

    /// Octets of the longest frame without tag that a slot for frames of this IP MTU takes.
    public static func longestFrame(mtu: Int) -> Int { slotSize(mtu: mtu) - overhead }

    static func slotSize(mtu: Int) -> Int {
        var size = 2048
        while size < mtu + Int(ETH_HLEN) + overhead { size *= 2 }
        return size
    }

    /// Receives nothing before `bind`.
    ///
    /// - Parameters:
    ///   - mtu: IP MTU of the trunk, in octets.
    ///   - slots: frames that wait for the worker at most; a power of two.
    public init(toReceive mtu: Int, slots: Int) throws(KernelError) {
        try self.init(mtu: mtu, slots: slots, ring: PACKET_RX_RING) { file throws(KernelError) in
            try Self.set(file, PACKET_RESERVE, Int32(16))
            try Self.set(file, PACKET_IGNORE_OUTGOING, Int32(1))
        }
    }

    /// - Parameters:
    ///   - mtu: as above.
    ///   - slots: frames that were sent and have not left, at most; a power of two.
    public init(toSend mtu: Int, slots: Int, linkIndex: UInt32) throws(KernelError) {
        try self.init(mtu: mtu, slots: slots, ring: PACKET_TX_RING) { file throws(KernelError) in
            // A slot that cannot be sent is passed over.
            try Self.set(file, PACKET_LOSS, Int32(1))
            // As much as there are slots for; the kernel's own limit would be a few hundred small frames.
            try Self.set(file, Int32(SO_SNDBUFFORCE), Int32(8 << 20), level: SOL_SOCKET)
            try Self.bind(file, linkIndex: linkIndex, protocol: 0)
        }
    }

    private init(
        mtu: Int, slots: Int, ring option: Int32, prepare: (FileDescriptor) throws(KernelError) -> Void
    ) throws(KernelError) {
        let slotSize = Self.slotSize(mtu: mtu)
        // Protocol 0: nothing arrives before the filter is there.
        let descriptor = socket(AF_PACKET, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw KernelError("open a packet socket", Errno(rawValue: vr_errno())) }
        let file = FileDescriptor(rawValue: descriptor)
        do throws(KernelError) {
            try Self.set(file, PACKET_VERSION, Int32(TPACKET_V2.rawValue))
            try Self.set(file, PACKET_VNET_HDR, Int32(1))
            // The ring comes last: how it is laid out and used depends on what has been set before.
            try prepare(file)
            let blockSize = max(slotSize, 65536)
            var ring = tpacket_req()
            ring.tp_block_size = UInt32(blockSize)
            ring.tp_block_nr = UInt32(slots * slotSize / blockSize)
            ring.tp_frame_size = UInt32(slotSize)
            ring.tp_frame_nr = UInt32(slots)
            try Self.set(file, option, ring)
            memory = try Mapping(file, count: slotSize * slots)
        } catch {
            try? file.close()
            throw error
        }
        self.file = file
        self.slotSize = slotSize
        slotCount = slots
    }

    deinit {
        try? file.close()
    }

    /// The BPF program that says which frames go into the ring.
    public func setFilter(_ program: FileDescriptor) throws(KernelError) {
        try Self.set(file, Int32(SO_ATTACH_BPF), program.rawValue, level: SOL_SOCKET)
    }

    /// From here on frames arrive.
    public func bind(linkIndex: UInt32) throws(KernelError) {
        try Self.bind(file, linkIndex: linkIndex, protocol: UInt16(ETH_P_ALL))
    }

    private static func bind(_ file: FileDescriptor, linkIndex: UInt32, protocol: UInt16) throws(KernelError) {
        var address = sockaddr_ll()
        address.sll_family = UInt16(AF_PACKET)
        address.sll_protocol = `protocol`.bigEndian
        address.sll_ifindex = Int32(bitPattern: linkIndex)
        // SAFETY: the pointer is used within the call, with the size of what it points to.
        let status = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe CLinux.bind(file.rawValue, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
            }
        }
        guard status == 0 else {
            throw KernelError("bind a packet socket to interface #\(linkIndex)", Errno(rawValue: vr_errno()))
        }
    }

    /// Frames are spread over the sockets of a group by flow; after `bind`.
    public func join(group: UInt16) throws(KernelError) {
        try Self.set(file, PACKET_FANOUT, Int32(group) | Int32(PACKET_FANOUT_HASH) << 16)
    }

    /// Frames that found no free slot since this was asked last.
    public func takeDrops() -> UInt64 {
        var statistics = tpacket_stats()
        var size = socklen_t(MemoryLayout<tpacket_stats>.size)
        // SAFETY: the kernel writes at most `size` octets.
        let status = unsafe getsockopt(file.rawValue, SOL_PACKET, PACKET_STATISTICS, &statistics, &size)
        return status == 0 ? UInt64(statistics.tp_drops) : 0
    }

    /// Waits for a frame.
    ///
    /// - Returns: whether there may be one.
    public func wait(milliseconds: Int32) -> Bool {
        var request = pollfd(fd: file.rawValue, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&request, 1, milliseconds) > 0
    }

    private static func set<Value: BitwiseCopyable>(
        _ file: FileDescriptor, _ option: Int32, _ value: Value, level: Int32 = SOL_PACKET
    ) throws(KernelError) {
        var value = value
        // SAFETY: the kernel reads as many octets as the value has.
        let status = unsafe setsockopt(file.rawValue, level, option, &value, socklen_t(MemoryLayout<Value>.size))
        guard status == 0 else {
            throw KernelError("set option \(option) of a packet socket", Errno(rawValue: vr_errno()))
        }
    }
}
