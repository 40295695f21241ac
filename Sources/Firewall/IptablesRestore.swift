import Packets

extension Ruleset {
    /// For `iptables-restore --noflush` (`.v4`) or `ip6tables-restore --noflush` (`.v6`); nil where no gateway has a
    /// subnet of that family. Zones with a policy, uplinks by name, forwarded ports and MSS clamping are not expressed: see
    /// `beyondIptables`.
    ///
    /// iptables has no sets, so that this grows where the table does not. The two rules that let one VLAN talk to
    /// another are written out for each pair, as a person would type them, for up to `maxSpelledOut` VLANs. What they
    /// leave is decided in a chain of our own, by a few rules for each VLAN, with the same result as in `decide`.
    public func iptablesRestore(family: IPFamily) -> String? {
        guard policy.uses(family) else { return nil }
        let program = family == .v4 ? "iptables-restore" : "ip6tables-restore"
        var lines = [
            "# Load once, with \(program) --noflush: without it, all other rules in these tables are lost;",
            "# twice, and the rules in the built-in chains stand there twice. Rules that are there already come first.",
        ]
        let masquerade = family == .v4 ? policy.masquerade : policy.masqueradeIPv6
        if masquerade != .none { lines += table("nat", natRules(masquerade, family)) }
        lines += table("filter", filterRules)
        return lines.joined(separator: "\n") + "\n"
    }

    private var interfaces: [String] { policy.gateways.map(\.interface) }

    /// The built-in chains are not declared, as that would set their policies.
    private func table(_ name: String, _ rules: [String]) -> [String] {
        let usesOwnChain = rules.contains { $0.hasPrefix("-A \(ownChain) ") }
        return ["*\(name)"] + (usesOwnChain ? [":\(ownChain) - [0:0]"] : []) + rules + ["COMMIT"]
    }

    /// What iptables has no rules for here, as configuration keys.
    public var beyondIptables: [String] {
        [
            ("masquerade of zones", !policy.zoneMasquerades.isEmpty), ("policy", !ZoneRules(policy).chains.isEmpty),
            ("uplink", !policy.uplinks.isEmpty),
            ("port-forwards", !policy.portForwards.isEmpty),
            ("mss-clamp", policy.clampsMSS), ("flowtable", flowtable != nil),
        ].filter(\.1).map(\.0)
    }

    private func natRules(_ masquerade: Policy.Masquerade, _ family: IPFamily) -> [String] {
        var rules: [String] = []
        if masquerade.isBetweenVLANs {
            rules += interfaces.map { "-A POSTROUTING -o \($0) -j MASQUERADE" }
        }
        if masquerade == .uplink || masquerade == .all {
            // iptables cannot ask in POSTROUTING where a packet came in. Its source address has to do, so that hosts
            // behind a further router in a VLAN are not covered here, as they are in the table.
            let sources = policy.gateways.flatMap(\.prefixes).filter { $0.family == family }
            rules += sources.map { "-A POSTROUTING -s \($0) -j \(ownChain)" }
            rules += interfaces.map { "-A \(ownChain) -o \($0) -j RETURN" }
            rules += ["-A \(ownChain) -j MASQUERADE"]
        }
        return rules
    }

    private var filterRules: [String] {
        let pairs = spelledOut
        let known = "-m conntrack --ctstate RELATED,ESTABLISHED"
        let invalid = "-m conntrack --ctstate INVALID"
        func comment(_ reason: String) -> String { "-m comment --comment \"\(reason)\"" }

        var rules = pairs.map { "-A FORWARD -i \($0.from) -o \($0.to) \(known) -j ACCEPT" }
        if !pairs.isEmpty { rules += interfaces.map { "-A FORWARD -i \($0) \(invalid) -j DROP" } }
        rules += pairs.map { "-A FORWARD -i \($0.from) -o \($0.to) -j ACCEPT" }
        rules += interfaces.map { "-A FORWARD -i \($0) -g \(ownChain)" }
        rules += interfaces.map { "-A FORWARD -o \($0) -g \(ownChain)" }

        rules += [
            "-A \(ownChain) \(known) \(comment(Reason.known)) -j ACCEPT",
            "-A \(ownChain) \(invalid) \(comment(Reason.invalid)) -j DROP",
        ]
        rules += policy.denied.map { "-A \(ownChain) -i \($0.from) -o \($0.to) \(comment(Reason.denied)) -j DROP" }
        rules += policy.opposite.map {
            "-A \(ownChain) -i \($0.from) -o \($0.to) -p tcp -m tcp --tcp-flags SYN NONE \(comment(Reason.noBeginning)) -j DROP"
        }
        rules += interfaces.map { "-A \(ownChain) -i \($0) \(comment(Reason.fromVLAN)) -j ACCEPT" }
        rules += [
            "-A \(ownChain) -m conntrack --ctstate DNAT \(comment(Reason.forwardedPort)) -j ACCEPT",
            "-A \(ownChain) \(comment(Reason.outside)) -j DROP",
        ]
        return rules
    }

    /// The pairs of different VLANs that may talk without exception, or none where they are too many to be read.
    private var spelledOut: [Policy.Pair] {
        guard interfaces.count <= maxSpelledOut else { return [] }
        let exceptions = Set(policy.denied + policy.opposite)
        return interfaces.flatMap { from in
            interfaces.filter { $0 != from }.map { Policy.Pair(from: from, to: $0) }
        }.filter { !exceptions.contains($0) }
    }
}

private let ownChain = "VROUTER"

/// So many VLANs are 240 pairs.
private let maxSpelledOut = 16
