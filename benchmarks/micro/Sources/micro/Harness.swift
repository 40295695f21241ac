import Foundation

/// One thing to measure, again and again. `measure` does some operations and returns the nanoseconds that each took.
struct Case {
    let name: String
    let measure: () throws -> Double
}

/// What a case took, in nanoseconds for each operation, round by round.
struct Result: Codable {
    let name: String
    let rounds: [Double]

    var median: Double { rounds.median }
}

/// Takes turns: what disturbs the machine for a while disturbs all cases.
func interleaved(_ cases: [Case], rounds: Int) throws -> [Result] {
    var times = Array(repeating: [Double](), count: cases.count)
    for _ in 0..<rounds {
        for (i, each) in cases.enumerated() { times[i].append(try each.measure()) }
    }
    return zip(cases, times).map { Result(name: $0.name, rounds: $1) }
}

/// The median of how many times as fast as `other` a case was, round by round.
func speedup(_ result: Result, over other: Result) -> Double {
    zip(result.rounds, other.rounds).map { $1 / $0 }.median
}

extension [Double] {
    var median: Double {
        let sorted = sorted()
        return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2
    }
}

/// Nanoseconds for each of `operations`, after one run that is not measured: caches are as the case itself leaves them.
/// Of this thread's time, so that what else runs on the machine is left out, but for what it does to the caches.
func timed(_ operations: Int, _ body: () -> Void) -> Double {
    body()
    let start = nanoseconds(CLOCK_THREAD_CPUTIME_ID)
    body()
    return Double(nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start) / Double(operations)
}

func nanoseconds(_ clock: clockid_t = CLOCK_MONOTONIC) -> UInt64 {
    var now = timespec()
    // SAFETY: the call writes one timespec.
    unsafe clock_gettime(clock, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// A table in Markdown; numbers to the right.
func table(_ header: [String], _ rows: [[String]]) -> String {
    let rule = header.indices.map { $0 == 0 ? "---" : "---:" }
    return ([header, rule] + rows).map { "| " + $0.joined(separator: " | ") + " |" }.joined(separator: "\n")
}

extension Double {
    func text(_ digits: Int = 2) -> String { String(format: "%.\(digits)f", self) }
}
