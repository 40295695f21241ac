/// A VLAN identifier that a frame can be a member of: 1…4094.
///
/// IEEE 802.1Q-2022 §9.6, Table 9-2: 0 marks a frame that carries a priority only, 4095 is reserved.
public struct VLANID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt16

    public static let range: ClosedRange<UInt16> = 1...4094

    public init?(_ rawValue: UInt16) {
        guard Self.range.contains(rawValue) else { return nil }
        self.rawValue = rawValue
    }

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    public var description: String { String(rawValue) }
}
