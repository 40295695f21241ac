import Kernel

/// Programs that also manage interfaces, parameters or rules, and may undo what vrouter does.
enum OtherManagers {
    /// As /proc/PID/comm has them, which are at most 15 octets long, and as people know them.
    private static let known = [
        "NetworkManager": "NetworkManager", "systemd-network": "systemd-networkd", "dockerd": "dockerd",
        "firewalld": "firewalld", "ufw": "ufw", "dhcpcd": "dhcpcd", "connmand": "connman", "wickedd": "wicked",
        "netplan": "netplan", "ifup": "ifupdown",
    ]

    /// Those that run, sorted.
    static func running() -> [String] {
        let names = SmallFile.names(in: "/proc").filter { Int32($0) != nil }.compactMap {
            SmallFile.lines(in: "/proc/\($0)/comm").first.flatMap { known[$0] }
        }
        return Set(names).sorted()
    }
}
