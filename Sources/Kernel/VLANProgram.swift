// The `ebpf` driver's two programs (BPF/vlan.bpf.c), and the map that tells them what to do.

import CBPF
import CLinux
import Packets
import SystemPackage

/// The map of one trunk's VLANs, shared by its programs. It lives for as long as one of them is attached.
public struct VLANPorts: ~Copyable {
    fileprivate let map: FileDescriptor
    private let processors: Int

    /// `struct port` of vlan.bpf.c, in host byte order; the kernel keeps one for each processor.
    private static let size = 24
    /// GATEWAY_KEY of vlan.bpf.c.
    private static let gatewayKey: UInt32 = 0x8000_0000

    /// Owns `map` from here on.
    fileprivate init(map: FileDescriptor) throws(KernelError) {
        // The kernel writes a value for each of them, wherever that leads: a guess would be a hole in memory.
        let count = libbpf_num_possible_cpus()
        guard count > 0 else {
            try? map.close()
            throw KernelError("count the processors", Errno(rawValue: -count))
        }
        self.map = map
        processors = Int(count)
    }

    deinit {
        try? map.close()
    }

    /// The map of a program that is attached, by the program's id.
    public init(ofProgram id: UInt32) throws(KernelError) {
        let operation = "look up the map of BPF program \(id)"
        let program = bpf_prog_get_fd_by_id(id)
        guard program >= 0 else { throw KernelError(operation, Errno(rawValue: -program)) }
        defer { close(program) }
        var identifier: UInt32 = 0
        let status = unsafe withUnsafeMutablePointer(to: &identifier) { identifier in
            // SAFETY: the kernel writes one id, for which there is room; the pointer is used within this call.
            var info = bpf_prog_info()
            info.nr_map_ids = 1
            info.map_ids = UInt64(UInt(bitPattern: identifier))
            var size = UInt32(MemoryLayout<bpf_prog_info>.size)
            return unsafe bpf_obj_get_info_by_fd(program, &info, &size)
        }
        guard status == 0 else { throw KernelError(operation, Errno(rawValue: -status)) }
        let map = bpf_map_get_fd_by_id(identifier)
        guard map >= 0 else { throw KernelError(operation, Errno(rawValue: -map)) }
        var info = bpf_map_info()
        var size = UInt32(MemoryLayout<bpf_map_info>.size)
        // Whatever the id names, no more is read from it than a port has.
        guard unsafe bpf_obj_get_info_by_fd(map, &info, &size) == 0, info.value_size == UInt32(Self.size),
            info.key_size == 4,
            info.type == BPF_MAP_TYPE_PERCPU_HASH.rawValue
        else {
            close(map)
            throw KernelError(operation, .invalidArgument, detail: "it is not vrouter's")
        }
        try self.init(map: FileDescriptor(rawValue: map))
    }

    /// Frames of this VLAN now pass between the trunk and the gateway interface. Its counters start at 0.
    public func connect(_ vlan: VLANID, gateway: UInt32, trunk: UInt32) throws(KernelError) {
        let id = UInt32(vlan.rawValue)
        try set(Self.gatewayKey | gateway, target: trunk, vlan: id)
        try set(id, target: gateway, vlan: id)
    }

    /// Frames of this VLAN are left to the rest of the host.
    public func disconnect(_ vlan: VLANID) throws(KernelError) {
        let id = UInt32(vlan.rawValue)
        guard let port = try value(id) else { return }
        try delete(id)
        try delete(Self.gatewayKey | port.target)
    }

    /// The gateway interface of a VLAN, and the frames and octets (without tag) that passed; nil: none is connected.
    public func port(_ vlan: VLANID) throws(KernelError) -> (gateway: UInt32, statistics: Link.Statistics)? {
        guard let ingress = try value(UInt32(vlan.rawValue)) else { return nil }
        var statistics = Link.Statistics()
        statistics.receivedPackets = ingress.packets
        statistics.receivedBytes = ingress.bytes
        if let egress = try value(Self.gatewayKey | ingress.target) {
            statistics.sentPackets = egress.packets
            statistics.sentBytes = egress.bytes
        }
        return (ingress.target, statistics)
    }

    /// One entry, its counters those of all processors.
    private func value(_ key: UInt32) throws(KernelError) -> (target: UInt32, packets: UInt64, bytes: UInt64)? {
        var key = key
        var values = [UInt8](repeating: 0, count: Self.size * processors)
        let status = unsafe values.withUnsafeMutableBytes {
            unsafe bpf_map_lookup_elem(map.rawValue, &key, $0.baseAddress)
        }
        if status == -ENOENT { return nil }
        guard status == 0 else { throw KernelError("look up a VLAN of the trunk", Errno(rawValue: -status)) }
        var packets: UInt64 = 0
        var bytes: UInt64 = 0
        for processor in 0..<processors {
            let value = values[(processor * Self.size)...]
            packets &+= value.load(UInt64.self, at: 8) ?? 0
            bytes &+= value.load(UInt64.self, at: 16) ?? 0
        }
        return (values[...].load(UInt32.self, at: 0) ?? 0, packets, bytes)
    }

    private func set(_ key: UInt32, target: UInt32, vlan: UInt32) throws(KernelError) {
        var key = key
        let value = target.nativeBytes + vlan.nativeBytes + [UInt8](repeating: 0, count: 16)
        let values = Array(repeating: value, count: processors).flatMap { $0 }
        let status = unsafe values.withUnsafeBytes {
            unsafe bpf_map_update_elem(map.rawValue, &key, $0.baseAddress, UInt64(BPF_ANY))
        }
        guard status == 0 else { throw KernelError("set VLAN \(vlan) of the trunk", Errno(rawValue: -status)) }
    }

    private func delete(_ key: UInt32) throws(KernelError) {
        var key = key
        let status = unsafe bpf_map_delete_elem(map.rawValue, &key)
        guard status == 0 || status == -ENOENT else {
            throw KernelError("delete a VLAN of the trunk", Errno(rawValue: -status))
        }
    }
}

/// Both programs, loaded and ready to be attached.
public struct VLANProgram: ~Copyable {
    private let object: BPFObject
    public let ports: VLANPorts
    /// For the trunk's ingress; owned by this value.
    public let pop: FileDescriptor
    /// For the gateways' egress; owned by this value.
    public let push: FileDescriptor

    public static let popName = "vlan_pop"
    public static let pushName = "vlan_push"

    /// - Parameter program: the id of a `vlan_pop` that is attached, whose map the new programs are to share.
    public init(sharingPortsOf program: UInt32? = nil) throws(KernelError) {
        let operation = "load the VLAN programs"
        let object = try BPFObject(vlanObject, operation: operation) { map throws(KernelError) in
            guard let program, map.name == Self.portsName else { return }
            let shared = try VLANPorts(ofProgram: program)
            try map.share(shared.map)
        }
        let pop = try object.program(Self.popName)
        let push = try object.program(Self.pushName)
        let own = dup(try object.map(Self.portsName).descriptor.rawValue)
        guard own >= 0 else { throw KernelError(operation, .last) }
        ports = try VLANPorts(map: FileDescriptor(rawValue: own))
        self.pop = pop
        self.push = push
        self.object = object
    }

    private static let portsName = "vlan_ports"
}
