import Foundation
import Packets

/// SplitMix64: the same tables and traffic every time.
struct Repeatable: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}

/// A prefix as number and length. IPv4's numbers have 32 bits, IPv6's 128.
struct Route: Hashable {
    var network: UInt128
    var length: Int
    var target: UInt32
}

struct Routes {
    let name: String
    let width: Int
    let list: [Route]

    static let targets: ClosedRange<UInt32> = 1...1024

    /// The address ranges of Debian's tor-geoipdb, cut into prefixes; each range has a target of its own, out of 1024.
    static func real(_ width: Int) throws -> Routes {
        var random = Repeatable(state: UInt64(width))
        var list: [Route] = []
        let file = width == 32 ? "/usr/share/tor/geoip" : "/usr/share/tor/geoip6"
        for line in try String(contentsOfFile: file, encoding: .utf8).split(separator: "\n") where !line.hasPrefix("#")
        {
            let fields = line.split(separator: ",")
            guard fields.count == 3, let first = number(fields[0], width), let last = number(fields[1], width),
                first <= last
            else { throw Problem("\(file): \(line)") }
            let target = UInt32.random(in: targets, using: &random)
            var rest: UInt128? = first
            while let start = rest, start <= last {
                // The largest block that begins here and ends inside.
                var bits = min(start == 0 ? width : start.trailingZeroBitCount, width)
                while bits > 0 && (last - start) >> UInt128(bits) == 0 && last - start != ones(bits) { bits -= 1 }
                list.append(Route(network: start, length: width - bits, target: target))
                let end = start + ones(bits)
                rest = end == ones(width) ? nil : end + 1
            }
        }
        return Routes(name: "tor-geoipdb", width: width, list: list)
    }

    /// `real`, and as many of its prefixes' parts as are missing to a million: most of them /24, and none longer.
    static func million(_ real: Routes) -> Routes {
        var random = Repeatable(state: 1_000_000)
        var list = real.list
        var present = Set(list.map { UInt64($0.network) << 8 | UInt64($0.length) })
        let wholes = list.filter { (8..<24).contains($0.length) }
        while list.count < 1_000_000 {
            let whole = wholes.randomElement(using: &random)!
            let length = [24, 24, 24, 23, 22, 21, 20].randomElement(using: &random)!
            guard length > whole.length else { continue }
            let part = UInt128.random(in: 0..<1 << UInt128(length - whole.length), using: &random)
            let network = whole.network | part << UInt128(32 - length)
            guard present.insert(UInt64(network) << 8 | UInt64(length)).inserted else { continue }
            list.append(Route(network: network, length: length, target: .random(in: targets, using: &random)))
        }
        return Routes(name: "a million", width: 32, list: list)
    }

    /// A random address of a random prefix.
    func address(_ random: inout Repeatable) -> UInt128 {
        let route = list.randomElement(using: &random)!
        return route.network | UInt128.random(in: 0...ones(width - route.length), using: &random)
    }

    func prefix(_ route: Route) -> IPPrefix {
        IPPrefix(
            width == 32 ? .v4(IPv4Address(UInt32(route.network))) : .v6(IPv6Address(route.network)),
            length: route.length)
    }

    /// The octets that DIR-24-8 takes for these, with four for a next hop: 2^24 entries, and 256 for each /24 that has longer
    /// prefixes in it.
    var dir24x8: Int {
        4 * (1 << 24) + 4 * 256 * Set(list.filter { $0.length > 24 }.map { $0.network >> 8 }).count
    }
}

/// A sequence of addresses.
struct Traffic {
    let name: String
    let addresses: [UInt128]

    static let count = 1 << 20

    static func all(_ routes: Routes) -> [Traffic] {
        var random = Repeatable(state: 7)
        var result: [Traffic] = []
        if routes.width == 32 {
            result.append(
                Traffic(
                    name: "any address",
                    addresses: (0..<count).map { _ in UInt128(UInt32.random(in: 0 ... .max, using: &random)) }))
        }
        result.append(
            Traffic(name: "any prefix", addresses: (0..<count).map { _ in routes.address(&random) }))
        for (hosts, name) in [(1 << 20, "1 Mi"), (1 << 16, "64 Ki")] {
            let pool = (0..<hosts).map { _ in routes.address(&random) }
            var sums: [Double] = []
            for rank in 1...hosts { sums.append((sums.last ?? 0) + 1 / Double(rank)) }
            let addresses = (0..<count).map { _ in
                let point = Double.random(in: 0..<sums[hosts - 1], using: &random)
                var low = 0
                var high = hosts - 1
                while low < high {
                    let middle = (low + high) / 2
                    if sums[middle] > point { high = middle } else { low = middle + 1 }
                }
                return pool[low]
            }
            result.append(Traffic(name: "\(name) hosts, Zipf", addresses: addresses))
        }
        let pool = (0..<256).map { _ in routes.address(&random) }
        result.append(
            Traffic(name: "256 hosts", addresses: (0..<count).map { _ in pool.randomElement(using: &random)! }))
        return result
    }
}

struct Problem: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The lowest `bits` bits.
private func ones(_ bits: Int) -> UInt128 { bits == 0 ? 0 : UInt128.max >> UInt128(128 - bits) }

private func number(_ text: Substring, _ width: Int) -> UInt128? {
    width == 32 ? UInt32(text).map { UInt128($0) } : IPv6Address(text)?.rawValue
}
