import Packets

/// One ping between two hosts, and what it should show.
public struct Check: Sendable, Encodable {
    public enum Phase: String, Sendable, Encodable {
        /// There is no router yet.
        case before
        /// While `vrouter up` works.
        case during
        /// host3 is the router.
        case after
    }

    /// Unique in a run: `before: d1 to d2`.
    public var name: String { "\(phase.rawValue): \(source) to \(destination)" }
    public let phase: Phase
    /// Host names.
    public let source: String
    public let destination: String
    /// Where the ping goes: one of the destination's addresses.
    public let address: String
    /// nil: there must be no answer.
    public let expectedTTL: UInt8?
    public internal(set) var outcome = Outcome()

    /// What `ping` has seen.
    public struct Outcome: Sendable {
        public internal(set) var sent = 0
        public internal(set) var received = 0
        /// Of the last reply; nil without one.
        public internal(set) var ttl: UInt8?
        /// The round trip of the last reply.
        public internal(set) var milliseconds: Double?
    }

    public var passed: Bool {
        guard let expectedTTL else { return outcome.received == 0 }
        return outcome.sent > 0 && outcome.received == outcome.sent && outcome.ttl == expectedTTL
    }

    enum CodingKeys: CodingKey {
        case name, phase, source, destination, address, expectedTTL, receivedTTL, milliseconds, sent, received, passed
    }

    /// All keys are always there; null for what there is none of.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(name, forKey: .name)
        try container.encode(phase, forKey: .phase)
        try container.encode(source, forKey: .source)
        try container.encode(destination, forKey: .destination)
        try container.encode(address, forKey: .address)
        try container.encode(expectedTTL, forKey: .expectedTTL)
        try container.encode(outcome.ttl, forKey: .receivedTTL)
        try container.encode(outcome.milliseconds, forKey: .milliseconds)
        try container.encode(outcome.sent, forKey: .sent)
        try container.encode(outcome.received, forKey: .received)
        try container.encode(passed, forKey: .passed)
    }
}

extension Topology {
    /// What the article shows, and what must not change for those it is not about.
    func checks(_ phase: Check.Phase) -> [Check] {
        func check(_ source: String, _ destination: String, ttl: UInt8?) -> Check {
            Check(
                phase: phase, source: source, destination: destination,
                address: address(of: destination)?.description ?? "", expectedTTL: ttl)
        }
        switch phase {
        case .before:
            return [
                check("c1", "c2", ttl: 64), check("d1", "d3", ttl: 64), check("d2", "d4", ttl: 64),
                check("d1", "d2", ttl: nil), check("d1", "d4", ttl: nil),
            ]
        case .during:
            return [check("c1", "c2", ttl: 64)]
        case .after:
            let gateway = gateways[0].address.address.description
            return [
                Check(phase: phase, source: "d1", destination: router, address: gateway, expectedTTL: 64),
                check("d1", "d2", ttl: 63), check("d1", "d4", ttl: 63), check("d2", "d1", ttl: 63),
                check("d3", "d2", ttl: 63), check("d3", "d4", ttl: 63), check("d4", "d1", ttl: 63),
                check("d1", "d3", ttl: 64), check("d2", "d4", ttl: 64), check("c1", "c2", ttl: 64),
            ]
        }
    }
}
