/// Two texts as `diff -u` shows them.
enum UnifiedDiff {
    /// So many lines that are the same stand around those that are not.
    private static let context = 3

    private struct Line {
        /// As in the diff: " ", "-" or "+".
        var mark: Character
        var text: Substring
    }

    /// - Parameter names: of the two texts.
    /// - Returns: empty where they are equal.
    static func text(from before: String, to after: String, names: (String, String)) -> String {
        let lines = marked(Self.lines(before), Self.lines(after))
        let changes = lines.indices.filter { lines[$0].mark != " " }
        guard !changes.isEmpty else { return "" }
        var result = "--- \(names.0)\n+++ \(names.1)\n"
        var counted = 0
        // How many lines of each text come before.
        var position = (old: 0, new: 0)
        for group in groups(changes) {
            let range = max(counted, group.lowerBound - context)..<min(lines.count, group.upperBound + context + 1)
            // Between two hunks, the texts are the same.
            position = (position.old + range.lowerBound - counted, position.new + range.lowerBound - counted)
            counted = range.upperBound
            let old = lines[range].count { $0.mark != "+" }
            let new = lines[range].count { $0.mark != "-" }
            result += "@@ -\(span(position.old, old)) +\(span(position.new, new)) @@\n"
            for line in lines[range] { result += "\(line.mark)\(line.text)\n" }
            position = (position.old + old, position.new + new)
        }
        return result
    }

    /// The number of the first line and how many there are; where there are none, the number of the one before.
    private static func span(_ before: Int, _ count: Int) -> String { "\(count == 0 ? before : before + 1),\(count)" }

    private static func lines(_ text: String) -> [Substring] {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    /// All lines of both, in order.
    private static func marked(_ old: [Substring], _ new: [Substring]) -> [Line] {
        // What is the same at both ends needs no comparison, whose time and memory grow with the square of the changes.
        let head = zip(old, new).prefix { $0 == $1 }.count
        let tail = zip(old.dropFirst(head).reversed(), new.dropFirst(head).reversed()).prefix { $0 == $1 }.count
        let difference = new.dropFirst(head).dropLast(tail).difference(from: old.dropFirst(head).dropLast(tail))
        let removed = Set(difference.removals.map { head + $0.offset })
        let inserted = Set(difference.insertions.map { head + $0.offset })
        var lines: [Line] = []
        var next = (old: 0, new: 0)
        while next.old < old.count || next.new < new.count {
            if removed.contains(next.old) {
                lines.append(Line(mark: "-", text: old[next.old]))
                next.old += 1
            } else if inserted.contains(next.new) {
                lines.append(Line(mark: "+", text: new[next.new]))
                next.new += 1
            } else {
                lines.append(Line(mark: " ", text: old[next.old]))
                next = (next.old + 1, next.new + 1)
            }
        }
        return lines
    }

    /// Changes whose context touches stand together.
    private static func groups(_ changes: [Int]) -> [ClosedRange<Int>] {
        var groups: [ClosedRange<Int>] = []
        for change in changes {
            if let last = groups.last, change - last.upperBound <= 2 * context + 1 {
                groups[groups.count - 1] = last.lowerBound...change
            } else {
                groups.append(change...change)
            }
        }
        return groups
    }
}

extension CollectionDifference.Change {
    fileprivate var offset: Int {
        switch self {
        case .insert(let offset, _, _), .remove(let offset, _, _): offset
        }
    }
}
