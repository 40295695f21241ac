// The slots of a packet socket's ring (Documentation/networking/packet_mmap.rst, TPACKET_V2), one frame each:
//
//   tpacket2_hdr │ … │ virtio_net_hdr │ Ethernet header, payload │ …
//                                     ▲ tp_mac
//
// The kernel takes the outer tag off and puts it into the header of the slot. To be sent, the frame gets a tag again, where it
// lies: its addresses move 4 octets towards the front, into the offload header, which has been read by then.

import CLinux
import CPrefetch
import Kernel
import Packets

@safe public struct ReceiveRing: ~Copyable {
    // SAFETY: `mask + 1` slots of `slotSize` octets, mapped for as long as the socket lives.
    private let slots: UnsafeMutableRawPointer
    private let slotSize: Int
    private let mask: Int
    /// The slot that the kernel fills next, as far as has been looked.
    private var next = 0
    /// The first one that has not been given back.
    private var oldest = 0

    /// Octets before a frame that its tag may take.
    public static let room = 4
    static let offloadSize = MemoryLayout<virtio_net_hdr>.size
    /// How many frames before its turn a slot is fetched.
    private static let ahead = 4
    private static let cacheLine = 64

    /// - Parameter socket: lives for as long as the ring.
    public init(_ socket: borrowing PacketSocket) {
        unsafe slots = unsafe socket.memory.base
        slotSize = socket.slotSize
        mask = socket.slotCount - 1
    }

    public var slotCount: Int { mask &+ 1 }

    /// The next frame, if there is one; it stays where it is until `release`.
    @inline(__always)
    public mutating func receive() -> Frame? {
        // Not more than there are: what has not been given back is not the kernel's.
        guard next &- oldest <= mask else { return nil }
        // SAFETY: the slot lies within the ring, as `next & mask` is less than the number of slots.
        let slot = unsafe slots + (next & mask) &* slotSize
        let header = unsafe slot.assumingMemoryBound(to: tpacket2_hdr.self)
        let status = unsafe vr_load_acquire32(slot.assumingMemoryBound(to: UInt32.self))
        guard status & UInt32(TP_STATUS_USER) != 0 else { return nil }
        prefetch(next &+ Self.ahead)
        next &+= 1
        let start = Int(unsafe header.pointee.tp_mac)
        let length = Int(unsafe header.pointee.tp_snaplen)
        // The kernel says so itself; what is read and written is checked all the same.
        guard start >= MemoryLayout<tpacket2_hdr>.size &+ Self.offloadSize &+ Self.room,
            start &+ length <= slotSize
        else { return unsafe Frame(start: slot + slotSize, length: 0, tag: 0, tagType: 0) }
        let isTagged = status & UInt32(TP_STATUS_VLAN_VALID) != 0
        let hasType = status & UInt32(TP_STATUS_VLAN_TPID_VALID) != 0
        return unsafe Frame(
            start: slot + start, length: length,
            tag: isTagged ? header.pointee.tp_vlan_tci : 0,
            tagType: isTagged ? (hasType ? header.pointee.tp_vlan_tpid : UInt16(ETH_P_8021Q)) : 0)
    }

    /// Fetches the header of a slot and the first octets of its frame, which the processor that received it has in its cache.
    @inline(__always)
    private func prefetch(_ index: Int) {
        // SAFETY: as above; nothing is read or written.
        let slot = unsafe slots + (index & mask) &* slotSize
        unsafe prefetch_to_write(slot)
        unsafe prefetch_to_write(slot + Self.cacheLine)
        unsafe prefetch_to_write(slot + 2 * Self.cacheLine)
    }

    /// Gives all slots back that were received.
    @inline(__always)
    public mutating func release() {
        while oldest != next {
            // SAFETY: as above; the kernel owns the slot from here on.
            let slot = unsafe slots + (oldest & mask) &* slotSize
            unsafe vr_store_release32(slot.assumingMemoryBound(to: UInt32.self), UInt32(TP_STATUS_KERNEL))
            oldest &+= 1
        }
    }
}

/// A frame in its slot. Valid until its ring releases it.
@safe public struct Frame {
    // SAFETY: `ReceiveRing.room` and the offload header before it, and `length` octets behind it, lie in one slot.
    let start: UnsafeMutableRawPointer
    /// Octets, without the outer tag.
    public let length: Int
    /// Priority, drop eligible and VLAN id (IEEE 802.1Q-2022 9.6) of the outer tag.
    public let tag: UInt16
    /// 0x8100 or 0x88a8; 0: no tag.
    public let tagType: UInt16

    @inline(__always)
    init(start: UnsafeMutableRawPointer, length: Int, tag: UInt16, tagType: UInt16) {
        unsafe self.start = unsafe start
        self.length = length
        self.tag = tag
        self.tagType = tagType
    }

    /// What was left to the hardware, as the kernel says it (virtio 1.2, 5.1.6).
    @inline(__always)
    public var offload: virtio_net_hdr {
        unsafe (start - ReceiveRing.offloadSize).loadUnaligned(as: virtio_net_hdr.self)
    }

    /// The room and then the frame, for `body` to change. The offload header is to be read first: the room is part of it.
    @inline(__always)
    public func withOctets<Result>(_ body: (inout MutableSpan<UInt8>) -> Result) -> Result {
        // SAFETY: see `start`. Nobody else has the slot.
        let buffer = unsafe UnsafeMutableBufferPointer(
            start: (start - ReceiveRing.room).assumingMemoryBound(to: UInt8.self), count: length + ReceiveRing.room)
        var span = unsafe MutableSpan(_unsafeElements: buffer)
        return body(&span)
    }
}
