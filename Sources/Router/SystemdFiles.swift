/// What makes `vrouter run` a service of systemd, and keeps systemd-networkd and NetworkManager from what is vrouter's, as files. A
/// value: nothing is read from the host or written to it.
public struct SystemdFiles {
    /// With which each of the files begins.
    static let marker = "# Written by `vrouter install --systemd`"

    public static let unitPath = "/etc/systemd/system/vrouter.service"
    /// Of the files for a network, networkd takes the first that matches: before all others.
    static let networkPath = "/etc/systemd/network/00-vrouter.network"
    static let networkManagerPath = "/etc/NetworkManager/conf.d/vrouter.conf"

    let configuration: Configuration
    /// Whether frames meet BPF programs.
    let usesPrograms: Bool
    /// Where the program and its configuration file are when the service starts.
    let program: String
    let file: String

    /// By path.
    var files: [(path: String, text: String?)] {
        [(Self.unitPath, unit), (Self.networkPath, network), (Self.networkManagerPath, networkManager)]
    }

    /// All that there may be.
    static let paths = [unitPath, networkPath, networkManagerPath]

    private var header: String {
        """
        \(Self.marker), which brings it up to date,
        # and with --remove takes it away. Changes made here are lost: `systemctl edit`, or files beside this one, keep theirs.
        """
    }

    // MARK: The service

    /// What `vrouter run` has to be allowed, found by taking it away.
    private var capabilities: [(name: String, reason: String)] {
        var result = [("CAP_NET_ADMIN", "interfaces, addresses, routes, rules, net.* of sysctl")]
        if usesPrograms {
            result.append(
                (
                    "CAP_SYS_ADMIN",
                    "BPF programs: the kernel shows loaded ones only to its owner, also where CAP_BPF may load them"
                ))
        }
        if configuration.fastPath != nil { result.append(("CAP_NET_RAW", "packet sockets of the fast path")) }
        return result
    }

    var unit: String {
        """
        \(header)

        [Unit]
        Description=Router between VLANs
        Documentation=man:vrouter(8)
        # Behind firewalls that begin with `flush ruleset`; before what takes the network to be there. It waits for its trunk by itself, and
        # looks after what Docker, networkd or NetworkManager do later: it needs no order among them.
        Wants=network-pre.target
        After=network-pre.target
        Before=network.target
        # What fails is tried again every ten seconds, but not for ever.
        StartLimitIntervalSec=1h
        StartLimitBurst=300

        [Service]
        Type=notify
        ExecStart=\(quoted(program)) run -f \(quoted(file))
        ExecReload=kill -HUP $MAINPID
        # On a stop, everything is taken down; what is left then are its helpers.
        KillMode=mixed
        Restart=on-failure
        RestartSec=10
        # A mistake in the configuration or a missing permission does not go away by itself.
        RestartPreventExitStatus=64 77

        # The journal by which `up` and `down` know what was changed: it outlives the service.
        RuntimeDirectory=vrouter
        RuntimeDirectoryPreserve=yes
        ProtectSystem=strict
        ProtectHome=yes
        PrivateTmp=yes
        PrivateDevices=yes

        \(capabilities.map { "# \($0.name): \($0.reason)" }.joined(separator: "\n"))
        CapabilityBoundingSet=\(capabilities.map(\.name).joined(separator: " "))
        NoNewPrivileges=yes
        # Not ProtectKernelTunables: forwarding is switched on in /proc/sys.
        ProtectKernelModules=yes
        ProtectKernelLogs=yes
        ProtectControlGroups=yes
        ProtectClock=yes
        ProtectHostname=yes
        RestrictAddressFamilies=AF_NETLINK AF_UNIX AF_INET\(configuration.fastPath != nil ? " AF_PACKET" : "")
        RestrictNamespaces=yes
        RestrictRealtime=yes
        RestrictSUIDSGID=yes
        LockPersonality=yes
        MemoryDenyWriteExecute=yes
        SystemCallArchitectures=native
        SystemCallFilter=@system-service\(usesPrograms ? " bpf" : "")
        SystemCallErrorNumber=EPERM

        [Install]
        WantedBy=multi-user.target

        """
    }

    /// As systemd.service(5) reads a word of a command.
    private func quoted(_ word: String) -> String {
        let isPlain = word.utf8.allSatisfy { octet in
            (0x30...0x39).contains(octet) || (0x41...0x5a).contains(octet) || (0x61...0x7a).contains(octet)
                || "/._-+:@".utf8.contains(octet)
        }
        guard !isPlain else { return word }
        return "\""
            + word.map { character in
                switch character {
                case "\"", "\\": "\\\(character)"
                case "%", "$": "\(character)\(character)"
                default: String(character)
                }
            }.joined() + "\""
    }

    // MARK: The other managers of interfaces

    /// The gateway interfaces, and with the driver `ebpf` their other ends, whose names have the parent's index in them.
    private var interfaces: [String] {
        configuration.vlans.map { configuration.interfaceName($0.id) }
            + (usesPrograms ? configuration.vlans.map { "vr*.\($0.id)" } : [])
    }

    var network: String {
        """
        \(header)
        # vrouter gives these interfaces their addresses and routes; systemd-networkd would take them away again.

        [Match]
        \(interfaces.map { "Name=\($0)" }.joined(separator: "\n"))

        [Link]
        Unmanaged=yes

        """
    }

    var networkManager: String {
        """
        \(header)
        # Not [device] managed=0: NetworkManager does not heed that for interfaces that it knows already, not even after it is started again.

        [keyfile]
        unmanaged-devices+=\(interfaces.map { "interface-name:\($0)" }.joined(separator: ";"))

        """
    }
}
