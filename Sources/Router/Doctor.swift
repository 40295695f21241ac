import Firewall
import Kernel
import Packets
import SystemPackage

/// One thing that was looked at.
public struct Finding: Sendable, Encodable {
    public enum Severity: String, Sendable, Encodable, CaseIterable {
        case ok
        /// Good to know.
        case info
        /// Something may not work as expected.
        case warning
        /// Packets between the VLANs do not pass, or `up` cannot work.
        case blocking
    }

    /// Stable, for machines: `foreign-firewall`, `rp-filter`, …
    public var check: String
    public var severity: Severity
    public var text: String
    /// Commands, or advice where no command helps.
    public var remedy: [String]

    init(_ check: String, _ severity: Severity, _ text: String, remedy: [String] = []) {
        self.check = check
        self.severity = severity
        self.text = text
        self.remedy = remedy
    }
}

/// Answers "why does this packet not arrive?" as far as the host's own settings are the reason.
public struct Doctor {
    /// Looks at the calling thread's network namespace.
    ///
    /// - Parameters:
    ///   - configuration: what is about to be set up; nil: what is running, if anything is.
    ///   - asked: a connection to look at as well.
    public static func examine(
        _ configuration: Configuration? = nil, asked: AskedConnection? = nil
    ) throws(Failure) -> [Finding] {
        let state = try StateFile().load()
        let configuration = configuration ?? state?.configuration
        var findings: [Finding] = []
        findings.append(permissions())
        findings += kernelFeatures(configuration)

        let socket = try kernel { () throws(KernelError) in try NetlinkSocket() }
        let host = try Host.read(socket, state)
        if let state { findings += runningState(state, host) }
        findings += forwarding(configuration, host, isUp: state != nil)
        findings += reversePathFilter(configuration, host)
        findings += foreignFirewalls(configuration, isUp: state != nil)
        findings += bridgeNetfilter(host)
        findings += sizes(configuration, host)
        if let configuration { findings += unequalSizes(configuration, host) }
        let neighbors = try kernel { () throws(KernelError) in try socket.neighbors() }
        if let state { findings += blackHoles(state.configuration, host, neighbors) }
        if let asked {
            guard let configuration else {
                throw Failure(
                    .usage, "vrouter is not up here, and no configuration is given",
                    remedy: "give one with -f FILE, or with --vlan ID=ADDRESS/LENGTH")
            }
            findings += try connection(asked, configuration, host, neighbors)
        }
        findings += routes(configuration, host)
        findings += macvlanPeers(configuration, host)
        return findings
    }

    /// What keeps packets from passing although `up` has just done its work: what others have set up.
    public static func blocking(_ configuration: Configuration) throws(Failure) -> [Finding] {
        let socket = try kernel { () throws(KernelError) in try NetlinkSocket() }
        // Links and routes are all that these look at; with thousands of VLANs, the rest takes long to read.
        let host = Host(
            links: try kernel { () throws(KernelError) in try socket.links() }, addresses: [],
            routes: try kernel { () throws(KernelError) in try socket.routes() }, sysctl: { _ in nil },
            configuredInterfaces: { _ in [] }, table: .unknown)
        return (foreignFirewalls(configuration, isUp: true) + sizes(configuration, host) + routes(configuration, host))
            .filter {
                $0.severity == .blocking
            }
    }

    /// A route of the same length to a VLAN's subnet, by another way, takes its packets.
    private static func routes(_ configuration: Configuration?, _ host: Host) -> [Finding] {
        guard let configuration else { return [] }
        var owners: [IPPrefix: VLANID] = [:]
        for vlan in configuration.vlans {
            for address in vlan.addresses where !address.address.isLinkLocal { owners[address.prefix] = vlan.id }
        }
        return host.routes.compactMap { route in
            guard let id = owners[route.destination],
                route.linkIndex != host.link(configuration.interfaceName(id))?.index
            else { return nil }
            let name = route.linkIndex.flatMap(host.link(index:))?.name ?? "elsewhere"
            return Finding(
                "routes", .blocking, "\(route.destination), the subnet of VLAN \(id), is also routed by \(name)",
                remedy: ["ip route del \(route.destination) dev \(name)"])
        }
    }

    private static func permissions() -> Finding {
        Nftables.availability() == .notPermitted
            ? Finding(
                "permissions", .blocking, "not permitted to change the network, nor to see its firewall rules",
                remedy: ["sudo vrouter doctor"])
            : Finding("permissions", .ok, "permitted to change the network")
    }

    private static func kernelFeatures(_ configuration: Configuration?) -> [Finding] {
        var findings: [Finding] = []
        switch Nftables.availability() {
        case .available: findings.append(Finding("nf-tables", .ok, "the kernel takes the rules"))
        case .notPermitted: break
        case .missing(let error):
            findings.append(
                Finding(
                    "nf-tables", .blocking, "the kernel does not take the rules: \(error)",
                    remedy: ["modprobe -a nf_tables nft_ct nft_masq", "or install a kernel with CONFIG_NF_TABLES_INET"])
            )
        }
        if configuration?.flowtable == .on, case .missing(let error) = Nftables.flowtableAvailability() {
            findings.append(
                Finding(
                    "flowtable", .blocking, "the kernel has no flow tables: \(error)",
                    remedy: [
                        "write flowtable: auto, which does without", "modprobe -a nf_flow_table_inet nft_flow_offload",
                    ]))
        }
        do {
            switch try Driver.choose(nil) {
            case .ieee8021q: findings.append(Finding("vlan-driver", .ok, "the kernel has VLAN devices (8021q)"))
            case .ebpf:
                findings.append(
                    Finding(
                        "vlan-driver", .ok, "the kernel has no VLAN devices (8021q); BPF programs stand in for them"))
            }
        } catch {
            if error.kind != .notPermitted {
                findings.append(
                    Finding("vlan-driver", .blocking, error.message, remedy: error.remedy.map { [$0] } ?? []))
            }
        }
        return findings
    }

    private static func runningState(_ state: State, _ host: Host) -> [Finding] {
        if state.phase == .applying {
            return [
                Finding(
                    "state", .warning, "a change was cut short",
                    remedy: ["vrouter up … with the wanted options, or vrouter down"])
            ]
        }
        do throws(Failure) {
            let plan = try Plan(from: state, on: host, to: state.configuration)
            if plan.actions.isEmpty { return [Finding("state", .ok, "everything is as `up` left it")] }
            return [
                Finding(
                    "state", .blocking,
                    "no longer as `up` left it: \(plan.complaints.joined(separator: "; "))",
                    remedy: ["vrouter up … with the same options as before"])
            ]
        } catch {
            return [Finding("state", .blocking, error.message, remedy: error.remedy.map { [$0] } ?? [])]
        }
    }

    private static func forwarding(_ configuration: Configuration?, _ host: Host, isUp: Bool) -> [Finding] {
        let needsIPv6 = configuration?.usesIPv6 ?? false
        let switches =
            (configuration?.usesIPv4 ?? true ? [(Sysctl("net/ipv4/ip_forward"), "IPv4")] : [])
            + (needsIPv6 ? [(Sysctl("net/ipv6/conf/all/forwarding"), "IPv6")] : [])
        return switches.map { sysctl, family in
            switch (host.sysctl(sysctl), isUp) {
            case ("1", _): Finding("forwarding", .ok, "\(family) forwarding is on")
            case (nil, _):
                Finding("forwarding", .blocking, "the kernel has no \(family)", remedy: ["boot without ipv6.disable=1"])
            case (_, true):
                Finding(
                    "forwarding", .blocking, "\(family) forwarding is off: another program has switched it off",
                    remedy: ["sysctl -w \(sysctl)=1"])
            case (_, false): Finding("forwarding", .info, "\(family) forwarding is off; `vrouter up` switches it on")
            }
        }
    }

    /// The kernel takes the greater of `all` and the interface: 1, strict, 2, loose (ip-sysctl: rp_filter).
    private static func reversePathFilter(_ configuration: Configuration?, _ host: Host) -> [Finding] {
        guard let configuration else { return [] }
        let all = host.sysctl(Sysctl("net/ipv4/conf/all/rp_filter")).flatMap { Int($0) } ?? 0
        let strict = configuration.vlans.map { configuration.interfaceName($0.id) }.filter { name in
            let own = host.sysctl(Sysctl("net/ipv4/conf/\(name)/rp_filter")).flatMap { Int($0) } ?? 0
            return max(all, own) == 1
        }
        guard !strict.isEmpty else {
            return [Finding("rp-filter", .ok, "no strict reverse path filter on the gateways")]
        }
        return [
            Finding(
                "rp-filter", .info,
                "strict reverse path filter on \(strict.joined(separator: ", ")): packets from sources that are not routed back "
                    + "through the same VLAN are dropped",
                remedy: all == 1
                    ? ["sysctl -w net.ipv4.conf.all.rp_filter=2"]
                    : strict.map { "sysctl -w \(Sysctl("net/ipv4/conf/\($0)/rp_filter"))=2" })
        ]
    }

    private static let coexist = "vrouter up --coexist … with the same options as before; or by hand:"

    /// An accept in our table cannot overrule a drop in another one.
    private static func foreignFirewalls(_ configuration: Configuration?, isUp: Bool) -> [Finding] {
        let gateways = configuration.map { wanted in wanted.vlans.map { wanted.interfaceName($0.id) } } ?? []
        var findings: [Finding] = []
        do throws(KernelError) {
            let nftables = try Nftables()
            for firewall in try ForeignFirewall.all(nftables) {
                let passing = try nftables.acceptedInputs(table: firewall.chain.table, family: firewall.chain.family)
                let beginnings = passing.filter { $0.hasSuffix("*") }.map { $0.dropLast() }
                let waiting = gateways.filter { gateway in
                    !passing.contains(gateway) && !beginnings.contains { gateway.hasPrefix($0) }
                }
                if waiting.isEmpty && !gateways.isEmpty {
                    findings.append(
                        Finding(
                            "foreign-firewall", .ok,
                            "\(firewall) drops by default, and has rules that let the VLANs pass"))
                } else if let place = firewall.placeForOthers, configuration?.coexists == true, !isUp {
                    findings.append(
                        Finding(
                            "foreign-firewall", .info,
                            "\(firewall) drops by default; `vrouter up` adds rules to \(place) that let the VLANs pass")
                    )
                } else {
                    findings.append(
                        Finding(
                            "foreign-firewall", .blocking,
                            "\(firewall) drops whatever it does not accept, also between the VLANs"
                                + (firewall.chain.isOwned ? "; only its maker can change its rules" : ""),
                            remedy: (firewall.placeForOthers == nil ? [] : [Self.coexist])
                                + (waiting.isEmpty ? ["GATEWAY"] : waiting).flatMap(firewall.commandsToPass)))
                }
            }
        } catch {
            // Missing permissions and features are findings of their own.
            return []
        }
        if !SmallFile.lines(in: "/proc/net/ip_tables_names").filter({ $0 == "filter" }).isEmpty {
            findings.append(
                Finding(
                    "legacy-iptables", .warning,
                    "the filter table of legacy iptables is loaded, which nf_tables does not show",
                    remedy: ["look for a DROP or REJECT: iptables-legacy -S FORWARD"]))
        }
        if findings.isEmpty {
            findings.append(Finding("foreign-firewall", .ok, "no other firewall drops what is forwarded"))
        }
        return findings
    }

    private static func bridgeNetfilter(_ host: Host) -> [Finding] {
        let on = ["iptables", "ip6tables", "arptables"].filter {
            host.sysctl(Sysctl("net/bridge/bridge-nf-call-\($0)")) == "1"
        }
        guard !on.isEmpty else {
            return [Finding("bridge-netfilter", .ok, "bridged frames do not pass through the firewall")]
        }
        return [
            Finding(
                "bridge-netfilter", .warning,
                "br_netfilter sends frames that are only bridged through \(on.joined(separator: ", ")): a firewall may drop "
                    + "frames between hosts of one VLAN",
                remedy: on.map { "sysctl -w net.bridge.bridge-nf-call-\($0)=0" })
        ]
    }

    private static func sizes(_ configuration: Configuration?, _ host: Host) -> [Finding] {
        guard let configuration else { return [] }
        return configuration.parents.flatMap { sizes(configuration, host, of: $0) }
    }

    private static func sizes(_ configuration: Configuration, _ host: Host, of name: String) -> [Finding] {
        guard let parent = host.link(name) else {
            return [
                Finding(
                    "parent", .blocking, "there is no interface '\(name)'",
                    remedy: ["name the interface on the trunk port with --parent"])
            ]
        }
        var findings: [Finding] = []
        for vlan in configuration.vlans where configuration.parent(of: vlan) == name {
            let gateway = configuration.interfaceName(vlan.id)
            guard let mtu = host.link(gateway)?.mtu ?? vlan.mtu else { continue }
            if vlan.outer != nil, mtu + UInt32(VLANTag.length) > parent.mtu {
                findings.append(
                    Finding(
                        "mtu", .warning,
                        "packets of \(mtu) octets on \(gateway) have two tags on the trunk, of which many devices allow for one",
                        remedy: ["--mtu \(vlan.id)=\(parent.mtu - UInt32(VLANTag.length)), on its hosts as well"]))
            }
            guard mtu > parent.mtu else { continue }
            findings.append(
                Finding(
                    "mtu", .blocking,
                    "\(gateway) has MTU \(mtu), more than \(parent.name) can carry (\(parent.mtu)): ping works and "
                        + "large packets vanish",
                    remedy: [
                        "ip link set dev \(gateway) mtu \(parent.mtu)",
                        "or ip link set dev \(parent.name) mtu \(mtu)",
                    ]))
        }
        let smallest: UInt32 = configuration.usesIPv6 ? 1280 : 576
        if parent.mtu < smallest {
            findings.append(
                Finding(
                    "mtu", .blocking,
                    "\(parent.name) has MTU \(parent.mtu), less than the protocol's smallest (\(smallest))",
                    remedy: ["ip link set dev \(parent.name) mtu 1500"]))
        } else if parent.mtu < 1500 {
            findings.append(
                Finding(
                    "mtu", .warning,
                    "\(parent.name) has MTU \(parent.mtu): hosts that use 1500 depend on path MTU discovery, which ICMP filters break",
                    remedy: [
                        "ip link set dev \(parent.name) mtu 1500, where the switch carries 1500 octets and the tag"
                    ]))
        }
        return findings.isEmpty
            ? [Finding("mtu", .ok, "MTU \(parent.mtu) on \(parent.name) and its gateways")] : findings
    }

    private static func macvlanPeers(_ configuration: Configuration?, _ host: Host) -> [Finding] {
        guard let configuration else { return [] }
        return configuration.parents.compactMap { host.link($0) }.map { parent in
            Finding(
                "promiscuous", .info,
                "\(parent.name) is \(parent.isPromiscuous ? "" : "not ")promiscuous, which is enough here; hosts on the VLANs that "
                    + "run macvlan children (containers) send from several addresses on one port",
                remedy: [
                    "on such a host, if its children get no answers: ip link set dev <its trunk> promisc on",
                    "if it is a virtual machine: allow promiscuous mode and forged transmits on its port",
                ])
        }
    }
}
