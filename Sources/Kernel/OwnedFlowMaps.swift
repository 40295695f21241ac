// The table of flows of a fast path that another process runs (BPF/ownership.bpf.c).

import CBPF
import CLinux
import SystemPackage

/// The maps of a trunk's fast path that have its flows, for whoever only looks at them.
public struct OwnedFlowMaps: ~Copyable {
    private let descriptors: [String: FileDescriptor]
    /// Places for flows of each family.
    public let flowCount: Int

    static let names: Set<String> = [
        "own_flows4", "own_flows6", "own_filled4", "own_filled6", "own_counts4", "own_counts6",
    ]

    deinit {
        for descriptor in descriptors.values { try? descriptor.close() }
    }

    /// Belongs to this value.
    public func flows(isIPv4: Bool) throws(KernelError) -> FileDescriptor {
        try map(isIPv4 ? "own_flows4" : "own_flows6")
    }

    /// The same for which buckets have flows.
    public func filled(isIPv4: Bool) throws(KernelError) -> FileDescriptor {
        try map(isIPv4 ? "own_filled4" : "own_filled6")
    }

    /// The same for what the workers count.
    public func counts(isIPv4: Bool) throws(KernelError) -> FileDescriptor {
        try map(isIPv4 ? "own_counts4" : "own_counts6")
    }

    private func map(_ name: String) throws(KernelError) -> FileDescriptor {
        guard let descriptor = descriptors[name] else {
            throw KernelError("look up the map \(name)", .noSuchFileOrDirectory)
        }
        return descriptor
    }

    /// nil: there are no workers on this trunk.
    public static func find(
        linkIndex: UInt32, socket: borrowing NetlinkSocket
    ) throws(KernelError) -> OwnedFlowMaps? {
        var taken = try TCX.programs(linkIndex: linkIndex, hook: .ingress)?.first { $0.name == Ownership.takenName }?.id
        if taken == nil {
            taken = try socket.filters(linkIndex: linkIndex, hook: .ingress)
                .first { $0.programName == Ownership.takenName }?.programID
        }
        guard let taken else { return nil }
        return open(mapIdentifiers(ofProgram: taken))
    }

    private static func open(_ maps: [UInt32]) -> OwnedFlowMaps? {
        var descriptors: [String: FileDescriptor] = [:]
        var counted: UInt32?
        for id in maps {
            let descriptor = bpf_map_get_fd_by_id(id)
            guard descriptor >= 0 else { continue }
            var info = bpf_map_info()
            var size = UInt32(MemoryLayout<bpf_map_info>.size)
            let status = unsafe bpf_obj_get_info_by_fd(descriptor, &info, &size)
            let name = unsafe withUnsafeBytes(of: info.name) {
                unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard status == 0, names.contains(name), descriptors[name] == nil else {
                close(descriptor)
                continue
            }
            descriptors[name] = FileDescriptor(rawValue: descriptor)
            if name.hasPrefix("own_counts") { counted = info.max_entries }
        }
        let found = OwnedFlowMaps(descriptors: descriptors, flowCount: Int(counted ?? 0))
        guard found.descriptors.count == names.count else { return nil }
        return found
    }

    /// Of the maps that a program has; none where it has gone.
    private static func mapIdentifiers(ofProgram id: UInt32) -> [UInt32] {
        let program = bpf_prog_get_fd_by_id(id)
        guard program >= 0 else { return [] }
        defer { close(program) }
        // More than a program of ours has.
        var maps = [UInt32](repeating: 0, count: 64)
        var info = bpf_prog_info()
        var size = UInt32(MemoryLayout<bpf_prog_info>.size)
        let status = unsafe maps.withUnsafeMutableBufferPointer { maps in
            // SAFETY: the kernel writes at most as many ids as there is room for, within this call.
            info.nr_map_ids = UInt32(maps.count)
            info.map_ids = UInt64(UInt(bitPattern: maps.baseAddress))
            return unsafe bpf_obj_get_info_by_fd(program, &info, &size)
        }
        return status == 0 ? Array(maps.prefix(Int(info.nr_map_ids))) : []
    }
}
