import Packets

/// A network of hosts with containers on one switch, and the router between their VLANs.
public struct Topology: Sendable {
    /// A network namespace behind a macvlan interface, as `docker network create -d macvlan` makes it.
    public struct Container: Sendable {
        public let name: String
        public let address: InterfaceAddress
        /// nil: its frames have no tag.
        public let vlan: VLANID?
        public let gateway: IPAddress?
    }

    /// A host with containers on its trunk interface and on the VLAN interfaces above it.
    public struct Host: Sendable {
        public let name: String
        public let containers: [Container]

        /// Those that its containers are in, ascending.
        public var vlans: [VLANID] { Set(containers.compactMap(\.vlan)).sorted() }
    }

    /// The router's address in a VLAN.
    public struct Gateway: Sendable {
        public let vlan: VLANID
        public let address: InterfaceAddress
    }

    public let hosts: [Host]
    /// The name of the host that becomes the router.
    public let router: String
    public let gateways: [Gateway]

    /// The only interface of each host; the switch's port is named after the host.
    public static let trunk = "enp0s8"
    /// The interface of each container.
    public static let containerInterface = "eth0"
    /// The bridge, and the namespace that it is alone in.
    public static let bridge = "switch"

    /// Every name that a namespace goes by here.
    public var names: [String] {
        [Self.bridge] + hosts.map(\.name) + [router] + hosts.flatMap(\.containers).map(\.name)
    }

    func address(of name: String) -> IPAddress? {
        hosts.flatMap(\.containers).first { $0.name == name }?.address.address
    }

    /// The article's: host1 and host2 with two containers in each of VLAN 100 and VLAN 200, and those of its first experiment, c1
    /// and c2, which have no VLAN; host3 between them.
    public static let article = Topology(
        hosts: [
            Host(
                name: "host1",
                containers: [
                    Container("c1", "172.16.86.10"),
                    Container("d1", "172.16.10.10", vlan: 100, gateway: "172.16.10.1"),
                    Container("d2", "172.16.20.10", vlan: 200, gateway: "172.16.20.1"),
                ]),
            Host(
                name: "host2",
                containers: [
                    Container("c2", "172.16.86.11"),
                    Container("d3", "172.16.10.11", vlan: 100, gateway: "172.16.10.1"),
                    Container("d4", "172.16.20.11", vlan: 200, gateway: "172.16.20.1"),
                ]),
        ],
        router: "host3",
        gateways: [Gateway(100, "172.16.10.1"), Gateway(200, "172.16.20.1")])
}

// The constants above, as they are written; all subnets have 24 bits.

extension Topology.Container {
    fileprivate init(_ name: String, _ address: String, vlan: UInt16? = nil, gateway: String? = nil) {
        self.name = name
        self.address = InterfaceAddress(IPAddress(address)!, prefixLength: 24)
        self.vlan = vlan.map { VLANID($0)! }
        self.gateway = gateway.map { IPAddress($0)! }
    }
}

extension Topology.Gateway {
    fileprivate init(_ vlan: UInt16, _ address: String) {
        self.vlan = VLANID(vlan)!
        self.address = InterfaceAddress(IPAddress(address)!, prefixLength: 24)
    }
}
