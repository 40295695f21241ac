// How values of Packets and Firewall stand in JSON: as people write them.

import Firewall
import Packets

extension VLANID: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let id = VLANID(try container.decode(UInt16.self)) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "not a VLAN id from 1 to 4094")
        }
        self = id
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(rawValue)
    }
}

extension InterfaceAddress: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        do {
            self = try InterfaceAddress(try container.decode(String.self))
        } catch let error as AddressError {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(error)")
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

extension Policy.Masquerade: Codable {}
