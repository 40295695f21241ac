// The table of flows, in memory that the filter reads too (own_flows4 and own_flows6 of ownership.bpf.c), and what the workers count of
// each entry beside it.
//
// An entry's way is: free → known → owned → known → free; the filter itself makes an owned one an ended one, when it sees the end of
// a connection, and an owned one may rest: then the filter makes it a known one, when it sees a packet. It is written while it is free, and
// cleared only once every worker has begun anew since the filter gave the last of its frames: a worker never sees one that changes, but for
// its state, which is the filter's.
//
// A bucket with entries has its bit set (own_filled4 and own_filled6) before the first of them is written, until after the last is cleared.

import CLinux
import Forwarding
import Kernel
import PacketIO
import Packets
import Synchronization

/// One thread fills and clears it; workers read it.
@safe public final class FlowMemory: @unchecked Sendable {
    private let entries4: Mapping
    private let entries6: Mapping
    private let filled4: Mapping
    private let filled6: Mapping
    private let counts4: Mapping
    private let counts6: Mapping
    private let seed: UInt64
    /// Entries that are not free. Where there are none, nobody looks for one.
    private let entries = Atomic(0)

    /// A place in the table.
    public struct Slot: Hashable, Sendable {
        public var family: IPFamily
        public var number: Int

        public init(_ family: IPFamily, _ number: Int) {
            self.family = family
            self.number = number
        }
    }

    public struct Counts: Hashable, Sendable {
        public var packets: UInt64
        /// Octets of the frames, without tag.
        public var bytes: UInt64
    }

    public init(_ ownership: borrowing Ownership) throws(KernelError) {
        entries4 = try Mapping(ownership.flows(.v4), count: ownership.flowCount * FlowLayout.words(.v4) * 8)
        entries6 = try Mapping(ownership.flows(.v6), count: ownership.flowCount * FlowLayout.words(.v6) * 8)
        let filledCount = (ownership.flowCount / FlowLayout.entriesPerBucket / 64 + 1) * 8
        filled4 = try Mapping(ownership.filledBuckets(.v4), count: filledCount)
        filled6 = try Mapping(ownership.filledBuckets(.v6), count: filledCount)
        counts4 = try Mapping(ownership.flowCounts(.v4), count: ownership.flowCount * Self.countWords * 8)
        counts6 = try Mapping(ownership.flowCounts(.v6), count: ownership.flowCount * Self.countWords * 8)
        seed = ownership.seed
    }

    /// To look at what another process fills: nothing can be found by its hash, or written.
    public init(reading maps: borrowing OwnedFlowMaps) throws(KernelError) {
        let count = maps.flowCount * 8
        entries4 = try Mapping(maps.flows(isIPv4: true), count: count * FlowLayout.words(.v4), isWritable: false)
        entries6 = try Mapping(maps.flows(isIPv4: false), count: count * FlowLayout.words(.v6), isWritable: false)
        let filledCount = (maps.flowCount / FlowLayout.entriesPerBucket / 64 + 1) * 8
        filled4 = try Mapping(maps.filled(isIPv4: true), count: filledCount, isWritable: false)
        filled6 = try Mapping(maps.filled(isIPv4: false), count: filledCount, isWritable: false)
        counts4 = try Mapping(maps.counts(isIPv4: true), count: count * Self.countWords, isWritable: false)
        counts6 = try Mapping(maps.counts(isIPv4: false), count: count * Self.countWords, isWritable: false)
        seed = 0
    }

    private static let countWords = 2

    // MARK: For workers

    /// Octets before and after are somebody else's.
    @inline(__always)
    func withTable<Result>(_ body: (borrowing FlowTable) -> Result) -> Result {
        guard entries.load(ordering: .relaxed) > 0 else {
            return body(FlowTable(v4: Span(), v6: Span(), seed: seed))
        }
        // SAFETY: both are whole words of mappings that live as long as this. What another thread changes is told above; a word is read and
        // written as a whole.
        let v4 = unsafe UnsafeBufferPointer(start: entries4.words, count: entries4.count / 8)
        let v6 = unsafe UnsafeBufferPointer(start: entries6.words, count: entries6.count / 8)
        let table = unsafe FlowTable(v4: Span(_unsafeElements: v4), v6: Span(_unsafeElements: v6), seed: seed)
        return body(table)
    }

    /// A frame that was sent. Two workers that have frames of the same direction of a connection may lose a count.
    @inline(__always)
    func count(_ flow: Int, isIPv4: Bool, bytes: Int) {
        let at = flow &* Self.countWords
        guard at >= 0, at &+ 1 < capacity &* Self.countWords else { return }
        // SAFETY: checked in the line before; both have the same size.
        let words = unsafe countMemory(isIPv4 ? .v4 : .v6) + at
        unsafe vr_store_relaxed64(words, words[0] &+ 1)
        unsafe vr_store_relaxed64(words + 1, words[1] &+ UInt64(truncatingIfNeeded: bytes))
    }

    // MARK: For the one that fills it

    /// How many there may be, of each family.
    public var capacity: Int { counts4.count / (Self.countWords * 8) }

    /// Writes an entry, known to workers; nil: there is no place.
    public func insert(_ entry: FlowEntry) -> Slot? {
        let words = entry.words
        let family = entry.family
        let (one, other) = buckets(words, family)
        let places = [one, other].map { bucket in
            (bucket..<bucket + FlowLayout.entriesPerBucket).filter { self.words($0, family).allSatisfy { $0 == 0 } }
        }
        // The emptier one: then nearly all places can be taken before there is none.
        guard let number = places[0].count >= places[1].count ? places[0].first : places[1].first else { return nil }
        let slot = Slot(family, number)
        setFilled(number / FlowLayout.entriesPerBucket, family, true)
        let (base, id) = (number * words.count, FlowLayout.addressWords(family))
        for (index, word) in words.enumerated() where index != id { store(word, at: base + index, family) }
        store(words[id] | FlowLayout.knownState.bigEndian, at: base + id, family)
        entries.add(1, ordering: .relaxed)
        let counts = unsafe countMemory(family) + number * Self.countWords
        unsafe vr_store_relaxed64(counts, 0)
        unsafe vr_store_relaxed64(counts + 1, 0)
        return slot
    }

    /// Where the flow of this entry is; nil: it is not there.
    public func find(_ entry: FlowEntry) -> Slot? {
        let words = entry.words
        let (one, other) = buckets(words, entry.family)
        for bucket in [one, other] {
            for number in bucket..<bucket + FlowLayout.entriesPerBucket
            where FlowLayout.isSame(words, self.words(number, entry.family), entry.family) {
                return Slot(entry.family, number)
            }
        }
        return nil
    }

    /// nil: it is free.
    public func entry(_ slot: Slot) -> FlowEntry? {
        state(slot) == FlowLayout.freeState ? nil : FlowEntry(words: words(slot.number, slot.family), slot.family)
    }

    public func state(_ slot: Slot) -> UInt64 {
        let at = slot.number * FlowLayout.words(slot.family) + FlowLayout.addressWords(slot.family)
        return UInt64(bigEndian: load(at, slot.family)) & FlowLayout.stateMask
    }

    /// Changes the state of an entry that is not free. The filter may end it at the same time.
    ///
    /// - Parameter from: nil: any.
    /// - Returns: whether it has that state now.
    @discardableResult
    public func setState(_ slot: Slot, _ state: UInt64, from: UInt64? = nil) -> Bool {
        let at = slot.number * FlowLayout.words(slot.family) + FlowLayout.addressWords(slot.family)
        while true {
            let word = load(at, slot.family)
            let before = UInt64(bigEndian: word) & FlowLayout.stateMask
            guard before != FlowLayout.freeState, before == from ?? before else { return false }
            let wanted = UInt64(bigEndian: word) & ~FlowLayout.stateMask | state
            // SAFETY: `load` has checked the place.
            if unsafe vr_compare_exchange64(entryMemory(slot.family) + at, word, wanted.bigEndian) { return true }
        }
    }

    public func clear(_ slot: Slot) {
        guard state(slot) != FlowLayout.freeState else { return }
        entries.subtract(1, ordering: .relaxed)
        let words = FlowLayout.words(slot.family)
        for index in 0..<words { store(0, at: slot.number * words + index, slot.family) }
        let bucket = slot.number / FlowLayout.entriesPerBucket
        if Self.entries(ofBucket: bucket).allSatisfy({ state(Slot(slot.family, $0)) == FlowLayout.freeState }) {
            setFilled(bucket, slot.family, false)
        }
    }

    private static func entries(ofBucket bucket: Int) -> Range<Int> {
        bucket * FlowLayout.entriesPerBucket..<(bucket + 1) * FlowLayout.entriesPerBucket
    }

    private func isFilled(_ bucket: Int, _ family: IPFamily) -> Bool {
        unsafe vr_load_relaxed64(filledWord(bucket, family)) >> UInt64(bucket % 64) & 1 != 0
    }

    private func setFilled(_ bucket: Int, _ family: IPFamily, _ isFilled: Bool) {
        let word = unsafe filledWord(bucket, family)
        let before = unsafe vr_load_relaxed64(word)
        let bit: UInt64 = 1 << UInt64(bucket % 64)
        unsafe vr_store_relaxed64(word, isFilled ? before | bit : before & ~bit)
    }

    /// Those that the filter takes frames of as soon as there are some, with what the workers have counted.
    public func forEachOwned(_ body: (FlowEntry, Counts) -> Void) {
        for family in IPFamily.allCases {
            for bucket in 0..<capacity / FlowLayout.entriesPerBucket where isFilled(bucket, family) {
                for number in Self.entries(ofBucket: bucket) {
                    let slot = Slot(family, number)
                    if [FlowLayout.ownedState, FlowLayout.restingState].contains(state(slot)), let entry = entry(slot) {
                        body(entry, counts(slot))
                    }
                }
            }
        }
    }

    public func counts(_ slot: Slot) -> Counts {
        let words = unsafe countMemory(slot.family) + slot.number * Self.countWords
        return Counts(packets: unsafe vr_load_relaxed64(words), bytes: unsafe vr_load_relaxed64(words + 1))
    }

    /// The numbers of the first entries of both buckets.
    private func buckets(_ words: [UInt64], _ family: IPFamily) -> (Int, Int) {
        let (one, other) = FlowLayout.buckets(
            of: words, family, count: capacity / FlowLayout.entriesPerBucket, seed: seed)
        return (one * FlowLayout.entriesPerBucket, other * FlowLayout.entriesPerBucket)
    }

    private func words(_ number: Int, _ family: IPFamily) -> [UInt64] {
        let count = FlowLayout.words(family)
        return (0..<count).map { load(number * count + $0, family) }
    }

    private func load(_ word: Int, _ family: IPFamily) -> UInt64 {
        let memory = unsafe entryMemory(family)
        precondition((0..<capacity * FlowLayout.words(family)).contains(word))
        return unsafe vr_load_relaxed64(memory + word)
    }

    private func store(_ value: UInt64, at word: Int, _ family: IPFamily) {
        let memory = unsafe entryMemory(family)
        precondition((0..<capacity * FlowLayout.words(family)).contains(word))
        unsafe vr_store_relaxed64(memory + word, value)
    }

    @inline(__always)
    private func entryMemory(_ family: IPFamily) -> UnsafeMutablePointer<UInt64> {
        if family == .v4 { return unsafe entries4.words }
        return unsafe entries6.words
    }

    private func filledWord(_ bucket: Int, _ family: IPFamily) -> UnsafeMutablePointer<UInt64> {
        precondition((0..<capacity / FlowLayout.entriesPerBucket).contains(bucket))
        // SAFETY: checked in the line before; both mappings have a bit for each bucket, in whole words.
        if family == .v4 { return unsafe filled4.words + bucket / 64 }
        return unsafe filled6.words + bucket / 64
    }

    @inline(__always)
    private func countMemory(_ family: IPFamily) -> UnsafeMutablePointer<UInt64> {
        if family == .v4 { return unsafe counts4.words }
        return unsafe counts6.words
    }
}
