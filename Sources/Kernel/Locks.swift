// Locks between processes.

import CLinux
import SystemPackage

/// Only its owner can open it, or anybody could hold the lock.
private func openLockFile(_ path: String) throws(KernelError) -> FileDescriptor {
    do {
        return try FileDescriptor.open(
            FilePath(path), .readWrite, options: [.create, .closeOnExec, .noFollow],
            permissions: .init(rawValue: 0o600))
    } catch {
        throw KernelError("open \(path)", error as? Errno ?? .ioError)
    }
}

/// A lock that ends with its holder, however that ends. The file says who holds it.
public struct FileLock: ~Copyable {
    private let file: FileDescriptor

    public init(_ path: String) throws(KernelError) {
        file = try openLockFile(path)
    }

    deinit {
        try? file.close()
    }

    /// - Returns: whether the lock is now ours; then `holder` is what others read.
    public func tryLock(holder: String) -> Bool {
        guard flock(file.rawValue, LOCK_EX | LOCK_NB) == 0 else { return false }
        try? file.resize(to: 0)
        _ = try? file.writeAll(toAbsoluteOffset: 0, holder.utf8)
        return true
    }

    /// Who holds it, or held it last; empty where nobody ever did.
    public var holder: String {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe (try? file.read(fromAbsoluteOffset: 0, into: $0)) ?? 0
        }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }
}

/// A lock by which a process that runs for long is found: the kernel says who has it. It must be the only one of its file in the
/// process, as closing any descriptor of the file would give it up.
public struct ProcessLock: ~Copyable {
    private let file: FileDescriptor

    public init(_ path: String) throws(KernelError) {
        file = try openLockFile(path)
    }

    deinit {
        try? file.close()
    }

    /// - Returns: whether the lock is now this process's.
    public func tryLock() -> Bool { vr_lock_file(file.rawValue) == 0 }

    /// Writes into the file what others are to know of this process.
    public func note(_ text: String) {
        try? file.resize(to: 0)
        _ = try? file.writeAll(toAbsoluteOffset: 0, text.utf8)
    }

    /// The process that has the lock of this file; nil: none, or there is no such file.
    public static func holder(_ path: String) throws(KernelError) -> Int32? {
        let file: FileDescriptor
        do {
            file = try FileDescriptor.open(FilePath(path), .readWrite, options: [.closeOnExec, .noFollow])
        } catch {
            let errno = error as? Errno ?? .ioError
            if errno == .noSuchFileOrDirectory { return nil }
            throw KernelError("open \(path)", errno)
        }
        defer { try? file.close() }
        let holder = vr_lock_holder(file.rawValue)
        guard holder >= 0 else { throw KernelError("look at the lock \(path)", .last) }
        return holder == 0 ? nil : holder
    }
}
