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

    private let name: String
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

    private static func host(_ host: String, of name: String) -> String { "\(prefix)\(name)-\(host)" }

    /// The namespace of another host of this network.
    func host(_ host: String) -> String { Self.host(host, of: name) }

    /// Makes the cable. Its ends need GRO, which gives a veth end its NAPI: XDP frames are delivered to no other.
    init(name: String) throws(Failure) {
        let wire = Self.host("wire", of: name)
        let router = Self.host("router", of: name)
        self.name = name
        self.wire = wire
        self.router = router
        (linkIndex, routerLinkIndex, routerAddress) = try kernel { () throws(KernelError) in
            for name in [wire, router] {
                try Namespace.add(name)
                try within(name) { (socket) throws(KernelError) in
                    var batch = NetlinkBatch()
                    batch.setLink(.name("lo"), up: true)
                    try socket.execute(batch)
                }
            }
            let descriptor = try Namespace.open(wire)
            defer { Namespace.close(descriptor) }
            let links = try [router, wire].map { name throws(KernelError) in
                try within(name) { (socket) throws(KernelError) in
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
    func becomeRouter(
        _ executable: String, _ datapath: Datapath, _ rules: BenchRules, flows: Int
    ) throws(Failure) {
        let arguments =
            ["up", "--parent", Self.trunk] + Self.vlans.flatMap { ["--vlan", "\($0.id)=\($0.gateway)"] }
            + rules.upArguments + datapath.upArguments(flows: flows)
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
            try within(router) { (socket) throws(KernelError) in
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

    /// The frames that the fast path has sent; 0: there is none.
    func framesByFastPath() throws(Failure) -> UInt64 {
        let status = try kernel { () throws(KernelError) in
            try Namespace.run(in: router) { () throws(KernelError) in
                Result { () throws(Failure) in try Status.read() }
            }
        }
        return try status.get().vlans.reduce(0) { $0 &+ ($1.fastPath?.sent.packets ?? 0) }
    }

    /// Starts somebody else's forwarder. It finds what it needs to know in its environment.
    func start(_ command: String) throws(KernelError) -> ChildProcess {
        try Namespace.run(in: router) { () throws(KernelError) in
            try ChildProcess(
                ["sh", "-c", command],
                environment: [
                    "TRUNK": Self.trunk, "TRUNK_MAC": "\(routerAddress)", "HOST_MAC": "\(Traffic.hostAddress)",
                    "VLAN_1": "\(Self.vlans[0].id)", "VLAN_2": "\(Self.vlans[1].id)",
                ])
        }
    }

    /// Sends a signal to every program on the router.
    func signal(_ number: Int32) throws(KernelError) {
        for process in try Namespace.processes(in: router) { ChildProcess.signal(number, to: process) }
    }

    /// Routes behind the second VLAN have 1024 addresses of their own each, from 16.0.0.0 on.
    private static let firstRouted: UInt32 = 0x1000_0000
    private static let addressesPerRoute: UInt32 = 1024
    static let mostRoutes = 1 << 20

    /// The routes with these numbers, of which the first are those of the VLANs: prefixes of /22 to /28, each by way of another host.
    func addRoutes(_ numbers: Range<Int>) throws(KernelError) {
        let last = Self.vlans[Self.vlans.count - 1]
        try within(router) { (socket) throws(KernelError) in
            let gateway = try link("\(Self.trunk).\(last.id)", socket)
            var start = numbers.lowerBound
            while start < numbers.upperBound, Interruption.signal == nil {
                let end = min(start + 10_000, numbers.upperBound)
                var batch = NetlinkBatch()
                for number in UInt32(start)..<UInt32(end) {
                    batch.addRoute(
                        to: IPPrefix(.v4(Self.routed(number)), length: 22 + Int(number % 7)),
                        via: .v4(IPv4Address(last.hosts + number % Self.hostsPerVLAN)), linkIndex: gateway.index)
                }
                try socket.execute(batch)
                start = end
            }
        }
    }

    /// The first address behind a route.
    private static func routed(_ number: UInt32) -> IPv4Address {
        IPv4Address(firstRouted + (number - UInt32(vlans.count)) * addressesPerRoute)
    }

    /// From each host of the first VLAN to each of the second, then from the next port; or, with more routes than those of the
    /// VLANs, to addresses behind them, as far apart as can be.
    static func flows(_ count: Int, routes: Int = vlans.count) -> [Traffic.Flow] {
        let added = routes - vlans.count
        return (0..<UInt32(count)).map { number in
            let pair = number % (hostsPerVLAN * hostsPerVLAN)
            let destination =
                added > 0
                ? routed(UInt32(vlans.count) + UInt32(Int(number) * added / count))
                : IPv4Address(vlans[1].hosts + pair % hostsPerVLAN)
            return Traffic.Flow(
                source: IPv4Address(vlans[0].hosts + pair / hostsPerVLAN), destination: destination,
                sourcePort: UInt16(truncatingIfNeeded: 1024 + number / (hostsPerVLAN * hostsPerVLAN)),
                vlan: vlans[0].id, destinationVLAN: vlans[1].id)
        }
    }
}

/// Runs `body` in a namespace, with a socket that belongs to it.
func within<Value>(
    _ namespace: String, _ body: (borrowing NetlinkSocket) throws(KernelError) -> Value
) throws(KernelError) -> Value {
    try Namespace.run(in: namespace) { () throws(KernelError) in try body(try NetlinkSocket()) }
}

func link(_ name: String, _ socket: borrowing NetlinkSocket) throws(KernelError) -> Link {
    guard let link = try socket.links().first(where: { $0.name == name }) else {
        throw KernelError("look up \(name)", .noSuchFileOrDirectory, detail: "there is no such interface")
    }
    return link
}
