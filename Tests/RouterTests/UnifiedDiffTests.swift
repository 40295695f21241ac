import TestSupport
import Testing

@testable import Router

@Suite struct UnifiedDiffTests {
    private func diff(_ before: String, _ after: String) -> String {
        UnifiedDiff.text(from: before, to: after, names: ("a", "b"))
    }

    @Test func asDiffPrintsIt() {
        #expect(diff("1\n2\n", "1\n2\n").isEmpty)
        #expect(diff("", "1\n2\n") == "--- a\n+++ b\n@@ -0,0 +1,2 @@\n+1\n+2\n")
        #expect(diff("1\n", "") == "--- a\n+++ b\n@@ -1,1 +0,0 @@\n-1\n")
        let numbers = (1...20).map { "\($0)\n" }
        // Eight lines between two changes are two hunks, six are one.
        #expect(
            diff(numbers.joined(), numbers.filter { $0 != "2\n" && $0 != "11\n" }.joined()) == """
                --- a
                +++ b
                @@ -1,5 +1,4 @@
                 1
                -2
                 3
                 4
                 5
                @@ -8,7 +7,6 @@
                 8
                 9
                 10
                -11
                 12
                 13
                 14

                """)
        #expect(
            diff(numbers.joined(), numbers.filter { $0 != "2\n" && $0 != "9\n" }.joined()).matches(of: #/@@ -/#).count
                == 1)
    }

    /// Applied to the first text, a diff gives the second.
    @Test func itSaysEverything() throws {
        var random = SeededGenerator(seed: 1)
        for _ in 0..<300 {
            func text() -> [String] {
                (0..<Int.random(in: 0...40, using: &random)).map { _ in "\(Int.random(in: 0...5, using: &random))" }
            }
            let before = text()
            var after = Bool.random(using: &random) ? text() : before
            if !after.isEmpty { after.remove(at: Int.random(in: after.indices, using: &random)) }
            let lines = diff(before.joined(separator: "\n"), after.joined(separator: "\n")).split(separator: "\n")
            var result: [String] = []
            var position = 0
            for line in lines.dropFirst(2) {
                if let hunk = line.wholeMatch(of: #/@@ -(\d+),(\d+) \+(\d+),(\d+) @@/#) {
                    let first = try #require(Int(hunk.1))
                    let start = hunk.2 == "0" ? first : first - 1
                    result += before[position..<start]
                    position = start
                    #expect(Int(hunk.3) == (hunk.4 == "0" ? result.count : result.count + 1))
                    continue
                }
                if line.first != "+" {
                    #expect(before[position] == line.dropFirst())
                    position += 1
                }
                if line.first != "-" { result.append(String(line.dropFirst())) }
            }
            #expect(result + before[position...] == after)
        }
    }
}
