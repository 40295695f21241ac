import Kernel

/// A `ping` that runs in a namespace: the judge that everybody knows.
/// It ends with this object at the latest.
final class Ping {
    private static let command = ["ping", "-n", "-W1"]
    /// ping(8): then it prints its statistics and ends.
    private static let interrupt: Int32 = 2
    private static let kill: Int32 = 9

    private let process: ChildProcess
    private let isEndless: Bool
    private var isWaitedFor = false

    /// One packet, with a second of patience.
    static func once(_ address: String, from namespace: String) throws(KernelError) -> Ping {
        try Ping(["-c1", address], from: namespace, isEndless: false)
    }

    /// A hundred packets a second until it is stopped; ten seconds at most, so that it does not outlive a lab that is killed.
    static func endless(_ address: String, from namespace: String) throws(KernelError) -> Ping {
        try Ping(["-i0.01", "-w10", address], from: namespace, isEndless: true)
    }

    /// - Throws: there is no `ping`.
    static func checkInstalled() throws(KernelError) { _ = try ChildProcess.run(["ping", "-V"]) }

    private init(_ arguments: [String], from namespace: String, isEndless: Bool) throws(KernelError) {
        process = try Namespace.run(in: namespace) { () throws(KernelError) in
            try ChildProcess(Self.command + arguments, environment: ["LC_ALL": "C"])
        }
        self.isEndless = isEndless
    }

    deinit {
        guard !isWaitedFor else { return }
        process.signal(Self.kill)
        _ = process.wait()
    }

    /// Waits for its end, or ends it. To be called once.
    func outcome() -> Check.Outcome {
        isWaitedFor = true
        if isEndless { process.signal(Self.interrupt) }
        return Self.parse(process.wait().output, isInterrupted: isEndless)
    }

    /// - Parameter isInterrupted: the last packets may have been on their way, and are then not counted: as many as are sent in
    ///   a tenth of a second.
    static func parse(_ output: String, isInterrupted: Bool) -> Check.Outcome {
        var outcome = Check.Outcome()
        var lastAnswered = 0
        for line in output.split(separator: "\n") {
            let words = line.split(separator: " ")
            // 64 bytes from 172.16.10.11: icmp_seq=1 ttl=64 time=0.061 ms
            if let ttl = value("ttl", in: words).flatMap({ UInt8($0) }) {
                outcome.ttl = ttl
                outcome.milliseconds = value("time", in: words).flatMap { Double($0) }
                lastAnswered = value("icmp_seq", in: words).flatMap { Int($0) } ?? lastAnswered
            }
            // 1 packets transmitted, 1 received, 0% packet loss, time 0ms
            if line.contains(" packets transmitted, "), words.count > 3 {
                outcome.sent = Int(words[0]) ?? 0
                outcome.received = Int(words[3]) ?? 0
            }
        }
        if isInterrupted, lastAnswered > 0, outcome.sent - lastAnswered <= 10 { outcome.sent = lastAnswered }
        return outcome
    }

    private static func value(_ key: String, in words: [Substring]) -> Substring? {
        words.first { $0.hasPrefix("\(key)=") }?.dropFirst(key.count + 1)
    }
}
