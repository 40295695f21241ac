import CLinux
import Kernel
import SystemPackage

/// Memory that is shared with the kernel or with another process, for as long as this value lives.
@safe public struct Mapping: ~Copyable, @unchecked Sendable {
    // SAFETY: the addresses base..<base + count are mapped from init to deinit, by this value alone.
    public let base: UnsafeMutableRawPointer
    /// In octets.
    public let count: Int

    /// - Parameter file: a packet socket with a ring, a BPF array, or a file; may be closed afterwards.
    public init(_ file: FileDescriptor, count: Int, isWritable: Bool = true) throws(KernelError) {
        let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
        let base = unsafe mmap(nil, count, protection, MAP_SHARED, file.rawValue, 0)
        guard let base = unsafe base, Int(bitPattern: base) != -1 else {
            throw KernelError("map \(count) octets of memory", Errno(rawValue: vr_errno()))
        }
        unsafe self.base = unsafe base
        self.count = count
    }

    deinit {
        unsafe munmap(base, count)
    }
}
