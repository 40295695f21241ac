import Kernel

/// The interface on the trunk port, where nobody has named it.
public enum Parent {
    /// The one that vrouter uses here already, or else the only Ethernet link that is hardware and does not carry the default route; in a namespace without hardware, the only veth
    /// end that is up.
    public static func find() throws(Failure) -> String {
        if let state = try StateFile().load() { return state.configuration.parent }
        let (links, routes) = try kernel { () throws(KernelError) in
            let socket = try NetlinkSocket()
            return (try socket.links(), try socket.routes())
        }
        return try only(of: links, routes: routes)
    }

    static func only(of links: [Link], routes: [Route]) throws(Failure) -> String {
        let uplinks = Set(routes.filter(\.isDefault).compactMap(\.linkIndex))
        let hardware = links.filter { $0.isEthernet && $0.kind == nil && $0.masterIndex == nil }
        let candidates =
            hardware.isEmpty
            ? links.filter { $0.kind == "veth" && $0.isUp && $0.masterIndex == nil }
            : hardware.filter { !uplinks.contains($0.index) }
        if candidates.count == 1 { return candidates[0].name }
        let ethernet = links.filter(\.isEthernet).map {
            $0.name + (uplinks.contains($0.index) ? " (carries the default route)" : "")
        }
        throw Failure(
            .usage,
            candidates.isEmpty
                ? "no interface could be the trunk by itself"
                : "several interfaces could be the trunk: \(candidates.map(\.name).joined(separator: ", "))",
            remedy: ethernet.isEmpty
                ? "this network namespace has no Ethernet interface"
                : "name it with --parent; there are: \(ethernet.joined(separator: ", "))")
    }
}
