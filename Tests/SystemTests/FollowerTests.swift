import Kernel
import TestSupport
import Testing

/// What a VLAN device does when its parent changes, the gateway interfaces do with either driver.
@Suite struct FollowerTests {
    @Test(arguments: ["auto", "ebpf"]) func gatewaysFollowTheirParent(_ driver: String) throws {
        let host = try TestHost()
        try host.sh("ip link set enp0s8 up; ip link set enp0s8 mtu 9000; ip link set cable mtu 9000")
        let up = try host.vrouter(
            "up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 --vlan-driver \(driver)")
        #expect(up.status == 0, "\(up)")
        func eventually(_ words: String, _ comment: Comment) throws {
            var text = ""
            for _ in 0..<60 {
                text = try host.sh("ip -o link show dev enp0s8.100")
                if text.contains(words) { return }
                ThisProcess.sleep(milliseconds: 50)
            }
            Issue.record("\(comment): no '\(words)' in \(text)")
        }
        try eventually("LOWER_UP", "the parent has a carrier")
        try eventually("mtu 9000", "the parent's MTU")
        try host.sh("ip link set cable down")
        try eventually("state LOWERLAYERDOWN", "the cable is out")
        try host.sh("ip link set cable up")
        try eventually("LOWER_UP", "the cable is in again")
        try host.sh("ip link set enp0s8 mtu 1400")
        try eventually("mtu 1400", "the parent's MTU has shrunk")
        try host.sh("ip link set enp0s8 address 02:00:5e:00:53:01")
        try eventually("link/ether 02:00:5e:00:53:01", "the parent's address has changed")
        try host.sh("ip link del enp0s8")
        for _ in 0..<60 where try host.sh("ip -br link").contains("enp0s8.") { ThisProcess.sleep(milliseconds: 50) }
        #expect(try !host.sh("ip -br link").contains("enp0s8."), "gone with the parent")
        let down = try host.vrouter("down")
        #expect(down.status == 0, "\(down)")
    }

    /// Whoever starts `up` gets its descriptors back: a lock, a pipe.
    @Test func theFollowerHoldsNothingOfItsCaller() throws {
        let host = try TestHost()
        let lock = "/run/\(host.name).lock"
        try host.sh(
            "( flock 9; \(Product.path) up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver ebpf ) 9>\(lock) >/dev/null"
        )
        try host.sh("flock -n \(lock) true; rm \(lock)")
        #expect(try host.vrouter("down").status == 0)
    }

    /// A process keeps its namespace alive; the follower must not be the last one to do so.
    @Test func theFollowerEndsWithItsNamespace() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver ebpf").status == 0)
        let follower = try host.follower()
        try Namespace.delete(host.name)
        var ended = false
        for _ in 0..<300 where !ended {
            ended = try ChildProcess.run(["kill", "-0", "\(follower)"]).status != 0
            ThisProcess.sleep(milliseconds: 100)
        }
        #expect(ended)
    }

    @Test func aMissingFollowerIsDrift() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver ebpf").status == 0)
        #expect(try host.vrouter("status").status == 0)
        try host.stopFollower()
        let status = try host.vrouter("status")
        #expect(status.status == 1 && status.output.contains("drift: nothing follows"), "\(status)")
        #expect(try host.vrouter("up --vlan 100=172.16.10.1/24").status == 0)
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("down").status == 0)
    }
}

extension TestHost {
    /// The process identifier of the host's `vrouter follow`.
    func follower() throws -> String {
        let line = try sh(
            """
            for process in /proc/[0-9]*; do
                [ "$process/ns/net" -ef /proc/self/ns/net ] && tr '\\0' ' ' <"$process/cmdline" | grep -q '[v]router follow' \
                && echo "${process#/proc/}"
            done || true
            """)
        return String(line.dropLast())
    }

    func stopFollower() throws {
        try sh("kill -9 \(follower())")
        for _ in 0..<100 where try !follower().isEmpty { ThisProcess.sleep(milliseconds: 20) }
    }
}
