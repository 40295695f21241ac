// Kernel parameters, as `sysctl` reads and writes them, of the calling thread's network namespace.

import CLinux
import SystemPackage

/// A parameter by its path below /proc/sys: `net/ipv4/ip_forward`. Paths keep the dots in names of VLAN interfaces apart.
public struct Sysctl: Hashable, Sendable, Codable, CustomStringConvertible {
    public let path: String

    public init(_ path: String) { self.path = path }

    /// As `sysctl` takes it: with dots for slashes, and slashes for the dots in an interface's name.
    public var description: String {
        String(path.map { $0 == "/" ? "." : $0 == "." ? "/" : $0 })
    }

    /// The value without its line end; nil where the kernel has no such parameter.
    public func read() throws(KernelError) -> String? {
        let bytes: [UInt8]
        do {
            bytes = try SmallFile.read("/proc/sys/\(path)")
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw error
        }
        let text = String(decoding: bytes, as: UTF8.self)
        return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }

    public func write(_ value: String) throws(KernelError) {
        do {
            let file = try FileDescriptor.open(FilePath("/proc/sys/\(path)"), .writeOnly, options: .closeOnExec)
            _ = try file.closeAfter { try file.writeAll(value.utf8) }
        } catch {
            throw KernelError("set \(self)=\(value)", error as? Errno ?? .ioError)
        }
    }
}
