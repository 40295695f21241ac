import FoundationEssentials
import Kernel
import TestSupport
import Testing

/// `vrouter flows` against connections that are there.
@Suite struct FlowsTests {
    private struct Document: Decodable {
        struct Endpoints: Decodable, Equatable {
            var source, destination: String
            var sourcePort, destinationPort, id: UInt16?
        }
        struct Counter: Decodable { var packets, bytes: UInt64 }
        struct Flow: Decodable {
            var `protocol`, state, forwardedBy: String
            var from, to: UInt16
            var original, translated: Endpoints
            var expires: UInt32
            var sent, received: Counter?
            var fastPath: Part?
        }
        struct Part: Decodable { var sent, received: Counter }
        var flows: [Flow]
    }

    private func document(_ host: TestHost) throws -> [Document.Flow] {
        let result = try host.vrouter("flows --json")
        #expect(result.status == 0, "\(result)")
        return try JSONDecoder().decode(Document.self, from: Data(result.output.utf8)).flows
    }

    @Test(whereItIsFast) func connectionsAreShownBeforeAndAfterTranslation() throws {
        let site = try Site()
        #expect(try site.router.vrouter("flows").status == 3)
        try site.up("--masquerade vlans")
        #expect(try site.router.vrouter("flows").output == "no connections\n")
        try site.router.sh("echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct")
        let first = try LiveSession(site.host(100), site.host(200), "172.16.20.10")
        let second = try LiveSession(site.host(300), site.host(100), "172.16.10.10")
        try #require(first.goesOn() && second.goesOn())
        #expect(try site.ping(site.host(200), "fd00:10::10") == 63)
        // The router's own is not between VLANs.
        #expect(try site.ping(site.host(100), "172.16.10.1") == 64)

        let flows = try document(site.router).filter { $0.protocol == "tcp" || $0.protocol == "icmpv6" }
        try #require(flows.map { [$0.from, $0.to] } == [[100, 200], [200, 100], [300, 100]], "\(flows)")
        let tcp = flows[0]
        #expect(tcp.protocol == "tcp" && tcp.state == "established" && tcp.forwardedBy == "kernel")
        #expect(tcp.original.source == "172.16.10.10" && tcp.original.destination == "172.16.20.10")
        #expect(tcp.translated.source == "172.16.20.1" && tcp.translated.destination == "172.16.20.10")
        #expect(tcp.original.destinationPort == 4712 && tcp.translated.destinationPort == 4712)
        #expect(tcp.original.sourcePort != nil && tcp.original.id == nil)
        let (sent, received) = (try #require(tcp.sent), try #require(tcp.received))
        #expect(sent.packets >= 10 && received.packets >= 10 && sent.bytes >= 40 * sent.packets)
        #expect(tcp.expires > 200)
        let echo = flows[1]
        #expect(echo.protocol == "icmpv6" && echo.state == "answered" && echo.original == echo.translated)
        #expect(echo.original.id != nil && echo.original.sourcePort == nil && echo.original.source == "fd00:20::10")

        #expect(tcp.fastPath == nil)

        let text = try site.router.vrouter("flows").output
        #expect(text.contains("172.16.20.10:4712") && text.contains("100 > 200") && text.contains("packets back"))
        // Not what is for machines, and what is not translated only once.
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("icmpv6") })
        #expect(line.ranges(of: "fd00:10::10").count == 1)
    }

    @Test func whatTheWorkersCarryIsTheirs() throws {
        let site = try Site()
        try site.up("--masquerade vlans --fast-path af-packet --fast-path-from 0")
        try site.router.sh("echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct")
        let session = try LiveSession(site.host(100), site.host(200), "172.16.20.10")
        try #require(session.goesOn())
        func tcp() throws -> Document.Flow? { try document(site.router).first { $0.protocol == "tcp" } }
        var flow = try tcp()
        for _ in 0..<100 where flow?.fastPath.map({ min($0.sent.packets, $0.received.packets) }) ?? 0 < 10 {
            ThisProcess.sleep(milliseconds: 100)
            flow = try tcp()
        }
        let carried = try #require(flow)
        let part = try #require(carried.fastPath, "\(carried)")
        #expect(carried.forwardedBy == "fast-path")
        #expect(part.sent.packets >= 10 && part.received.packets >= 10)
        #expect(part.sent.bytes >= 40 * part.sent.packets)
        // With what the kernel had before: the three that begin it, at least.
        let (sent, received) = (try #require(carried.sent), try #require(carried.received))
        #expect(sent.packets > part.sent.packets && received.packets > part.received.packets)
        #expect(try site.router.vrouter("flows").output.contains("workers' packets"))

        // Denied, it ends with workers as without.
        let up = try site.router.vrouter(
            "up --parent enp0s8 \(Site.vlans) --masquerade vlans --fast-path af-packet --fast-path-from 0 --deny 100:200"
        )
        #expect(up.status == 0 && up.output.contains("1 session that is no longer allowed ended\n"), "\(up)")
        #expect(session.ends())
    }
}
