// Files of /proc and /run: read whole, replaced whole.

import CLinux
import SystemPackage

public enum SmallFile {
    /// - Parameter limit: what lies behind so many octets, or a few more, is not read.
    public static func read(_ path: String, atMost limit: Int = .max) throws(KernelError) -> [UInt8] {
        do {
            let file = try FileDescriptor.open(FilePath(path), .readOnly, options: .closeOnExec)
            return try file.closeAfter {
                var result: [UInt8] = []
                var chunk = [UInt8](repeating: 0, count: 16 << 10)
                while result.count < limit {
                    let count = unsafe try chunk.withUnsafeMutableBytes { unsafe try file.read(into: $0) }
                    guard count > 0 else { return result }
                    result += chunk[..<count]
                }
                return result
            }
        } catch {
            throw KernelError("read \(path)", error as? Errno ?? .ioError)
        }
    }

    /// The lines of a file that may not be there.
    public static func lines(in path: String) -> [String] {
        guard let bytes = try? read(path) else { return [] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    /// In one step: whoever reads the file sees the old content or the new one.
    public static func replace(_ path: String, with bytes: [UInt8]) throws(KernelError) {
        let temporary = "\(path).new"
        do {
            let file = try FileDescriptor.open(
                FilePath(temporary), .writeOnly, options: [.create, .truncate, .closeOnExec, .noFollow],
                permissions: .init(rawValue: 0o644))
            _ = try file.closeAfter { try file.writeAll(bytes) }
        } catch {
            throw KernelError("write \(temporary)", error as? Errno ?? .ioError)
        }
        guard unsafe rename(temporary, path) == 0 else { throw KernelError("rename \(temporary)", .last) }
    }

    /// A file that is there already is an error (EEXIST).
    public static func create(_ path: String, with bytes: [UInt8]) throws(KernelError) {
        do {
            let file = try FileDescriptor.open(
                FilePath(path), .writeOnly, options: [.create, .exclusiveCreate, .closeOnExec],
                permissions: .init(rawValue: 0o644))
            _ = try file.closeAfter { try file.writeAll(bytes) }
        } catch {
            throw KernelError("write \(path)", error as? Errno ?? .ioError)
        }
    }

    /// - Returns: whether there was one.
    @discardableResult
    public static func delete(_ path: String) throws(KernelError) -> Bool {
        if unsafe unlink(path) == 0 { return true }
        guard Errno.last == .noSuchFileOrDirectory else { throw KernelError("delete \(path)", .last) }
        return false
    }

    /// The user id of the file's owner; nil where there is no such file.
    public static func owner(_ path: String) -> UInt32? {
        let owner = unsafe vr_owner(path)
        return owner < 0 ? nil : UInt32(owner)
    }

    /// Makes a directory that only its owner writes to, unless it is there.
    public static func makeDirectory(_ path: String) { _ = unsafe mkdir(path, 0o755) }

    /// The names of the entries of a directory, sorted; empty where it cannot be read.
    public static func names(in directory: String) -> [String] {
        guard let stream = unsafe opendir(directory) else { return [] }
        defer { unsafe closedir(stream) }
        var result: [String] = []
        // SAFETY: an entry is read before the next one is asked for.
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != "." && name != ".." { result.append(name) }
        }
        return result.sorted()
    }
}
