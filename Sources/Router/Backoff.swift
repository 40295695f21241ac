/// When to put something back that somebody else undoes again and again: at once the first times, then ever more seldom. A value
/// without a clock.
struct Backoff {
    /// Times are since some beginning.
    private struct Entry {
        var repairs = 0
        var last: Duration
    }

    private var entries: [String: Entry] = [:]

    /// So often it is put back at once.
    static let patience = 3
    static let longestDelay = Duration.seconds(300)
    /// What holds for so long, or for twice the delay, is no longer fought about.
    static let quiet = Duration.seconds(60)

    /// How long to wait after so many repairs.
    static func delay(after repairs: Int) -> Duration {
        guard repairs >= patience else { return .zero }
        return min(longestDelay, .seconds(1 << min(repairs - patience, 16)))
    }

    /// When these things may be put back: at once where one of them is not fought about.
    func nextRepair(of things: [String]) -> Duration {
        things.map { thing in
            entries[thing].map { $0.last + Self.delay(after: $0.repairs) } ?? .zero
        }.min() ?? .zero
    }

    /// They have been put back.
    ///
    /// - Returns: those that have been too often, and the longest time until they are again; nil: none.
    mutating func repaired(_ things: [String], at now: Duration) -> (things: [String], delay: Duration)? {
        forget(at: now)
        var contested: [String] = []
        var longest = Duration.zero
        for thing in things {
            let repairs = (entries[thing]?.repairs ?? 0) + 1
            entries[thing] = Entry(repairs: repairs, last: now)
            let delay = Self.delay(after: repairs)
            if delay > .zero { contested.append(thing) }
            longest = max(longest, delay)
        }
        return contested.isEmpty ? nil : (contested, longest)
    }

    private mutating func forget(at now: Duration) {
        entries = entries.filter { _, entry in
            now < entry.last + max(Self.quiet, Self.delay(after: entry.repairs) * 2)
        }
    }
}
