import Kernel
import TestSupport
import Testing

//  host h100 ─┐ VLAN 100                 ┌─ enp0s8 ─ router ─ uplink0 ── outside 192.0.2.2
//  host h200 ─┤ VLAN 200 ── switch ──────┘
//  host h300 ─┘ VLAN 300
//
// The hosts join their VLANs as `vrouter` itself does, which works on every kernel: with its own interfaces, and with
// forwarding off again.
final class Site {
    let router: TestHost
    let outside: TestHost
    let fabric: TestHost
    let hosts: [Int: TestHost]

    static let vlans =
        "--vlan 100=172.16.10.1/24,fd00:10::1/64 --vlan 200=172.16.20.1/24,fd00:20::1/64 --vlan 300=172.16.30.1/24"

    init(mtu: Int = 1500) throws {
        router = try TestHost(trunk: false)
        outside = try TestHost(trunk: false)
        fabric = try TestHost(trunk: false)
        try fabric.sh("ip link add switch type bridge; ip link set switch addrgenmode none up")
        try Self.plug(router, into: fabric, as: "router", mtu: mtu)
        var hosts: [Int: TestHost] = [:]
        for id in [100, 200, 300] {
            let host = try TestHost(trunk: false)
            try Self.plug(host, into: fabric, as: "h\(id)", mtu: mtu)
            try Self.join(host, id, "172.16.\(id / 10).10", "fd00:\(id / 10)::10")
            hosts[id] = host
        }
        self.hosts = hosts
        try router.sh(
            """
            ip link add uplink0 type veth peer name uplink0 netns \(outside.name)
            ip address add 192.0.2.1/24 dev uplink0; ip link set uplink0 up
            """)
        // The outside knows the way to the VLANs, so that only rules keep it out.
        try outside.sh(
            """
            ip link set lo up; ip address add 192.0.2.2/24 dev uplink0; ip link set uplink0 up
            ip route add 172.16.0.0/16 via 192.0.2.1
            """)
    }

    private static func plug(_ host: TestHost, into fabric: TestHost, as port: String, mtu: Int) throws {
        try fabric.sh(
            """
            ip link add \(port) type veth peer name enp0s8 netns \(host.name)
            ip link set \(port) master switch addrgenmode none mtu \(mtu) up
            """)
        try host.sh("ip link set lo up; ip link set enp0s8 addrgenmode none mtu \(mtu) up")
    }

    private static func join(_ host: TestHost, _ id: Int, _ addresses: String...) throws {
        let net = id / 10
        let wanted = addresses.map { "\($0)/\($0.contains(":") ? 64 : 24)" }.joined(separator: ",")
        let joined = try host.vrouter("up --parent enp0s8 --vlan \(id)=\(wanted) --masquerade none")
        guard joined.status == 0 else { throw CommandFailed(script: "join VLAN \(id)", result: joined) }
        // A host, no router.
        try host.sh(
            """
            nft delete table inet vrouter
            sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
            ip route add default via 172.16.\(net).1
            """)
        if addresses.count > 1 { try host.sh("ip -6 route add default via fd00:\(net)::1") }
    }

    /// One more host in a VLAN.
    func addHost(_ id: Int, _ address: String) throws -> TestHost {
        let host = try TestHost(trunk: false)
        try Self.plug(host, into: fabric, as: "more\(id)", mtu: 1500)
        try Self.join(host, id, address)
        return host
    }

    func host(_ id: Int) -> TestHost { hosts[id] ?? router }

    func up(_ options: String = "") throws {
        let result = try router.vrouter("up --parent enp0s8 \(Self.vlans) \(options)")
        guard result.status == 0 else { throw CommandFailed(script: "up \(options)", result: result) }
    }

    /// With the fast path, which has what it needs between the VLANs: the hosts' MAC addresses are known.
    func upFast(_ options: String = "") throws {
        try up("--masquerade none --fast-path af-packet --fast-path-from 0 \(options)")
        for (from, to) in [(100, 200), (200, 300), (300, 100)] {
            _ = try ping(host(from), "172.16.\(to / 10).10")
        }
        for (from, to) in [(100, 200), (200, 100)] { _ = try ping(host(from), "fd00:\(to / 10)::10") }
        try waitForWorkers()
    }

    /// Waits until packets from VLAN 100 to 200 pass the workers.
    func waitForWorkers(sourceLocation: SourceLocation = #_sourceLocation) throws {
        for _ in 0..<100 {
            let before = try router.forwarded()
            _ = try host(100).run(["ping", "-c", "3", "-i", "0.002", "-W", "1", "172.16.20.10"])
            if try router.forwarded() > before { return }
            ThisProcess.sleep(milliseconds: 20)
        }
        Issue.record("nothing passes the workers: \(try router.vrouter("status"))", sourceLocation: sourceLocation)
    }

    /// The TTL of the first answer; nil: none came. The first requests may be lost while neighbours are looked for.
    func ping(_ from: TestHost, _ address: String) throws -> Int? {
        for _ in 0..<4 {
            let result = try from.run(["ping", "-c", "1", "-W", "1", address])
            if let ttl = result.output.firstMatch(of: #/ttl=(\d+)/#).flatMap({ Int($0.1) }) { return ttl }
        }
        return nil
    }

    /// Whether a TCP connection to a server on that host is answered, and as whom the server sees the client.
    func peer(_ from: TestHost, _ server: TestHost, _ address: String) throws -> String? {
        let log = try server.start(
            [
                "python3", "-c",
                "import socket; s = socket.create_server(('', 4711)); c = s.accept(); print(c[1][0], flush=True)",
            ])
        defer {
            log.signal(SignalNumber.kill)
            _ = log.wait()
        }
        for _ in 0..<50 where try !server.sh("ss -Hltn sport = 4711").contains("4711") {
            ThisProcess.sleep(milliseconds: 50)
        }
        let client = try from.run(
            ["python3", "-c", "import socket, sys; socket.create_connection((sys.argv[1], 4711), 2)", address])
        guard client.status == 0 else { return nil }
        for _ in 0..<50 where log.outputSoFar.isEmpty { ThisProcess.sleep(milliseconds: 50) }
        return String(log.outputSoFar.dropLast())
    }
}
