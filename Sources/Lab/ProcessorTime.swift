// Who used the processors for how long.

import Kernel
import Router

/// The threads that work for a router: the kernel charges what it does for a frame to the thread that it interrupts, which is the
/// generator or one of the router's own, or, when that is much, to a ksoftirqd.
struct ProcessorTime {
    private let files: [String]

    /// - Parameter namespace: all programs in it are the router's.
    init(of namespace: String) throws(Failure) {
        let processes = try kernel { () throws(KernelError) in try Namespace.processes(in: namespace) }
        files =
            processes.flatMap { process in
                SmallFile.names(in: "/proc/\(process)/task").map { "/proc/\(process)/task/\($0)/schedstat" }
            }
            + SmallFile.names(in: "/proc").filter {
                SmallFile.lines(in: "/proc/\($0)/comm").first?.hasPrefix("ksoftirqd/") == true
            }.map { "/proc/\($0)/schedstat" }
    }

    /// In nanoseconds, until now.
    var nanoseconds: UInt64 {
        files.reduce(0) { sum, file in
            let words = SmallFile.lines(in: file).first?.split(separator: " ") ?? []
            return sum &+ (words.first.flatMap { UInt64($0) } ?? 0)
        }
    }
}
