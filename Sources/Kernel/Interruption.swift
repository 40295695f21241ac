// Signals that ask a process to end, for one that has to clean up first; and to read its configuration again.

import CLinux
import Synchronization
import SystemPackage

/// A request to end: Ctrl-C, `kill`, a closed terminal, a reader of the output that is gone.
public enum Interruption {
    private static let received = Atomic<Int32>(0)
    /// Of a service: whether it was asked to end, ever, and to read its configuration again, since it was last asked for.
    private static let isToEnd = Atomic<Bool>(false)
    private static let isToReload = Atomic<Bool>(false)
    /// The end of a pipe that a signal writes to; -1: this process is no service.
    private static let waker = Atomic<Int32>(-1)

    /// From now on these signals are noted, and no longer end the process by themselves. Programs that it starts are not affected.
    public static func catchSignals() {
        // The handler must find it initialized.
        received.store(0, ordering: .relaxed)
        guard waker.load(ordering: .relaxed) < 0 else { return }
        for number in [SIGHUP, SIGINT, SIGPIPE, SIGTERM] {
            _ = CLinux.signal(number) { Interruption.received.store($0, ordering: .relaxed) }
        }
    }

    /// The last one that came; nil for none.
    public static var signal: Int32? {
        let number = received.load(ordering: .relaxed)
        return number == 0 ? nil : number
    }

    /// The same for a service, to which SIGHUP says that its configuration has changed, and which goes on without a reader of what it
    /// logs. To be called once.
    ///
    /// - Returns: a descriptor that is readable once a signal has come, for `poll`.
    public static func catchSignalsOfService() throws(KernelError) -> Int32 {
        let ends: (readEnd: FileDescriptor, writeEnd: FileDescriptor)
        do {
            ends = try FileDescriptor.pipe()
        } catch {
            throw KernelError("make a pipe", error as? Errno ?? .ioError)
        }
        for end in [ends.readEnd, ends.writeEnd] { vr_keep_to_itself(end.rawValue) }
        received.store(0, ordering: .relaxed)
        isToEnd.store(false, ordering: .relaxed)
        isToReload.store(false, ordering: .relaxed)
        waker.store(ends.writeEnd.rawValue, ordering: .relaxed)
        for number in [SIGINT, SIGTERM] {
            _ = CLinux.signal(number) {
                Interruption.received.store($0, ordering: .relaxed)
                Interruption.isToEnd.store(true, ordering: .relaxed)
                Interruption.wake()
            }
        }
        _ = CLinux.signal(SIGHUP) { _ in
            Interruption.isToReload.store(true, ordering: .relaxed)
            Interruption.wake()
        }
        _ = CLinux.signal(SIGPIPE) { _ in }
        return ends.readEnd.rawValue
    }

    /// Whether a service was asked to end.
    public static var isServiceToEnd: Bool { isToEnd.load(ordering: .relaxed) }

    /// Whether a service was asked to read its configuration again since this was last called.
    public static func takeReload() -> Bool { isToReload.exchange(false, ordering: .relaxed) }

    public static var isReloadWaiting: Bool { isToReload.load(ordering: .relaxed) }

    /// Takes from the descriptor what signals have written.
    public static func drain(_ descriptor: Int32) {
        var octets = [UInt8](repeating: 0, count: 64)
        while unsafe read(descriptor, &octets, octets.count) > 0 {}
    }

    /// Called by a signal's handler: write(2) is one of the calls that it may make.
    private static func wake() {
        var octet: UInt8 = 0
        // A pipe that is full wakes as well. SAFETY: the octet outlives the call.
        _ = unsafe write(waker.load(ordering: .relaxed), &octet, 1)
    }

    /// Ends the process by a signal, as if it had never been caught: whoever waits for the process sees why it ended.
    public static func end(by number: Int32) -> Never {
        _ = CLinux.signal(number, nil)
        raise(number)
        // It is one of those that end a process.
        while true { pause() }
    }
}
