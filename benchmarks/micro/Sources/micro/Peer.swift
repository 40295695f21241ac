import Foundation

/// Another program that looks up the same addresses in the same routes, and is told when: it reads the files once, says "ready"
/// and on "look up TRAFFIC" answers with nanoseconds for each look-up and the sum of what it found.
final class Peer {
    let name: String
    /// Seconds to insert all routes.
    private(set) var inserting = 0.0
    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()
    private var unread = Data()

    init(_ program: String, name: String, kind: String, routes: URL, traffic: [URL]) throws {
        self.name = name
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = [kind, routes.path] + traffic.map(\.path)
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        let line = try readLine()
        guard line.count == 2, line[0] == "ready", let seconds = Double(line[1]) else {
            throw Problem("\(name): \(line.joined(separator: " "))")
        }
        inserting = seconds
    }

    deinit {
        try? input.fileHandleForWriting.close()
        process.waitUntilExit()
    }

    func ask(_ question: String) throws -> [String] {
        try input.fileHandleForWriting.write(contentsOf: Data((question + "\n").utf8))
        return try readLine()
    }

    private func readLine() throws -> [String] {
        while true {
            if let end = unread.firstIndex(of: 0x0a) {
                let line = String(decoding: unread[..<end], as: UTF8.self)
                unread.removeSubrange(...end)
                return line.split(separator: " ").map(String.init)
            }
            let more = output.fileHandleForReading.availableData
            guard !more.isEmpty else { throw Problem("\(name) has ended") }
            unread.append(more)
        }
    }
}
