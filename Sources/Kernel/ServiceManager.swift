// What a service is to tell its manager: sd_notify(3).

import CLinux
import SystemPackage

public enum ServiceManager {
    /// That the service does its work now. Without a manager that wants to know, nothing happens.
    public static func tellReady() {
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
        let message = Array("READY=1".utf8)
        let size = socklen_t(MemoryLayout<sockaddr_un>.size - room + octets.count)
        // SAFETY: the address has `size` octets, and is used within the call.
        _ = unsafe withUnsafePointer(to: &address) { address in
            unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe sendto(descriptor, message, message.count, 0, $0, size)
            }
        }
    }
}
