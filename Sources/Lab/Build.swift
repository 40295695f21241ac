// How the network is made and taken away: what a person would do with `ip netns` and `ip link`.

import Kernel
import Packets
import Router
import SystemPackage

/// The lab's namespaces, as `ip netns list` shows them.
public enum LabNamespace {
    private static let prefix = "vrouter-lab-"

    /// Of a host, a container or the switch.
    public static func name(_ host: String) -> String { prefix + host }

    /// Those that there are now.
    static var present: [String] { Topology.article.names.map(name).filter(Namespace.exists) }

    /// Deletes all of them, and with them every interface of the lab. Programs that still run there are ended.
    static func deleteAll() throws(Failure) {
        let doomed = present
        Namespace.endProcesses(in: doomed)
        for name in doomed {
            // The router's notes are about a namespace that ends. One that cannot be entered has none.
            _ = try? Namespace.run(in: name) { () throws(KernelError) in try? Router.forgetNamespace() }
            try kernel { () throws(KernelError) in try Namespace.delete(name) }
        }
    }
}

extension Topology {
    /// Makes the whole network except for the router, which is yet a host like any other.
    func build(driver: Driver) throws(Failure) {
        for name in names {
            try kernel { () throws(KernelError) in
                try Namespace.add(LabNamespace.name(name))
                try inside(name) { (socket) throws(KernelError) in try raise("lo", socket) }
            }
        }
        try kernel { () throws(KernelError) in
            try inside(Self.bridge) { (socket) throws(KernelError) in
                var batch = NetlinkBatch()
                batch.addBridge(name: Self.bridge)
                try socket.execute(batch)
                try raise(Self.bridge, socket)
            }
            for host in hosts.map(\.name) + [router] { try plugIn(host) }
        }
        for host in hosts {
            let outcome = try kernel { () throws(KernelError) in
                try Namespace.run(in: LabNamespace.name(host.name)) { () throws(KernelError) in
                    Result { () throws(Failure) in
                        try VLANInterfaces.add(host.vlans, to: Self.trunk, driver: driver)
                    }
                }
            }
            try outcome.get()
            try kernel { () throws(KernelError) in
                for container in host.containers { try add(container, on: host) }
            }
        }
    }

    /// A cable from the host's trunk interface to a port of the switch.
    private func plugIn(_ host: String) throws(KernelError) {
        try withDescriptor(Self.bridge) { (descriptor) throws(KernelError) in
            try inside(host) { (socket) throws(KernelError) in
                var batch = NetlinkBatch()
                batch.addVethPair(name: Self.trunk, peer: host, peerNamespace: descriptor)
                try socket.execute(batch)
                try raise(Self.trunk, socket)
            }
        }
        try inside(Self.bridge) { (socket) throws(KernelError) in
            let bridge = try index(of: Self.bridge, socket)
            var batch = NetlinkBatch()
            batch.setLink(.name(host), up: true, master: bridge)
            try socket.execute(batch)
        }
    }

    private func add(_ container: Container, on host: Host) throws(KernelError) {
        let parent = container.vlan.map { "\(Self.trunk).\($0)" } ?? Self.trunk
        try withDescriptor(container.name) { (descriptor) throws(KernelError) in
            try inside(host.name) { (socket) throws(KernelError) in
                var batch = NetlinkBatch()
                batch.addMacvlan(
                    name: Self.containerInterface, parent: try index(of: parent, socket), namespace: descriptor)
                try socket.execute(batch)
            }
        }
        try inside(container.name) { (socket) throws(KernelError) in
            // Three ARP requests without an answer take 0.3 s and not 3: the lab waits for some that must fail.
            try Sysctl("net/ipv4/neigh/\(Self.containerInterface)/retrans_time_ms").write("100")
            var batch = NetlinkBatch()
            batch.addAddress(
                container.address, linkIndex: try index(of: Self.containerInterface, socket),
                linkName: Self.containerInterface)
            batch.setLink(.name(Self.containerInterface), up: true)
            if let gateway = container.gateway { batch.addDefaultRoute(via: gateway) }
            try socket.execute(batch)
        }
    }

    private func raise(_ link: String, _ socket: borrowing NetlinkSocket) throws(KernelError) {
        var batch = NetlinkBatch()
        batch.setLink(.name(link), up: true)
        try socket.execute(batch)
    }

    private func index(of link: String, _ socket: borrowing NetlinkSocket) throws(KernelError) -> UInt32 {
        guard let index = try socket.links().first(where: { $0.name == link })?.index else {
            throw KernelError("look up \(link)", .noSuchFileOrDirectory, detail: "there is no such interface")
        }
        return index
    }

    private func withDescriptor(
        _ host: String, _ body: (Int32) throws(KernelError) -> Void
    ) throws(KernelError) {
        let descriptor = try Namespace.open(LabNamespace.name(host))
        defer { Namespace.close(descriptor) }
        try body(descriptor)
    }

    /// The IPv4 routes of a host, as `ip route` prints them.
    func routes(of host: String) throws(KernelError) -> [String] {
        try inside(host) { (socket) throws(KernelError) in
            let names = Dictionary(
                try socket.links().map { ($0.index, $0.name) }, uniquingKeysWith: { first, _ in first })
            return try socket.routes().filter { $0.destination.family == .v4 }.map { route in
                let destination = route.isDefault ? "default" : "\(route.destination)"
                let gateway = route.gateway.map { " via \($0)" } ?? ""
                let link = route.linkIndex.flatMap { names[$0] }.map { " dev \($0)" } ?? ""
                return destination + gateway + link
            }
        }
    }
}

/// Runs `body` in a host's namespace, with a socket that belongs to it.
private func inside<Value>(
    _ host: String, _ body: (borrowing NetlinkSocket) throws(KernelError) -> Value
) throws(KernelError) -> Value {
    try within(LabNamespace.name(host), body)
}
