import Kernel
import TestSupport
import Testing

//  host a: a VLAN sub-interface by hand, frames by hand ── cable ── enp0s8 of the router, with the ebpf driver on every kernel
@Suite struct DriverTests {
    /// Sends one UDP packet from VLAN 100 to VLAN 200 in a frame with exactly these tags, and returns what the router sends on.
    private func routed(_ tags: [(etherType: Int, control: Int)], _ router: TestHost) throws -> String {
        let capture = try router.start(
            [
                "timeout", isEmulated ? "12" : "3", "tcpdump", "-i", "cable", "-nn", "-e", "-l", "--immediate-mode",
                "-c", "2", "port 7777 or (vlan and port 7777) or (vlan and vlan and port 7777)",
            ])
        ThisProcess.sleep(milliseconds: isEmulated ? 3500 : 700)
        let script = """
            import socket, struct, sys
            mac = bytes.fromhex(sys.argv[1].replace(':', ''))
            tags = b''.join(struct.pack('!HH', *map(int, t.split(','))) for t in sys.argv[2:])
            payload = b'x' * 18
            udp = struct.pack('!HHHH', 7777, 7777, 8 + len(payload), 0) + payload
            head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton('172.16.10.10'), socket.inet_aton('172.16.20.10'))
            words = sum(struct.unpack('!10H', head))
            words = (words & 0xffff) + (words >> 16)
            head = head[:10] + struct.pack('!H', ~(words + (words >> 16)) & 0xffff) + head[12:]
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            s.bind(('cable', 0))
            s.send(mac + bytes.fromhex('020000000a0a') + tags + struct.pack('!H', 0x0800) + head + udp)
            """
        let mac = try router.sh("ip -o link show dev enp0s8 | sed 's/.*ether \\([^ ]*\\).*/\\1/'").dropLast()
        let sent = try router.run(
            ["python3", "-c", script, String(mac)] + tags.map { "\($0.etherType),\($0.control)" })
        guard sent.status == 0 else { throw CommandFailed(script: "send a frame", result: sent) }
        return capture.wait().output
    }

    private func router() throws -> TestHost {
        let host = try TestHost()
        let up = try host.vrouter(
            "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 --masquerade none --vlan-driver ebpf"
        )
        guard up.status == 0 else { throw CommandFailed(script: "up", result: up) }
        // Who the packet is for needs no asking.
        try host.sh("ip neighbour add 172.16.20.10 lladdr 02:00:00:00:14:0a dev enp0s8.200 nud permanent")
        return host
    }

    @Test func aRoutedFrameKeepsItsPriority() throws {
        let router = try router()
        for priority in [0, 5, 7] {
            let text = try routed([(0x8100, priority << 13 | 100)], router)
            #expect(text.contains("vlan 100, p \(priority),"), "\(text)")
            #expect(text.contains("vlan 200, p \(priority),") && text.contains("> 02:00:00:00:14:0a"), "\(text)")
        }
        #expect(try counted(router) == "3 0 ", "all three, and none on VLAN 200")
    }

    @Test func othersFramesAreLeftAlone() throws {
        let router = try router()
        // No tag, a priority tag, an unknown VLAN, a service tag: none of them is a frame of VLAN 100.
        for tags in [[], [(0x8100, 5 << 13)], [(0x8100, 300)], [(0x88a8, 100)]] as [[(etherType: Int, control: Int)]] {
            let text = try routed(tags, router)
            #expect(text.contains("172.16.10.10.7777 > 172.16.20.10.7777"), "it was sent: \(text)")
            #expect(!text.contains("> 02:00:00:00:14:0a"), "\(tags): \(text)")
        }
        #expect(try counted(router) == "0 0 ", "none was taken for a VLAN's")
    }

    /// Packets that came in on each VLAN: nobody but the test sends any.
    private func counted(_ router: TestHost) throws -> String {
        try router.sh("\(Product.path) status --json | jq -c '.vlans[] | .received.packets' | tr '\\n' ' '")
    }
}
