// Sending frames from where they were received, several with one call (sendmmsg(2)).

import CLinux
import Kernel
import Packets
import SystemPackage

@safe public struct Transmit: ~Copyable {
    private let socket: Int32
    // SAFETY: both have `capacity` elements from init to deinit; message i points to vector i.
    private let messages: UnsafeMutablePointer<vr_message>
    private let vectors: UnsafeMutablePointer<iovec>
    private var count = 0

    public static let capacity = 64

    /// - Parameter socket: lives for as long as this.
    public init(_ socket: borrowing PacketSocket) {
        self.socket = socket.file.rawValue
        unsafe messages = .allocate(capacity: Self.capacity)
        unsafe vectors = .allocate(capacity: Self.capacity)
        for index in 0..<Self.capacity {
            unsafe (vectors + index).initialize(to: iovec())
            var message = unsafe vr_message()
            unsafe message.header.msg_iov = unsafe vectors + index
            unsafe message.header.msg_iovlen = 1
            unsafe (messages + index).initialize(to: message)
        }
    }

    deinit {
        unsafe messages.deallocate()
        unsafe vectors.deallocate()
    }

    /// Adds a frame that has its tag.
    ///
    /// - Parameters:
    ///   - length: of the tagged frame, which begins `ReceiveRing.room` octets before the one that was received.
    ///   - offload: of the frame as it was received.
    @inline(__always)
    public mutating func add(_ frame: borrowing Frame, length: Int, offload: virtio_net_hdr) {
        guard count < Self.capacity, length <= frame.length &+ ReceiveRing.room else { return }
        var offload = offload
        // Where they count at all, they count from the start of the frame.
        if offload.flags & UInt8(VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 { offload.csum_start &+= UInt16(ReceiveRing.room) }
        if offload.gso_type != UInt8(VIRTIO_NET_HDR_GSO_NONE) { offload.hdr_len &+= UInt16(ReceiveRing.room) }
        // SAFETY: a slot has room for the offload header before the room for the tag.
        let start = unsafe frame.start - ReceiveRing.room - ReceiveRing.offloadSize
        unsafe start.storeBytes(of: offload, as: virtio_net_hdr.self)
        unsafe vectors[count].iov_base = unsafe start
        unsafe vectors[count].iov_len = length &+ ReceiveRing.offloadSize
        count &+= 1
    }

    /// Sends what was added. The frames may be released afterwards.
    ///
    /// - Returns: how many the kernel did not take: the interface is down, its queue full, or the frame too long for it.
    @inline(__always)
    public mutating func send() -> Int {
        var sent = 0
        var refused = 0
        while sent < count {
            // SAFETY: messages sent..<count were filled in by `add`.
            let result = Int(unsafe vr_send_messages(socket, messages + sent, UInt32(count &- sent)))
            if result > 0 {
                sent &+= result
            } else if result == 0 || vr_errno() != EINTR {
                sent &+= 1
                refused &+= 1
            }
        }
        count = 0
        return refused
    }
}
