// Which frames a worker of the fast path forwards (BPF/ownership.bpf.c): its programs, and the maps by which they decide.

import CBPF
import CLinux
import Packets
import SystemPackage

/// The programs and maps of one trunk. All that is here ends with this value: without it, every frame is the kernel's.
public struct Ownership: ~Copyable {
    /// What lies behind a destination address.
    public struct Destination: Hashable, Sendable {
        /// nil: what goes there is the kernel's.
        public var vlan: VLANID?
        /// IP MTU of the way out, in octets.
        public var mtu: UInt16

        public init(vlan: VLANID?, mtu: UInt16) {
            self.vlan = vlan
            self.mtu = mtu
        }

        public static let kernel = Destination(vlan: nil, mtu: 0)
    }

    /// The way in from a VLAN.
    public struct Ingress: Hashable, Sendable {
        /// IP MTU, in octets.
        public var mtu: UInt16
        /// Whether only hosts of this VLAN are to be forwarded for.
        public var checksSource: Bool
        /// Whether the destination decides where no flow does.
        public var isStateless: Bool

        public init(mtu: UInt16, checksSource: Bool, isStateless: Bool = true) {
            self.mtu = mtu
            self.checksSource = checksSource
            self.isStateless = isStateless
        }
    }

    /// Everything by which the programs decide, but for the prefixes.
    public struct Contents: Sendable {
        /// VLANs whose frames may be a worker's.
        public var ingress: [VLANID: Ingress] = [:]
        /// Looked at first.
        public var hosts: [IPAddress: Destination] = [:]
        /// By the numbers that prefixes have; number 0 is the kernel's.
        public var targets: [Destination] = []
        /// Where flows lead, by number.
        public var ways: [Destination] = []
        /// Whether there are flows.
        public var hasFlows = false

        /// Whether any prefix leads to what is not the kernel's.
        fileprivate var usesPrefixes: Bool { targets.contains { $0.vlan != nil } }

        public init() {}
    }

    /// The first worker's, whose maps are shared by all.
    private let object: BPFObject
    /// The other workers'.
    private let others: [Filter]
    /// Ends the program's place on the trunk when it is closed; nil: a filter of clsact.
    private var link: FileDescriptor? = nil
    private var contents = Contents()
    /// Prefixes that are blocked until `grant`.
    private var changed: [(IPPrefix, UInt32)] = []
    private let longestFrame: UInt32
    private let threshold: UInt32
    /// Places for flows of each family; a connection takes two.
    public let flowCount: Int
    /// Of the hash that finds them.
    public let seed: UInt64

    public static let takenName = "frame_taken"
    public static let mostWorkers = 64
    /// Of targets that prefixes can lead to; what leads to a later one is the kernel's.
    private static let mostTargets = 1 << 16
    /// Octets from one worker's heartbeat to the next one's.
    public static let heartbeatStride = 64

    /// Loads the programs; nothing is owned yet.
    ///
    /// - Parameters:
    ///   - longestFrame: that a slot of a ring takes, in octets without tag.
    ///   - threshold: from so many frames a second on, on one processor, they are the workers'.
    ///   - connections: that there is a place for, of each family.
    public init(workers: Int, longestFrame: Int, threshold: UInt32, connections: Int) throws(KernelError) {
        precondition((1...Self.mostWorkers).contains(workers))
        let places = 2 * connections * 100 / Self.percentFilled
        let buckets = UInt32(clamping: places / Self.flowsPerBucket + 1)
        let seed = UInt64.random(in: .min ... .max)
        let settings = Settings(buckets: buckets, seed: seed)
        let first = try Self.load(worker: 0, settings)
        var others: [Filter] = []
        for worker in 1..<max(1, workers) {
            others.append(
                Filter(
                    try Self.load(worker: worker, settings) { map throws(KernelError) in
                        try map.share(first.map(map.name).descriptor)
                    }))
        }
        // The one of the two that has a place where others can find it is to lead to the flows (OwnedFlowMaps).
        let taken = try first.program(Self.takenName)
        for name in OwnedFlowMaps.names {
            let map = try first.map(name).descriptor
            let status = bpf_prog_bind_map(taken.rawValue, map.rawValue, nil)
            guard status == 0 else {
                throw KernelError("bind \(name) to \(Self.takenName)", Errno(rawValue: -status))
            }
        }
        object = first
        self.others = others
        self.longestFrame = UInt32(longestFrame)
        self.threshold = threshold
        self.seed = seed
        flowCount = Int(buckets) * Self.flowsPerBucket
    }

    deinit {
        try? link?.close()
    }

    /// The programs of one worker.
    private final class Filter {
        let object: BPFObject
        init(_ object: consuming BPFObject) { self.object = object }
    }

    private struct Settings {
        var buckets: UInt32
        var seed: UInt64
    }

    private static let flowsPerBucket = 8
    /// How full the table is with as many connections as were asked for. At 77, one flow of 26,000 then finds both of its buckets full,
    /// and its connection stays with the kernel; at 83, one of 1,400. A connection has 124 octets of IPv4, 249 of IPv6.
    private static let percentFilled = 77

    private static func load(
        worker: Int, _ settings: Settings, share: (BPFMap) throws(KernelError) -> Void = { _ in }
    ) throws(KernelError) -> BPFObject {
        try BPFObject(ownershipObject, operation: "load the ownership programs") { map throws(KernelError) in
            if map.name.hasSuffix(".rodata") {
                return try map.setInitialValue(
                    UInt32(worker).nativeBytes + settings.buckets.nativeBytes + settings.seed.nativeBytes)
            }
            if map.name.hasPrefix("own_flows") { try map.setEntries(settings.buckets) }
            if map.name.hasPrefix("own_filled") { try map.setEntries(settings.buckets / 64 + 1) }
            if map.name.hasPrefix("own_counts") { try map.setEntries(settings.buckets * UInt32(flowsPerBucket)) }
            try share(map)
        }
    }

    /// The table of flows, to be mapped into memory; its entries are laid out as Forwarding/Flows.swift says. Belongs to this value.
    public func flows(_ family: IPFamily) throws(KernelError) -> FileDescriptor {
        try object.map(family == .v4 ? "own_flows4" : "own_flows6").descriptor
    }

    /// A bit for each bucket of eight entries, from the lowest bit of a word of 64 on: whether any of them is not free.
    public func filledBuckets(_ family: IPFamily) throws(KernelError) -> FileDescriptor {
        try object.map(family == .v4 ? "own_filled4" : "own_filled6").descriptor
    }

    /// Two words of 64 bits for each entry, for whoever counts.
    public func flowCounts(_ family: IPFamily) throws(KernelError) -> FileDescriptor {
        try object.map(family == .v4 ? "own_counts4" : "own_counts6").descriptor
    }

    /// Of a worker's packet socket; belongs to this value.
    public func filter(worker: Int) throws(KernelError) -> FileDescriptor {
        worker == 0 ? try object.program("frame_owned") : try others[worker - 1].object.program("frame_owned")
    }

    /// The map of heartbeats, to be mapped into memory: one UInt64 each `heartbeatStride` octets, CLOCK_MONOTONIC_COARSE in
    /// nanoseconds. Belongs to this value.
    public var heartbeats: FileDescriptor {
        get throws(KernelError) { try object.map("own_heartbeats").descriptor }
    }

    // MARK: The place on the trunk

    /// Puts the second program before all others at the trunk's ingress. On a tcx hook it goes with this process, however that
    /// ends. As a filter it stays, doing nothing, until `detach` or the next one takes its place.
    public mutating func attach(
        linkIndex: UInt32, clsactPreference preference: UInt16, socket: borrowing NetlinkSocket
    ) throws(KernelError) {
        let taken = try object.program(Self.takenName)
        guard try TCX.programs(linkIndex: linkIndex, hook: .ingress) != nil else {
            var batch = NetlinkBatch()
            batch.addProgram(
                taken, name: Self.takenName, linkIndex: linkIndex, hook: .ingress, preference: preference)
            return try socket.execute(batch)
        }
        link = try TCX.link(taken, beforeOthersOf: linkIndex, hook: .ingress)
    }

    public mutating func detach(
        linkIndex: UInt32, clsactPreference preference: UInt16, socket: borrowing NetlinkSocket
    ) throws(KernelError) {
        if let link {
            try? link.close()
            self.link = nil
        } else {
            var batch = NetlinkBatch()
            batch.deleteProgram(linkIndex: linkIndex, hook: .ingress, preference: preference)
            // The trunk may have gone, or its hook.
            try socket.execute(
                batch,
                ignoring: [
                    .noSuchFileOrDirectory, .invalidArgument, .operationNotSupportedByDevice, .noSuchAddressOrDevice,
                ])
        }
    }

    // MARK: What is owned

    /// Takes away first what is not to be owned any more.
    ///
    /// - Parameter prefixes: those that have changed since the last time, with the numbers of their targets; 0: gone.
    /// - Returns: whether there was anything.
    @discardableResult
    public mutating func withdraw(
        notIn wanted: Contents, prefixes: [(IPPrefix, UInt32)] = []
    ) throws(KernelError) -> Bool {
        var isLess = !prefixes.isEmpty
        for (vlan, ingress) in contents.ingress where wanted.ingress[vlan] != ingress {
            isLess = true
            try setIngress(vlan, nil)
            contents.ingress[vlan] = nil
        }
        for (address, destination) in contents.hosts where wanted.hosts[address] != destination {
            isLess = true
            try deleteHost(address)
            contents.hosts[address] = nil
        }
        for number in contents.targets.indices
        where number >= wanted.targets.count || wanted.targets[number] != contents.targets[number] {
            guard contents.targets[number].vlan != nil else { continue }
            isLess = true
            contents.targets[number] = .kernel
            try setTarget(number, .kernel)
        }
        for number in contents.ways.indices
        where number >= wanted.ways.count || wanted.ways[number] != contents.ways[number] {
            guard contents.ways[number].vlan != nil else { continue }
            isLess = true
            contents.ways[number] = .kernel
            try set("own_ways", UInt32(number).nativeBytes, value(.kernel))
        }
        // The kernel's, until the workers know the new way; deleted, a shorter prefix would take its place.
        for (prefix, _) in prefixes { try setPrefix(prefix, 0) }
        changed += prefixes
        return isLess
    }

    /// Then gives what is new, once the workers know it too.
    public mutating func grant(_ wanted: Contents) throws(KernelError) {
        for number in wanted.targets.indices.dropFirst() where number < Self.mostTargets {
            guard number >= contents.targets.count || contents.targets[number] != wanted.targets[number] else {
                continue
            }
            try setTarget(number, wanted.targets[number])
        }
        for number in wanted.ways.indices.dropFirst() where number < Self.mostTargets {
            guard number >= contents.ways.count || contents.ways[number] != wanted.ways[number] else { continue }
            try set("own_ways", UInt32(number).nativeBytes, value(wanted.ways[number]))
        }
        for (prefix, number) in changed {
            if number == 0 {
                try deletePrefix(prefix)
            } else if number < Self.mostTargets {
                try setPrefix(prefix, number)
            }
        }
        changed = []
        for (address, destination) in wanted.hosts where contents.hosts[address] != destination {
            try setHost(address, destination)
        }
        let before = contents
        contents = wanted
        try setControl()
        for (vlan, ingress) in wanted.ingress where before.ingress[vlan] != ingress { try setIngress(vlan, ingress) }
    }

    // MARK: The maps, laid out as in ownership.bpf.c

    private func setControl() throws(KernelError) {
        let value =
            longestFrame.nativeBytes + threshold.nativeBytes + UInt32(contents.usesPrefixes ? 1 : 0).nativeBytes
            + UInt32(contents.hasFlows ? 1 : 0).nativeBytes
        try set("own_control", UInt32(0).nativeBytes, value)
    }

    private func setIngress(_ vlan: VLANID, _ ingress: Ingress?) throws(KernelError) {
        let value =
            (ingress?.mtu ?? 0).nativeBytes + [ingress?.checksSource == true ? 1 : 0]
            + [ingress?.isStateless == true ? 1 : 0]
        try set("own_ingress", UInt32(vlan.rawValue).nativeBytes, value)
    }

    private func setHost(_ address: IPAddress, _ destination: Destination) throws(KernelError) {
        try set(address.isV4 ? "own_hosts4" : "own_hosts6", address.octets, value(destination))
    }

    private func deleteHost(_ address: IPAddress) throws(KernelError) {
        try delete(address.isV4 ? "own_hosts4" : "own_hosts6", address.octets)
    }

    private func setPrefix(_ prefix: IPPrefix, _ number: UInt32) throws(KernelError) {
        try set(prefix.family == .v4 ? "own_prefixes4" : "own_prefixes6", key(prefix), number.nativeBytes)
    }

    private func setTarget(_ number: Int, _ destination: Destination) throws(KernelError) {
        try set("own_targets", UInt32(number).nativeBytes, value(destination))
    }

    private func deletePrefix(_ prefix: IPPrefix) throws(KernelError) {
        try delete(prefix.family == .v4 ? "own_prefixes4" : "own_prefixes6", key(prefix))
    }

    private func key(_ prefix: IPPrefix) -> [UInt8] { UInt32(prefix.length).nativeBytes + prefix.network.octets }

    private func value(_ destination: Destination) -> [UInt8] {
        (destination.vlan?.rawValue ?? 0).nativeBytes + destination.mtu.nativeBytes
    }

    private func set(_ name: String, _ key: [UInt8], _ value: [UInt8]) throws(KernelError) {
        let map = try object.map(name).descriptor
        // SAFETY: keys and values have the sizes of the map's; both functions above and the program come from one layout.
        let status = unsafe key.withUnsafeBytes { key in
            unsafe value.withUnsafeBytes { value in
                unsafe bpf_map_update_elem(map.rawValue, key.baseAddress, value.baseAddress, UInt64(BPF_ANY))
            }
        }
        guard status == 0 else { throw KernelError("set an entry of \(name)", Errno(rawValue: -status)) }
    }

    private func delete(_ name: String, _ key: [UInt8]) throws(KernelError) {
        let map = try object.map(name).descriptor
        // SAFETY: as above.
        let status = unsafe key.withUnsafeBytes { unsafe bpf_map_delete_elem(map.rawValue, $0.baseAddress) }
        guard status == 0 || status == -ENOENT else {
            throw KernelError("delete an entry of \(name)", Errno(rawValue: -status))
        }
    }
}
