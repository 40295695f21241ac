// What a service is to tell its manager: sd_notify(3).

import CLinux
import SystemPackage

public enum ServiceManager {
    /// That the service does its work now, also after it has read its configuration again.
    public static func tellReady() { tell("READY=1") }

    /// That it reads its configuration again; `tellReady` follows.
    public static func tellReloading() {
        tell("RELOADING=1\nMONOTONIC_USEC=\(MonotonicClock.nanoseconds / 1000)")
    }

    /// That it ends.
    public static func tellStopping() { tell("STOPPING=1") }

    /// What it does, in a line for `systemctl status`.
    public static func tellStatus(_ line: String) { tell("STATUS=\(line)") }

    /// Whether what it writes to standard error goes to the journal, which takes a priority at the beginning of each line.
    public static var readsPriorities: Bool { ThisProcess.environment["JOURNAL_STREAM"] != nil }

    /// Without a manager that wants to know, nothing happens.
    private static func tell(_ text: String) {
        guard let path = ThisProcess.environment["NOTIFY_SOCKET"], path.hasPrefix("/") || path.hasPrefix("@") else {
            return
        }
        var address = sockaddr_un()
        address.sun_family = UInt16(AF_UNIX)
        var octets = Array(path.utf8)
        // "@" stands for the zero with which abstract names begin.
        if octets[0] == UInt8(ascii: "@") { octets[0] = 0 }
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard octets.count < room else { return }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: octets) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let message = Array(text.utf8)
        let size = socklen_t(MemoryLayout<sockaddr_un>.size - room + octets.count)
        // SAFETY: the address has `size` octets, and is used within the call.
        _ = unsafe withUnsafePointer(to: &address) { address in
            unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe sendto(descriptor, message, message.count, 0, $0, size)
            }
        }
    }
}
