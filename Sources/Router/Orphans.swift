import Kernel
import Packets

/// What looks as if vrouter had made it, where no state file says so. It may be somebody else's: nothing of it is touched.
enum Orphans {
    /// - Throws: a failure that names what is there, and how to remove it by hand.
    static func check(_ file: StateFile) throws(Failure) {
        let found = find()
        guard !found.isEmpty else { return }
        throw Failure(
            .usage,
            "there is no state file \(file.path) to say what vrouter has changed here, but there is what looks like its work: "
                + found.map(\.name).joined(separator: ", "),
            remedy: "see whose it is, and delete what nobody needs: "
                + found.map(\.command).joined(separator: "; ")
                + "; then see whether this host should still forward: sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
        )
    }

    /// Whoever is not permitted to look finds less.
    private static func find() -> [(name: String, command: String)] {
        let links = (try? NetlinkSocket().links()) ?? []
        let linksByIndex = Dictionary(links.map { ($0.index, $0) }, uniquingKeysWith: { first, _ in first })
        var hasTable = false
        if case .present = Host.readTable() { hasTable = true }
        // VLAN devices are as anybody makes them: that the table names them is what tells them.
        let named = hasTable ? (try? Nftables().acceptedInputs(table: Host.tableName, family: .inet)) ?? [] : []
        var found: [(name: String, command: String)] = []
        for link in links {
            let peer = link.kind == "veth" ? link.lowerIndex.flatMap { linksByIndex[$0] } : nil
            if link.kind == "vlan" && named.contains(link.name) || peer.map(isPeer) ?? false {
                found.append((link.name, "ip link del dev \(link.name)"))
            }
            let programs = (try? TCX.programs(linkIndex: link.index, hook: .ingress)) ?? []
            if programs.contains(where: { $0.name == VLANProgram.popName }) {
                found.append(
                    (
                        "the program \(VLANProgram.popName) on \(link.name)",
                        "bpftool net detach tcx_ingress dev \(link.name)"
                    ))
            }
        }
        if hasTable { found.append(("table inet \(Host.tableName)", "nft delete table inet \(Host.tableName)")) }
        return found
    }

    private static func isPeer(_ link: Link) -> Bool {
        guard let number = link.name.split(separator: ".").last, let id = UInt16(number).flatMap(VLANID.init) else {
            return false
        }
        return Action.VethGateway.isPeerName(link.name, id)
    }
}
