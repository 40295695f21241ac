// What `vrouter bench` measures in, as a person would make it with `ip netns` and `ip link`.

import Kernel
import Packets
import Router
import SystemPackage

/// A router with one trunk, and the other end of that trunk:
///
///     namespace …-wire                          namespace …-router
///     generate ─▶ trunk ═══════════════════════ trunk  vrouter up
///       sink ◀──                                trunk.100  172.16.10.1/24
///                                               trunk.200  172.16.20.1/24
///
/// The hosts of the VLANs, .2 to .17, are addresses in the frames and permanent neighbours of the router.
struct BenchNetwork {
    static let trunk = "trunk"
    static let vlans: [(id: VLANID, gateway: String, hosts: UInt32)] = [
        (100, "172.16.10.1/24", 0xac10_0a02), (200, "172.16.20.1/24", 0xac10_1402),
    ].compactMap { vlan in VLANID(vlan.0).map { ($0, vlan.1, vlan.2) } }
    static let hostsPerVLAN: UInt32 = 16

    let wire: String
    let router: String
    /// Of the trunk, on the wire's side.
    let linkIndex: UInt32
    /// Of the same, on the router's side.
    let routerLinkIndex: UInt32
    let routerAddress: MACAddress

    private static let prefix = "vrouter-load-"
    /// Namespaces that there are now.
    static var isPresent: Bool { !present.isEmpty }
    private static var present: [String] {
        SmallFile.names(in: Namespace.directory).filter { $0.hasPrefix(prefix) }
    }

    /// Deletes all of them, with the programs that run there.
    static func deleteAll() throws(Failure) {
        let doomed = present
        Namespace.endProcesses(in: doomed)
        for name in doomed {
            // The router's notes are about a namespace that ends. One that cannot be entered has none.
            _ = try? Namespace.run(in: name) { () throws(KernelError) in try? Router.forgetNamespace() }
            try kernel { () throws(KernelError) in try Namespace.delete(name) }
        }
    }

    /// Makes the cable. Its ends need GRO, which gives a veth end its NAPI: XDP frames are delivered to no other.
    init(name: String) throws(Failure) {
        let wire = "\(Self.prefix)\(name)-wire"
        let router = "\(Self.prefix)\(name)-router"
        self.wire = wire
        self.router = router
        (linkIndex, routerLinkIndex, routerAddress) = try kernel { () throws(KernelError) in
            for name in [wire, router] {
                try Namespace.add(name)
                try inside(name) { (socket) throws(KernelError) in
                    var batch = NetlinkBatch()
                    batch.setLink(.name("lo"), up: true)
                    try socket.execute(batch)
                }
            }
            let descriptor = try Namespace.open(wire)
            defer { Namespace.close(descriptor) }
            let links = try [router, wire].map { name throws(KernelError) in
                try inside(name) { (socket) throws(KernelError) in
                    var batch = NetlinkBatch()
                    if name == router {
                        batch.addVethPair(name: Self.trunk, peer: Self.trunk, peerNamespace: descriptor)
                    }
                    batch.setLink(.name(Self.trunk), up: true)
                    try socket.execute(batch)
                    try Offload.setGRO(Self.trunk, on: true)
                    return try link(Self.trunk, socket)
                }
            }
            return (links[1].index, links[0].index, links[0].macAddress ?? MACAddress(0))
        }
    }

    /// Runs `vrouter up`, and tells the router where the hosts are.
    func becomeRouter(_ executable: String, _ datapath: Datapath, _ rules: BenchRules) throws(Failure) {
        let arguments =
            ["up", "--parent", Self.trunk] + Self.vlans.flatMap { ["--vlan", "\($0.id)=\($0.gateway)"] }
            + rules.upArguments + datapath.upArguments
        let outcome = try kernel { () throws(KernelError) in
            try Namespace.run(in: router) { () throws(KernelError) in try ChildProcess.run([executable] + arguments) }
        }
        guard outcome.status == 0 else {
            throw Failure(
                Failure.Kind(rawValue: outcome.status) ?? .software,
                "vrouter \(arguments.joined(separator: " ")) has failed with exit status \(outcome.status):\n"
                    + outcome.errors)
        }
        try kernel { () throws(KernelError) in
            try inside(router) { (socket) throws(KernelError) in
                var batch = NetlinkBatch()
                for vlan in Self.vlans {
                    let gateway = try link("\(Self.trunk).\(vlan.id)", socket)
                    for host in 0..<Self.hostsPerVLAN {
                        batch.addPermanentNeighbor(
                            .v4(IPv4Address(vlan.hosts + host)), macAddress: Traffic.hostAddress,
                            linkIndex: gateway.index, linkName: gateway.name)
                    }
                }
                try socket.execute(batch)
            }
        }
    }

    /// From each host of the first VLAN to each of the second, then from the next port.
    static func flows(_ count: Int) -> [Traffic.Flow] {
        (0..<UInt32(count)).map { number in
            let pair = number % (hostsPerVLAN * hostsPerVLAN)
            return Traffic.Flow(
                source: IPv4Address(vlans[0].hosts + pair / hostsPerVLAN),
                destination: IPv4Address(vlans[1].hosts + pair % hostsPerVLAN),
                sourcePort: UInt16(truncatingIfNeeded: 1024 + number / (hostsPerVLAN * hostsPerVLAN)),
                vlan: vlans[0].id, destinationVLAN: vlans[1].id)
        }
    }
}

/// Runs `body` in a namespace, with a socket that belongs to it.
private func inside<Value>(
    _ namespace: String, _ body: (borrowing NetlinkSocket) throws(KernelError) -> Value
) throws(KernelError) -> Value {
    try Namespace.run(in: namespace) { () throws(KernelError) in try body(try NetlinkSocket()) }
}

private func link(_ name: String, _ socket: borrowing NetlinkSocket) throws(KernelError) -> Link {
    guard let link = try socket.links().first(where: { $0.name == name }) else {
        throw KernelError("look up \(name)", .noSuchFileOrDirectory, detail: "there is no such interface")
    }
    return link
}
