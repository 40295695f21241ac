import Kernel
import TestSupport
import Testing

//  (VLANs 100, 200, 300: nobody but this test)
//        frames ──▶ router ════ enp0s8 ─ router
//        answers ◀── (port)              vrouter forward
//
/// Frames of all kinds, once with the kernel forwarding all of them and once with the workers taking theirs: what comes out is the
/// same, octet for octet. The rules are the same both times, connection tracking left out of it: the foreign chain that ends the
/// workers' part lets everything pass.
@Suite struct FastPathAgreementTests {
    @Test func sameAsTheKernel() throws {
        let site = try Site()
        try site.upFast()
        try site.fabric.sh(
            "for port in h100 h200 h300; do ip link set $port down; done; ip link set router nomaster mtu 9000")
        // No limit on how many errors are sent in a second, and nothing that a host would be asked.
        try site.router.sh(
            """
            sysctl -qw net.ipv4.icmp_ratemask=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 net.ipv6.icmp.ratemask=255
            for link in all default enp0s8 enp0s8.100 enp0s8.200 enp0s8.300; do sysctl -qw net/ipv4/conf/$link/send_redirects=0; done
            for net in 10 20 30; do for host in 10 11 12 13; do
                mac=02:00:00:00:$net:$host
                ip neigh replace 172.16.$net.$host lladdr $mac dev enp0s8.${net}0 nud permanent
                [ $net = 30 ] || ip neigh replace fd00:$net::$host lladdr $mac dev enp0s8.${net}0 nud permanent
            done; done
            for id in 100 200; do
                ip neigh replace fe80::1 lladdr 02:00:00:00:00:01 dev enp0s8.$id nud permanent
                ip neigh replace 172.16.${id%0}.0 lladdr 02:00:00:00:00:02 dev enp0s8.$id nud permanent
            done
            ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:03 dev uplink0 nud permanent
            ip route add 10.20.0.0/16 via 172.16.20.13
            ip -6 route add fd00:99::/32 via fd00:20::13
            ip link set enp0s8.300 mtu 1400
            """)
        try site.outside.sh("ip link set uplink0 down")
        let mac = try site.router.sh("ip -j link show dev enp0s8 | jq -r '.[].address'").dropLast()

        func exchange(_ comment: Comment) throws -> (lines: [String], forwarded: Int) {
            ThisProcess.sleep(milliseconds: isEmulated ? 1500 : 300)
            let before = try site.router.forwarded()
            let result = try site.fabric.run([
                "python3", "-c", Self.script, "router", String(mac), "6000",
            ])
            try #require(result.status == 0, "\(comment): \(result)")
            let lines = result.output.split(separator: "\n").map(String.init)
            return (lines, try site.router.forwarded() - before)
        }
        let fast = try exchange("with the workers")
        let ended = try #require(try site.router.fastPath()).ended
        try site.router.sh(
            """
            nft 'add table inet foreign; add chain inet foreign f { type filter hook forward priority 10; }'
            nft add rule inet foreign f counter
            """)
        let slow = try exchange("with the kernel alone")
        #expect(slow.forwarded == 0)
        #expect(fast.forwarded > 1000, "a good part goes through the workers: \(fast.forwarded)")
        #expect(slow.lines.count > 2000, "\(slow.lines.count) frames came out")
        let changes = differences(slow.lines, fast.lines)
        #expect(changes.isEmpty, "\(changes.count): \(changes.prefix(20).joined(separator: "\n")), \(ended)")
    }

    private static let script = #"""
        import collections, random, select, socket, struct, sys, time
        port, router, count = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), int(sys.argv[3])
        rng = random.Random(20260)
        pick, chance = rng.choice, lambda share: rng.random() < share

        def checksum(data):
            data += bytes(len(data) & 1)
            total = sum(struct.unpack(f">{len(data) // 2}H", data))
            while total >> 16:
                total = (total & 0xffff) + (total >> 16)
            return ~total & 0xffff

        def address(text):
            return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)

        nets = {100: 10, 200: 20, 300: 30}
        def mac(net, host):
            return bytes([2, 0, 0, 0, int(str(net), 16), int(str(host), 16)])

        special4 = """0.0.0.0 0.1.2.3 10.20.1.1 10.20.255.255 127.0.0.1 127.1.2.3 169.254.1.1 224.0.0.1 224.0.0.5 239.1.2.3
            240.0.0.1 255.255.255.255 172.16.10.1 172.16.20.1 172.16.30.1 172.16.10.0 172.16.20.0 172.16.10.255 172.16.20.255
            192.0.2.1 192.0.2.2 198.51.100.1 8.8.8.8 172.16.20.10 172.16.10.10 172.16.30.12""".split()
        special6 = """:: ::1 ::ffff:172.16.20.10 ::172.16.20.10 fe80::1 febf::1 fec0::1 ff01::1 ff02::1 ff05::2 ff0e::1 2002:ac10:140a::1
            64:ff9b::1 2001:db8::1 fd00:10:: fd00:20:: fd00:10::1 fd00:20::1 fd00:99::1 fd00:10::10 fd00:20::10 fd00:20::12 100::1""".split()

        def transport(number, source, target, kind, text):
            """The protocol, and its packet."""
            pseudo = lambda protocol, length: source + target + (
                struct.pack(">BBH", 0, protocol, length) if len(source) == 4 else struct.pack(">II", length, protocol))
            def finish(protocol, head, at, covered=True):
                packet = head + text
                damage = rng.random()
                value = checksum((pseudo(protocol, len(packet)) if covered else b"") + packet)
                if protocol == 17 and value == 0:
                    value = 0xffff
                if damage < 0.08:
                    value = pick([value ^ 1, value ^ 0x8000, 0, 0xffff])
                return protocol, packet[:at] + struct.pack(">H", value) + packet[at + 2:]
            if kind == "udp":
                length = 8 + len(text)
                if chance(0.06):
                    length = pick([0, 7, 8, length - 1, length + 1, 65535]) & 0xffff
                return finish(17, struct.pack(">HHHH", rng.randrange(65536), rng.randrange(1, 65536), length, 0), 6)
            if kind == "tcp":
                size = 5 if chance(0.9) else rng.randrange(16)
                flags = pick([2, 0x10, 0x18, 0x11, 4, 0, 0x3f, 0x12, 0xc2])
                return finish(6, struct.pack(">HHIIBBHHH", rng.randrange(65536), rng.randrange(65536), rng.getrandbits(32),
                    rng.getrandbits(32), size << 4, flags, rng.randrange(65536), 0, 0), 16)
            if kind == "icmp":
                if len(source) == 4:
                    return finish(1, struct.pack(">BBHHH", pick([8, 8, 8, 0, 3, 11, 13]), 0, 0, number & 0xffff, 1), 2, False)
                return finish(58, struct.pack(">BBHHH", pick([128, 128, 129, 1, 3]), 0, 0, number & 0xffff, 1), 2)
            return pick([47, 50, 89, 132, 253]), text

        def ipv4(number, source, target, text):
            version, size, tos, options = 4, 5, rng.randrange(256) if chance(0.2) else 0, b""
            ttl, flags, labels = pick([64, 64, 128, 3]), pick([0, 0x4000]), []
            protocol, packet = transport(number, source, target, pick(["udp", "udp", "tcp", "icmp", "other"]), text)
            total = value = None
            if chance(0.35):
                what = pick(["version", "size", "options", "total", "ttl", "ttl", "flags", "sum", "sum"])
                labels.append(what)
                if what == "version": version = rng.randrange(16)
                if what == "size": size = rng.randrange(16)
                if what == "options":
                    options = pick([b"\1\1\1\1", b"\1\1\1\0", b"\x94\4\0\0", b"\7\7\4\0\0\0\0\0", b"\x44\x0c\x0d\0" + bytes(8),
                        b"\x83\7\4" + target + b"\0", b"\x89\7\4" + target + b"\0", b"\x82\x0b" + bytes(9) + b"\0",
                        b"\7\3\4\0", b"\xff\xff\xff\xff", rng.randbytes(8), rng.randbytes(40)])
                    size = 5 + len(options) // 4
                if what == "total": total = pick([0, 10, 19, 20, 28, 65535, 20 + len(packet) + 1, 20 + len(packet) - 1])
                if what == "ttl": ttl = pick([0, 1, 2, 255])
                if what == "flags": flags = pick([0x8000, 0x2000, 0x1fff, 0x2010, 0x4001, 0xe000])
                if what == "sum": value = pick([0, 0xffff, None, rng.randrange(65536)])
            if total is None: total = 20 + len(options) + len(packet)
            head = lambda sum: struct.pack(">BBHHHBBH", version << 4 | size, tos, total, number & 0xffff, flags, ttl, protocol,
                sum) + source + target + options
            if value is None:
                value = checksum(head(0))
                if "sum" in labels: value ^= 1 << rng.randrange(16)
            return labels, head(value) + packet

        def ipv6(number, source, target, text):
            version, limit, labels = 6, pick([64, 64, 128, 3]), []
            next, packet = transport(number, source, target, pick(["udp", "udp", "tcp", "icmp", "other"]), text)
            length = None
            if chance(0.35):
                what = pick(["version", "limit", "limit", "length", "header", "header"])
                labels.append(what)
                if what == "version": version = rng.randrange(16)
                if what == "limit": limit = pick([0, 1, 2, 255])
                if what == "length": length = pick([0, 1, 8, len(packet) - 1, len(packet) + 1, 65535])
                if what == "header":
                    header, content = pick([(0, b"\5\2\0\0\0\0"), (0, b"\1\4\0\0\0\0"), (0, b"\x3e\4\0\0\0\0"), (0, b"\xbe\4\0\0\0\0"),
                        (0, b"\xc2\4\0\1\0\0"), (43, b"\0\0\0\0\0\0"), (43, b"\0\1\0\0\0\0"), (43, b"\4\0\0\0\0\0"),
                        (44, struct.pack(">HI", 0, number)), (60, b"\1\4\0\0\0\0"), (60, b"\xbe\4\0\0\0\0"), (51, bytes(6)),
                        (59, None), (50, None), (135, bytes(6)), (139, bytes(6)), (140, bytes(6))])
                    if content is not None:
                        packet = bytes([next, 0]) + content + packet
                    next = header
            if length is None: length = len(packet)
            return labels, struct.pack(">IHBB", version << 28 | (rng.getrandbits(28) if chance(0.2) else 0), length, next,
                limit) + source + target + packet

        def frames(number):
            """A description and one frame, or several that belong together."""
            vlan = pick([100, 200, 300])
            family = pick([4, 4, 6])
            if family == 6 and vlan == 300: vlan = 100
            other = pick([id for id in ([100, 200, 300] if family == 4 else [100, 200]) if id != vlan or chance(0.1)])
            labels = [f"v{family}", f"{vlan}>{other}"]
            host = lambda id: address((f"172.16.{nets[id]}." if family == 4 else f"fd00:{nets[id]}::") + str(rng.randrange(10, 14)))
            source, target = host(vlan), host(other)
            for which in "source", "target":
                if chance(0.08):
                    text = pick(special4 if family == 4 else special6)
                    labels.append(f"{which} {text}")
                    if which == "source": source = address(text)
                    else: target = address(text)
            size = pick([0, 0, 18, 100, 500, rng.randrange(1400)])
            if chance(0.05): size = pick([1332, 1352, 1360, 1372, 1380, 1432, 1440, 1452, 1460, 1472, 1473, 1480, 1500, 2000, 4000])
            text = b"vrouter!" + struct.pack(">I", number) + rng.randbytes(size)
            more, packet = (ipv4 if family == 4 else ipv6)(number, source, target, text)
            labels += more
            packets = [packet]
            if not more and family == 4 and len(packet) > 100 and chance(0.1):
                labels.append("fragments")
                packets, data, step = [], packet[20:], pick([8, 64, 504])
                if len(data) // step > 30: step = 504
                for at in range(0, len(data), step):
                    part = data[at:at + step]
                    head = packet[:2] + struct.pack(">HHH", 20 + len(part), number & 0xffff,
                        at // 8 | (0x2000 if at + step < len(data) else 0)) + packet[8:10] + b"\0\0" + packet[12:20]
                    packets.append(head[:10] + struct.pack(">H", checksum(head)) + head[12:] + part)
            type, to, sender, tags = 0x0800 if family == 4 else 0x86dd, router, mac(nets[vlan], 10), None
            tci = vlan | (rng.randrange(16) << 12 if chance(0.4) else 0)
            if chance(0.15):
                what = pick(["to", "to", "sender", "tag", "tag", "type", "short", "short", "long"])
                labels.append(what)
                if what == "to": to = pick([b"\xff" * 6, b"\1\0\x5e\0\0\1", b"\x33\x33\0\0\0\1", mac(10, 11), router[:5] + bytes([router[5] ^ 1])])
                if what == "sender": sender = pick([router, bytes(6), b"\xff" * 6, b"\1\0\x5e\0\0\1"])
                if what == "tag":
                    tags = pick([b"", struct.pack(">HH", 0x8100, 0), struct.pack(">HH", 0x8100, 0xe000), struct.pack(">HH", 0x8100, 999),
                        struct.pack(">HH", 0x8100, 4095), struct.pack(">HH", 0x88a8, tci), struct.pack(">HHHH", 0x88a8, 100, 0x8100, tci),
                        struct.pack(">HHHH", 0x8100, tci, 0x8100, tci), struct.pack(">HHHH", 0x8100, 0, 0x8100, tci),
                        struct.pack(">HHHH", 0x8100, tci, 0x88a8, 200), struct.pack(">HH", 0x9100, tci)])
                if what == "type": type = pick([0x0800, 0x86dd, 0x88cc, 0x8847, 46, 1500])
                if what == "short": packets[-1] = packets[-1][:pick([0, 1, 19, 20, 27, 39, 40, rng.randrange(len(packets[-1]))])]
                if what == "long": packets[-1] += bytes(pick([1, 2, 46, 300]))
            if tags is None: tags = struct.pack(">HH", 0x8100, tci)
            for packet in packets:
                yield ", ".join(labels), to + sender + tags + struct.pack(">H", type) + packet

        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        wire.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        wire.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        wire.bind((port, 3))
        wire.setblocking(False)
        own = {address(f"172.16.{net}.1") for net in nets.values()} | {address("192.0.2.1")}
        descriptions, lines = {}, []

        def describe(frame, tag):
            type = struct.unpack_from(">H", frame, 12)[0]
            if type == 0x0800:
                if frame[23] == 2: return None  # IGMP
                if frame[26:30] in own:  # the router's own: its identification counts or is random
                    # That there is no route it says only so often to each sender.
                    if frame[23] == 1 and frame[34:36] in (b"\3\0", b"\3\1"): return None
                    frame = frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
            elif type == 0x86dd:
                # Neighbours and groups of the router's own.
                if frame[20] == 58 and frame[54:55] in (b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f"): return None
                if frame[20] == 0 and (frame[22] == 0xfe or not any(frame[22:38])): return None
            else:
                return None
            at = frame.rfind(b"vrouter!")
            number = struct.unpack_from(">I", frame, at + 8)[0] if 0 <= at <= len(frame) - 12 else None
            return f"{descriptions.get(number, '?')} #{number} {tag} {frame.hex()}"

        def receive():
            count = 0
            while True:
                try:
                    frame, extra, *_ = wire.recvmsg(70000, 128)
                except BlockingIOError:
                    return count
                count += 1
                tag = "untagged"
                for level, kind, data in extra:
                    status, _, _, _, _, tci, tpid = struct.unpack_from("=IIIHHHH", data)
                    if status & 16: tag = f"{tpid:04x}:{tci:04x}"
                line = describe(frame, tag)
                if line: lines.append(line)

        sent = number = 0
        while sent < count:
            number += 1
            for description, frame in frames(number):
                if len(frame) < 18: continue
                descriptions[number] = description
                try:
                    wire.send(frame)
                except OSError:  # too long for the router's end
                    continue
                sent += 1
            if number % 32 == 0:
                receive()
                time.sleep(0.002)
        quiet = time.monotonic()
        while time.monotonic() - quiet < 0.5:
            if receive(): quiet = time.monotonic()
            time.sleep(0.01)
        print("\n".join(sorted(lines)))
        """#
}
