import CLinux
import Packets
import SystemPackage
import TestSupport
import Testing

@testable import Kernel

/// What the kernel (6.18, little-endian) sent for a TCP connection from 10.0.0.1 port 4711 to 10.0.0.9 port 80, which `dnat ip to
/// 10.0.0.2:7000` and `snat ip to 10.0.0.3` translated, with nf_conntrack_acct on: the answer to IPCTNL_MSG_CT_GET with NLM_F_DUMP.
/// Written down by a program that printed what recv(2) gave, with the sequence number set to 0.
private let goldenConnection = octets(
    """
    0c010000 0001 0200 00000000 00000000  IPCTNL_MSG_CT_NEW of NFNL_SUBSYS_CTNETLINK, NLM_F_MULTI
    02 00 0000                            nfgenmsg: AF_INET
    3400 0180                             CTA_TUPLE_ORIG
    1400 0180                             CTA_TUPLE_IP
    0800 0100 0a000001                    CTA_IP_V4_SRC
    0800 0200 0a000009                    CTA_IP_V4_DST
    1c00 0280                             CTA_TUPLE_PROTO
    0500 0100 06000000                    CTA_PROTO_NUM
    0600 0200 12670000                    CTA_PROTO_SRC_PORT 4711
    0600 0300 00500000                    CTA_PROTO_DST_PORT 80
    3400 0280                             CTA_TUPLE_REPLY
    1400 0180                             CTA_TUPLE_IP
    0800 0100 0a000002                    CTA_IP_V4_SRC
    0800 0200 0a000003                    CTA_IP_V4_DST
    1c00 0280                             CTA_TUPLE_PROTO
    0500 0100 06000000                    CTA_PROTO_NUM
    0600 0200 1b580000                    CTA_PROTO_SRC_PORT 7000
    0600 0300 12670000                    CTA_PROTO_DST_PORT 4711
    0800 0300 000001be                    CTA_STATUS
    0800 0800 00000000                    CTA_MARK
    0800 0c00 90f068a7                    CTA_ID
    0800 0b00 00000001                    CTA_USE
    0800 0700 0006977f                    CTA_TIMEOUT
    3000 0480                             CTA_PROTOINFO
    2c00 0180                             CTA_PROTOINFO_TCP
    0500 0100 03000000                    CTA_PROTOINFO_TCP_STATE: TCP_CONNTRACK_ESTABLISHED
    0500 0200 0a000000                    CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
    0500 0300 0a000000                    CTA_PROTOINFO_TCP_WSCALE_REPLY
    0600 0400 23000000                    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL
    0600 0500 23000000                    CTA_PROTOINFO_TCP_FLAGS_REPLY
    1c00 0980                             CTA_COUNTERS_ORIG
    0c00 0100 0000000000000002            CTA_COUNTERS_PACKETS
    0c00 0200 0000000000000070            CTA_COUNTERS_BYTES
    1c00 0a80                             CTA_COUNTERS_REPLY
    0c00 0100 0000000000000001            CTA_COUNTERS_PACKETS
    0c00 0200 000000000000003c            CTA_COUNTERS_BYTES
    """)

/// The first word of a line, and those after it that are hexadecimal, until two spaces.
private func octets(_ text: String) -> [UInt8] {
    text.split(separator: "\n").flatMap { line in
        let digits = Array((line.firstRange(of: "  ").map { line[..<$0.lowerBound] } ?? line).filter { $0 != " " })
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(String(digits[$0...($0 + 1)]), radix: 16)! }
    }
}

private func tuple(_ source: String, _ sourcePort: UInt16, _ destination: String, _ port: UInt16, _ number: UInt8 = 6)
    -> FlowTuple
{
    FlowTuple(
        source: IPAddress(source)!, destination: IPAddress(destination)!, protocolNumber: number,
        sourcePort: sourcePort, destinationPort: port)
}

@Suite struct ConntrackTests {
    // MARK: Messages

    private func events(_ bytes: [UInt8]) -> [ConnectionEvent] {
        var messages = MessageCursor(bytes.indices)
        var result: [ConnectionEvent] = []
        while let message = messages.next(in: bytes.span) {
            if let event = message.connectionEvent(in: bytes.span) { result.append(event) }
        }
        return result
    }

    private static let golden = Connection(
        original: tuple("10.0.0.1", 4711, "10.0.0.9", 80), reply: tuple("10.0.0.2", 7000, "10.0.0.3", 4711),
        status: 0x1be, tcpState: 3, timeout: 0x6977f, id: 0x90f0_68a7,
        counters: .init(original: .init(packets: 2, octets: 112), reply: .init(packets: 1, octets: 60)))

    @Test func connectionsAreReadAsTheKernelSendsThem() {
        let connection = Self.golden
        #expect(events(goldenConnection) == [.changed(connection)])
        #expect(connection.isAssured && connection.hasSeenReply && connection.isConfirmed && connection.isEstablished)
        #expect(connection.hasSourceTranslation && connection.hasDestinationTranslation)
        #expect(!connection.isDying && !connection.isExpected)
        // Two messages in one datagram, the second about the end.
        var end = goldenConnection
        end[4] = UInt8(IPCTNL_MSG_CT_DELETE.rawValue)
        #expect(events(goldenConnection + end) == [.changed(connection), .ended(connection)])
    }

    @Test func otherProtocolsAreLeftOut() {
        // SCTP has ports, too; ICMPv6 has none in IPv4.
        for number: UInt8 in [132, 33, 47, 1, 58] {
            var other = goldenConnection
            for index in other.indices where other[index...].starts(with: [5, 0, 1, 0, 6, 0, 0, 0]) {
                other[index + 4] = number
            }
            #expect(events(other).isEmpty, "\(number)")
        }
    }

    @Test func whatIsCutOffOrChangedDoesNoHarm() {
        #expect(goldenConnection.count == 0x10c)
        for length in 0..<goldenConnection.count {
            #expect(events(Array(goldenConnection[..<length])).isEmpty)
            // The header agrees with what is there; the attributes do not.
            var short = Array(goldenConnection[..<length])
            if length >= 16 {
                short[0] = UInt8(truncatingIfNeeded: length)
                short[1] = UInt8(length >> 8)
            }
            for case .changed(let connection) in events(short) { #expect(connection.original == Self.golden.original) }
        }
        // What comes out is of what went in, or nothing: no length leads outside, none is taken on trust.
        var generator = SeededGenerator(seed: 1)
        var read = 0
        for _ in 0..<5000 {
            var changed = goldenConnection
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                changed[Int.random(in: 0..<changed.count, using: &generator)] =
                    [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff, UInt8.random(in: 0...255, using: &generator)]
                    .randomElement(using: &generator)!
            }
            read += events(changed).count
        }
        #expect(read > 250 && read < 5000)
    }

    // MARK: The kernel's

    /// Two processes of one host talk over `lo`, which tracks connections and counts.
    private static func host() throws -> TestHost {
        let host = try TestHost(trunk: false)
        // Translated: 10.0.0.9 port 80 is 10.0.0.2 port 7000, and sees 10.0.0.3. Others go straight.
        try host.sh(
            """
            ip link set lo up
            for last in 1 2 3; do ip address add 10.0.0.$last/32 dev lo; ip address add fd00::$last/128 dev lo; done
            ip route add 10.0.0.9 dev lo; ip -6 route add fd00::9 dev lo
            nft -f - <<END
            table inet test {
                chain destinations {
                    type nat hook output priority -100
                    ip daddr 10.0.0.9 meta l4proto { tcp, udp } dnat ip to 10.0.0.2:7000
                    ip6 daddr fd00::9 meta l4proto { tcp, udp } dnat ip6 to [fd00::2]:7000
                }
                chain sources {
                    type nat hook postrouting priority 100
                    ip daddr 10.0.0.2 meta l4proto { tcp, udp } th dport 7000 snat ip to 10.0.0.3
                    ip6 daddr fd00::2 meta l4proto { tcp, udp } th dport 7000 snat ip6 to fd00::3
                }
            }
            END
            echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct
            """)
        return host
    }

    /// A connection of each protocol and family, open until its standard output is no longer looked at.
    private static let peers = """
        import socket, time
        held = []
        for family, net in (socket.AF_INET, "10.0.0."), (socket.AF_INET6, "fd00::"):
            server = socket.socket(family)
            server.bind((net + "2", 7000))
            server.listen()
            for last in "9", "2":
                client = socket.socket(family)
                client.bind((net + "1", 4700 + int(last)))
                client.connect((net + last, 80 if last == "9" else 7000))
                held += [client, server.accept()[0]]
            server = socket.socket(family, socket.SOCK_DGRAM)
            server.bind((net + "2", 7000))
            client = socket.socket(family, socket.SOCK_DGRAM)
            client.bind((net + "1", 4709))
            client.sendto(b"question", (net + "9", 53))
            question, peer = server.recvfrom(100)
            server.sendto(b"answer", peer)
            client.recv(100)
            held += [client, server]
        print("ready", flush=True)
        time.sleep(600)
        """

    private static func startPeers(_ host: TestHost) throws -> ChildProcess {
        let process = try host.start(["python3", "-c", peers])
        for _ in 0..<1000 where !process.outputSoFar.contains("ready") { ThisProcess.sleep(milliseconds: 20) }
        guard process.outputSoFar.contains("ready") else {
            process.signal(SignalNumber.kill)
            throw CommandFailed(script: "peers", result: process.wait())
        }
        try host.sh("ping -q -c 1 -I 10.0.0.1 10.0.0.2; ping -q -c 1 -I fd00::1 fd00::2")
        return process
    }

    /// Every connection of `peers`, without what is different each time.
    private static let expected: Set<[FlowTuple]> = {
        var result: Set<[FlowTuple]> = []
        let echoes: [(String, UInt8, UInt16, UInt16)] = [("10.0.0.", 1, 8, 0), ("fd00::", 58, 128, 129)]
        for (net, echo, request, answer) in echoes {
            let (client, server, front, seen) = (net + "1", net + "2", net + "9", net + "3")
            result.insert([tuple(client, 4709, front, 80, 6), tuple(server, 7000, seen, 4709, 6)])
            result.insert([tuple(client, 4709, front, 53, 17), tuple(server, 7000, seen, 4709, 17)])
            result.insert([tuple(client, 4702, server, 7000, 6), tuple(server, 7000, seen, 4702, 6)])
            result.insert([tuple(client, 0, server, request << 8, echo), tuple(server, 0, client, answer << 8, echo)])
        }
        return result
    }()

    private func pairs(_ connections: [Connection]) -> Set<[FlowTuple]> {
        Set(
            connections.map { connection in
                [connection.original, connection.reply].map { tuple in
                    var tuple = tuple
                    // An echo's id is chosen by `ping`.
                    if tuple.protocolNumber == 1 || tuple.protocolNumber == 58 { tuple.sourcePort = 0 }
                    return tuple
                }
            })
    }

    @Test func connectionsAreListedToldAndDeleted() throws {
        let host = try Self.host()
        let box = try Namespace.run(in: host.name) { () throws(KernelError) in EventsBox(try ConnectionEvents()) }
        let peers = try Self.startPeers(host)
        defer {
            peers.signal(SignalNumber.kill)
            _ = peers.wait()
        }
        let connections = try Namespace.run(in: host.name) { () throws(KernelError) in
            try NetlinkSocket(.netfilter).connections()
        }
        #expect(pairs(connections) == Self.expected)
        for connection in connections {
            let isTCP = connection.original.protocolNumber == 6
            #expect(connection.isEstablished == isTCP && connection.tcpState == (isTCP ? 3 : nil))
            #expect(connection.hasSeenReply && connection.isConfirmed && connection.isAssured == isTCP)
            let counters = try #require(connection.counters)
            #expect(counters.original.packets > 0 && counters.reply.packets > 0)
            #expect(counters.original.octets >= 28 * counters.original.packets)
            let timeout = try #require(connection.timeout)
            #expect(isTCP ? timeout > 400_000 : timeout > 0 && timeout <= 180)
        }

        // The same was told, in the order in which it happened: each is known with its answer.
        var last: [FlowTuple: Connection] = [:]
        #expect(
            try box.events.read(limit: .max) {
                if case .changed(let connection) = $0 { last[connection.original] = connection } else { Issue.record() }
            } == .upToDate)
        #expect(pairs(Array(last.values)) == Self.expected)
        #expect(last.values.allSatisfy { $0.hasSeenReply })
        let ids = Dictionary(uniqueKeysWithValues: connections.map { ($0.original, $0.id) })
        #expect(last.mapValues(\.id) == ids)

        // One of each protocol and family goes, and no other.
        let victims = connections.filter { $0.original.sourcePort != 4702 }
        #expect(victims.count == 6)
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            for victim in victims {
                // Another one of the same addresses: nothing is deleted.
                var wrong = NetlinkBatch()
                wrong.deleteConnection(victim.original, id: victim.id &+ 1)
                #expect(refusal { () throws(KernelError) in try socket.execute(wrong) } == .noSuchFileOrDirectory)
                var batch = NetlinkBatch()
                batch.deleteConnection(victim.original, id: victim.id)
                try socket.execute(batch)
                #expect(refusal { () throws(KernelError) in try socket.execute(batch) } == .noSuchFileOrDirectory)
                try socket.execute(batch, ignoring: [.noSuchFileOrDirectory])
            }
            #expect(
                Set(try socket.connections().map(\.original))
                    == Set(connections.filter { $0.original.sourcePort == 4702 }.map(\.original)))
        }
        var ended: [FlowTuple] = []
        #expect(
            try box.events.read(limit: .max) {
                if case .ended(let connection) = $0 { ended.append(connection.original) } else { Issue.record() }
            } == .upToDate)
        #expect(ended == victims.map(\.original))
    }

    private final class EventsBox {
        var events: ConnectionEvents
        init(_ events: consuming ConnectionEvents) { self.events = events }
    }

    private func refusal(_ body: () throws(KernelError) -> Void) -> Errno? {
        do {
            try body()
            return nil
        } catch {
            return error.errno
        }
    }

    /// A liberal connection takes sequence numbers from outside its window; others do not. The kernel shows the flags, too.
    @Test func connectionsAreRefreshedAndMadeLiberal() throws {
        let host = try Self.host()
        let peers = try Self.startPeers(host)
        defer {
            peers.signal(SignalNumber.kill)
            _ = peers.wait()
        }
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            let before = try socket.connections()
            #expect(before.count == 8)
            for (number, connection) in before.enumerated() {
                var batch = NetlinkBatch()
                batch.refreshConnection(
                    connection.original, timeout: 5000 + 100 * UInt32(number), isLiberal: number % 2 == 0)
                try socket.execute(batch)
            }
            let after = try socket.connections()
            #expect(Set(after.map(\.id)) == Set(before.map(\.id)))
            for connection in after {
                let number = before.firstIndex { $0.id == connection.id } ?? -1
                let timeout = 5000 + 100 * number
                #expect(((timeout - 60)...timeout).contains(Int(connection.timeout ?? 0)))
                #expect(connection.tcpState == before[number].tcpState && connection.status == before[number].status)
            }
            let flags = try Self.tcpFlags(socket)
            let liberal = UInt8(IP_CT_TCP_FLAG_BE_LIBERAL)
            for (number, connection) in before.enumerated() where connection.original.protocolNumber == 6 {
                let both = try require(flags[connection.id])
                #expect(both.allSatisfy { ($0 & liberal != 0) == (number % 2 == 0) })
                // The others are what they were: both ends scale their windows and acknowledge selectively.
                #expect(both.allSatisfy { $0 & 0x3 == 0x3 })
            }
            #expect(flags.count == 4)
            var gone = NetlinkBatch()
            gone.refreshConnection(tuple("10.0.0.1", 1, "10.0.0.2", 2), timeout: 10)
            #expect(refusal { () throws(KernelError) in try socket.execute(gone) } == .noSuchFileOrDirectory)
            #expect(try socket.connections().count == 8)
        }
    }

    private func require<Value>(_ value: Value?) throws(KernelError) -> Value {
        guard let value else { throw KernelError("find a connection", .noSuchFileOrDirectory) }
        return value
    }

    /// CTA_PROTOINFO_TCP_FLAGS_ORIGINAL and _REPLY, by id.
    private static func tcpFlags(_ socket: borrowing NetlinkSocket) throws(KernelError) -> [UInt32: [UInt8]] {
        var request = NetlinkBatch()
        request.add("list", type: 1 << 8 | 1, flags: NLM_F_ROOT | NLM_F_MATCH, header: nfgenmsg(nil))
        var result: [UInt32: [UInt8]] = [:]
        for message in try socket.dump(request) {
            let attributes = message.attributes(after: 4)
            guard let id: UInt32 = attributes.integer(12), let tcp = attributes.nested(4)?.nested(1) else { continue }
            result[id.bigEndian] = [4, 5].compactMap { tcp[$0]?.first }
        }
        return result
    }

    /// Connections that nobody has: only entries of the table, made over netlink.
    private func make(_ numbers: Range<Int>, _ socket: borrowing NetlinkSocket) throws(KernelError) {
        var batch = NetlinkBatch()
        for number in numbers {
            let original = entry(number)
            batch.add(
                "make \(original)", type: 1 << 8, flags: NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, header: nfgenmsg(.v4)
            ) {
                $0.put(original, zone: 0)
                $0.nest(Int(CTA_TUPLE_REPLY.rawValue)) { writer in
                    writer.nest(Int(CTA_TUPLE_IP.rawValue)) {
                        $0.put(Int(CTA_IP_V4_SRC.rawValue), original.destination.octets)
                        $0.put(Int(CTA_IP_V4_DST.rawValue), original.source.octets)
                    }
                    writer.nest(Int(CTA_TUPLE_PROTO.rawValue)) {
                        $0.put(Int(CTA_PROTO_NUM.rawValue), [original.protocolNumber])
                        $0.put(Int(CTA_PROTO_SRC_PORT.rawValue), original.destinationPort.bigEndian)
                        $0.put(Int(CTA_PROTO_DST_PORT.rawValue), original.sourcePort.bigEndian)
                    }
                }
                $0.put(Int(CTA_TIMEOUT.rawValue), UInt32(600).bigEndian)
            }
        }
        try socket.execute(batch)
    }

    private func entry(_ number: Int) -> FlowTuple { tuple("10.1.0.1", UInt16(number), "10.1.0.2", 53, 17) }

    @Test func aDumpComesInPortions() throws {
        let host = try Self.host()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            try make(1..<1501, socket)
            var dump = try ConnectionDump(family: .v4)
            var found: [FlowTuple] = []
            var portions = 0
            var isFinished = false
            while !isFinished {
                var count = 0
                isFinished = try dump.read(limit: 7) {
                    found.append($0.original)
                    count += 1
                }
                #expect(count == 7 || isFinished && count < 7)
                portions += 1
                // Something else in between.
                if portions == 10 { try make(2000..<2001, socket) }
            }
            #expect(portions >= 1500 / 7)
            #expect(Set(found).subtracting([entry(2000)]) == Set((1..<1501).map(entry)))
            #expect(found.count == Set(found).count)
            #expect(try dump.read(limit: 7) { _ in Issue.record("after its end") })

            var other = try ConnectionDump(family: .v6)
            #expect(try other.read(limit: .max) { _ in Issue.record("of the other family") })
        }
    }

    @Test func whatASocketThatIsIgnoredChangesIsNotTold() throws {
        let host = try Self.host()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            let quiet = try NetlinkSocket(.netfilter)
            var events = try ConnectionEvents()
            try make(1..<301, socket)
            func told() throws(KernelError) -> Int {
                var count = 0
                #expect(try events.read(limit: 1000) { _ in count += 1 } == .upToDate)
                return count
            }
            func timeouts() throws(KernelError) -> Set<UInt32> {
                Set(try socket.connections().map { ($0.timeout ?? 0) / 100 })
            }
            _ = try told()
            // There is no connection 999: nothing comes of that, and the others are refreshed all the same.
            func refresh(_ timeout: UInt32) throws(KernelError) {
                var batch = NetlinkBatch()
                for number in [999] + Array(1..<301) {
                    batch.refreshConnection(entry(number), timeout: timeout, isAcknowledged: false)
                }
                try quiet.tell(batch)
            }
            try refresh(750)
            #expect(try timeouts() == [7])
            #expect(try told() == 300)
            try events.ignore(quiet)
            try refresh(950)
            #expect(try timeouts() == [9])
            #expect(try told() == 0)
            var batch = NetlinkBatch()
            batch.refreshConnection(entry(1), timeout: 700)
            try socket.execute(batch)
            #expect(try told() == 1)
        }
    }

    @Test func endsAreToldWhileTheyAreWantedAndFoundWithout() throws {
        let host = try Self.host()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            var events = try ConnectionEvents()
            try make(1..<6, socket)
            func told() throws(KernelError) -> [FlowTuple] {
                var ended: [FlowTuple] = []
                let outcome = try events.read(limit: 100) {
                    if case .ended(let connection) = $0 { ended.append(connection.original) }
                }
                #expect(outcome == .upToDate)
                return ended
            }
            func delete(_ number: Int) throws(KernelError) {
                var batch = NetlinkBatch()
                batch.deleteConnection(entry(number))
                try socket.execute(batch)
            }
            try delete(1)
            #expect(try told() == [entry(1)])
            try events.tellEnds(false)
            try delete(2)
            #expect(try told().isEmpty)

            var batch = NetlinkBatch()
            for number in 1...3 { batch.lookForConnection(entry(number)) }
            let before = try socket.connections()
            let errors = try socket.errors(of: batch).map { $0?.errno }
            #expect(errors == [.noSuchFileOrDirectory, .noSuchFileOrDirectory, .fileExists])
            #expect(try socket.connections().map(\.original) == before.map(\.original))
            var count = 0
            #expect(try events.read(limit: 100) { _ in count += 1 } == .upToDate)
            #expect(count == 0, "to look is no event")

            // What began while ends were not wanted is told later, too.
            try make(6..<7, socket)
            try events.tellEnds(true)
            try delete(6)
            try delete(3)
            #expect(try told() == [entry(6), entry(3)])
        }
    }

    @Test func anOverrunIsToldAndEventsGoOn() throws {
        let host = try Self.host()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            var events = try ConnectionEvents(queue: 16 << 10)
            try make(1..<501, socket)
            func change(_ numbers: Range<Int>) throws(KernelError) {
                var batch = NetlinkBatch()
                for number in numbers { batch.refreshConnection(entry(number), timeout: 700) }
                try socket.execute(batch)
            }
            // Each event waits to be read, one by one.
            try change(1..<4)
            var told: [FlowTuple] = []
            func read(_ limit: Int) throws(KernelError) -> ConnectionEvents.Outcome {
                told = []
                return try events.read(limit: limit) {
                    if case .changed(let connection) = $0 { told.append(connection.original) }
                }
            }
            #expect(try read(1) == .limitReached && told == [entry(1)])
            #expect(try read(10) == .upToDate && told == [entry(2), entry(3)])
            #expect(try read(10) == .upToDate && told.isEmpty)
            // More than fits.
            try change(1..<501)
            var outcome = try read(1000)
            if outcome != .overrun { outcome = try read(1000) }
            #expect(outcome == .overrun)
            #expect(try read(1000) == .upToDate && told.isEmpty)
            try change(7..<9)
            #expect(try read(1000) == .upToDate && told == [entry(7), entry(8)])
        }
    }

    /// What the documentation of `ConnectionEvents` warns of.
    @Test func olderConnectionsAreToldOnlyIfSomebodyListened() throws {
        let host = try Self.host()
        try Namespace.run(in: host.name) { () throws(KernelError) in
            let socket = try NetlinkSocket(.netfilter)
            try Sysctl("net/netfilter/nf_conntrack_events").write("2")
            #expect(ConnectionEvents.areOn)
            try make(1..<2, socket)
            var events = try ConnectionEvents()
            try make(2..<3, socket)
            var batch = NetlinkBatch()
            batch.deleteConnection(entry(1))
            batch.deleteConnection(entry(2))
            try socket.execute(batch)
            var ended: [FlowTuple] = []
            let outcome = try events.read(limit: 10) {
                if case .ended(let connection) = $0 { ended.append(connection.original) }
            }
            #expect(outcome == .upToDate && ended == [entry(2)])

            try Sysctl("net/netfilter/nf_conntrack_events").write("0")
            #expect(!ConnectionEvents.areOn)
        }
    }
}
