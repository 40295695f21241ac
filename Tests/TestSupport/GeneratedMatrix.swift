import Firewall
import Packets

extension ZoneMatrix {
    /// Everything that one can say of some of these zones, the uplink and the router.
    public static func generated(_ zones: Set<Zone>, _ generator: inout SeededGenerator) -> ZoneMatrix {
        var matrix = ZoneMatrix()
        for name in ["printers", "off", "a-b_c"].some(&generator) {
            matrix.addressSets[name] = (0..<Int.random(in: 0...5, using: &generator)).map { _ in
                Bool.random(using: &generator)
                    ? IPPrefix(
                        .v4(IPv4Address(UInt32.random(in: 0 ... .max, using: &generator))),
                        length: Int.random(in: 8...32, using: &generator))
                    : IPPrefix(
                        .v6(IPv6Address(UInt128.random(in: 0 ... .max, using: &generator))),
                        length: Int.random(in: 16...128, using: &generator))
            }
        }
        let sets = [String?.none] + matrix.addressSets.keys.sorted().map(Optional.some)
        let all = zones.union([.vlans, .uplink, .router]).sorted()
        for from in all.some(&generator) {
            if from.hasVLANs, Bool.random(using: &generator) {
                matrix.cells.merge(ZoneMatrix.isolated(from, among: zones)) { _, new in new }
                continue
            }
            for to in all.some(&generator) where from != to || from.hasVLANs {
                matrix.cells[.init(from: from, to: to)] = treatment(sets, &generator)
            }
        }
        return matrix
    }

    private static func treatment(_ sets: [String?], _ generator: inout SeededGenerator) -> Treatment {
        var result = Treatment(Treatment.Verdict.allCases.pick(&generator))
        if result.verdict != .accept {
            result.services = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
                var service = Service(
                    Service.Transport.allCases.pick(&generator), source: sets.pick(&generator),
                    destination: sets.pick(&generator))
                if service.transport == .tcp || service.transport == .udp {
                    service.ports = [[], [53...53], [1...1, 80...443], [65535...65535]].pick(&generator)
                }
                return service
            }
        }
        if result.verdict == .accept || !result.services.isEmpty, Bool.random(using: &generator) {
            result.connectionsPerSecond = [1, 100, .max].pick(&generator)
        }
        result.isLogged = !result.isUnconditionalAccept && Bool.random(using: &generator)
        return result
    }
}

extension Array {
    /// One of them; there has to be one.
    public func pick(_ generator: inout SeededGenerator) -> Element {
        self[Int.random(in: 0..<count, using: &generator)]
    }

    /// About half of them, in order.
    public func some(_ generator: inout SeededGenerator) -> [Element] {
        filter { _ in Bool.random(using: &generator) }
    }
}
