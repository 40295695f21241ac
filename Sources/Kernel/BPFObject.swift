// A compiled file of Sources/*/BPF, as libbpf loads it.

import CBPF
import SystemPackage

/// Programs and maps in the kernel. They end with this value, but for what is attached or held by others.
@safe struct BPFObject: ~Copyable {
    // SAFETY: libbpf's own handle, from init to deinit.
    private let handle: OpaquePointer

    /// - Parameters:
    ///   - bytes: an ELF file.
    ///   - operation: what it is loaded for, for errors.
    ///   - prepare: called for each map before it is loaded; what it throws ends the loading.
    init(
        _ bytes: [UInt8], operation: String, prepare: (BPFMap) throws(KernelError) -> Void = { _ in }
    ) throws(KernelError) {
        // What libbpf would print is in the error that it returns.
        _ = unsafe libbpf_set_print(nil)
        let opened = unsafe bytes.withUnsafeBytes { unsafe bpf_object__open_mem($0.baseAddress, $0.count, nil) }
        guard let opened = unsafe opened else { throw KernelError(operation, .last) }
        do throws(KernelError) {
            var next = unsafe bpf_object__next_map(opened, nil)
            while let map = unsafe next {
                try prepare(unsafe BPFMap(handle: map, operation: operation))
                unsafe next = unsafe bpf_object__next_map(opened, map)
            }
            let status = unsafe bpf_object__load(opened)
            guard status == 0 else { throw KernelError(operation, Errno(rawValue: -status)) }
        } catch {
            unsafe bpf_object__close(opened)
            throw error
        }
        unsafe handle = unsafe opened
    }

    deinit {
        unsafe bpf_object__close(handle)
    }

    /// Belongs to this value. There is one, or it is a mistake of vrouter's own: names are those of the file.
    func program(_ name: String) throws(KernelError) -> FileDescriptor {
        guard let program = unsafe bpf_object__find_program_by_name(handle, name) else {
            throw KernelError("look up the program \(name)", .last)
        }
        return FileDescriptor(rawValue: unsafe bpf_program__fd(program))
    }

    /// The same for a map.
    func map(_ name: String) throws(KernelError) -> BPFMap {
        guard let map = unsafe bpf_object__find_map_by_name(handle, name) else {
            throw KernelError("look up the map \(name)", .last)
        }
        return unsafe BPFMap(handle: map, operation: "look up the map \(name)")
    }
}

/// A map of an object, which it does not outlive.
@safe struct BPFMap {
    // SAFETY: belongs to an object that is open.
    private let handle: OpaquePointer
    private let operation: String

    fileprivate init(handle: OpaquePointer, operation: String) {
        unsafe self.handle = unsafe handle
        self.operation = operation
    }

    var name: String { unsafe String(cString: bpf_map__name(handle)) }
    /// Belongs to the object.
    var descriptor: FileDescriptor { FileDescriptor(rawValue: unsafe bpf_map__fd(handle)) }
    var entries: Int { unsafe Int(bpf_map__max_entries(handle)) }
    /// In octets.
    var valueSize: Int { unsafe Int(bpf_map__value_size(handle)) }

    // MARK: Before it is loaded

    func setEntries(_ count: UInt32) throws(KernelError) { try check(unsafe bpf_map__set_max_entries(handle, count)) }

    /// Takes the place of one that is there.
    func share(_ other: FileDescriptor) throws(KernelError) {
        try check(unsafe bpf_map__reuse_fd(handle, other.rawValue))
    }

    /// - Parameter value: of the size of the map's.
    func setInitialValue(_ value: [UInt8]) throws(KernelError) {
        // SAFETY: libbpf reads as many octets as it is told, and compares that to the map's size.
        try check(unsafe value.withUnsafeBytes { unsafe bpf_map__set_initial_value(handle, $0.baseAddress, $0.count) })
    }

    private func check(_ status: Int32) throws(KernelError) {
        guard status == 0 else { throw KernelError(operation, Errno(rawValue: -status)) }
    }
}
