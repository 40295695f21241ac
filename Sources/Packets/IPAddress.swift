/// An IPv4 address, its first octet in bits 31…24.
public struct IPv4Address: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32

    @inlinable
    public init(_ rawValue: UInt32) { self.rawValue = rawValue }

    /// Four decimal octets with dots, none with a leading zero (which `inet_aton` would read as octal); otherwise nil.
    public init?(_ text: some StringProtocol) {
        var value: UInt32 = 0
        var octet: UInt32?
        var dots = 0
        // A configuration has thousands: one pass, and no substrings.
        for character in String(text).utf8 {
            switch character {
            case UInt8(ascii: "0")...UInt8(ascii: "9") where octet != 0:
                octet = (octet ?? 0) * 10 + UInt32(character - UInt8(ascii: "0"))
                guard octet ?? 0 <= 255 else { return nil }
            case UInt8(ascii: "."):
                guard let whole = octet, dots < 3 else { return nil }
                value = value << 8 | whole
                octet = nil
                dots += 1
            default: return nil
            }
        }
        guard let octet, dots == 3 else { return nil }
        rawValue = value << 8 | octet
    }

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    public var octets: [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: rawValue >> (24 - 8 * $0)) } }
    public var description: String {
        "\(rawValue >> 24).\(rawValue >> 16 & 255).\(rawValue >> 8 & 255).\(rawValue & 255)"
    }
}

/// An IPv6 address, its first octet in bits 127…120.
public struct IPv6Address: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt128

    public init(_ rawValue: UInt128) { self.rawValue = rawValue }

    /// A text form of RFC 4291 §2.2, without a zone; otherwise nil.
    public init?(_ text: some StringProtocol) {
        var text = String(text)
        // An embedded IPv4 address is the last two groups.
        if let colon = text.lastIndex(of: ":"), text[colon...].contains(".") {
            guard let last = IPv4Address(text[text.index(after: colon)...]) else { return nil }
            text =
                text[...colon] + String(last.rawValue >> 16, radix: 16) + ":"
                + String(last.rawValue & 0xffff, radix: 16)
        }
        func groups(_ part: Substring) -> [UInt16]? {
            if part.isEmpty { return [] }
            var result: [UInt16] = []
            for group in part.split(separator: ":", omittingEmptySubsequences: false) {
                guard (1...4).contains(group.utf8.count), group.allSatisfy(\.isHexDigit),
                    group.utf8.count == group.count,
                    let value = UInt16(group, radix: 16)
                else { return nil }
                result.append(value)
            }
            return result
        }
        var all: [UInt16]
        if let gap = text.firstRange(of: "::") {
            guard let head = groups(text[..<gap.lowerBound]), let tail = groups(text[gap.upperBound...]),
                head.count + tail.count <= 7
            else { return nil }
            all = head + Array(repeating: 0, count: 8 - head.count - tail.count) + tail
        } else {
            guard let plain = groups(text[...]), plain.count == 8 else { return nil }
            all = plain
        }
        rawValue = all.reduce(0) { $0 << 16 | UInt128($1) }
    }

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    public var octets: [UInt8] { (0..<16).map { UInt8(truncatingIfNeeded: rawValue >> (120 - 8 * $0)) } }

    /// The canonical form of RFC 5952 §4.
    public var description: String {
        let groups = (0..<8).map { UInt16(truncatingIfNeeded: rawValue >> (112 - 16 * $0)) }
        var longest = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8 && groups[end] == 0 { end += 1 }
            if end - start >= 2 && end - start > longest.count { longest = start..<end }
            start = max(end, start + 1)
        }
        func text(_ range: Range<Int>) -> String { groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        return longest.isEmpty ? text(0..<8) : text(0..<longest.lowerBound) + "::" + text(longest.upperBound..<8)
    }
}

/// An address of either family.
public enum IPAddress: Hashable, Sendable, CustomStringConvertible {
    case v4(IPv4Address)
    case v6(IPv6Address)

    public init?(_ text: some StringProtocol) {
        if let address = IPv4Address(text) {
            self = .v4(address)
        } else if let address = IPv6Address(text) {
            self = .v6(address)
        } else {
            return nil
        }
    }

    /// 4 or 16 octets in network order; otherwise nil.
    public init?(octets: [UInt8]) {
        switch octets.count {
        case 4: self = .v4(IPv4Address(octets.reduce(0) { $0 << 8 | UInt32($1) }))
        case 16: self = .v6(IPv6Address(octets.reduce(0) { $0 << 8 | UInt128($1) }))
        default: return nil
        }
    }

    /// fe80::/10 (RFC 4291 §2.5.6): means something on its own link only, so that several links may have the same.
    public var isLinkLocal: Bool {
        if case .v6(let address) = self { address.rawValue >> 118 == 0xfe80 >> 6 } else { false }
    }

    public var isV4: Bool { if case .v4 = self { true } else { false } }
    public var family: IPFamily { isV4 ? .v4 : .v6 }

    public var octets: [UInt8] {
        switch self {
        case .v4(let address): address.octets
        case .v6(let address): address.octets
        }
    }

    public var description: String {
        switch self {
        case .v4(let address): address.description
        case .v6(let address): address.description
        }
    }
}

public enum IPFamily: Hashable, Sendable, CaseIterable {
    case v4
    case v6

    /// The length of an address, in bits.
    public var width: Int { self == .v4 ? 32 : 128 }
}

/// Digits only, no sign, no leading zero, at most `max`.
func parseDecimal(_ text: some StringProtocol, max: UInt32) -> UInt32? {
    let text = String(text)
    guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), text.utf8.first != 0x30 || text.utf8.count == 1,
        let value = UInt32(text), value <= max
    else { return nil }
    return value
}
