import Testing

@testable import Router

/// Time is what the test says it is.
@Suite struct BackoffTests {
    @Test func delaysDoubleUpToFiveMinutes() {
        #expect([0, 1, 2].allSatisfy { Backoff.delay(after: $0) == .zero })
        #expect((3...11).map { Backoff.delay(after: $0) } == [1, 2, 4, 8, 16, 32, 64, 128, 256].map { .seconds($0) })
        #expect([12, 13, 100, .max].allSatisfy { Backoff.delay(after: $0) == .seconds(300) })
    }

    /// Undone at once each time, for an hour.
    @Test func aFightBecomesSeldom() throws {
        var backoff = Backoff()
        var now = Duration.zero
        var times: [Duration] = []
        while now < .seconds(3600) {
            times.append(now)
            let contested = backoff.repaired(["thing"], at: now)
            #expect((contested == nil) == (times.count < Backoff.patience))
            let next = backoff.nextRepair(of: ["thing"])
            #expect(contested.map { now + $0.delay == next && $0.things == ["thing"] } ?? (next <= now))
            now = max(now + .milliseconds(100), next)
        }
        // Eleven until the delay is longest, and from then on one every five minutes.
        #expect(times.count == 12 + (3600 - 511) / 300)
        #expect(times.suffix(2).last! - times.suffix(2).first! == .seconds(300))
    }

    @Test func whatNobodyFightsAboutDoesNotWait() {
        var backoff = Backoff()
        for second in 0..<5 { _ = backoff.repaired(["thing"], at: .seconds(second)) }
        #expect(backoff.nextRepair(of: ["thing"]) > .seconds(4))
        // With something else amiss, both are put back: it is one plan.
        #expect(backoff.nextRepair(of: ["thing", "another"]) == .zero)
        let both = backoff.repaired(["thing", "another"], at: .seconds(5))
        #expect(both?.things == ["thing"])
        #expect(backoff.nextRepair(of: []) == .zero)
    }

    /// A fight that is over does not count for the next one.
    @Test func whatHoldsIsForgotten() {
        var backoff = Backoff()
        for second in 0..<Backoff.patience { _ = backoff.repaired(["thing"], at: .seconds(second)) }
        #expect(backoff.repaired(["thing"], at: .seconds(30)) != nil)
        // A minute without.
        #expect(backoff.repaired(["thing"], at: .seconds(30) + Backoff.quiet) == nil)

        // After the longest delay, ten minutes.
        for _ in 0..<20 { _ = backoff.repaired(["thing"], at: .seconds(1000)) }
        #expect(backoff.repaired(["thing"], at: .seconds(1599))?.delay == Backoff.longestDelay)
        #expect(backoff.repaired(["thing"], at: .seconds(2199)) == nil)
    }
}
