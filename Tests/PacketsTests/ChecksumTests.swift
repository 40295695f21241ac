import Packets
import TestSupport
import Testing

/// The definition (RFC 1071 §1), word by word.
private func naive(_ octets: [UInt8]) -> UInt16 {
    var sum: UInt32 = 0
    for index in stride(from: 0, to: octets.count, by: 2) {
        sum += UInt32(octets[index]) << 8 | (index + 1 < octets.count ? UInt32(octets[index + 1]) : 0)
        if sum > 0xffff { sum -= 0xffff }
    }
    return ~UInt16(sum)
}

@Suite struct ChecksumTests {
    /// RFC 1071 §3 has this example: the sum is ddf2.
    @Test func exampleOfTheRFC() {
        #expect(Checksum.of([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7].span) == ~0xddf2)
    }

    /// RFC 1624 §4 has this example, at which equation 2 fails.
    @Test func exampleOfEquation3() {
        #expect(Checksum.updated(0xdd2f, from: 0x5555, to: 0x3285) == 0x0000)
    }

    @Test func agreesWithItsDefinition() {
        var generator = SeededGenerator(seed: 1071)
        for length in 0..<600 {
            let octets = generator.octets(length)
            #expect(Checksum.of(octets.span) == naive(octets), "\(length) octets")
            let extreme = octets.map { $0 & 1 == 0 ? 0xff : $0 & 2 == 0 ? 0x00 : $0 }
            #expect(Checksum.of(extreme.span) == naive(extreme), "\(length) octets")
        }
        #expect(Checksum.of([UInt8](repeating: 0xff, count: 65536).span) == 0)
    }

    @Test func updatesAgreeWithTheFullChecksum() {
        var generator = SeededGenerator(seed: 1624)
        for _ in 0..<20_000 {
            var octets = generator.octets(20)
            let old = Checksum.of(octets.span)
            let index = 2 * Int.random(in: 0..<10, using: &generator)
            let before = UInt16(octets[index]) << 8 | UInt16(octets[index + 1])
            let after = UInt16.random(in: 0 ... .max, using: &generator)
            octets[index] = UInt8(after >> 8)
            octets[index + 1] = UInt8(after & 0xff)
            #expect(Checksum.updated(old, from: before, to: after) == Checksum.of(octets.span))
        }
    }

    /// Every checksum that a header can have, and the one (ffff) that only a sloppy sender writes; a full checksum says what comes out.
    @Test(arguments: [1, 2, 64, 128, 255] as [UInt8])
    func timeToLive(_ timeToLive: UInt8) throws {
        let header = IPv4Header(
            source: IPv4Address(0xac10_0a0a), destination: IPv4Address(0xac10_140b), transport: .udp,
            timeToLive: timeToLive)
        var octets = header.octets([])
        octets[10...11] = [0, 0]
        let sum = UInt32(~naive(octets))
        var wrong = 0
        for checksum in UInt16.min ... .max {
            // The identification that gives the header this checksum: their one's complement sum with the rest is ffff.
            let identification = (2 * 0xffff - UInt32(checksum) - sum) % 0xffff
            octets[4...5] = [UInt8(identification >> 8), UInt8(identification & 0xff)]
            octets[10...11] = [UInt8(checksum >> 8), UInt8(checksum & 0xff)]
            var after = octets
            decrement(&after)
            var expected = octets
            expected[8] = timeToLive - 1
            expected[10...11] = [0, 0]
            let full = naive(expected)
            expected[10...11] = [UInt8(full >> 8), UInt8(full & 0xff)]
            if naive(octets) != 0 || after != expected { wrong += 1 }
        }
        #expect(wrong == 0)
    }

    private func decrement(_ octets: inout [UInt8]) {
        var span = octets.mutableSpan
        span.decrementTimeToLive(ipv4At: 0)
    }
}
