import Foundation
import Packets
import Routing
import Synchronization
import TestSupport
import Testing

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

    @Test func replacesOneTargetOnly() throws {
        var table = RouteTable()
        let texts = [
            "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.0/24", "10.1.2.128/25", "10.1.2.129/32",
        ]
        for (i, text) in texts.enumerated() { table.insert(try prefix(text), target: UInt32(i + 1)) }
        let addresses: [UInt32] = [
            0x0b00_0000, 0x0a02_0000, 0x0a01_0100, 0x0a01_0300, 0x0a01_0200, 0x0a01_0280, 0x0a01_0281,
        ]
        for (i, text) in texts.enumerated() {
            table.insert(try prefix(text), target: 100)
            let published = table.publish()
            for (k, address) in addresses.enumerated() {
                #expect(published.lookup(ipv4: address) == (k == i ? 100 : UInt32(k + 1)), "\(text)")
            }
            table.insert(try prefix(text), target: UInt32(i + 1))
        }
    }

    /// The first and last address of a prefix and their neighbours outside, for each length of both families.
    @Test(arguments: [IPFamily.v4, .v6]) func boundaries(_ family: IPFamily) {
        for length in 0...family.width {
            for octet in [0, 0x5a, 0xff] as [UInt8] {
                let address = IPAddress(octets: Array(repeating: octet, count: family.width / 8))!
                let prefix = IPPrefix(address, length: length)
                var table = RouteTable()
                table.insert(prefix, target: RouteTable.maxTarget)
                let published = table.publish()
                let first = Number(prefix.network)
                let last = Number(bits: first.bits | ones(family.width - length), family: family)
                #expect(published.lookup(first.address) == RouteTable.maxTarget)
                #expect(published.lookup(last.address) == RouteTable.maxTarget)
                if first.bits != 0 {
                    #expect(published.lookup(Number(bits: first.bits - 1, family: family).address) == 0)
                }
                if last.bits != ones(family.width) {
                    #expect(published.lookup(Number(bits: last.bits + 1, family: family).address) == 0)
                }
                let other: IPFamily = family == .v4 ? .v6 : .v4
                #expect(published.lookup(Number(bits: 0, family: other).address) == 0)
            }
        }
    }

    /// Small address ranges, so that prefixes nest and collide; the neighbours of each prefix's first and last address.
    @Test(arguments: [IPFamily.v4, .v6]) func agreesWithTheNaiveMatch(_ family: IPFamily) {
        var random = SeededGenerator(seed: family == .v4 ? 4 : 6)
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
            let addresses = (0..<50).map { _ in address() }
            let inBulk = bulk(published, addresses.map { Number($0).bits }, family)
            for (address, found) in zip(addresses, inBulk) {
                #expect(found == naive(address, routes), "\(address), turn \(turn)")
                #expect(published.lookup(address) == naive(address, routes), "\(address), turn \(turn)")
                #expect(table.match(address)?.target ?? 0 == naive(address, routes))
            }
        }
    }

    /// All addresses of a window of 12 bits, wherever it lies in the address, against an array that is painted with the
    /// prefixes in order of length.
    @Test(arguments: [IPFamily.v4, .v6]) func agreesWithPainting(_ family: IPFamily) {
        var random = SeededGenerator(seed: family == .v4 ? 14 : 16)
        let windows = family == .v4 ? Array(stride(from: 0, through: 20, by: 4)) : [0, 4, 44, 52, 60, 68, 100, 116]
        for shift in windows {
            let top = family.width - shift - 12
            let around =
                (UInt128.random(in: 0 ... .max, using: &random) & ones(family.width)) & ~(ones(12) << UInt128(shift))
            func address(_ i: Int) -> IPAddress {
                Number(bits: around | UInt128(i) << UInt128(shift), family: family).address
            }
            var table = RouteTable()
            var routes: [IPPrefix: UInt32] = [:]
            // Half of them go again, so that blocks shrink and end, too.
            for _ in 0..<400 {
                let length = Int.random(in: max(top - 6, 0)...family.width, using: &random)
                let prefix = IPPrefix(address(Int.random(in: 0..<4096, using: &random)), length: length)
                let target = UInt32.random(in: 1...RouteTable.maxTarget, using: &random)
                table.insert(prefix, target: target)
                routes[prefix] = target
            }
            for size in [400, 200, 20, 0] {
                while routes.count > size {
                    let gone = routes.keys.randomElement(using: &random)!
                    #expect(table.remove(gone) == routes.removeValue(forKey: gone))
                }
                let published = table.publish()
                var painted = Array(repeating: UInt32(0), count: 4096)
                for (prefix, target) in routes.sorted(by: { $0.key.length < $1.key.length }) {
                    let first = Number(prefix.network).bits
                    let last = first | ones(family.width - prefix.length)
                    // The window's addresses from the first one that is not below `first` to the last that is not above `last`.
                    let low = first <= around ? 0 : Int((first - around + ones(shift)) >> UInt128(shift))
                    let high = last < around ? -1 : Int(min((last - around) >> UInt128(shift), 4095))
                    if low <= high { for i in low...high { painted[i] = target } }
                }
                let found = (0..<4096).map { published.lookup(address($0)) }
                #expect(found == painted, "window at bit \(shift), \(routes.count) routes")
                let addresses = (0..<4096).map { Number(address($0)).bits }
                #expect(bulk(published, addresses, family) == painted)
                let listed = table.routes
                #expect(listed.count == routes.count)
                for (prefix, target) in listed { #expect(routes[prefix] == target) }
            }
            #expect(table.count == 0)
        }
    }

    @Test(arguments: [0, 1, 63, 64, 65, 1000]) func bulkOfAnySize(_ count: Int) throws {
        var table = RouteTable()
        table.insert(try prefix("0.0.0.0/1"), target: 1)
        table.insert(try prefix("0.0.1.0/24"), target: 2)
        table.insert(try prefix("0.0.2.7/32"), target: 3)
        table.insert(try prefix("::/121"), target: 4)
        let addresses = (0..<count).map { UInt128($0) }
        let published = table.publish()
        #expect(bulk(published, addresses, .v4) == addresses.map { published.lookup(ipv4: UInt32($0)) })
        #expect(bulk(published, addresses, .v6) == addresses.map { published.lookup(ipv6: 0, low: UInt64($0)) })
    }

    @Test func routesAreListedInOrder() throws {
        let texts = [
            "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/32", "10.128.0.0/9", "11.0.0.0/24", "255.255.255.255/32",
            "::/0", "2001:db8::/32", "2001:db8::/48", "2001:db8::1/128", "2001:db8:1::/48", "fe80::/10",
        ]
        var random = SeededGenerator(seed: 1)
        var table = RouteTable()
        for (i, text) in texts.enumerated().shuffled(using: &random) {
            table.insert(try prefix(text), target: UInt32(i + 1))
        }
        #expect(table.routes.map(\.prefix.description) == texts)
        #expect(table.routes.map(\.target) == Array(1...UInt32(texts.count)))
        let match = table.match(try #require(IPAddress("10.0.0.1")))
        #expect(match?.prefix.description == "10.0.0.0/9")
        #expect(table[IPPrefix(.v4(IPv4Address(0x0a00_0000)), length: 9)] == 3)
        #expect(table[IPPrefix(.v4(IPv4Address(0x0a00_0000)), length: 10)] == 0)
    }

    // MARK: Memory

    @Test func smallTablesAreSmall() throws {
        var table = RouteTable()
        #expect(table.publishedSize.reserved <= 1 << 20)
        for i in 1...12 { table.insert(try prefix("172.16.\(i).0/24"), target: UInt32(i)) }
        _ = table.publish()
        #expect(table.publishedSize.used < 1_100_000, "a root without routes, one with them, and a block")
    }

    /// Without readers a change needs no more memory than the one before; with one that holds on, it does.
    @Test func memoryIsUsedAgain() throws {
        var table = RouteTable()
        let changing = try prefix("192.0.2.0/24")
        func change(_ table: inout RouteTable, _ targets: ClosedRange<UInt32>) {
            for target in targets {
                table.insert(changing, target: target)
                _ = table.publish()
            }
        }
        change(&table, 1...10)
        let before = table.publishedSize.reserved
        change(&table, 11...1000)
        #expect(table.publishedSize.reserved == before)
        let held = table.publish()
        change(&table, 1001...2000)
        #expect(table.publishedSize.reserved > before)
        #expect(held.lookup(ipv4: 0xc000_0201) == 1000)
    }

    /// Threads pick up each version as workers do, while the writer goes on. In each version all routes have the same target.
    @Test func readersAreNotDisturbed() {
        let fours = (0..<64).map { i in
            IPPrefix(.v4(IPv4Address(0x0a00_0000 | UInt32(i) << 16 | UInt32(i))), length: 16 + i % 17)
        }
        let sixes = (0..<64).map { i in IPPrefix(.v6(IPv6Address(0x20 << 120 | UInt128(i) << 60)), length: 64 + i) }
        let prefixes = fours + sixes
        let shared = Shared()
        for _ in 0..<2 {
            Thread.detachNewThread {
                var seen = 0
                var table = shared.table.withLock { $0 }
                while !shared.isDone.load(ordering: .acquiring) {
                    let now = shared.generation.load(ordering: .acquiring)
                    // Not at once: until then the writer must not touch what this version has.
                    if now >= seen + 3 {
                        table = shared.table.withLock { $0 }
                        seen = now
                        shared.pickedUp.add(1, ordering: .relaxed)
                    }
                    let first = table.lookup(prefixes[0].network)
                    for prefix in prefixes where table.lookup(prefix.network) != first {
                        shared.mistakes.add(1, ordering: .relaxed)
                    }
                }
                shared.ended.signal()
            }
        }
        var table = RouteTable()
        var turn: UInt32 = 0
        while turn < 100 || shared.pickedUp.load(ordering: .relaxed) < 20 {
            turn += 1
            // Some go and come back, so that blocks of other sizes are used again.
            for prefix in prefixes where UInt32(prefix.length) % 7 == turn % 7 { table.remove(prefix) }
            for prefix in prefixes { table.insert(prefix, target: turn) }
            let published = table.publish()
            shared.table.withLock { $0 = published }
            shared.generation.add(1, ordering: .releasing)
        }
        shared.isDone.store(true, ordering: .releasing)
        for _ in 0..<2 { shared.ended.wait() }
        #expect(shared.mistakes.load(ordering: .relaxed) == 0)
    }
}

private final class Shared: Sendable {
    let table: Mutex<ForwardingTable>
    let generation = Atomic(0)
    let isDone = Atomic(false)
    let pickedUp = Atomic(0)
    let mistakes = Atomic(0)
    let ended = DispatchSemaphore(value: 0)

    init() {
        var empty = RouteTable()
        table = Mutex(empty.publish())
    }
}

/// An address as a number.
struct Number {
    var bits: UInt128
    var family: IPFamily

    init(bits: UInt128, family: IPFamily) {
        self.bits = bits
        self.family = family
    }

    init(_ address: IPAddress) {
        family = address.family
        bits =
            switch address {
            case .v4(let v4): UInt128(v4.rawValue)
            case .v6(let v6): v6.rawValue
            }
    }

    var address: IPAddress {
        family == .v4 ? .v4(IPv4Address(UInt32(truncatingIfNeeded: bits))) : .v6(IPv6Address(bits))
    }
}

func ones(_ bits: Int) -> UInt128 { bits == 0 ? 0 : UInt128.max >> UInt128(128 - bits) }

func bulk(_ table: ForwardingTable, _ addresses: [UInt128], _ family: IPFamily) -> [UInt32] {
    var targets = Array(repeating: UInt32.max, count: addresses.count)
    var span = targets.mutableSpan
    if family == .v4 {
        let addresses = addresses.map { UInt32(truncatingIfNeeded: $0) }
        table.lookup(ipv4: addresses.span, into: &span)
    } else {
        table.lookup(ipv6: addresses.span, into: &span)
    }
    return targets
}
