import Kernel
import SystemPackage

/// A process of vrouter's own that runs beside the kernel for as long as the router is up: at most one of its kind in a network namespace,
/// found by the lock that it holds.
struct Companion {
    let lockPath: String

    /// The one that runs; nil: none.
    func process() throws(KernelError) -> Int32? { try ProcessLock.holder(lockPath) }

    /// Starts one and waits for it.
    ///
    /// - Parameter isReady: whether it does its work.
    func start(_ command: [String], isReady: () throws(KernelError) -> Bool) throws(KernelError) {
        try ChildProcess.startDetached(command)
        for _ in 0..<5000 {
            if try process() != nil, try isReady() { return }
            ThisProcess.sleep(milliseconds: 1)
        }
        throw KernelError("start \(command.joined(separator: " "))", .timedOut)
    }

    func stop() throws(KernelError) {
        for attempt in 0..<2000 {
            guard let process = try process() else { break }
            ChildProcess.signal(attempt < 1000 ? SignalNumber.terminate : SignalNumber.kill, to: process)
            ThisProcess.sleep(milliseconds: 1)
        }
        try SmallFile.delete(lockPath)
    }
}
