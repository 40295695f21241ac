// Signals that ask a process to end, for one that has to clean up first.

import CLinux
import Synchronization

/// A request to end: Ctrl-C, `kill`, a closed terminal, a reader of the output that is gone.
public enum Interruption {
    private static let received = Atomic<Int32>(0)

    /// From now on these signals are noted, and no longer end the process by themselves. Programs that it starts are not affected.
    public static func catchSignals() {
        // The handler must find it initialized.
        received.store(0, ordering: .relaxed)
        for number in [SIGHUP, SIGINT, SIGPIPE, SIGTERM] {
            _ = CLinux.signal(number) { Interruption.received.store($0, ordering: .relaxed) }
        }
    }

    /// The last one that came; nil for none.
    public static var signal: Int32? {
        let number = received.load(ordering: .relaxed)
        return number == 0 ? nil : number
    }

    /// Ends the process by a signal, as if it had never been caught: whoever waits for the process sees why it ended.
    public static func end(by number: Int32) -> Never {
        _ = CLinux.signal(number, nil)
        raise(number)
        // It is one of those that end a process.
        while true { pause() }
    }
}
