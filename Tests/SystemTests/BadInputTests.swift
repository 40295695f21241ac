import Kernel
import TestSupport
import Testing

/// Each is refused with a reason and a remedy, before anything changes.
@Suite struct BadInputTests {
    struct Case: Sendable {
        var arguments: String
        var status: Int32 = 64
        /// Must stand in the message.
        var says: [String]
    }

    static let cases = [
        Case(arguments: "up --parent enp0s8", says: ["no VLAN given"]),
        Case(arguments: "up --parent enp0s8 --vlan 0=172.16.10.1/24", says: ["0 marks frames", "1 to 4094"]),
        Case(arguments: "up --parent enp0s8 --vlan 4095=172.16.10.1/24", says: ["4095 is reserved", "1 to 4094"]),
        Case(arguments: "up --parent enp0s8 --vlan guests=172.16.10.1/24", says: ["'guests' is not a VLAN id"]),
        Case(arguments: "up --parent enp0s8 --vlan -1=172.16.10.1/24", says: ["Missing value for '--vlan"]),
        Case(arguments: "up --parent enp0s8 --vlan 0100=172.16.10.1/24", says: ["'0100' is not a VLAN id"]),
        Case(arguments: "up --parent enp0s8 --vlan 100", says: ["no '='"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 100=172.16.20.1/24", says: ["given twice"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.10.0/24",
            says: ["172.16.10.0 is the address of the subnet"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.10.255/24",
            says: ["172.16.10.255 is the broadcast address"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=fd00:10::/64", says: ["address of the subnet fd00:10::/64"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.10.2/24",
            says: ["172.16.10.0/24 of VLAN 100", "172.16.10.0/24 of VLAN 200 overlap"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.0.1/16 --vlan 150=10.0.0.1/8 --vlan 200=172.16.20.1/24",
            says: ["172.16.0.0/16 of VLAN 100", "172.16.20.0/24 of VLAN 200 overlap"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1", says: ["no prefix length", "172.16.10.1/24"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/33", says: ["prefix length from 0 to 32"]),
        Case(
            arguments: "up --parent enp0s8 --vlan 100=172.16.10.300/24",
            says: ["'172.16.10.300' is not an IPv4 or IPv6"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=224.0.0.1/24", says: ["multicast"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=127.0.0.2/8", says: ["loopback"]),
        Case(
            arguments: "up --parent enp0s9 --vlan 100=172.16.10.1/24", says: ["no interface 'enp0s9'", "cable, enp0s8"]),
        Case(arguments: "up --parent lo --vlan 100=172.16.10.1/24", says: ["loopback interface"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --deny 100:300", says: ["no VLAN 300"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --deny 100", says: ["FROM:TO"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --masquerade some", says: ["vlans", "uplink"]),
        Case(arguments: "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver vconfig", says: ["8021q", "ebpf"]),
        Case(arguments: "rules --parent enp0s8 --vlan 4095=172.16.10.1/24", says: ["4095 is reserved"]),
        Case(arguments: "hosts --vlan 100=172.16.10.1/24 --parent enp0s8 --format cisco", says: ["docker", "netplan"]),
    ]

    @Test func eachIsRefused() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        for wrong in Self.cases {
            let result = try host.vrouter(wrong.arguments)
            #expect(result.status == wrong.status, "\(wrong.arguments): \(result)")
            for text in wrong.says { #expect(result.errors.contains(text), "\(wrong.arguments): \(result.errors)") }
            #expect(result.output.isEmpty, "\(wrong.arguments)")
            // Emulated, one look at the end must do.
            if !isEmulated { try requireUnchanged(host, since: before, wrong.arguments) }
        }
        try requireUnchanged(host, since: before)
        #expect(try host.vrouter("status").status == 3)
    }

    @Test func anAddressThatAnotherInterfaceHas() throws {
        let host = try TestHost()
        try host.sh("ip address add 172.16.10.1/24 dev cable")
        let before = try host.snapshot()
        let result = try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24")
        #expect(
            result.status == 64 && result.errors.contains("cable has the address 172.16.10.1/24 already"), "\(result)")
        let overlap = try host.vrouter("up --parent enp0s8 --vlan 100=172.16.0.1/16")
        #expect(
            overlap.status == 64 && overlap.errors.contains("overlaps 172.16.10.0/24, which cable is in"), "\(overlap)")
        try requireUnchanged(host, since: before)
    }

    @Test func aForeignTableOfTheSameName() throws {
        let host = try TestHost()
        try host.sh("nft add table inet vrouter; nft add chain inet vrouter mine")
        let before = try host.snapshot()
        let result = try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24")
        #expect(result.status == 64 && result.errors.contains("vrouter has not made"), "\(result)")
        try requireUnchanged(host, since: before)
    }

    @Test func aDamagedStateFile() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24").status == 0)
        let before = try host.snapshot()
        let file = try host.sh("echo /run/vrouter/netns-$(stat -Lc %i /proc/self/ns/net).json").dropLast()
        let content = try host.sh("cat \(file)")
        for (damage, reason) in [
            ("echo '{' >\(file)", "damaged"),
            ("sed -i 's/\"version\":[0-9]*/\"version\":99/' \(file)", "another version"),
            ("echo '{\"name\": \"other\"}' >\(file)", "no 'version'"),
            ("sed -i 's/\"phase\":\"applied\"/\"phase\":\"dreaming\"/' \(file)", "phase"),
            ("chown 65534 \(file)", "belongs to user 65534"),
        ] {
            try host.sh(damage)
            for command in ["up --parent enp0s8 --vlan 100=172.16.10.1/24", "down", "status"] {
                let result = try host.vrouter(command)
                #expect(result.status == 64 && result.errors.contains(reason), "\(damage), \(command): \(result)")
                #expect(result.errors.contains("remedy:"))
            }
            try requireUnchanged(host, since: before, damage)
            try host.sh("chown 0 \(file); cat >\(file) <<'END'\n\(content)\nEND")
        }
        #expect(try host.vrouter("down").status == 0)
    }

    /// Without its record, vrouter cannot know what was there before: it says what it sees, and touches nothing.
    @Test(arguments: ["auto", "ebpf"]) func aStateFileThatIsGone(_ driver: String) throws {
        let host = try TestHost()
        #expect(try host.vrouter("down").output == "nothing to do\n")
        let up = "up --parent enp0s8 --vlan-driver \(driver) --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24"
        #expect(try host.vrouter(up).status == 0)
        let file = try host.sh("echo /run/vrouter/netns-$(stat -Lc %i /proc/self/ns/net).json").dropLast()
        let content = try host.sh("cat \(file); rm \(file)")
        let before = try host.snapshot()
        for command in ["down --dry-run", "down"] {
            let result = try host.vrouter(command)
            #expect(result.status == 64 && result.output.isEmpty, "\(result)")
            for text in [
                "\(file)", "ip link del dev enp0s8.100", "ip link del dev enp0s8.200", "nft delete table inet vrouter",
            ] {
                #expect(result.errors.contains(text), "\(result)")
            }
            #expect(!result.errors.contains("link del dev enp0s8;"), "\(result)")
        }
        try requireUnchanged(host, since: before)
        try host.sh("cat >\(file) <<'END'\n\(content)\nEND")
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func outputThatIsLost() throws {
        let host = try TestHost()
        for arguments in ["status", "--help", "up --dry-run --parent enp0s8 --vlan 100=172.16.10.1/24"] {
            let result = try host.run(["sh", "-c", "exec \(Product.path) \(arguments) >/dev/full"])
            #expect(result.status == 74 && result.errors.contains("No space left on device"), "\(result)")
        }
    }

    /// State of a namespace that had the same inode number is nobody's.
    @Test func aStateFileOfANamespaceThatIsGone() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24").status == 0)
        let file = try host.sh("echo /run/vrouter/netns-$(stat -Lc %i /proc/self/ns/net).json").dropLast()
        try host.sh("sed 's/\"namespaceCookie\":[0-9]*/\"namespaceCookie\":1/' \(file) >\(file).copy")
        #expect(try host.vrouter("down").status == 0)
        try host.sh("mv \(file).copy \(file)")
        #expect(try host.vrouter("status").status == 3)
        #expect(try host.vrouter("down").output == "nothing to do\n")
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24").status == 0)
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func aKernelWithoutVLANDevices() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let result = try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver 8021q")
        if try host.hasVLANDevices {
            #expect(result.status == 0, "\(result)")
            #expect(try host.vrouter("down").status == 0)
        } else {
            #expect(result.status == 69 && result.errors.contains("no VLAN devices (CONFIG_VLAN_8021Q)"), "\(result)")
        }
        try requireUnchanged(host, since: before)
    }

    @Test func aKernelWithoutNFTables() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let command = ["up", "--parent", "enp0s8", "--vlan", "100=172.16.10.1/24"]
        let result = try host.run(Self.lacking("nf_tables", [Product.path] + command))
        #expect(result.status == 69 && result.errors.contains("remedy:"), "\(result)")
        let doctor = try host.run(Self.lacking("nf_tables", [Product.path, "doctor"]))
        #expect(doctor.status == 1 && doctor.output.contains("✗ nf-tables"), "\(doctor)")
        try requireUnchanged(host, since: before)
        // The same through the filter's other end: nothing but what it lacks is in the way.
        #expect(try host.run(Self.lacking("nothing", [Product.path] + command)).status == 0)
        #expect(try host.vrouter("down").status == 0)
    }

    @Test func aKernelWithNeitherVLANDevicesNorBPF() throws {
        let host = try TestHost()
        let before = try host.snapshot()
        let driver = try host.hasVLANDevices ? ["--vlan-driver", "ebpf"] : []
        let result = try host.run(
            Self.lacking("bpf", [Product.path, "up", "--parent", "enp0s8", "--vlan", "100=172.16.10.1/24"] + driver))
        #expect(result.status == 69 && result.errors.contains("BPF programs"), "\(result)")
        #expect(result.errors.contains("remedy:"))
        try requireUnchanged(host, since: before)
    }

    /// The command behind a system call filter that answers as a kernel does which was built without something.
    static func lacking(_ feature: String, _ command: [String]) -> [String] {
        let script = """
            import ctypes, os, platform, struct, sys
            feature, command = sys.argv[1], sys.argv[2:]
            bpf, socket = {"x86_64": (321, 41), "aarch64": (280, 198)}[platform.machine()]
            # Instructions of classic BPF over struct seccomp_data: load a word, compare, return (linux/filter.h, linux/seccomp.h).
            load, equal, answer = 0x20, 0x15, 0x06
            allow, refuse = 0x7fff0000, 0x00050000
            program = {
                "nothing": [],
                # ENOSYS
                "bpf": [(load, 0, 0, 0), (equal, 0, 1, bpf), (answer, 0, 0, refuse | 38)],
                # socket(_, _, NETLINK_NETFILTER): EPROTONOSUPPORT
                "nf_tables": [(load, 0, 0, 0), (equal, 0, 3, socket), (load, 0, 0, 32), (equal, 0, 1, 12), (answer, 0, 0, refuse | 93)],
            }[feature] + [(answer, 0, 0, allow)]
            code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
            head = ctypes.create_string_buffer(struct.pack("HL", len(program), ctypes.addressof(code)))
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.prctl(38, 1, 0, 0, 0) == 0
            assert libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()
            os.execv(command[0], command)
            """
        return ["python3", "-c", script, feature] + command
    }
}
