import Kernel
import Packets

/// What has to hold before anything changes.
extension Planner {
    func checkParents(_ wanted: Configuration) throws(Failure) {
        let held = state.configuration.parent
        guard held == wanted.parent || state.isEmpty else {
            throw Failure(
                .usage, "vrouter routes between the VLANs of \(held) here, and not of \(wanted.parent)",
                remedy: "take that back first: vrouter down")
        }
        let carriers = wanted.carriers
        for name in wanted.parents where !carriers.contains(name) { try checkParent(name) }
        guard wanted.fastPath == nil || wanted.parents.contains(wanted.parent) else {
            throw Failure(
                .usage, "the fast path works on \(wanted.parent), which carries none of the VLANs",
                remedy: "name as the parent the interface whose VLANs it is to forward between")
        }
        for vlan in wanted.vlans where state.links.contains(vlan.id) || state.addresses[vlan.id] != nil {
            let before = [state.configuration, state.applied].compactMap { former in
                former?.vlan(vlan.id).flatMap { former?.parent(of: $0) }
            }
            guard let other = before.first(where: { $0 != wanted.parent(of: vlan) }) else { continue }
            throw Failure(
                .usage, "VLAN \(vlan.id) is on \(other) here, and cannot move to \(wanted.parent(of: vlan)) at once",
                remedy: "leave it out of one `vrouter up`, and give it with the next")
        }
    }

    private func checkParent(_ name: String) throws(Failure) {
        guard let parent = host.link(name) else {
            let names = host.links.filter(\.isEthernet).map(\.name)
            throw Failure(
                .usage, "there is no interface '\(name)'",
                remedy: names.isEmpty
                    ? "this network namespace has no Ethernet interface at all"
                    : "choose one of: \(names.joined(separator: ", "))")
        }
        guard !parent.isLoopback else {
            throw Failure(
                .usage, "\(parent.name) is the loopback interface, which carries no VLANs",
                remedy: "name the interface whose cable is a trunk")
        }
        guard parent.isEthernet else {
            throw Failure(
                .usage, "\(parent.name) is not an Ethernet interface",
                remedy: "name the interface whose cable is a trunk")
        }
        if let master = parent.masterIndex {
            throw Failure(
                .usage,
                "\(parent.name) is a port of \(host.link(index: master)?.name ?? "another interface"), which gets its frames",
                remedy: "name that one, or take \(parent.name) out of it: ip link set dev \(parent.name) nomaster")
        }
    }

    func checkLinks(_ wanted: Configuration) throws(Failure) {
        let devices = host.links.filter { $0.vlan?.etherType == 0x8100 && !$0.isLowerElsewhere }
        // The kernel has no two for the same VLAN.
        let devicesByID = Dictionary(
            devices.map { ([$0.lowerIndex ?? 0, UInt32($0.vlan?.id ?? 0)], $0) },
            uniquingKeysWith: { first, _ in first })
        for vlan in wanted.vlans {
            let name = wanted.interfaceName(vlan.id)
            guard let parent = parents[wanted.parent(of: vlan)] else { continue }
            if let twin = devicesByID[[parent.index, UInt32(vlan.id.rawValue)]]
                ?? (host.link(name) == nil ? ourLink(vlan.id) : nil),
                twin.name != name
            {
                throw Failure(
                    .usage,
                    "VLAN \(vlan.id) of \(parent.name) already has an interface with another name: \(twin.name)",
                    remedy: "rename it: ip link set dev \(twin.name) down name \(name)")
            }
            guard let link = host.link(name), !isOurs(link, vlan.id) else { continue }
            func mismatch(_ reason: String) -> Failure {
                Failure(
                    .usage, "\(name) exists and \(reason)",
                    remedy: "delete it (ip link del dev \(name)), rename it, or leave VLAN \(vlan.id) out")
            }
            guard let device = link.vlan else {
                throw mismatch("is a \(link.kind ?? "hardware interface"), not VLAN \(vlan.id) of \(parent.name)")
            }
            guard device.etherType == 0x8100, device.id == vlan.id.rawValue else {
                throw mismatch("is VLAN \(device.id)\(device.etherType == 0x8100 ? "" : " of 802.1ad"), not \(vlan.id)")
            }
            guard link.lowerIndex == parent.index, !link.isLowerElsewhere else {
                throw mismatch("is on another interface than \(parent.name)")
            }
            guard device.reordersHeader else { throw mismatch("has reorder_hdr off") }
        }
    }

    /// Whether the kernel has this route.
    func isThere(_ route: Configuration.StaticRoute) -> Bool {
        host.routes.contains { $0.destination == route.destination && $0.gateway == route.gateway }
    }

    func checkRoutes(_ wanted: Configuration) throws(Failure) {
        for route in wanted.routes where !isThere(route) {
            // Of the same metric: the one that `ip route add` gives.
            let metric: UInt32 = route.gateway.isV4 ? 0 : 1024
            let other = host.routes.first {
                $0.destination == route.destination && $0.priority == metric
                    && !state.routes.contains(
                        .init(destination: $0.destination, gateway: $0.gateway ?? route.gateway))
            }
            guard let other else { continue }
            let way = [
                other.gateway.map { "via \($0)" },
                other.linkIndex.flatMap { host.link(index: $0) }.map { "dev \($0.name)" },
            ].compactMap(\.self).joined(separator: " ")
            throw Failure(
                .usage, "the route to \(route.destination) via \(route.gateway): there is one already, \(way)",
                remedy: "leave it out, or delete that one: ip route del \(route.destination) \(way)")
        }
    }

    /// A gateway cannot send what its parent does not carry.
    func checkMTUs(_ wanted: Configuration) throws(Failure) {
        for vlan in wanted.vlans {
            guard let parent = parents[wanted.parent(of: vlan)], let mtu = vlan.mtu, mtu > parent.mtu else { continue }
            throw Failure(
                .usage, "VLAN \(vlan.id): an MTU of \(mtu) is more than \(parent.name) carries (\(parent.mtu))",
                remedy: "give at most \(parent.mtu), or where the switch carries more: "
                    + "ip link set dev \(parent.name) mtu \(mtu)")
        }
    }

    func checkAddresses(_ wanted: Configuration) throws(Failure) {
        let disabled = ["all", "default"].map { Sysctl("net/ipv6/conf/\($0)/disable_ipv6") }.first {
            host.sysctl($0) == "1"
        }
        if wanted.usesIPv6, let disabled {
            throw Failure(
                .usage, "IPv6 is switched off on this host",
                remedy: "switch it on (sysctl -w \(disabled)=0), or give no IPv6 address")
        }
        // Behind a change that was cut short, the state's configuration is no longer all that there is.
        let known = state.links.union(state.addresses.keys).union((state.configuration.vlans + wanted.vlans).map(\.id))
        let ours = Dictionary(known.map { (interfaceName($0), $0) }, uniquingKeysWith: { first, _ in first })
        var others: [IPAddress: (link: Link, value: InterfaceAddress)] = [:]
        var foreign: [(link: Link, value: InterfaceAddress)] = []
        for address in host.addresses {
            guard let link = host.link(index: address.linkIndex) else { continue }
            // An address that we gave to a gateway moves with its VLAN.
            if let id = ours[link.name], state.addresses[id]?.contains(address.value) == true { continue }
            others[address.value.address] = (link, address.value)
            if ours[link.name] == nil { foreign.append((link, address.value)) }
        }
        for vlan in wanted.vlans {
            for address in vlan.addresses where !address.address.isLinkLocal {
                if let other = others[address.address] {
                    guard other.link.name == wanted.interfaceName(vlan.id), other.value == address else {
                        throw Failure(
                            .usage,
                            "--vlan \(vlan.id)=\(address): \(other.link.name) has the address \(other.value) already",
                            remedy: "give VLAN \(vlan.id) another address, or delete that one: "
                                + "ip address del \(other.value) dev \(other.link.name)")
                    }
                }
            }
        }
        for (link, value) in foreign where !value.address.isLinkLocal {
            guard
                let vlan = wanted.vlans.first(where: { $0.addresses.contains { $0.prefix.overlaps(value.prefix) } })
            else { continue }
            throw Failure(
                .usage, "the subnet of VLAN \(vlan.id) overlaps \(value.prefix), which \(link.name) is in",
                remedy: "give VLAN \(vlan.id) a subnet of its own: packets for it would leave by \(link.name)")
        }
    }
}
