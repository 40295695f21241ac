// The slots of a packet socket's ring (Documentation/networking/packet_mmap.rst, TPACKET_V2), one frame each, that is to be sent:
//
//   tpacket2_hdr │ virtio_net_hdr │ Ethernet header, tag, payload │ …
//
// One call sends all that were filled, in their order. The kernel keeps a slot until the frame has left.

import CLinux
import Kernel
import Packets
import SystemPackage

@safe public struct TransmitRing: ~Copyable {
    private let socket: PacketSocket
    // SAFETY: `mask + 1` slots of `slotSize` octets, mapped for as long as the socket lives; nobody else fills them.
    private let slots: UnsafeMutableRawPointer
    private let slotSize: Int
    private let mask: Int
    /// Where a frame begins in its slot, in octets.
    private let frameOffset = Int(vr_transmit_offset())
    /// The slot that is filled next.
    private var next = 0
    /// The first one that the kernel may not have looked at.
    private var oldest = 0
    /// Frames that are not sent, for `send` to tell.
    private var refused = 0

    /// Frames to add before they are sent.
    public static let batch = 64

    /// Octets that the kernel copies; what lies behind them it sends from the slot. A veth pair copies that once more, and what is
    /// copied at once is cheaper for a network card, too, unless it is long.
    private static let longestCopied = 16384

    /// - Parameter socket: one to send on.
    public init(_ socket: consuming PacketSocket) {
        slotSize = socket.slotSize
        mask = socket.slotCount &- 1
        unsafe slots = unsafe socket.memory.base
        self.socket = socket
    }

    /// Fills a slot with a frame that has its tag.
    ///
    /// - Parameters:
    ///   - length: of the tagged frame, which begins `ReceiveRing.room` octets before the one that was received.
    ///   - offload: of the frame as it was received.
    @inline(__always)
    public mutating func add(_ frame: borrowing Frame, length: Int, offload: virtio_net_hdr) {
        let size = length &+ ReceiveRing.offloadSize
        let slot = unsafe self.slot(next)
        guard length <= frame.length &+ ReceiveRing.room, frameOffset &+ size <= slotSize,
            unsafe Self.status(slot) & Self.taken == 0
        else {
            refused &+= 1
            return
        }
        var offload = offload
        // Where they count at all, they count from the start of the frame.
        if offload.flags & UInt8(VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 { offload.csum_start &+= UInt16(ReceiveRing.room) }
        offload.hdr_len = UInt16(truncatingIfNeeded: min(length, Self.longestCopied))
        // SAFETY: both lie within the slot, by the guard; and `length` octets from the frame's room on are the frame's.
        unsafe (slot + frameOffset).storeBytes(of: offload, as: virtio_net_hdr.self)
        unsafe (slot + frameOffset + ReceiveRing.offloadSize).copyMemory(
            from: frame.start - ReceiveRing.room, byteCount: length)
        unsafe slot.assumingMemoryBound(to: tpacket2_hdr.self).pointee.tp_len = UInt32(truncatingIfNeeded: size)
        unsafe vr_store_release32(slot.assumingMemoryBound(to: UInt32.self), Self.requested)
        next &+= 1
    }

    /// Sends what was added.
    ///
    /// - Returns: how many frames were not sent: they found no slot, since the interface does not send those before; or
    ///   the kernel did not take them: the interface is down, or its queue full.
    @inline(__always)
    public mutating func send() -> Int {
        while oldest != next {
            _ = CLinux.send(socket.file.rawValue, nil, 0, Int32(MSG_DONTWAIT))
            while oldest != next, unsafe Self.status(slot(oldest)) != Self.requested { oldest &+= 1 }
            // The kernel stops where it could not send, and would begin there again: a frame without octets it passes over. Where it does
            // not even do that (the interface is down), whatever waits is not to be sent later.
            guard oldest != next else { break }
            if cancel(oldest) { continue }
            for index in oldest..<next { _ = cancel(index) }
            break
        }
        defer { refused = 0 }
        return refused
    }

    /// - Returns: whether it was to be sent.
    @inline(__always)
    private mutating func cancel(_ index: Int) -> Bool {
        let header = unsafe slot(index).assumingMemoryBound(to: tpacket2_hdr.self)
        guard unsafe header.pointee.tp_len != 0 else { return false }
        unsafe header.pointee.tp_len = 0
        refused &+= 1
        return true
    }

    @inline(__always)
    private func slot(_ index: Int) -> UnsafeMutableRawPointer { unsafe slots + (index & mask) &* slotSize }

    @inline(__always)
    private static func status(_ slot: UnsafeMutableRawPointer) -> UInt32 {
        unsafe vr_load_acquire32(slot.assumingMemoryBound(to: UInt32.self))
    }

    private static let requested = UInt32(TP_STATUS_SEND_REQUEST)
    /// A slot is free if it has none of these.
    private static let taken = UInt32(TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING | TP_STATUS_WRONG_FORMAT)
}
