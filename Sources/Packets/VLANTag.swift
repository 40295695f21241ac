/// A VLAN tag (IEEE 802.1Q-2022 §9.3–9.6):
///
///      0                   1                   2                   3
///      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
///     +-------------------------------+-----+-+-----------------------+
///     |             TPID              | PCP |D|          VID          |
///     +-------------------------------+-----+-+-----------------------+
///
/// The tag protocol identifier stands where the EtherType would. PCP is the priority, D says that the frame may be dropped first.
public struct VLANTag: Hashable, Sendable {
    /// TPID: `EtherType.vlan` or `.serviceVLAN`; 0: there is no tag.
    public var identifier: EtherType
    /// PCP, D and VID.
    public var control: UInt16

    @inlinable @inline(__always)
    public init(identifier: EtherType, control: UInt16) {
        self.identifier = identifier
        self.control = control
    }

    /// A tag of IEEE 802.1Q.
    ///
    /// - Parameter priority: PCP and D, in bits 15…12.
    @inlinable @inline(__always)
    public init(_ id: VLANID, priority: UInt16 = 0) {
        self.init(identifier: .vlan, control: priority & Self.priorityMask | id.rawValue)
    }

    /// The frame has no tag.
    @inlinable @inline(__always)
    public static var none: VLANTag { VLANTag(identifier: EtherType(0), control: 0) }

    /// In octets.
    @inlinable @inline(__always)
    public static var length: Int { 4 }
    @inlinable @inline(__always)
    public static var priorityMask: UInt16 { 0xf000 }

    @inlinable @inline(__always)
    public var isPresent: Bool { identifier.rawValue != 0 }
    /// 0…4095: also values that are no VLAN, see `VLANID`.
    @inlinable @inline(__always)
    public var vid: UInt16 { control & 0x0fff }

    public var octets: [UInt8] {
        var result: [UInt8] = []
        result.append(uint16: identifier.rawValue)
        result.append(uint16: control)
        return result
    }
}
