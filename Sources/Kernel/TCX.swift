// BPF programs on tcx hooks (Linux 6.6), which cost less than the same programs as filters of a clsact queueing discipline.

import CBPF
import CLinux
import SystemPackage

public enum TCX {
    /// BPF_TCX_INGRESS and BPF_TCX_EGRESS of linux/bpf.h, which Debian 12's headers do not have yet.
    private static func type(_ hook: FilterHook) -> bpf_attach_type { bpf_attach_type(hook == .ingress ? 46 : 47) }

    /// BPF_F_BEFORE of linux/bpf.h.
    private static let before: UInt32 = 1 << 3

    /// The programs on a hook, in the order in which they run; nil: the kernel has no tcx.
    public static func programs(linkIndex: UInt32, hook: FilterHook) throws(KernelError) -> [(
        id: UInt32, name: String
    )]? {
        // More than the kernel takes on one hook (BPF_MPROG_MAX).
        var identifiers = [UInt32](repeating: 0, count: 64)
        var count = UInt32(identifiers.count)
        // SAFETY: the kernel writes at most `count` ids.
        let status = unsafe identifiers.withUnsafeMutableBufferPointer {
            unsafe bpf_prog_query(Int32(bitPattern: linkIndex), type(hook), 0, nil, $0.baseAddress, &count)
        }
        switch -status {
        case 0: break
        case ENOENT: return []
        case EINVAL: return nil
        case let code: throw KernelError("list the programs of #\(linkIndex)", Errno(rawValue: code))
        }
        var result: [(id: UInt32, name: String)] = []
        for identifier in identifiers.prefix(Int(count)) {
            result.append((identifier, try name(ofProgram: identifier)))
        }
        return result
    }

    /// Attaches a loaded program behind those that are there. It stays for as long as the interface does.
    public static func attach(_ program: FileDescriptor, linkIndex: UInt32, hook: FilterHook) throws(KernelError) {
        let status = bpf_prog_attach_opts(
            program.rawValue, Int32(bitPattern: linkIndex), type(hook), nil)
        guard status == 0 else { throw KernelError("attach a program to #\(linkIndex)", Errno(rawValue: -status)) }
    }

    /// Attaches a loaded program before those that are there, for as long as the descriptor that comes back is open.
    static func link(
        _ program: FileDescriptor, beforeOthersOf linkIndex: UInt32, hook: FilterHook
    ) throws(KernelError) -> FileDescriptor {
        var options = unsafe bpf_link_create_opts()
        unsafe options.sz = MemoryLayout<bpf_link_create_opts>.size
        unsafe options.flags = before
        let descriptor = unsafe bpf_link_create(
            program.rawValue, Int32(bitPattern: linkIndex), type(hook), &options)
        guard descriptor >= 0 else {
            throw KernelError("attach a program to #\(linkIndex)", Errno(rawValue: -descriptor))
        }
        return FileDescriptor(rawValue: descriptor)
    }

    public static func detach(program id: UInt32, linkIndex: UInt32, hook: FilterHook) throws(KernelError) {
        let operation = "detach program \(id) from #\(linkIndex)"
        let program = bpf_prog_get_fd_by_id(id)
        guard program >= 0 else { throw KernelError(operation, Errno(rawValue: -program)) }
        defer { close(program) }
        let status = bpf_prog_detach2(program, Int32(bitPattern: linkIndex), type(hook))
        guard status == 0 else { throw KernelError(operation, Errno(rawValue: -status)) }
    }

    /// Empty where the program has gone.
    private static func name(ofProgram id: UInt32) throws(KernelError) -> String {
        let program = bpf_prog_get_fd_by_id(id)
        if program == -ENOENT { return "" }
        guard program >= 0 else { throw KernelError("look at BPF program \(id)", Errno(rawValue: -program)) }
        defer { close(program) }
        var info = bpf_prog_info()
        var size = UInt32(MemoryLayout<bpf_prog_info>.size)
        guard unsafe bpf_obj_get_info_by_fd(program, &info, &size) == 0 else { return "" }
        return unsafe withUnsafeBytes(of: info.name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
