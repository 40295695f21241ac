import DataPlane
import Forwarding
import Kernel
import Packets
import SystemPackage

/// Which connections are the workers', as the kernel's connection tracking says: those that have gone both ways between two VLANs, with
/// what the kernel translates in them. Each takes two entries of the table, one for each direction.
///
/// A connection is entered when the kernel says that it is established. Then the kernel is asked to be liberal about it, as it will not
/// see all of its packets. The answer is an event, and proves that the connection's end will be one too: only then it is the workers'.
struct FlowBook: ~Copyable {
    private let memory: FlowMemory
    private var events: ConnectionEvents
    private var dump: ConnectionDump?
    /// When all connections are to be looked at again; nil: no need.
    private var nextDump: ContinuousClock.Instant? = .now
    private let changes: NetlinkSocket
    /// For what only says that a connection is in use: its events, of which a million connections would make ten thousands a second, are
    /// not listened to.
    private let refreshes: NetlinkSocket
    private var notes4: [Note]
    private var notes6: [Note]
    /// Connections, by the slot of the original direction, that are the workers' as soon as all of them know.
    private var fresh: [FlowMemory.Slot] = []
    /// Entries that the filter gives nothing of any more, and since when.
    private var leaving: [(slot: FlowMemory.Slot, since: ContinuousClock.Instant)] = []
    /// Requests to the kernel about the connections that these are the original directions of.
    private var requests: [FlowMemory.Slot] = []
    private var timeouts = Timeouts.read()
    /// How many of `connections` have been looked at for use in this round.
    private var scanned = 0
    private let began = ContinuousClock.now
    /// The original directions' slots of all that are entered and not leaving, in no order.
    private var connections: [FlowMemory.Slot] = []
    /// When the last dump began, and how long it took.
    private var dumped = (began: ContinuousClock.now, duration: Duration.zero)
    /// Counts dumps: what the last one did not show has ended.
    private var epoch: UInt32 = 0

    /// Whether the kernel tells of ends.
    private var hearsEnds = true
    /// Since when, or since when not; and how many have ended since then that are not entered.
    private var hearing = (since: ContinuousClock.now, strangers: 0)
    /// When connections were asked for last, and up to which of `connections`.
    private var asked = (time: ContinuousClock.now, end: 0)

    /// What else is to be known of an entry.
    private struct Note {
        /// The entry of the other direction; negative: free.
        var partner: Int32 = -1
        /// Where the connection stands in `connections`, if it began in this direction; negative: it began in the other one.
        var position: Int32 = -1
        /// The dump in which it was seen, or during which it was entered.
        var epoch: UInt32 = 0
        var stage = Stage.known
        /// For how many rounds of asking there was no packet.
        var idleRounds: UInt8 = 0
        /// The workers' count in the last of them, of both directions.
        var seen: UInt16 = 0
        /// The same when the kernel was told last that it is in use.
        var packets: UInt32 = 0
        /// In seconds since the beginning: when the kernel is to be told that it is in use.
        var refresh: UInt32 = 0

        var isOriginal: Bool { position >= 0 }
    }

    private enum Stage: UInt8 {
        /// The kernel has been told, and has not answered yet.
        case known
        /// It has, and the workers do not all know yet.
        case fresh
        case owned
        /// The kernel's until there is another packet.
        case resting
        case leaving
    }

    /// How long workers have to send what they hold.
    private static let drain = Duration.milliseconds(20)
    /// Connections looked at in one turn, of a dump; events.
    private static let portion = 4096
    private static let pauseBeforeDump = Duration.milliseconds(500)
    /// Connections looked at for use in one turn.
    private static let scan = 1 << 17

    init(_ ownership: borrowing Ownership) throws(KernelError) {
        let memory = try FlowMemory(ownership)
        // Events first: what begins while the dump is read is told.
        let events = try ConnectionEvents()
        let changes = try NetlinkSocket(.netfilter)
        let refreshes = try NetlinkSocket(.netfilter)
        try events.ignore(refreshes)
        self.refreshes = refreshes
        self.memory = memory
        self.events = events
        self.changes = changes
        dump = nil
        notes4 = Array(repeating: Note(), count: memory.capacity)
        notes6 = notes4
    }

    var table: FlowMemory { memory }
    /// Entered and not leaving.
    var count: Int { connections.count }
    /// Of those, the workers' as soon as there are packets.
    var carried: Int { owned + resting }
    private var owned = 0
    private var resting = 0
    /// Readable where something has happened to a connection.
    var descriptor: Int32 { events.descriptor }
    /// When there is something to do that no event tells; nil: nothing.
    var nextTurn: ContinuousClock.Instant? {
        if dump != nil || !fresh.isEmpty || !leaving.isEmpty { return .now }
        return hearsEnds && resting == 0 || count == 0 ? nil : asked.time + Self.round
    }

    // MARK: What the kernel says

    /// Takes over what has happened.
    ///
    /// - Parameter families: of which routes are as the snapshot has them.
    mutating func update(_ snapshot: Snapshot, _ families: Set<IPFamily>) throws(KernelError) {
        var happened: [ConnectionEvent] = []
        if try events.read(limit: Self.portion, { happened.append($0) }) == .overrun {
            dump = nil
            nextDump = .now
        }
        for event in happened {
            switch event {
            case .changed(let connection): consider(connection, snapshot, families, isEvent: true)
            case .ended(let connection):
                if let slot = slot(connection) { leave(slot) } else { hearing.strangers += 1 }
            }
        }
        try readDump(snapshot, families)
        try lookForEnds()
        try tell()
    }

    private mutating func readDump(_ snapshot: Snapshot, _ families: Set<IPFamily>) throws(KernelError) {
        if dump == nil, let next = nextDump, next <= .now {
            dump = try ConnectionDump()
            nextDump = nil
            epoch &+= 1
            dumped.began = .now
            readTimeouts()
        }
        guard dump != nil else { return }
        var seen: [Connection] = []
        let isFinished = try dump!.read(limit: Self.portion) { seen.append($0) }
        for connection in seen { consider(connection, snapshot, families, isEvent: false) }
        guard isFinished else { return }
        dump = nil
        dumped.duration = .now - dumped.began
        for slot in connections where note(slot).epoch != epoch { leave(slot) }
    }

    private mutating func consider(
        _ connection: Connection, _ snapshot: Snapshot, _ families: Set<IPFamily>, isEvent: Bool
    ) {
        let known = slot(connection)
        if connection.isDying || connection.tcpState != nil && !connection.isEstablished {
            if let known { leave(known) }
            return
        }
        if let known {
            guard let ways = entries(connection, snapshot), families.contains(connection.original.source.family),
                memory.entry(known) == ways.original, note(known).stage != .leaving
            else {
                leave(known)
                return lookAgain()
            }
            let epoch = epoch
            change(known) { $0.epoch = epoch }
            guard note(known).stage != .fresh else { return }
            guard isEvent else {
                // The answer was among events that are lost: it is asked for again.
                if note(known).stage == .known, !hasEnded(known) { introduce(known) }
                return
            }
            // Another one with the same addresses and ports will be told of, too.
            if hasEnded(known) { return leave(known) }
            guard note(known).stage == .known else { return }
            change(known) { $0.stage = .fresh }
            return fresh.append(known)
        }
        guard connection.mayBeOwned, isEvent || !isReset(connection),
            families.contains(connection.original.source.family),
            let entries = entries(connection, snapshot)
        else { return }
        // An older connection with the same addresses, one way or the other.
        for entry in [entries.original, entries.reply] {
            guard let other = memory.find(entry) else { continue }
            leave(other)
            return lookAgain()
        }
        guard let original = memory.insert(entries.original) else { return }
        guard let reply = memory.insert(entries.reply) else { return memory.clear(original) }
        let note = Note(partner: Int32(reply.number), position: Int32(connections.count), epoch: epoch)
        change(original) { $0 = note }
        change(reply) { $0 = Note(partner: Int32(original.number)) }
        connections.append(original)
        introduce(original)
    }

    /// Has the kernel told that the workers will carry this one. Its answer says what it translates in it now.
    private mutating func introduce(_ slot: FlowMemory.Slot) {
        change(slot) { $0.refresh = 0 }
        requests.append(slot)
    }

    /// The kernel, which had not seen all of it, lets a connection that has been reset stand as established, but not for long.
    private func isReset(_ connection: Connection) -> Bool {
        guard connection.original.protocolNumber == IPProtocol.tcp.rawValue, let timeout = connection.timeout else {
            return false
        }
        return timeout <= timeouts.tcpClose && timeouts.tcpClose < timeouts.tcp
    }

    /// Both directions' entries; nil: it is not between two VLANs, or nobody knows where its ends are.
    private func entries(_ connection: Connection, _ snapshot: Snapshot) -> (original: FlowEntry, reply: FlowEntry)? {
        let (original, reply) = (connection.original, connection.reply)
        guard let there = snapshot.way(to: reply.source), let back = snapshot.way(to: original.source),
            there.vlan != back.vlan
        else { return nil }
        return (
            FlowEntry(original, answeredBy: reply, from: back.vlan, way: there.target),
            FlowEntry(reply, answeredBy: original, from: there.vlan, way: back.target)
        )
    }

    /// The slot of a connection's original direction.
    private func slot(_ connection: Connection) -> FlowMemory.Slot? {
        guard let vlan = VLANID(1) else { return nil }
        let slot = memory.find(FlowEntry(connection.original, answeredBy: connection.reply, from: vlan, way: 0))
        return slot.flatMap { note($0).isOriginal ? $0 : nil }
    }

    /// Looks at everything again, but not at once: what changes mostly changes more than once. And where routes change all the time,
    /// there is more to do than that.
    private mutating func lookAgain() {
        if nextDump == nil { nextDump = .now + max(Self.pauseBeforeDump, dumped.duration * 10) }
    }

    // MARK: What is no longer so

    // A port scan makes and ends tens of thousands of connections a second, and a tenth of what it takes to forward them goes into
    // telling of their ends. While few connections have packets, to ask for those is cheaper. The others rest meanwhile: the filter gives
    // their next packet to the kernel, and leaves word of it.
    private static let window = Duration.milliseconds(20)
    /// In a window.
    private static let manyStrangers = 100
    /// In a round, that are asked for, that are looked at, and that end their rest without a packet when it is over.
    private static let (mostAsked, mostLookedAt, mostRoused) = (1024, 16384, 256)
    private static let round = Duration.milliseconds(32)
    private static let roundsBeforeRest: UInt8 = 8
    private static let pauseOfHearing = Duration.seconds(1)

    private mutating func lookForEnds() throws(KernelError) {
        let now = ContinuousClock.now
        if hearsEnds, now - hearing.since >= Self.window {
            if hearing.strangers >= Self.manyStrangers, count <= Self.mostLookedAt {
                try events.tellEnds(false)
                hearsEnds = false
                asked = (now, 0)
                // Those without packets in this round rest.
                for slot in connections {
                    let seen = seen(slot)
                    change(slot) { ($0.seen, $0.idleRounds) = (seen, Self.roundsBeforeRest - 1) }
                }
            }
            hearing = (now, 0)
        }
        if hearsEnds {
            if resting > 0, now - asked.time >= Self.round { try ask(lookAround()) }
            return
        }
        let isOver = now - hearing.since >= Self.pauseOfHearing || count > Self.mostLookedAt
        guard isOver || now - asked.time >= Self.round else { return }
        let candidates = lookAround()
        if isOver || candidates.count > Self.mostAsked {
            // Those that end after this are told.
            try events.tellEnds(true)
            hearsEnds = true
            // It may be too many only once.
            hearing = (isOver ? now : now + Self.pauseOfHearing, 0)
        }
        try ask(candidates)
    }

    /// Lets connections rest that have no packets; where ends are told, no longer.
    ///
    /// - Returns: those that may have ended without that anybody has told.
    private mutating func lookAround() -> [FlowMemory.Slot] {
        // Where ends are told, there may be a million others.
        let start = !hearsEnds || asked.end >= count ? 0 : asked.end
        asked = (.now, hearsEnds ? min(start + Self.mostLookedAt, count) : count)
        var result: [FlowMemory.Slot] = []
        for slot in connections[start..<asked.end] {
            let note = note(slot)
            if note.stage == .resting {
                if hearsEnds && result.count < Self.mostRoused || !isBoth(slot, FlowLayout.restingState) {
                    result.append(slot)
                }
            } else if !hearsEnds {
                let seen = seen(slot)
                let idleRounds = seen == note.seen ? min(note.idleRounds + 1, Self.roundsBeforeRest) : 0
                change(slot) { ($0.seen, $0.idleRounds) = (seen, idleRounds) }
                if note.stage == .owned, idleRounds == Self.roundsBeforeRest, isBoth(slot, FlowLayout.ownedState) {
                    rest(slot)
                } else {
                    result.append(slot)
                }
            }
        }
        return result
    }

    private mutating func ask(_ slots: [FlowMemory.Slot]) throws(KernelError) {
        var batch = NetlinkBatch()
        let entries = slots.map { memory.entry($0) }
        for case let entry? in entries { batch.lookForConnection(FlowTuple(entry)) }
        var answers = try changes.errors(of: batch).makeIterator()
        for (slot, entry) in zip(slots, entries) where entry != nil {
            if answers.next()??.errno == .noSuchFileOrDirectory { leave(slot) } else { wake(slot) }
        }
    }

    private mutating func rest(_ slot: FlowMemory.Slot) {
        for slot in pair(slot) { memory.setState(slot, FlowLayout.restingState, from: FlowLayout.ownedState) }
        change(slot) { $0.stage = .resting }
        (owned, resting) = (owned - 1, resting + 1)
    }

    /// As there are packets again. It may be another connection by now, with the same addresses and ports: the kernel's answer says.
    private mutating func wake(_ slot: FlowMemory.Slot) {
        guard note(slot).stage == .resting else { return }
        for slot in pair(slot) { memory.setState(slot, FlowLayout.knownState, from: FlowLayout.restingState) }
        change(slot) { ($0.stage, $0.idleRounds) = (.known, 0) }
        resting -= 1
        introduce(slot)
    }

    private func isBoth(_ slot: FlowMemory.Slot, _ state: UInt64) -> Bool {
        memory.state(slot) == state && memory.state(partner(slot)) == state
    }

    /// The workers' count.
    private func seen(_ slot: FlowMemory.Slot) -> UInt16 { UInt16(truncatingIfNeeded: packets(slot)) }

    /// Takes a connection from the workers, given one of its entries.
    private mutating func leave(_ slot: FlowMemory.Slot) {
        guard note(slot).stage != .leaving, note(slot).partner >= 0 else { return }
        for slot in pair(slot) {
            memory.setState(slot, FlowLayout.knownState)
            let stage = note(slot).stage
            change(slot) { $0.stage = .leaving }
            leaving.append((slot, .now))
            // The last one takes its place.
            guard note(slot).isOriginal else { continue }
            if stage == .owned { owned -= 1 }
            if stage == .resting { resting -= 1 }
            let position = note(slot).position
            if let last = connections.popLast(), last != slot {
                connections[Int(position)] = last
                change(last) { $0.position = position }
            }
        }
    }

    /// After routes have changed: connections whose way is another now are the kernel's, until they are looked at again.
    mutating func followRoutes(_ snapshot: Snapshot) {
        for slot in connections {
            if let entry = memory.entry(slot), let reply = memory.entry(partner(slot)),
                let there = snapshot.way(to: entry.newDestination), let back = snapshot.way(to: entry.source),
                there.target == entry.way, back.vlan == entry.vlan, back.target == reply.way, there.vlan == reply.vlan
            {
                continue
            }
            leave(slot)
        }
        // Others may have one now that they had not.
        lookAgain()
    }

    mutating func leaveAll() {
        for slot in connections { leave(slot) }
        fresh = []
        lookAgain()
    }

    // MARK: What workers and filter know

    /// To be called when all workers have begun anew, without anything of what they had then.
    ///
    /// - Parameter start: when they were told to.
    mutating func settle(since start: ContinuousClock.Instant) {
        for slot in fresh where note(slot).stage == .fresh {
            change(slot) { $0.stage = .owned }
            owned += 1
            // One that has ended in between stays so.
            for slot in pair(slot) { memory.setState(slot, FlowLayout.ownedState, from: FlowLayout.knownState) }
        }
        fresh = []
        let gone = leaving.prefix { start - $0.since >= Self.drain }
        for (slot, _) in gone {
            memory.clear(slot)
            change(slot) { $0 = Note() }
        }
        leaving.removeFirst(gone.count)
    }

    // MARK: What the kernel is told

    /// Tells the kernel of connections that the workers carry: of new ones that it will not see all of their packets, of others that they
    /// are in use.
    private mutating func tell() throws(KernelError) {
        guard !requests.isEmpty else { return }
        var batch = NetlinkBatch()
        var inUse = NetlinkBatch()
        var used: [FlowMemory.Slot] = []
        for slot in requests where note(slot).isOriginal && note(slot).stage != .leaving {
            guard let entry = memory.entry(slot) else { continue }
            // What it was used last, the kernel knows of a new one. It may have been closed since it was told.
            let isNew = note(slot).refresh == 0
            let timeout = timeouts.seconds(entry.transport)
            let next = seconds &+ (isNew ? 1 : max(1, timeout / 2))
            change(slot) { $0.refresh = next }
            if isNew {
                batch.refreshConnection(FlowTuple(entry), timeout: nil, isLiberal: true)
            } else {
                inUse.refreshConnection(FlowTuple(entry), timeout: timeout, isAcknowledged: false)
                if entry.transport == .tcp { used.append(slot) }
            }
        }
        requests = []
        try send(batch)
        try refreshes.tell(inUse)

        // One that has been closed in the same moment is not to stand there for days.
        batch = NetlinkBatch()
        for slot in used where hasEnded(slot) {
            guard let entry = memory.entry(slot) else { continue }
            batch.refreshConnection(FlowTuple(entry), timeout: timeouts.tcpClosing)
        }
        try send(batch)
    }

    /// One may have ended; somebody else may have fixed its time-out. Without an event, it never becomes the workers'.
    private func send(_ batch: borrowing NetlinkBatch) throws(KernelError) {
        try changes.execute(
            batch, ignoring: [.noSuchFileOrDirectory, .notPermitted, .invalidArgument, Self.timerExpired])
    }

    /// Whether the filter has seen a packet that ends connections, in either direction.
    private func hasEnded(_ slot: FlowMemory.Slot) -> Bool {
        pair(slot).contains { memory.state($0) == FlowLayout.endedState }
    }

    /// The connection is just ending.
    private static let timerExpired = Errno(rawValue: 62)  // ETIME

    /// Looks for connections that the workers had packets of, a part of the table at a time: the kernel is not to give up what it sees
    /// nothing of.
    mutating func keepAlive() {
        readTimeouts()
        let now = seconds
        if scanned >= count { scanned = 0 }
        let end = min(scanned + Self.scan, count)
        for slot in connections[scanned..<end] where now >= note(slot).refresh {
            let packets = UInt32(truncatingIfNeeded: packets(slot))
            guard packets != note(slot).packets, !hasEnded(slot) else { continue }
            change(slot) { $0.packets = packets }
            requests.append(slot)
        }
        scanned = end
    }

    private mutating func readTimeouts() {
        let now = Timeouts.read()
        guard now != timeouts else { return }
        timeouts = now
        // What was to be refreshed in an hour may have to be at once.
        for slot in connections { change(slot) { $0.refresh = 1 } }
    }

    /// How many the workers have forwarded, of both directions.
    private func packets(_ slot: FlowMemory.Slot) -> UInt64 {
        memory.counts(slot).packets &+ memory.counts(partner(slot)).packets
    }

    private var seconds: UInt32 { UInt32(clamping: (.now - began).components.seconds) }

    // MARK: Notes

    private func note(_ slot: FlowMemory.Slot) -> Note {
        slot.family == .v4 ? notes4[slot.number] : notes6[slot.number]
    }

    private func partner(_ slot: FlowMemory.Slot) -> FlowMemory.Slot {
        FlowMemory.Slot(slot.family, Int(note(slot).partner))
    }

    /// Both directions' entries.
    private func pair(_ slot: FlowMemory.Slot) -> [FlowMemory.Slot] { [slot, partner(slot)] }

    private mutating func change(_ slot: FlowMemory.Slot, _ body: (inout Note) -> Void) {
        if slot.family == .v4 { body(&notes4[slot.number]) } else { body(&notes6[slot.number]) }
    }
}

/// How long the kernel waits for another packet, in seconds (Documentation/networking/nf_conntrack-sysctl.rst).
private struct Timeouts: Equatable {
    var tcp: UInt32 = 432_000
    /// Of a connection that has been reset.
    var tcpClose: UInt32 = 10
    /// Of one that is being closed.
    var tcpClosing: UInt32 = 120
    var udp: UInt32 = 120
    var icmp: UInt32 = 30
    var icmpv6: UInt32 = 30

    static func read() -> Timeouts {
        var timeouts = Timeouts()
        func read(_ name: String, _ value: inout UInt32) {
            if let text = try? Sysctl("net/netfilter/nf_conntrack_\(name)").read(), let number = UInt32(text) {
                value = number
            }
        }
        read("tcp_timeout_established", &timeouts.tcp)
        read("tcp_timeout_close", &timeouts.tcpClose)
        read("tcp_timeout_fin_wait", &timeouts.tcpClosing)
        read("udp_timeout_stream", &timeouts.udp)
        read("icmp_timeout", &timeouts.icmp)
        read("icmpv6_timeout", &timeouts.icmpv6)
        return timeouts
    }

    func seconds(_ transport: IPProtocol) -> UInt32 {
        switch transport {
        case .tcp: tcp
        case .udp: udp
        case .icmp: icmp
        default: icmpv6
        }
    }
}

extension Connection {
    /// Whether the kernel lets it pass in both directions, and does with each packet what it did with the last one.
    fileprivate var mayBeOwned: Bool {
        guard hasSeenReply, !isExpected, !hasMaster, !hasHelper, !isDying, !adjustsSequence, zone == 0 else {
            return false
        }
        return original.protocolNumber == IPProtocol.tcp.rawValue ? isEstablished && isAssured : true
    }
}

extension FlowEntry {
    /// One direction, as the other one says what it is translated to.
    fileprivate init(_ tuple: FlowTuple, answeredBy answer: FlowTuple, from vlan: VLANID, way: UInt32) {
        let transport = IPProtocol(tuple.protocolNumber)
        let isEcho = transport == .icmp || transport == .icmpv6
        self.init(
            source: tuple.source, destination: tuple.destination, transport: transport, sourcePort: tuple.sourcePort,
            destinationPort: tuple.destinationPort, vlan: vlan, newSource: answer.destination,
            newDestination: answer.source, newSourcePort: isEcho ? answer.sourcePort : answer.destinationPort,
            // An echo's type stays what it is.
            newDestinationPort: isEcho ? tuple.destinationPort : answer.sourcePort, way: way)
    }
}

extension FlowTuple {
    fileprivate init(_ entry: FlowEntry) {
        self.init(
            source: entry.source, destination: entry.destination, protocolNumber: entry.transport.rawValue,
            sourcePort: entry.sourcePort, destinationPort: entry.destinationPort)
    }
}
