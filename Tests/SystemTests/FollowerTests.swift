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

    @Test func aMissingFollowerIsDrift() throws {
        let host = try TestHost()
        #expect(try host.vrouter("up --parent enp0s8 --vlan 100=172.16.10.1/24 --vlan-driver ebpf").status == 0)
        #expect(try host.vrouter("status").status == 0)
        try host.sh("kill -9 $(cat /run/vrouter/netns-$(stat -Lc %i /proc/self/ns/net).json.follower)")
        let status = try host.vrouter("status")
        #expect(status.status == 1 && status.output.contains("drift: nothing follows"), "\(status)")
        #expect(try host.vrouter("up --vlan 100=172.16.10.1/24").status == 0)
        #expect(try host.vrouter("status").status == 0)
        #expect(try host.vrouter("down").status == 0)
    }
}
