import Kernel
import Packets
import Testing

@testable import Router

@Suite struct ConfigurationTests {
    @Test func interfaceNames() throws {
        let article = try Configuration(parent: "enp0s8", vlans: ["200=172.16.20.1/24", "100=172.16.10.1/24"])
        #expect(
            article.vlans.map { article.interfaceName($0.id) } == ["enp0s8.100", "enp0s8.200"], "in order of their ids")
        // 15 octets are the most that an interface's name has: IFNAMSIZ in linux/if.h.
        let long = try Configuration(parent: "enp130s31f6", vlans: ["100=172.16.10.1/24", "4094=172.16.20.1/24"])
        #expect(long.interfaceName(try #require(VLANID(100))) == "enp130s31f6.100")
        #expect(long.interfaceName(try #require(VLANID(4094))) == "vlan4094")
    }

    @Test func overlapsAreFoundAmongThousands() throws {
        var vlans = (1...4000).map { "\($0)=10.\($0 / 250).\($0 % 250).1/24" }
        _ = try Configuration(parent: "enp0s8", vlans: vlans)
        vlans.append("4094=10.7.15.9/20")
        let failure = #expect(throws: Failure.self) { try Configuration(parent: "enp0s8", vlans: vlans) }
        #expect(failure?.message.contains("10.7.0.0/20 of VLAN 4094") == true)
    }

    /// A block inside a block whose neighbour lies between them in order.
    @Test func overlapsAcrossANestedBlock() throws {
        let failure = #expect(throws: Failure.self) {
            try Configuration(parent: "p", vlans: ["1=10.0.0.1/8,10.0.1.1/24", "2=10.200.0.1/24"])
        }
        #expect(
            failure?.message
                == "--vlan 2=10.200.0.1/24: the subnets 10.0.0.0/8 of VLAN 1 and 10.200.0.0/24 of VLAN 2 overlap")
    }

    @Test func oneVLANMayHaveSeveralAddresses() throws {
        let configuration = try Configuration(
            parent: "p", vlans: ["1=10.0.0.1/24,10.0.0.2/24,fd00::1/64", "2=fd01::1/64"])
        #expect(configuration.usesIPv4 && configuration.usesIPv6)
        #expect(try !Configuration(parent: "p", vlans: ["2=fd01::1/64"]).usesIPv4)
    }

    @Test func namesThatNoRuleCanHold() {
        for name in ["eth\"0", "eth+", "$(id)", "a;b", "a b"] {
            let failure = #expect(throws: Failure.self) { try Configuration(parent: name, vlans: ["1=10.0.0.1/24"]) }
            #expect(failure?.kind == .usage && failure?.message.contains("'\(name)") == true)
        }
    }
}

@Suite struct JoiningHostsTests {
    /// The article's own command, for its VLAN 100.
    @Test func docker() throws {
        let configuration = try Configuration(
            parent: "enp0s8", vlans: ["100=172.16.10.1/24", "200=172.16.20.1/24,fd00:20::1/64"])
        #expect(
            JoiningHosts.text(configuration, .docker) == """
                docker network create -d macvlan --subnet 172.16.10.0/24 --gateway 172.16.10.1 -o parent=enp0s8.100 mac100
                docker network create -d macvlan --ipv6 --subnet 172.16.20.0/24 --gateway 172.16.20.1 --subnet fd00:20::/64 \
                --gateway fd00:20::1 -o parent=enp0s8.200 mac200

                """)
    }

    @Test func ip() throws {
        let configuration = try Configuration(parent: "enp0s8", vlans: ["100=172.16.10.1/24,fd00:10::1/64"])
        #expect(
            JoiningHosts.text(configuration, .ip) == """
                # VLAN 100
                ip link add link enp0s8 name enp0s8.100 type vlan id 100
                ip address add 172.16.10.10/24 dev enp0s8.100
                ip address add fd00:10::a/64 dev enp0s8.100
                ip link set dev enp0s8.100 up
                ip route add default via 172.16.10.1
                ip -6 route add default via fd00:10::1

                """)
    }

    @Test func oneDefaultRoute() throws {
        let configuration = try Configuration(parent: "p", vlans: ["1=10.0.1.1/24", "2=10.0.2.1/24"])
        let lines = JoiningHosts.text(configuration, .ip).split(separator: "\n")
        #expect(lines.filter { $0.hasPrefix("ip route add default") } == ["ip route add default via 10.0.1.1"])
        #expect(lines.contains("# ip route add default via 10.0.2.1"))
    }

    @Test func examplesStayInTheSubnet() throws {
        for (gateway, host) in [
            ("192.0.2.254/24", "192.0.2.253/24"), ("192.0.2.1/30", "192.0.2.2/30"), ("192.0.2.2/30", "192.0.2.1/30"),
            ("192.0.2.0/31", "192.0.2.1/31"), ("192.0.2.1/31", "192.0.2.0/31"),
        ] {
            let configuration = try Configuration(parent: "p", vlans: ["1=\(gateway)"])
            #expect(JoiningHosts.text(configuration, .ip).contains("ip address add \(host) dev p.1"), "\(gateway)")
        }
        let alone = try Configuration(parent: "p", vlans: ["1=192.0.2.1/32"])
        #expect(!JoiningHosts.text(alone, .ip).contains("address add"), "a subnet of one has no room for a host")
    }
}

@Suite struct ForeignFirewallTests {
    @Test func commandsNameTheirOwnPlace() {
        func firewall(_ family: Kernel.Nftables.Family, _ table: String, _ chain: String, _ chains: Set<String>)
            -> ForeignFirewall
        {
            ForeignFirewall(
                chain: .init(
                    family: family, table: table, name: chain, type: "filter", hook: "forward", priority: 0,
                    acceptsByDefault: false, ruleCount: 0),
                chains: chains)
        }
        let docker = firewall(.ip, "filter", "FORWARD", ["FORWARD", "DOCKER-USER", "DOCKER"])
        #expect(docker.commandsToPass("enp0s8.100").first == "iptables -I DOCKER-USER -i enp0s8.100 -j ACCEPT")
        let ufw = firewall(.ip6, "filter", "FORWARD", ["FORWARD", "ufw6-user-forward"])
        #expect(ufw.commandsToPass("enp0s8.100") == ["ufw route allow in on enp0s8.100"])
        let firewalld = firewall(.inet, "firewalld", "filter_FORWARD", ["filter_FORWARD"])
        #expect(
            firewalld.commandsToPass("enp0s8.100").first?.hasPrefix("firewall-cmd --permanent --zone=trusted") == true)
        let plain = firewall(.ip6, "filter", "FORWARD", ["FORWARD"])
        #expect(plain.commandsToPass("enp0s8.100").first == "ip6tables -I FORWARD -i enp0s8.100 -j ACCEPT")
        let own = firewall(.inet, "mine", "fwd", ["fwd"])
        #expect(own.commandsToPass("enp0s8.100").first == "nft insert rule inet mine fwd iifname enp0s8.100 accept")
    }
}
