/// An address block in CIDR notation, its host bits zero: `172.16.10.0/24`.
public struct IPPrefix: Hashable, Sendable, CustomStringConvertible {
    public let network: IPAddress
    /// In bits: 0…32 or 0…128.
    public let length: Int

    /// Clears the host bits of `address`. A length that the family does not have is clamped.
    public init(_ address: IPAddress, length: Int) {
        let length = min(max(length, 0), address.family.width)
        self.length = length
        switch address {
        case .v4(let v4): network = .v4(IPv4Address(v4.rawValue & ~hostMask(length, UInt32.self)))
        case .v6(let v6): network = .v6(IPv6Address(v6.rawValue & ~hostMask(length, UInt128.self)))
        }
    }

    public var family: IPFamily { network.family }
    public var description: String { "\(network)/\(length)" }

    public func contains(_ address: IPAddress) -> Bool {
        address.family == family && IPPrefix(address, length: length).network == network
    }

    /// The address behind the last one; nil: there is none.
    public var next: IPAddress? {
        switch network {
        case .v4(let v4):
            let (next, overflow) = (v4.rawValue | hostMask(length, UInt32.self)).addingReportingOverflow(1)
            return overflow ? nil : .v4(IPv4Address(next))
        case .v6(let v6):
            let (next, overflow) = (v6.rawValue | hostMask(length, UInt128.self)).addingReportingOverflow(1)
            return overflow ? nil : .v6(IPv6Address(next))
        }
    }

    public func overlaps(_ other: IPPrefix) -> Bool {
        length <= other.length ? contains(other.network) : other.contains(network)
    }
}

extension IPPrefix: Comparable {
    /// By family, then by first address; of blocks with the same one the largest comes first.
    public static func < (left: IPPrefix, right: IPPrefix) -> Bool {
        switch (left.network, right.network) {
        case (.v4(let a), .v4(let b)): (a.rawValue, left.length) < (b.rawValue, right.length)
        case (.v6(let a), .v6(let b)): (a.rawValue, left.length) < (b.rawValue, right.length)
        case (.v4, .v6): true
        case (.v6, .v4): false
        }
    }
}

/// An address together with the prefix that it is in, as an interface has it: `172.16.10.1/24`.
public struct InterfaceAddress: Hashable, Sendable, CustomStringConvertible {
    public let address: IPAddress
    /// In bits.
    public let prefixLength: Int

    public init(_ address: IPAddress, prefixLength: Int) {
        self.address = address
        self.prefixLength = min(max(prefixLength, 0), address.family.width)
    }

    /// `ADDRESS/LENGTH`; the reason is for a person.
    public init(_ text: some StringProtocol) throws(AddressError) {
        let text = String(text)
        guard let slash = text.utf8.firstIndex(of: UInt8(ascii: "/")) else {
            guard IPAddress(text) != nil else { throw .notAnAddress(text) }
            throw .noPrefixLength(text)
        }
        guard let address = IPAddress(text[..<slash]) else { throw .notAnAddress(String(text[..<slash])) }
        guard let length = parseDecimal(text[text.utf8.index(after: slash)...], max: UInt32(address.family.width))
        else {
            throw .prefixLengthOutOfRange(text, max: address.family.width)
        }
        self.init(address, prefixLength: Int(length))
    }

    public var prefix: IPPrefix { IPPrefix(address, length: prefixLength) }
    public var description: String { "\(address)/\(prefixLength)" }

    /// Whether the host bits are all zero: the subnet itself (IPv4), the Subnet-Router anycast address (RFC 4291 §2.6.1).
    /// Blocks of one or two addresses (/31: RFC 3021, /32, /127: RFC 6164, /128) have none.
    public var isNetworkAddress: Bool {
        prefixLength < address.family.width - 1 && address == prefix.network
    }

    /// The IPv4 subnet's broadcast address, where it has one.
    public var broadcast: IPv4Address? {
        guard case .v4(let v4) = address, prefixLength < 31 else { return nil }
        return IPv4Address(v4.rawValue | hostMask(prefixLength, UInt32.self))
    }
}

public enum AddressError: Error, Equatable, CustomStringConvertible {
    case notAnAddress(String)
    case noPrefixLength(String)
    case prefixLengthOutOfRange(String, max: Int)

    public var description: String {
        switch self {
        case .notAnAddress(let text): "'\(text)' is not an IPv4 or IPv6 address"
        case .noPrefixLength(let text): "'\(text)' has no prefix length"
        case .prefixLengthOutOfRange(let text, let max):
            "'\(text)' needs a prefix length from 0 to \(max) after the slash"
        }
    }
}

/// The host part's mask of a prefix of `length` bits.
private func hostMask<T: FixedWidthInteger & UnsignedInteger>(_ length: Int, _: T.Type) -> T {
    length == 0 ? T.max : length == T.bitWidth ? 0 : T.max >> T(length)
}
