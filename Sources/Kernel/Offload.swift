// What `ethtool -K` changes.

import CLinux
import SystemPackage

public enum Offload {
    /// `ethtool -K LINK gro on`, in the calling thread's network namespace. It gives a veth end its NAPI, without which XDP frames
    /// are not delivered to it.
    public static func setGRO(_ link: String, on: Bool) throws(KernelError) {
        let operation = "switch GRO of \(link) \(on ? "on" : "off")"
        let descriptor = CLinux.socket(AF_INET, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw KernelError(operation, .last) }
        defer { CLinux.close(descriptor) }
        let status = unsafe vr_set_gro(descriptor, link, on ? 1 : 0)
        guard status == 0 else { throw KernelError(operation, Errno(rawValue: status)) }
    }
}
