import Forwarding
import Kernel
import PacketIO
import Packets
import TestSupport
import Testing

/// `vrouter forward` over capture files.
@Suite struct ForwardFilesTests {
    private let router = [
        "--masquerade", "none", "--mac", "02:00:00:00:00:01", "--vlan", "100=172.16.10.1/24,fd00:10::1/64",
        "--vlan", "200=172.16.20.1/24,fd00:20::1/64", "--vlan", "300=172.16.30.1/24", "--deny", "300:200",
        "--neighbor", "172.16.20.11=02:00:00:00:02:11", "--neighbor", "172.16.20.2=02:00:00:00:02:02",
        "--neighbor", "fd00:20::11=02:00:00:00:02:11", "--route", "10.9.0.0/16=172.16.20.2",
        "--route", "10.12.0.0/16=blackhole", "--route", "10.16.0.0/16=other",
    ]

    private func forward(_ arguments: [String]) throws -> ChildProcess.Result {
        try ChildProcess.run([Product.path, "forward"] + arguments)
    }

    private func write(_ frames: [CapturedFrame]) throws -> TemporaryFile {
        let file = TemporaryFile()
        var writer = try PcapWriter(file.path)
        for frame in frames { writer.write(frame) }
        try writer.flush()
        return file
    }

    private func read(_ file: TemporaryFile) throws -> [CapturedFrame] {
        var reader = try PcapReader(file.path)
        var frames: [CapturedFrame] = []
        while let frame = try reader.next() { frames.append(frame) }
        return frames
    }

    private let sent: [TestFrame] = [
        .ipv4().with { $0.tags[0].control |= 0xa000 }, .ipv6(payload: .echo(8)),
        .ipv4(to: "10.9.0.1", payload: .tcp(5)),
        .ipv4(timeToLive: 1), .ipv4(to: "10.12.0.1"), .ipv4(to: "10.16.0.1"), .ipv4(vlan: 300, from: "172.16.30.12"),
        .ipv4().with { $0.tags = [] },
    ]

    @Test func forwardsAndCounts() throws {
        let input = try write(
            sent.enumerated().map { CapturedFrame(seconds: $0 + 1, nanoseconds: $0 + 7, octets: $1.octets) }
                + [CapturedFrame(octets: Array(sent[0].octets.prefix(40)), originalLength: 60)])
        let output = TemporaryFile()
        let result = try forward(["--pcap-in", input.path, "--pcap-out", output.path] + router)
        #expect(result.status == 0 && result.errors.isEmpty, "\(result)")
        func expected(_ index: Int, _ next: UInt64, _ frame: TestFrame) -> CapturedFrame {
            let frame = frame.with {
                $0.destination = MACAddress(0x0200_0000_0200 | next)
                $0.source = MACAddress(0x0200_0000_0001)
            }
            return CapturedFrame(seconds: index + 1, nanoseconds: index + 7, octets: frame.octets)
        }
        #expect(
            try read(output) == [
                expected(0, 0x11, .ipv4(vlan: 200, timeToLive: 63).with { $0.tags[0].control |= 0xa000 }),
                expected(1, 0x11, .ipv6(vlan: 200, hopLimit: 63, payload: .echo(8))),
                expected(2, 0x02, .ipv4(vlan: 200, to: "10.9.0.1", timeToLive: 63, payload: .tcp(5))),
            ])
        let rows = result.output.split(separator: "\n").map {
            $0.split(separator: " ").prefix(3).joined(separator: " ")
        }
        #expect(
            rows == [
                "frames verdict reason", "3 forward -", "1 drop blackhole", "1 kernel untagged",
                "1 kernel time_to_live",
                "1 kernel other_interface", "1 kernel denied", "1 none -",
            ], "\(result.output)")
    }

    @Test func explains() throws {
        let input = try write(sent.map { CapturedFrame(octets: $0.octets) })
        let lines = try forward(["--explain", "--pcap-in", input.path] + router).output.split(separator: "\n")
        let expected = [
            "1  VLAN 100, IPv4 172.16.10.10 → 172.16.20.11 UDP 40000 → 53, ttl 64, 46 octets, to 02:00:00:00:00:01: "
                + "forwarded into VLAN 200, next hop 172.16.20.11 at 02:00:00:00:02:11",
            "2  VLAN 100, IPv6 fd00:10::10 → fd00:20::11 echo request 1, hop limit 64, 56 octets, to 02:00:00:00:00:01: "
                + "forwarded into VLAN 200, next hop fd00:20::11 at 02:00:00:00:02:11",
            "3  VLAN 100, IPv4 172.16.10.10 → 10.9.0.1 TCP 40000 → 443, ttl 64, 45 octets, to 02:00:00:00:00:01: "
                + "forwarded into VLAN 200, next hop 172.16.20.2 at 02:00:00:00:02:02",
            "4  VLAN 100, IPv4 172.16.10.10 → 172.16.20.11 UDP 40000 → 53, ttl 1, 46 octets, to 02:00:00:00:00:01: "
                + "left to the kernel: the time to live ends here",
            "5  VLAN 100, IPv4 172.16.10.10 → 10.12.0.1 UDP 40000 → 53, ttl 64, 46 octets, to 02:00:00:00:00:01: "
                + "dropped, as the kernel would: the route is a blackhole",
        ]
        #expect(lines.prefix(5).map(String.init) == expected)
    }

    @Test func json() throws {
        let input = try write(sent.map { CapturedFrame(octets: $0.octets) })
        let result = try forward(["--json", "--pcap-in", input.path] + router)
        let counted = try ChildProcess.run(
            ["jq", "-c", "[.frames, .incomplete, (.verdicts | map([.verdict, .reason, .frames]))]"],
            input: result.output)
        #expect(
            counted.output
                == """
                [8,0,[["forward",null,3],["drop","blackhole",1],["kernel","untagged",1],["kernel","time_to_live",1],\
                ["kernel","other_interface",1],["kernel","denied",1]]]

                """)
    }

    /// By default the source address of what enters a VLAN is translated, which the pipeline does not do.
    @Test func masquerading() throws {
        let input = try write([CapturedFrame(octets: TestFrame.ipv4().octets)])
        let result = try forward(["--pcap-in", input.path] + router.dropFirst(2))
        #expect(result.output.contains("kernel   masqueraded"), "\(result)")
    }

    @Test func badInput() throws {
        let input = try write([])
        let files = ["--pcap-in", input.path]
        let text = TemporaryFile("no capture")
        let cases: [([String], String)] = [
            (["--pcap-in", "/nowhere/in.pcap"] + router, "/nowhere/in.pcap: No such file or directory"),
            (["--pcap-in", text.path] + router, "unknown file format"),
            (files + ["--pcap-out", "/nowhere/out.pcap"] + router, "/nowhere/out.pcap: No such file or directory"),
            (files + ["--pcap-out", input.path] + router, "is the file that is read"),
            (files + ["--pcap-out", "-"] + router, "standard output is for what is printed"),
            (router, "give it with --pcap-in"),
            (["--explain", "--json"] + files + router, "give one of them"),
            (files, "no VLAN given"),
            (files + ["--vlan", "100=172.16.10.1/24"], "the router's MAC address is not given"),
            (files + router + ["--mac", "ff:ff:ff:ff:ff:ff"], "'ff:ff:ff:ff:ff:ff' is not a station's MAC address"),
            (files + router + ["--mac", "2:0:0:0:0:1"], "'2:0:0:0:0:1' is not a station's MAC address"),
            (files + router + ["--neighbor", "172.16.20.11"], "no '='"),
            (files + router + ["--neighbor", "172.16.20=02:00:00:00:00:02"], "'172.16.20' is not an IPv4 or IPv6"),
            (files + router + ["--neighbor", "10.0.0.1=02:00:00:00:00:02"], "10.0.0.1 is in no VLAN's subnet"),
            (files + router + ["--route", "10.0.0.0=172.16.20.2"], "has no prefix length"),
            (files + router + ["--route", "10.0.0.0/33=172.16.20.2"], "prefix length from 0 to 32"),
            (files + router + ["--route", "10.0.0.0/8=172.16.99.2"], "172.16.99.2 is in no VLAN's subnet"),
            (files + router + ["--route", "10.0.0.0/8=fd00:20::2"], "is not of the family of 10.0.0.0/8"),
            (files + router + ["--route", "10.0.0.0/8="], "'' is not an IPv4 or IPv6 address"),
            (files + router + ["--mtu", "65536"], "--mtu"),
        ]
        for (arguments, message) in cases {
            let result = try forward(arguments)
            #expect(result.status == 64 && result.errors.contains(message), "\(arguments): \(result)")
            #expect(result.output.isEmpty)
        }
    }

    /// Any file is read or refused.
    @Test func damagedFiles() throws {
        let whole = try write(sent.map { CapturedFrame(octets: $0.octets) })
        let good = try ChildProcess.run(["base64", "-w0", whole.path])
        try #require(good.output.utf8.count > 400, "\(good)")
        var generator = SeededGenerator(seed: 77)
        for _ in 0..<60 {
            // Base64 digits stand for octets: what is damaged in one is damaged in the other.
            var digits = Array(good.output.utf8)
            for _ in 0..<Int.random(in: 1...20, using: &generator) {
                digits[Int.random(in: 40..<digits.count, using: &generator)] =
                    UInt8(ascii: "A") + UInt8.random(in: 0..<26, using: &generator)
            }
            let file = TemporaryFile()
            let decoded = try ChildProcess.run(
                ["sh", "-c", "base64 -di >\(file.path)"], input: String(decoding: digits, as: UTF8.self))
            try #require(decoded.status == 0)
            let result = try forward(["--explain", "--pcap-in", file.path] + router)
            #expect([0, 64].contains(result.status), "\(String(decoding: digits, as: UTF8.self)): \(result)")
        }
    }
}
