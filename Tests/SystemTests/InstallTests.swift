import Kernel
import TestSupport
import Testing

/// The root of a host that has the program and a configuration file.
private final class Root {
    let path = "/tmp/vrouter-test-\(UInt32.random(in: 0 ... .max))"

    init(_ configuration: String) throws {
        try sh("mkdir -p usr/local/bin etc/vrouter")
        _ = try ChildProcess.run(["cp", Product.path, "\(path)/usr/local/bin/vrouter"])
        try configure(configuration)
    }

    deinit { _ = try? ChildProcess.run(["rm", "-rf", path]) }

    @discardableResult
    func sh(_ script: String) throws -> String {
        let result = try ChildProcess.run(["sh", "-ec", "mkdir -p \(path); cd \(path)\n\(script)"])
        guard result.status == 0 else { throw CommandFailed(script: script, result: result) }
        return result.output
    }

    func configure(_ text: String) throws {
        _ = try ChildProcess.run(["tee", "\(path)/etc/vrouter/vrouter.yaml"], input: text)
    }

    func install(_ options: String = "") throws -> ChildProcess.Result {
        try ChildProcess.run(
            ["\(path)/usr/local/bin/vrouter", "install", "--systemd", "--root", path]
                + options.split(separator: " ").map(String.init))
    }

    /// All its files but the two that were there, with what is in them.
    func written() throws -> String {
        try sh(
            "find etc -type f ! -name vrouter.yaml | sort | while read -r file; do echo \"== $file\"; cat \"$file\"; done"
        )
    }
}

/// `vrouter install --systemd`: what it writes, what it leaves alone, and that the service does its work within what it is allowed.
@Suite struct InstallTests {
    private static let file = """
        parent: enp0s8
        vlans: {100: 172.16.10.1/24, 200: {addresses: 172.16.20.1/24, name: servers0}}
        masquerade: none
        vlan-driver: 8021q

        """
    private static let unit = "etc/systemd/system/vrouter.service"

    @Test(whereItIsFast) func filesComeAndGo() throws {
        let root = try Root(Self.file)
        let dry = try root.install("--dry-run")
        #expect(
            dry.status == 0
                && dry.output.contains("\nExecStart=/usr/local/bin/vrouter run -f /etc/vrouter/vrouter.yaml\n"),
            "\(dry)")
        #expect(try root.written().isEmpty)

        let first = try root.install()
        #expect(first.status == 0 && first.output.contains("/\(Self.unit): written\n"), "\(first)")
        let written = try root.written()
        for line in [
            "== etc/systemd/network/00-vrouter.network", "Name=enp0s8.100", "Name=servers0", "Unmanaged=yes",
            "== etc/NetworkManager/conf.d/vrouter.conf",
            "[keyfile]", "unmanaged-devices+=interface-name:enp0s8.100;interface-name:servers0",
            "CapabilityBoundingSet=CAP_NET_ADMIN", "RuntimeDirectoryPreserve=yes", "RestartPreventExitStatus=64 77",
        ] {
            #expect(written.contains("\n\(line)\n") || written.hasPrefix("\(line)\n"), "no \(line) in\n\(written)")
        }
        let again = try root.install()
        #expect(
            again.status == 0 && !again.output.contains(": written") && again.output.contains("up to date"), "\(again)")

        try root.configure("\(Self.file)fast-path: af-packet\n")
        #expect(try root.install().status == 0)
        let more = try root.written()
        #expect(more.contains("\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_NET_RAW\n"), "\(more)")
        try root.configure(Self.file)
        #expect(try root.install().status == 0)
        #expect(try root.written() == written)

        try root.sh(
            "mkdir -p etc/systemd/system/multi-user.target.wants; ln -s ../vrouter.service etc/systemd/system/multi-user.target.wants/"
        )
        let enabled = try root.install("--remove")
        #expect(
            enabled.status == 64 && enabled.errors.contains("systemctl disable --now vrouter.service"), "\(enabled)")
        #expect(try root.written() == written)
        try root.sh("rm etc/systemd/system/multi-user.target.wants/vrouter.service")
        #expect(try root.install("--remove --dry-run").output.contains("/\(Self.unit): to be removed\n"))
        #expect(try root.written() == written)
        #expect(try root.install("--remove").status == 0)
        #expect(try root.written().isEmpty)
        #expect(try root.install("--remove").output == "nothing to do\n")
    }

    @Test(whereItIsFast) func whatOthersHaveWrittenStays() throws {
        let root = try Root(Self.file)
        // The last of the files: none before it may have been written.
        try root.sh("mkdir -p etc/NetworkManager/conf.d; echo '[main]' >etc/NetworkManager/conf.d/vrouter.conf")
        let before = try root.written()
        for options in ["", "--remove"] {
            let result = try root.install(options)
            #expect(
                result.status == 64
                    && result.errors.contains("/etc/NetworkManager/conf.d/vrouter.conf is there already"),
                "\(result)")
            #expect(try root.written() == before)
        }
        // A unit that is masked.
        try root.sh(
            "rm etc/NetworkManager/conf.d/vrouter.conf; mkdir -p etc/systemd/system; ln -s /dev/null \(Self.unit)")
        #expect(try root.install().status == 64)
        #expect(try root.sh("readlink \(Self.unit)") == "/dev/null\n")
    }

    @Test(whereItIsFast) func whatCannotWorkIsRefused() throws {
        let root = try Root("vlans: {100: 172.16.10.1/24}\n")
        let cases = [
            ("", "names no trunk"), ("-f vrouter.yaml", "needs the whole path"),
            ("-f /home/me/vrouter.yaml", "below /home/"),
            ("-f /etc/vrouter/other.yaml", "cannot be read"),
        ]
        for (options, words) in cases {
            let result = try root.install(options)
            #expect(result.status == 64 && result.errors.contains(words), "\(options): \(result)")
        }
        let here = try ChildProcess.run([Product.path, "install"])
        #expect(here.status == 64 && here.errors.contains("--systemd"), "\(here)")
        #expect(try root.written().isEmpty)
    }

    @Test(whereItIsFast) func systemdUnderstandsTheUnit() throws {
        let root = try Root("\(Self.file)fast-path: af-packet\n")
        #expect(try root.install().status == 0)
        // Of a program elsewhere it would say that there is none.
        try root.sh("sed -i 's#/usr/local/bin#\(root.path)&#' \(Self.unit)")
        let verified = try ChildProcess.run(["systemd-analyze", "verify", "--man=no", "\(root.path)/\(Self.unit)"])
        #expect(verified.status == 0 && verified.errors.isEmpty, "\(verified)")
    }

    /// As root, with no more of root's privileges than the unit leaves.
    @Test(whereItIsFast, arguments: ["", "fast-path: {datapath: af-packet, from: 0}\n"])
    func theServiceNeedsNoMore(_ fastPath: String) throws {
        let text = Self.file.replacing("8021q", with: "ebpf") + fastPath
        let root = try Root(text)
        #expect(try root.install().status == 0)
        let line = try #require(
            try root.written().split(separator: "\n").first { $0.hasPrefix("CapabilityBoundingSet=") })
        let capabilities = line.dropFirst("CapabilityBoundingSet=CAP_".count).lowercased().replacing(
            " cap_", with: ",+")
        let file = TemporaryFile(text)
        let host = try TestHost()
        let before = try host.snapshot()
        let service = try Service(
            host, "-f \(file.path)",
            under: "setpriv --bounding-set=-all,+\(capabilities) --inh-caps=-all --no-new-privs")
        try service.logs("set up, with ebpf\n")
        #expect(service.log == "<6>VLANs 100, 200 on enp0s8 set up, with ebpf\n")
        #expect(try host.vrouter("status").status == 0)
        try host.sh("ip link del enp0s8.100; nft delete table inet vrouter")
        try service.logs("enp0s8.100 is gone")
        try eventually("put back") { try host.vrouter("status").status == 0 }
        try service.signal("HUP")
        try service.logs("finds everything in place")
        #expect(try service.end() == 0)
        try requireUnchanged(host, since: before)
    }

    /// A real systemd, as process 1 of its own namespaces, with nothing but the service. Only in the machine that is thrown away.
    @Test(.enabled(if: isEmulated, "systemd would change settings of this machine"))
    func underSystemd() throws {
        let host = try TestHost()
        try host.sh(
            """
            mkdir -p /etc/vrouter /run/units; cp '\(Product.path)' /usr/local/bin/vrouter
            cat >/etc/vrouter/vrouter.yaml <<'END'
            \(Self.file)
            END
            /usr/local/bin/vrouter install --systemd
            mkdir -p /run/units/vrouter.service.d; printf '[Service]\\nRestartSec=1\\n' >/run/units/vrouter.service.d/sooner.conf
            for unit in sysinit basic shutdown network-pre network; do echo '[Unit]' >/run/units/$unit.target; done
            cat >/run/units/probe.service <<'END'
            [Unit]
            DefaultDependencies=no
            SuccessAction=exit-force
            FailureAction=exit-force
            [Service]
            Type=oneshot
            ExecStart=sh -c 'sh /run/units/probe >/run/units/output 2>&1'
            END
            cat >/run/units/probe <<'END'
            state() { echo "$1:" $(systemctl show vrouter -p ActiveState,ExecMainStatus,NRestarts,StatusText | sort); }
            settled() { for i in $(seq 50); do systemctl -q is-active vrouter && vrouter status >/dev/null && return; sleep 0.2; done; echo 'not settled'; }
            systemctl start vrouter; state started
            ip link del enp0s8.100; settled; state 'put back'
            kill -9 $(systemctl show vrouter -p MainPID --value); sleep 1; settled; state killed
            systemctl stop vrouter; state stopped; vrouter status; ls /run/vrouter
            echo 'bad: key' >>/etc/vrouter/vrouter.yaml; systemctl start vrouter; state bad
            END
            """)
        let systemd = try host.run(
            [
                "sh", "-ec",
                """
                mkdir -p /sys/fs/cgroup/vrouter-test; echo $$ >/sys/fs/cgroup/vrouter-test/cgroup.procs
                exec unshare --pid --fork --mount --mount-proc --cgroup sh -ec '
                umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
                exec /lib/systemd/systemd --system --unit=probe.service --log-target=console'
                """,
            ], environment: ["container": "vrouter-test", "SYSTEMD_UNIT_PATH": "/etc/systemd/system:/run/units"])
        let output = try host.sh("cat /run/units/output || true")
        for line in [
            "started: ActiveState=active ExecMainStatus=0 NRestarts=0 StatusText=keeps VLANs 100, 200 on enp0s8",
            "put back: ActiveState=active ExecMainStatus=0 NRestarts=0 StatusText=keeps VLANs 100, 200 on enp0s8",
            "killed: ActiveState=active ExecMainStatus=0 NRestarts=1 StatusText=keeps VLANs 100, 200 on enp0s8",
            "stopped: ActiveState=inactive ExecMainStatus=0 NRestarts=0 StatusText=", "vrouter is not up here",
            "bad: ActiveState=failed ExecMainStatus=64 NRestarts=0 StatusText=",
        ] {
            #expect(!output.contains("not settled") && "\n\(output)".contains("\n\(line)\n"), "\(output)\(systemd)")
        }
    }
}
