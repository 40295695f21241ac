// The words of a configuration: how options and files write the values that they have in common.

import Firewall
import Packets

/// What is wrong with a part of a configuration, without where that stands.
struct Objection: Error, Hashable {
    var message: String
    /// What to do about it on a command line.
    var remedy: String
    /// What to do about it in a file.
    var remedyInFile: String

    init(_ message: String, _ remedy: String, inFile: String? = nil) {
        self.message = message
        self.remedy = remedy
        remedyInFile = inFile ?? remedy
    }

    static func unknownVLAN(_ id: VLANID) -> Objection {
        Objection(
            "there is no VLAN \(id) here", "give it with --vlan \(id)=ADDRESS/LENGTH", inFile: "add it below 'vlans'")
    }
}

extension VLANID {
    init(reading text: some StringProtocol) throws(Objection) {
        guard let number = UInt16(text), let id = VLANID(number), String(number) == text else {
            let reason =
                switch text {
                case "0": "0 marks frames that carry a priority and no VLAN"
                case "4095": "4095 is reserved"
                default: "'\(text)' is not a VLAN id"
                }
            throw Objection(reason, "use an id from 1 to 4094")
        }
        self = id
    }

    /// `200`, or `100.200`: VLAN 200, whose frames are carried in those of VLAN 100.
    static func nested(reading text: some StringProtocol) throws(Objection) -> (outer: VLANID?, id: VLANID) {
        guard let dot = text.firstIndex(of: ".") else { return (nil, try VLANID(reading: text)) }
        return (try VLANID(reading: text[..<dot]), try VLANID(reading: text[text.index(after: dot)...]))
    }
}

extension InterfaceAddress {
    init(reading text: some StringProtocol) throws(Objection) {
        do {
            try self.init(text)
        } catch {
            let remedy =
                switch error {
                case .noPrefixLength(let address): "add the length of the subnet's prefix: \(address)/24"
                default: "write it as ADDRESS/LENGTH, for example 172.16.10.1/24 or fd00:10::1/64"
                }
            throw Objection("\(error)", remedy)
        }
    }
}

extension IPPrefix {
    /// `ADDRESS/LENGTH` without host bits, or where `takesAddresses`, an address alone.
    init(reading text: String, takesAddresses: Bool) throws(Objection) {
        if takesAddresses, let address = IPAddress(text) {
            self.init(address, length: address.family.width)
            return
        }
        let value: InterfaceAddress
        do {
            value = try InterfaceAddress(text)
        } catch {
            throw Objection("\(error)", "write a network, for example 10.0.0.0/8 or fd00:9::/48")
        }
        guard value.prefix.network == value.address else {
            throw Objection("\(text) is an address in a network and not the network", "write \(value.prefix)")
        }
        self = value.prefix
    }

    /// As an address alone where it is one.
    var shortText: String { length == family.width ? "\(network)" : description }
}

extension Zone {
    init(reading text: some StringProtocol) throws(Objection) {
        guard let zone = Zone(text) else {
            throw Objection(
                "'\(text)' is not a zone's name",
                "a name has at most 16 letters, digits, '-' and '_', and begins with a letter")
        }
        self = zone
    }
}

extension UInt32 {
    init(octets text: String) throws(Objection) {
        guard let value = UInt32(text), String(value) == text else {
            throw Objection("'\(text)' is not a number of octets", "for example 1500")
        }
        self = value
    }
}

extension Service {
    init(reading text: String) throws(Objection) {
        do {
            try self.init(text)
        } catch {
            throw Objection("\(error)", "write a service as tcp/443, udp/53,5353, tcp/8000-8100, icmp or any")
        }
    }
}

extension Treatment {
    /// A verdict, or services with `+` between them: the rest is dropped.
    init(reading text: String) throws(Objection) {
        if let verdict = Verdict(rawValue: text) {
            self.init(verdict)
            return
        }
        var services: [Service] = []
        for part in text.split(separator: "+", omittingEmptySubsequences: false) {
            do {
                services.append(try Service(String(part)))
            } catch {
                throw Objection(
                    "\(error)",
                    "write accept, drop, reject, or services: tcp/443+udp/53+icmp")
            }
        }
        self.init(.drop, services: services)
    }
}

extension PortForward {
    /// - Parameters:
    ///   - port: `tcp/8080`.
    ///   - to: `ADDRESS[:PORT]`, an IPv6 address in brackets; without a port, the same one.
    init(port: String, to target: String) throws(Objection) {
        let service = try? Service(port)
        guard let service, [.tcp, .udp].contains(service.transport), service.source == nil, service.destination == nil,
            service.ports.count == 1, service.ports[0].count == 1
        else {
            throw Objection("'\(port)' is not a port of TCP or UDP", "write it as tcp/8080")
        }
        let number = service.ports[0].lowerBound
        var address = Substring(target)
        var hostPort: UInt16? = number
        if target.hasPrefix("["), let end = target.firstIndex(of: "]") {
            address = target[target.index(after: target.startIndex)..<end]
            let rest = target[target.index(after: end)...]
            if !rest.isEmpty { hostPort = rest.hasPrefix(":") ? Self.port(rest.dropFirst()) : nil }
        } else if let colon = target.firstIndex(of: ":"), target.lastIndex(of: ":") == colon {
            address = target[..<colon]
            hostPort = Self.port(target[target.index(after: colon)...])
        }
        guard let host = IPAddress(address), let hostPort, !(target.hasPrefix("[") && host.isV4) else {
            throw Objection(
                "'\(target)' is not an address and a port", "write it as 172.16.20.10:80 or [fd00:20::10]:80")
        }
        self.init(service.transport, port: number, host: host, hostPort: hostPort)
    }

    private static func port(_ text: Substring) -> UInt16? {
        guard let value = UInt16(text), value > 0, String(value) == text else { return nil }
        return value
    }

    /// The host and its port, as `init` reads it.
    var target: String { host.isV4 ? "\(host):\(hostPort)" : "[\(host)]:\(hostPort)" }
}

extension Configuration.StaticRoute {
    init(to destination: String, via gateway: String) throws(Objection) {
        let prefix = try IPPrefix(reading: destination, takesAddresses: false)
        guard let address = IPAddress(gateway) else {
            throw Objection("'\(gateway)' is not an IPv4 or IPv6 address", "give the address of the next router")
        }
        self.init(destination: prefix, gateway: address)
    }
}

extension Configuration.DeniedPair: CustomStringConvertible {
    init(reading text: String) throws(Objection) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw Objection(
                "'\(text)' is not a pair of VLAN ids", "write FROM:TO, for example --deny 100:200",
                inFile: "write FROM:TO, for example 100:200")
        }
        self.init(from: try VLANID(reading: parts[0]), to: try VLANID(reading: parts[1]))
    }

    public var description: String { "\(from):\(to)" }
}

/// The one of `names` that is nearest to a word, if it is near: one letter of a short name, two or a third of a long one are wrong.
func nearest(to word: String, of names: [String]) -> String? {
    let best = names.map { ($0, distance(word.lowercased(), $0.lowercased())) }.min { $0.1 < $1.1 }
    guard let (name, distance) = best, distance <= (name.count <= 3 ? 1 : max(2, name.count / 3))
    else { return nil }
    return name
}

/// How many letters have to be changed, added or left out.
private func distance(_ left: String, _ right: String) -> Int {
    // Longer words are near to none.
    let (left, right) = (Array(left.prefix(40)), Array(right))
    var row = Array(0...right.count)
    for (i, a) in left.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, b) in right.enumerated() {
            let next = a == b ? diagonal : min(diagonal, row[j], row[j + 1]) + 1
            diagonal = row[j + 1]
            row[j + 1] = next
        }
    }
    return row[right.count]
}
