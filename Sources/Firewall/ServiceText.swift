/// Why a text names no service.
public struct ServiceError: Error, Equatable, CustomStringConvertible {
    public let description: String
}

extension Service: CustomStringConvertible {
    /// `TRANSPORT[/PORT[-PORT][,…]] [from SET] [to SET]`.
    public init(_ text: some StringProtocol) throws(ServiceError) {
        var words = String(text).split(separator: " ").map(String.init)
        guard let first = words.first else { throw ServiceError(description: "a service is missing") }
        words.removeFirst()
        let slash = first.firstIndex(of: "/")
        let name = String(first[..<(slash ?? first.endIndex)])
        guard let transport = Transport(rawValue: name) else {
            throw ServiceError(
                description: "'\(name)' is none of \(Transport.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        self.init(transport)
        if let slash {
            guard transport == .tcp || transport == .udp else {
                throw ServiceError(description: "'\(first)': only tcp and udp have ports")
            }
            ports = try Self.ports(String(first[first.index(after: slash)...]))
        }
        while words.count >= 2, ["from", "to"].contains(words[0]) {
            guard let set = Zone(words[1])?.name else {
                throw ServiceError(description: "'\(words[1])' is not the name of an address set")
            }
            let isRepeated: Bool
            if words[0] == "from" {
                isRepeated = source != nil
                source = set
            } else {
                isRepeated = destination != nil
                destination = set
            }
            guard !isRepeated else { throw ServiceError(description: "'\(words[0])' stands there twice") }
            words.removeFirst(2)
        }
        guard words.isEmpty else {
            throw ServiceError(description: "'\(words.joined(separator: " "))' is neither 'from SET' nor 'to SET'")
        }
    }

    /// Sorted, and those that touch or overlap as one.
    private static func ports(_ text: String) throws(ServiceError) -> [ClosedRange<UInt16>] {
        var ranges: [ClosedRange<UInt16>] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false)
            let numbers = ends.map { end in end.allSatisfy(\.isNumber) ? UInt16(end) ?? 0 : 0 }
            guard numbers.count <= 2, let low = numbers.first, let high = numbers.last, low > 0, high >= low else {
                throw ServiceError(description: "'\(part)' is neither a port from 1 to 65535 nor a range of them")
            }
            ranges.append(low...high)
        }
        ranges.sort { $0.lowerBound < $1.lowerBound }
        return ranges.reduce(into: []) { result, next in
            guard let last = result.last, Int(next.lowerBound) <= Int(last.upperBound) + 1 else {
                return result.append(next)
            }
            result[result.count - 1] = last.lowerBound...max(last.upperBound, next.upperBound)
        }
    }

    /// As `init(_:)` reads it.
    public var description: String {
        let list = ports.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
        return transport.rawValue + (list.isEmpty ? "" : "/" + list.joined(separator: ","))
            + (source.map { " from \($0)" } ?? "") + (destination.map { " to \($0)" } ?? "")
    }
}

extension Treatment: CustomStringConvertible {
    /// For a person: `tcp/443 + icmp, at most 10/s, else reject (logged)`.
    public var description: String {
        let accepted = services.isEmpty ? verdict.rawValue : services.map(\.description).joined(separator: " + ")
        let limit = connectionsPerSecond.map { ", at most \($0)/s" } ?? ""
        // To drop what nothing accepts needs no word.
        let rest = services.isEmpty || verdict == .drop ? "" : ", else \(verdict.rawValue)"
        return accepted + limit + rest + (isLogged ? " (logged)" : "")
    }
}
