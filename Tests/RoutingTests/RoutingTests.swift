import Packets
import Routing
import Testing

/// A generator that repeats: a failure can be looked at again.
struct Repeatable: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {  // SplitMix64
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}

/// What longest-prefix match means: of all prefixes that contain the address, the longest.
func naive(_ address: IPAddress, _ routes: [IPPrefix: UInt32]) -> UInt32 {
    routes.filter { $0.key.contains(address) }.max { $0.key.length < $1.key.length }?.value ?? 0
}

extension ForwardingTable {
    func lookup(_ address: IPAddress) -> UInt32 {
        switch address {
        case .v4(let v4): lookup(ipv4: v4.rawValue)
        case .v6(let v6):
            lookup(
                ipv6: UInt64(truncatingIfNeeded: v6.rawValue >> 64), low: UInt64(truncatingIfNeeded: v6.rawValue))
        }
    }
}

func prefix(_ text: String) throws -> IPPrefix { try InterfaceAddress(text).prefix }

@Suite struct RoutingTests {
    @Test func empty() {
        var table = RouteTable()
        let published = table.publish()
        #expect(published.lookup(ipv4: 0) == 0)
        #expect(published.lookup(ipv4: .max) == 0)
        #expect(published.lookup(ipv6: 0, low: 0) == 0)
        #expect(published.lookup(ipv6: .max, low: .max) == 0)
        #expect(table.count == 0)
        #expect(table.routes.isEmpty)
    }

    @Test func replacesAndRemoves() throws {
        var table = RouteTable()
        let ten = try prefix("10.0.0.0/8")
        #expect(table.insert(ten, target: 7) == 0)
        #expect(table.insert(ten, target: 8) == 7)
        #expect(table[ten] == 8)
        let before = table.publish()
        #expect(table.remove(ten) == 8)
        #expect(table.remove(ten) == 0)
        #expect(before.lookup(ipv4: 0x0a01_0203) == 8)
        #expect(table.publish().lookup(ipv4: 0x0a01_0203) == 0)
    }

    /// Small address ranges, so that prefixes nest and collide; the neighbours of each prefix's first and last address.
    @Test(arguments: [IPFamily.v4, .v6]) func agreesWithTheNaiveMatch(_ family: IPFamily) {
        var random = Repeatable(state: family == .v4 ? 4 : 6)
        var table = RouteTable()
        var routes: [IPPrefix: UInt32] = [:]
        func address() -> IPAddress {
            // Each octet is one of few, so that prefixes share paths.
            let octets = (0..<family.width / 8).map { _ in
                [0, 0, 1, 127, 128, 255].randomElement(using: &random)! as UInt8
            }
            return IPAddress(octets: octets)!
        }
        for turn in 0..<40 {
            for _ in 0..<20 {
                if Int.random(in: 0..<3, using: &random) == 0, let gone = routes.keys.randomElement(using: &random) {
                    #expect(table.remove(gone) == routes.removeValue(forKey: gone))
                } else {
                    let new = IPPrefix(address(), length: Int.random(in: 0...family.width, using: &random))
                    let target = UInt32.random(in: 1...9, using: &random)
                    #expect(table.insert(new, target: target) == routes.updateValue(target, forKey: new) ?? 0)
                }
            }
            let published = table.publish()
            #expect(table.count == routes.count)
            for _ in 0..<50 {
                let address = address()
                #expect(published.lookup(address) == naive(address, routes), "\(address), turn \(turn)")
                #expect(table.match(address)?.target ?? 0 == naive(address, routes))
            }
        }
    }
}
