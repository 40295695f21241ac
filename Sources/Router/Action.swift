import Firewall
import Kernel
import Packets

/// One step of a plan. Each can be repeated, and each is undone by planning back.
enum Action: Hashable {
    case setSysctls([Setting])
    case commit(Ruleset)
    case deleteTable
    case changeAccepts(AcceptChanges)
    case raise([String])
    case lower([String])
    case setPromiscuous(String, Bool)
    case addClsact(String)
    case deleteClsact(String)
    case attachProgram(parent: String, Host.ProgramHook)
    case detachProgram(parent: String, Host.ProgramHook)
    case addVLANs([VLANDevice])
    case addVethGateways([VethGateway])
    case connect([VethGateway], parent: String, Host.ProgramHook)
    case disconnect([VLANID], parent: String, Host.ProgramHook)
    case setMTUs([MTUChange])
    case changeAddresses([AddressChange])
    case changeRoutes([RouteChange])
    case deleteLinks([String])
    case startFollower
    case stopFollower
    case startFastPath
    case stopFastPath(parent: String)
    case endSessions(EndedSessions)

    struct Setting: Hashable {
        var sysctl: Sysctl
        var value: String
        /// Where its interface has gone in the meantime, there is nothing to restore.
        var mayBeGone = false
    }

    /// A gateway interface of the `8021q` driver.
    struct VLANDevice: Hashable {
        var name: String
        var parent: String
        var id: VLANID
    }

    /// A gateway interface of the `ebpf` driver.
    struct VethGateway: Hashable {
        var name: String
        /// The other end, which only gives this one its carrier.
        var peer: String
        /// The kernel's smallest. Below IPv6's smallest (1280), the peer never speaks IPv6 into the VLAN; nothing else passes it.
        static let peerMTU: UInt32 = 68
        var id: VLANID
        var macAddress: MACAddress?
        var mtu: UInt32

        /// Whatever index the parent had then.
        static func isPeerName(_ name: String, _ id: VLANID) -> Bool {
            name.hasPrefix("vr") && name.hasSuffix(".\(id)")
                && UInt32(name.dropFirst(2).dropLast("\(id)".count + 1)) != nil
        }

        static func peerName(_ id: VLANID, parentIndex: UInt32) -> String { "vr\(parentIndex).\(id)" }

        /// With the parent's address, as a VLAN device has it.
        ///
        /// - Parameter mtu: nil: the parent's.
        init(name: String, id: VLANID, parent: Link, mtu: UInt32? = nil) {
            self.name = name
            peer = Self.peerName(id, parentIndex: parent.index)
            self.id = id
            macAddress = parent.macAddress
            self.mtu = mtu ?? parent.mtu
        }
    }

    struct MTUChange: Hashable {
        var link: String
        /// In octets.
        var mtu: UInt32
    }

    enum Verb: Hashable {
        case add, delete
        /// Make sure that it is there.
        case restore
    }

    struct RouteChange: Hashable {
        var verb: Verb
        var route: Configuration.StaticRoute
    }

    struct AddressChange: Hashable {
        var verb: Verb
        var address: InterfaceAddress
        var link: String
    }

    /// The commands that a person would type for the same.
    var commands: [String] {
        switch self {
        case .setSysctls(let settings): settings.map { "sysctl -w \($0.sysctl)=\($0.value)" }
        case .commit(let ruleset): ["nft -f - <<'END'\n\(ruleset.nftText)END"]
        case .deleteTable: ["nft delete table inet \(Host.tableName)"]
        case .changeAccepts(let changes): changes.commands
        case .raise(let links): links.map { "ip link set dev \($0) up" }
        case .lower(let links): links.map { "ip link set dev \($0) down" }
        case .setPromiscuous(let link, let on): ["ip link set dev \(link) promisc \(on ? "on" : "off")"]
        case .addClsact(let link): ["tc qdisc add dev \(link) clsact"]
        case .deleteClsact(let link): ["tc qdisc del dev \(link) clsact"]
        case .attachProgram(let parent, let hook): [Self.attach(VLANProgram.popName, parent, .ingress, hook)]
        case .detachProgram(let parent, .tcx):
            ["bpftool net detach tcx_ingress dev \(parent)"]
        case .detachProgram(let parent, .clsact):
            ["tc filter del dev \(parent) ingress pref \(Host.filterPreference) handle 1 bpf"]
        case .addVLANs(let devices):
            devices.map {
                "ip link add link \($0.parent) name \($0.name) group \(Host.linkGroup) type vlan id \($0.id) reorder_hdr on"
            }
        case .addVethGateways(let gateways):
            gateways.flatMap { gateway in
                [
                    "ip link add name \(gateway.name) "
                        + (gateway.macAddress.map { "address \($0) " } ?? "")
                        + "mtu \(gateway.mtu) type veth peer name \(gateway.peer) mtu \(VethGateway.peerMTU) "
                        + "group \(Host.linkGroup)",
                    "ip link set dev \(gateway.peer) up",
                ]
            }
        case .connect(let gateways, let parent, let hook):
            gateways.flatMap { gateway in
                (hook == .clsact ? ["tc qdisc add dev \(gateway.name) clsact"] : []) + [
                    Self.attach(VLANProgram.pushName, gateway.name, .egress, hook),
                    "# map vlan_ports: VLAN \(gateway.id) of \(parent) to \(gateway.name), and back",
                ]
            }
        case .disconnect(let vlans, _, _):
            vlans.map { "# map vlan_ports: no VLAN \($0)" }
        case .changeAddresses(let changes):
            changes.map { change in
                switch change.verb {
                case .add:
                    "ip address add \(change.address)\(change.address.broadcast == nil ? "" : " brd +") dev \(change.link)"
                case .restore:
                    "ip address replace \(change.address)\(change.address.broadcast == nil ? "" : " brd +") dev \(change.link)"
                case .delete: "ip address del \(change.address) dev \(change.link)"
                }
            }
        case .setMTUs(let changes): changes.map { "ip link set dev \($0.link) mtu \($0.mtu)" }
        case .changeRoutes(let changes):
            changes.map { change in
                let verb =
                    switch change.verb {
                    case .add: "add"
                    case .delete: "del"
                    case .restore: "replace"
                    }
                return "ip route \(verb) \(change.route.destination) via \(change.route.gateway)"
            }
        case .deleteLinks(let links): links.map { "ip link del dev \($0)" }
        case .startFollower: ["vrouter follow &"]
        case .stopFollower: ["kill FOLLOWER  # the `vrouter follow` of this network namespace"]
        case .startFastPath: ["vrouter forward &"]
        case .endSessions(let sessions): sessions.commands
        case .stopFastPath: ["kill FORWARDER  # the `vrouter forward` of this network namespace"]
        }
    }

    /// vlan.bpf.o stands for the compiled Sources/Kernel/BPF/vlan.bpf.c.
    private static func attach(
        _ program: String, _ link: String, _ direction: FilterHook, _ hook: Host.ProgramHook
    ) -> String {
        switch hook {
        case .tcx: "bpftool net attach tcx_\(direction) name \(program) dev \(link)  # from vlan.bpf.o"
        case .clsact:
            "tc filter add dev \(link) \(direction) pref \(Host.filterPreference) handle 1 bpf direct-action "
                + "object-file vlan.bpf.o program \(program)"
        }
    }

    /// What is being done, for a progress line.
    var summary: String {
        func count(_ number: Int, _ noun: String) -> String { "\(number) \(noun)\(number == 1 ? "" : "s")" }
        return switch self {
        case .setSysctls(let settings): "set \(count(settings.count, "kernel parameter"))"
        case .commit: "commit the ruleset"
        case .deleteTable: "delete the ruleset"
        case .changeAccepts(let changes):
            "change \(count(changes.added.count + changes.removed.count, "rule")) of other firewalls"
        case .raise(let links): "bring up \(count(links.count, "interface"))"
        case .lower(let links): "bring down \(count(links.count, "interface"))"
        case .setPromiscuous(let link, let on): "\(on ? "receive" : "no longer receive") all frames on \(link)"
        case .addClsact(let link): "add a clsact hook to \(link)"
        case .deleteClsact(let link): "delete the clsact hook of \(link)"
        case .attachProgram(let parent, _): "attach the VLAN program to \(parent)"
        case .detachProgram(let parent, _): "detach the VLAN program from \(parent)"
        case .addVLANs(let devices): "add \(count(devices.count, "VLAN interface"))"
        case .addVethGateways(let gateways): "add \(count(gateways.count, "VLAN interface"))"
        case .connect(let gateways, let parent, _): "connect \(count(gateways.count, "VLAN")) to \(parent)"
        case .disconnect(let vlans, let parent, _): "disconnect \(count(vlans.count, "VLAN")) from \(parent)"
        case .changeAddresses(let changes): "change \(changes.count) address\(changes.count == 1 ? "" : "es")"
        case .setMTUs(let changes): "set the MTU of \(count(changes.count, "interface"))"
        case .changeRoutes(let changes): "change \(count(changes.count, "route"))"
        case .deleteLinks(let links): "delete \(count(links.count, "VLAN interface"))"
        case .startFollower: "follow the parent's carrier, MTU and address"
        case .stopFollower: "no longer follow the parent"
        case .startFastPath: "start the fast path"
        case .stopFastPath: "stop the fast path"
        case .endSessions: "end the sessions that are no longer allowed"
        }
    }
}
