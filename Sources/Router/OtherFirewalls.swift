// Rules of ours in the chains of Docker, ufw and firewalld, which drop what they do not know.
//
// What is accepted there is everything that arrives by a gateway interface or leaves by one. That says nothing of who reaches whom:
// a packet passes only if every base chain on its way accepts it, and ours decides about all of these.

import Kernel

/// Other firewalls that drop what is forwarded, and what of ours is in them.
struct OtherFirewalls: Hashable {
    /// The chains that our rules go to.
    var places: Set<Nftables.ChainName> = []
    var survey = Nftables.AcceptSurvey()

    /// nil: reading it needs CAP_NET_ADMIN.
    static func read() throws(Failure) -> OtherFirewalls? {
        do {
            let nftables = try Nftables()
            let places = try ForeignFirewall.all(nftables).compactMap(\.placeForOthers)
            return OtherFirewalls(places: Set(places), survey: try nftables.acceptSurvey())
        } catch {
            if error.isPermission { return nil }
            throw Failure(error)
        }
    }
}

extension Planner {
    mutating func planAccepts() {
        let coexists = wanted?.coexists ?? false
        guard let others = host.otherFirewalls else {
            if coexists { notes.append("which other firewalls drop what is forwarded is for root only to see") }
            return
        }
        let wantedRules = coexists ? rules(in: others.places.sorted()) : []
        let present = others.survey.accepts
        let missing = wantedRules.filter { present[$0] == nil }
        let doomed = state.accepts.subtracting(wantedRules).filter { present[$0] != nil }.sorted()
        if !missing.isEmpty || !doomed.isEmpty {
            actions.append(.changeAccepts(AcceptChanges(adding: missing, removing: doomed, others.survey)))
        }
        held.accepts.formUnion(missing)
        outcome.accepts = state.accepts.intersection(wantedRules).union(missing)
    }

    private func rules(in places: [Nftables.ChainName]) -> [Nftables.Accept] {
        guard let wanted else { return [] }
        // A family that no gateway has an address of is not routed.
        let used = places.filter { $0.family == .ip ? wanted.usesIPv4 : $0.family == .ip6 ? wanted.usesIPv6 : true }
        return used.flatMap { place in
            wanted.vlans.flatMap { vlan in
                Nftables.Accept.Direction.allCases.map {
                    Nftables.Accept(chain: place, direction: $0, interface: interfaceName(vlan.id))
                }
            }
        }
    }
}

/// What is done to the rules of other firewalls.
struct AcceptChanges: Hashable {
    var added: [Addition] = []
    var removed: [Removal] = []

    struct Addition: Hashable {
        var accept: Nftables.Accept
        /// The rule before which it goes; nil: to the end.
        var end: Nftables.AcceptSurvey.End?
    }

    struct Removal: Hashable {
        var accept: Nftables.Accept
        var handles: [UInt64]
    }

    init(adding: [Nftables.Accept], removing: [Nftables.Accept], _ survey: Nftables.AcceptSurvey) {
        var before: [Nftables.ChainName: Int] = [:]
        for accept in adding {
            var end = survey.ends[accept.chain]
            // Each goes before the same rule, and makes its number greater.
            end?.number += before[accept.chain, default: 0]
            before[accept.chain, default: 0] += 1
            added.append(Addition(accept: accept, end: end))
        }
        removed = removing.map { Removal(accept: $0, handles: survey.accepts[$0] ?? []) }
    }

    /// By iptables where the table is one of its own.
    var commands: [String] {
        let removals = removed.flatMap { removal in
            let (accept, chain) = (removal.accept, removal.accept.chain)
            guard chain.family == .inet else {
                return removal.handles.map { _ in "\(chain.iptables) -D \(chain.name) \(accept.iptables)" }
            }
            return removal.handles.map { "nft delete rule \(chain) handle \($0)" }
        }
        let additions = added.map { addition in
            let (accept, chain) = (addition.accept, addition.accept.chain)
            guard chain.family == .inet else {
                let place = addition.end.map { "-I \(chain.name) \($0.number)" } ?? "-A \(chain.name)"
                return "\(chain.iptables) \(place) \(accept.iptables)"
            }
            let place = addition.end.map { "insert rule \(chain) position \($0.handle)" } ?? "add rule \(chain)"
            return "nft '\(place) \(accept.nft)'"
        }
        return removals + additions
    }

    /// What is amiss where this has to be done again, by chain.
    var complaints: [String] {
        func names(_ accepts: [Nftables.Accept]) -> [(Nftables.ChainName, String)] {
            Dictionary(grouping: accepts, by: \.chain).sorted { $0.key < $1.key }.map {
                ($0.key, Set($0.value.map(\.interface)).sorted().joined(separator: ", "))
            }
        }
        return names(added.map(\.accept)).map { "the chain \($0) lacks rules that accept \($1)" }
            + names(removed.map(\.accept)).map { "the chain \($0) still has rules that accept \($1)" }
    }
}

extension Nftables.ChainName {
    fileprivate var iptables: String { family == .ip6 ? "ip6tables" : "iptables" }
}

extension Nftables.Accept {
    fileprivate var iptables: String {
        "\(direction == .input ? "-i" : "-o") \(interface) -m comment --comment '\(Self.comment)' -j ACCEPT"
    }

    fileprivate var nft: String {
        "\(direction == .input ? "iifname" : "oifname") \"\(interface)\" counter accept comment \"\(Self.comment)\""
    }
}
