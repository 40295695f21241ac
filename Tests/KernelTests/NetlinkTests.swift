import CLinux
import Packets
import SystemPackage
import Testing

@testable import Kernel

/// Requests as iproute2 6.1 sends them, on a little-endian machine. Provenance, in a namespace where enp0s8 has index 2:
///
///     strace -e trace=sendmsg -e write=3 ip COMMAND
///
/// with the sequence number (octets 8…11) set to 0.
private enum Golden {
    /// `ip link add link enp0s8 name enp0s8.100 type vlan id 100 reorder_hdr on`
    static let addVLAN: [UInt8] = [
        0x5c, 0x00, 0x00, 0x00, 0x10, 0x00, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0,  // RTM_NEWLINK, EXCL CREATE ACK REQUEST
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0,  // ifinfomsg
        0x08, 0x00, 0x05, 0x00, 0x02, 0x00, 0x00, 0x00,  // IFLA_LINK 2
        0x0f, 0x00, 0x03, 0x00, 0x65, 0x6e, 0x70, 0x30, 0x73, 0x38, 0x2e, 0x31, 0x30, 0x30, 0x00, 0x00,  // IFLA_IFNAME
        0x24, 0x00, 0x12, 0x00,  // IFLA_LINKINFO
        0x08, 0x00, 0x01, 0x00, 0x76, 0x6c, 0x61, 0x6e,  // IFLA_INFO_KIND "vlan"
        0x18, 0x00, 0x02, 0x00,  // IFLA_INFO_DATA
        0x06, 0x00, 0x01, 0x00, 0x64, 0x00, 0x00, 0x00,  // IFLA_VLAN_ID 100
        0x0c, 0x00, 0x02, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,  // IFLA_VLAN_FLAGS
    ]

    /// `ip address add 172.16.10.1/24 brd + dev enp0s8`
    static let addIPv4: [UInt8] = [
        0x30, 0x00, 0x00, 0x00, 0x14, 0x00, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0,  // RTM_NEWADDR
        0x02, 0x18, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,  // AF_INET, 24 bits, link 2
        0x08, 0x00, 0x02, 0x00, 0xac, 0x10, 0x0a, 0x01,  // IFA_LOCAL
        0x08, 0x00, 0x01, 0x00, 0xac, 0x10, 0x0a, 0x01,  // IFA_ADDRESS
        0x08, 0x00, 0x04, 0x00, 0xac, 0x10, 0x0a, 0xff,  // IFA_BROADCAST
    ]

    /// `ip address add fd00:10::1/64 dev enp0s8`
    static let addIPv6: [UInt8] = [
        0x40, 0x00, 0x00, 0x00, 0x14, 0x00, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0,  // RTM_NEWADDR
        0x0a, 0x40, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,  // AF_INET6, 64 bits, link 2
        0x14, 0x00, 0x02, 0x00, 0xfd, 0x00, 0x00, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,  // IFA_LOCAL
        0x14, 0x00, 0x01, 0x00, 0xfd, 0x00, 0x00, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,  // IFA_ADDRESS
    ]

    /// `ip link set dev enp0s8 up`
    static let setUp: [UInt8] = [
        0x20, 0x00, 0x00, 0x00, 0x10, 0x00, 0x05, 0x00, 0, 0, 0, 0, 0, 0, 0, 0,  // RTM_NEWLINK, ACK REQUEST
        0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,  // ifinfomsg: link 2
        0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,  // IFF_UP, of IFF_UP
    ]
}

@Suite struct NetlinkTests {
    private func bytes(_ write: (inout NetlinkBatch) -> Void) -> [UInt8] {
        var batch = NetlinkBatch()
        write(&batch)
        return batch.bytes
    }

    @Test func addressesAreAddedAsIPDoesIt() throws {
        let v4 = try InterfaceAddress("172.16.10.1/24")
        let v6 = try InterfaceAddress("fd00:10::1/64")
        #expect(bytes { $0.addAddress(v4, linkIndex: 2, linkName: "enp0s8") } == Golden.addIPv4)
        #expect(bytes { $0.addAddress(v6, linkIndex: 2, linkName: "enp0s8") } == Golden.addIPv6)
    }

    @Test func linksAreRaisedAsIPDoesIt() {
        #expect(bytes { $0.setLink(.index(2), up: true) } == Golden.setUp)
    }

    /// The same attributes; libmnl marks nests and ends strings with a zero, which iproute2 does not.
    @Test func vlanDevicesAreAddedAsIPDoesIt() throws {
        let id = try #require(VLANID(100))
        let ours = try #require(
            NetlinkMessage.parse(bytes { $0.addVLAN(name: "enp0s8.100", parent: 2, id: id) }[...]).first)
        let theirs = try #require(NetlinkMessage.parse(Golden.addVLAN[...]).first)
        #expect(ours.type == theirs.type && ours.flags == theirs.flags)
        #expect(Array(ours.payload.prefix(16)) == Array(theirs.payload.prefix(16)))
        // Types by number, as the golden message has them: the kernel's words for them are in the comments there.
        func facts(_ message: NetlinkMessage) -> [String?] {
            let attributes = message.attributes(after: 16)
            let info = attributes.nested(18)
            let data = info?.nested(2)
            return [
                attributes.string(3), attributes[5].map { "\(Array($0))" }, info?.string(1),
                data?[1].map { "\(Array($0))" },
                data?[2].map { "\(Array($0))" },
            ]
        }
        #expect(facts(ours) == facts(theirs))
        #expect(!facts(theirs).contains(nil))
    }

    @Test func batchesKeepTheirRequestsApart() throws {
        let count = 300
        let all = bytes { batch in
            for number in 0..<count { batch.setLink(.name("link\(number)"), up: true) }
        }
        let messages = NetlinkMessage.parse(all[...])
        #expect(messages.count == count)
        #expect(messages.map { $0.attributes(after: 16).string(3) } == (0..<count).map { "link\($0)" })
    }

    @Test func whatTheKernelSendsIsNotTrusted() {
        // Every way to cut or change a message ends in fewer or other values, never in a trap.
        let whole = Golden.addVLAN + Golden.addIPv4
        for length in 0...whole.count {
            _ = NetlinkMessage.parse(whole[..<length]).map { ($0.error("x"), Link($0), Address($0), Route($0)) }
        }
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var damaged = whole
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                damaged[Int.random(in: 0..<damaged.count, using: &generator)] = .random(
                    in: 0 ... .max, using: &generator)
            }
            for message in NetlinkMessage.parse(damaged[...]) {
                _ = (message.error("x"), Link(message), Address(message), Route(message))
                _ = message.attributes(after: 16).nested(18)?.nested(2)?.string(1)
            }
        }
        #expect(NetlinkMessage.parse(whole[...]).count == 2)
    }

    @Test func errorsSayWhatWasAskedFor() throws {
        func refusal(_ write: (inout NetlinkBatch) -> Void) throws -> KernelError {
            try #require(throws: KernelError.self) {
                try Namespace.runInNew { () throws(KernelError) in
                    var batch = NetlinkBatch()
                    write(&batch)
                    try NetlinkSocket().execute(batch)
                }
            }
        }
        let missing = try refusal { $0.setLink(.index(4711), up: true) }
        #expect(missing.errno == .operationNotSupportedByDevice && missing.operation == "set link #4711")
        let misnamed = try refusal { $0.addVethPair(name: "a/b", peer: "c") }
        #expect(misnamed.errno == .invalidArgument && misnamed.operation == "add link a/b")
    }

    @Test func linksComeAndGo() throws {
        try Namespace.runInNew { () throws(KernelError) in
            let socket = try NetlinkSocket()
            var batch = NetlinkBatch()
            for number in 0..<50 { batch.addVethPair(name: "a\(number)", peer: "b\(number)", mtu: 1400, peerMTU: 68) }
            try socket.execute(batch)
            let links = try socket.links()
            #expect(links.filter { $0.kind == "veth" }.count == 100)
            #expect(links.first { $0.name == "a7" }?.mtu == 1400 && links.first { $0.name == "b7" }?.mtu == 68)
            // In one go, and no other.
            try socket.deleteLinks { $0.name.hasPrefix("a") && $0.name != "a7" }
            #expect(Set(try socket.links().map(\.name)) == ["lo", "a7", "b7"])
        }
    }

    /// As whoever mounts /sys in a namespace sees it. One of the same name in another namespace is another one.
    @Test func packetsAreSteeredInTheirNamespaceOnly() throws {
        let last = try #require(ThisProcess.processors.last)
        func addLink() throws(KernelError) {
            var batch = NetlinkBatch()
            batch.addVethPair(name: "a", peer: "b")
            try NetlinkSocket().execute(batch)
        }
        func words() throws(KernelError) -> [UInt32?] {
            let file = "/sys/class/net/a/queues/rx-0/rps_cpus"
            let text = try ChildProcess.run(["unshare", "-m", "sh", "-c", "mount -t sysfs none /sys && cat \(file)"])
                .output
            return text.dropLast().split(separator: ",").reversed().map { UInt32($0, radix: 16) }
        }
        try Namespace.runInNew { () throws(KernelError) in
            try addLink()
            try Namespace.runInNew { () throws(KernelError) in
                try addLink()
                try PacketSteering.steer("a", to: last)
                let steered = try words()
                #expect(steered.count > last / 32)
                for (number, word) in steered.enumerated() {
                    #expect(word == (number == last / 32 ? 1 << UInt32(last % 32) : 0), "\(steered)")
                }
            }
            let others = try words()
            #expect(!others.isEmpty && others.allSatisfy { $0 == 0 }, "\(others)")
        }
        let refusal = #expect(throws: KernelError.self) { try PacketSteering.steer("a/b", to: last) }
        #expect(refusal?.errno == .noSuchFileOrDirectory)
        #expect(refusal?.operation == "steer the packets of a/b to processor \(last)")
    }

    /// Those that have a group to themselves go with it; where a stranger has joined it, the stranger stays.
    @Test(arguments: [false, true]) func aGroupGoesWithoutStrangers(strangerJoins: Bool) throws {
        try Namespace.runInNew { () throws(KernelError) in
            let socket = try NetlinkSocket()
            var batch = NetlinkBatch()
            for number in 0..<20 { batch.addVethPair(name: "a\(number)", peer: "b\(number)", peerGroup: 4711) }
            batch.addVethPair(name: "stranger", peer: "strangest")
            if strangerJoins { batch.setLink(.name("stranger"), group: 4711) }
            try socket.execute(batch)
            #expect(try socket.links().filter { $0.group == 4711 }.count == (strangerJoins ? 21 : 20))
            try socket.deleteLinks { $0.name.hasPrefix("a") }
            #expect(Set(try socket.links().map(\.name)) == ["lo", "stranger", "strangest"])
        }
    }

    /// As after an error, or a signal, in the middle of them.
    @Test func answersThatNobodyReadAreNotTakenForOthers() throws {
        try Namespace.runInNew { () throws(KernelError) in
            let socket = try NetlinkSocket()
            var batch = NetlinkBatch()
            for number in 0..<200 { batch.addVethPair(name: "a\(number)", peer: "b\(number)") }
            try socket.execute(batch)
            let links = try socket.links()
            #expect(links.count == 401)

            var request = NetlinkBatch()
            request.add("list addresses", type: RTM_GETADDR, flags: NLM_F_ROOT | NLM_F_MATCH, header: ifaddrmsg())
            var refused = NetlinkBatch()
            refused.setLink(.name("nothing"), up: true)
            for _ in 0..<2 {
                _ = try socket.send(request, from: 0, count: 1)
                #expect(try socket.links() == links)
                _ = try socket.send(refused, from: 0, count: 1)
                #expect(try socket.links() == links)
                _ = try socket.send(refused, from: 0, count: 1)
                var accepted = NetlinkBatch()
                accepted.setLink(.name("a0"), group: 7)
                try socket.execute(accepted)
                accepted = NetlinkBatch()
                accepted.setLink(.name("a0"), group: 0)
                try socket.execute(accepted)
            }
        }
    }

    /// What the kernel sends along with a link is what it shows below /proc/sys.
    @Test func linksBringTheirParameters() throws {
        try Namespace.runInNew { () throws(KernelError) in
            let socket = try NetlinkSocket()
            var batch = NetlinkBatch()
            batch.addVethPair(name: "a", peer: "b", peerMTU: 68)
            try socket.execute(batch)
            let paths = ["forwarding", "rp_filter", "arp_filter", "arp_ignore", "accept_local"]
            for (number, path) in paths.enumerated() {
                try Sysctl("net/ipv4/conf/a/\(path)").write(number % 2 == 0 ? "1" : "2")
            }
            try Sysctl("net/ipv6/conf/a/forwarding").write("1")
            let links = try socket.links()
            let a = links.first { $0.name == "a" }
            let values = [
                a?.ipv4?.forwarding, a?.ipv4?.reversePathFilter, a?.ipv4?.arpFilter, a?.ipv4?.arpIgnore,
                a?.ipv4?.acceptLocal,
            ]
            for (path, value) in zip(paths, values) {
                #expect(try Sysctl("net/ipv4/conf/a/\(path)").read() == value.map { "\($0)" }, "\(path)")
            }
            #expect(a?.ipv6Forwarding == 1)
            // Too small for IPv6.
            let b = links.first { $0.name == "b" }
            #expect(b?.ipv4 == Link.IPv4Settings() && b?.ipv6Forwarding == nil)
            #expect(links.allSatisfy { $0.statistics != nil })
        }
    }
}
