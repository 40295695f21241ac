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
            bytes = try readSmallFile("/proc/sys/\(path)")
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw error
        }
        let text = String(decoding: bytes, as: UTF8.self)
        return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }

    public func write(_ value: String) throws(KernelError) {
        let operation = "set \(self)=\(value)"
        let descriptor = FileDescriptor(rawValue: unsafe vr_open_to_write("/proc/sys/\(path)"))
        guard descriptor.rawValue >= 0 else { throw KernelError(operation, .last) }
        defer { try? descriptor.close() }
        do {
            try descriptor.writeAll(Array(value.utf8))
        } catch {
            throw KernelError(operation, error as? Errno ?? .ioError)
        }
    }
}

/// A file of /proc or /run, whole.
func readSmallFile(_ path: String) throws(KernelError) -> [UInt8] {
    let descriptor = FileDescriptor(rawValue: unsafe vr_open_to_read(path))
    guard descriptor.rawValue >= 0 else { throw KernelError("read \(path)", .last) }
    defer { try? descriptor.close() }
    var result: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        do {
            let count = unsafe try chunk.withUnsafeMutableBytes { unsafe try descriptor.read(into: $0) }
            guard count > 0 else { return result }
            result += chunk[..<count]
        } catch {
            throw KernelError("read \(path)", error as? Errno ?? .ioError)
        }
    }
}
