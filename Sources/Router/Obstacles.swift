import Firewall
import Kernel
import Packets
import SystemPackage

/// Why the kernel has to forward although there is a fast path, in words.
struct Obstacles {
    /// Why the destination alone may not decide; connections that the kernel has let pass may be the workers' all the same.
    var ofStateless: [String] = []
    /// Why the kernel has to forward everything.
    var ofFlows: [String] = []

    /// Whether nothing is in the way.
    var isEmpty: Bool { ofStateless.isEmpty && ofFlows.isEmpty }

    static let changedTable = "the rules of the table inet \(Host.tableName) are not those that `vrouter up` has left"

    /// Whether our table is what `up` has made. Reading it takes as long as there are VLANs.
    static func isTableAsLeft(_ state: State) -> Bool {
        guard state.phase == .applied, let wanted = state.table?.fingerprint else { return true }
        return Host.readTable() == .present(fingerprint: wanted)
    }

    static func find(_ state: State, _ socket: borrowing NetlinkSocket) throws(KernelError) -> Obstacles {
        let configuration = state.configuration
        var result = Obstacles()
        var reasons: [String] = []
        if state.phase != .applied { reasons.append("a change is under way") }
        // It was valid when it was applied.
        result.ofStateless = (try? configuration.policy())?.reasonsToTrack ?? []
        if configuration.usesIPv4, try Sysctl("net/ipv4/ip_forward").read() != "1" {
            reasons.append("the host does not forward (net.ipv4.ip_forward)")
        }
        if try Sysctl("net/ipv4/conf/all/accept_local").read() == "1" {
            reasons.append("packets from the router's own addresses are accepted (net.ipv4.conf.all.accept_local)")
        }
        let rules = try socket.routingRules()
        for family in [IPFamily.v4, .v6] where !RoutingRule.areDefault(rules, family) {
            let command = family == .v4 ? "ip rule" : "ip -6 rule"
            reasons.append("routes are chosen by more than the destination (\(command))")
        }
        let chains = try Nftables().baseChains().filter(\.concernsForwarding)
        for chain in chains {
            let reason = "the chain \(chain.family) \(chain.table) \(chain.name) has a say in what is forwarded"
            // Translation is decided with the first packet of a connection; any other rule sees them all.
            if chain.type == "nat" { result.ofStateless.append(reason) } else { reasons.append(reason) }
        }
        result.ofFlows = try reasons + legacyFirewall() + trafficControl(state, socket)
        return result
    }

    private static func legacyFirewall() -> [String] {
        // Rules of iptables that are no nftables rules. The kernel does not say which, only that there are tables.
        let legacy = ["ip_tables_names", "ip6_tables_names"].flatMap { SmallFile.lines(in: "/proc/net/\($0)") }
        guard !legacy.isEmpty else { return [] }
        return ["there are rules of legacy iptables (\(Set(legacy).sorted().joined(separator: ", ")))"]
    }

    /// What somebody does with frames on their way in or out.
    private static func trafficControl(
        _ state: State, _ socket: borrowing NetlinkSocket
    ) throws(KernelError) -> [String] {
        var reasons: [String] = []
        let gateways = Set(state.configuration.vlans.map { state.configuration.interfaceName($0.id) })
        let links = try socket.links().filter { gateways.contains($0.name) || $0.index == state.parentIndex }
        let ours: Set = [VLANProgram.popName, VLANProgram.pushName, Ownership.takenName]
        let disciplines = Dictionary(grouping: try socket.queueingDisciplines(), by: \.linkIndex)
        for link in links {
            let kinds = Set((disciplines[link.index] ?? []).map(\.kind))
            for hook in [FilterHook.ingress, .egress] {
                var programs = (try TCX.programs(linkIndex: link.index, hook: hook) ?? []).map(\.name)
                if kinds.contains("clsact") {
                    programs += try socket.filters(linkIndex: link.index, hook: hook).filter { $0.handle != 0 }.map {
                        $0.programName ?? $0.kind
                    }
                }
                for program in programs where !ours.contains(program) {
                    reasons.append("traffic control on \(link.name) (\(hook)) looks at its frames: \(program)")
                }
            }
            // What the workers send goes by the trunk's own queue, but by none of a gateway's.
            if link.index != state.parentIndex, let kind = kinds.subtracting(["noqueue", "clsact"]).first {
                reasons.append("\(link.name) has a queue of its own (\(kind))")
            }
        }
        return reasons
    }
}

extension Nftables.BaseChain {
    /// Whether this is somebody else's, and sees packets that pass.
    fileprivate var concernsForwarding: Bool {
        if family == .inet, table == Host.tableName { return false }
        if ["input", "output"].contains(hook) || [.arp, .bridge].contains(family) { return false }
        // Tools leave empty chains behind, which let everything pass.
        return ruleCount > 0 || !acceptsByDefault
    }
}
