internal import Glibc
import Synchronization

/// The blocks of what is published: made here, never changed, and used again when the last version that refers to them has gone.
struct BlockMemory: ~Copyable {
    private var area: Area
    /// Up to here the area has been given out.
    private var top = Layout.firstFree
    /// Offsets of freed blocks, by size in units.
    private var free: [[Int]] = Array(repeating: [], count: Layout.largestRanked / Layout.unit + 1)
    private var freeRoots: [Int] = []
    private var freeUnits = 0

    private var lease: VersionLease?
    /// Blocks that the current version refers to and the next one will not.
    private var retired: [Block] = []
    /// The same of each version that has been replaced, oldest first. A block that a version has dropped may be used by all
    /// before it.
    private var waiting: [(lease: VersionLease, blocks: [Block])] = []

    init() {
        area = Area(capacity: 2 * Layout.rootSize)
        // SAFETY: what is written ends at `firstFree`, before the capacity.
        unsafe area.base.initializeMemory(as: UInt8.self, repeating: 0, count: Layout.firstFree)
        write(Ranked(InlineArray<256, UInt32>(repeating: Layout.nothing).span), at: Layout.nothingBelow)
        for octet in 0..<8 {
            for bits in 0..<256 {
                let count = (bits & (2 << octet - 1)).nonzeroBitCount
                unsafe area.base.storeBytes(
                    of: UInt8(count), toByteOffset: Layout.countsOffset + octet * 256 + bits, as: UInt8.self)
            }
        }
        let root = unsafe area.base.advanced(by: Layout.emptyRoot).bindMemory(to: UInt64.self, capacity: 65_536)
        for octets in 0..<65_536 { unsafe root[octets] = Layout.entry(target: 0, below: Layout.nothingBelow) }
    }

    /// In octets.
    var size: (used: Int, reserved: Int) {
        (top - freeUnits * Layout.unit - freeRoots.count * Layout.rootSize, area.capacity)
    }

    mutating func retire(_ block: Block) {
        if block.size != 0 { retired.append(block) }
    }

    mutating func publish(ipv4: ForwardingTable.Root, ipv6: ForwardingTable.Root) -> ForwardingTable {
        if let lease { waiting.append((lease, retired)) }
        retired = []
        let lease = VersionLease()
        self.lease = lease
        return ForwardingTable(PublishedVersion(area, lease), ipv4: ipv4, ipv6: ipv6)
    }

    /// Frees what no version refers to any more.
    mutating func reclaim() {
        let ended = waiting.firstIndex { !$0.lease.hasEnded } ?? waiting.count
        for (_, blocks) in waiting[..<ended] {
            for block in blocks {
                if block.size == Layout.rootSize {
                    freeRoots.append(block.offset)
                } else {
                    free[block.units].append(block.offset)
                    freeUnits += block.units
                }
            }
        }
        waiting.removeFirst(ended)
    }

    // MARK: Blocks

    private mutating func allocate(_ size: Int) -> Block {
        let block = Block(offset: top, size: size)
        if size == Layout.rootSize {
            if let offset = freeRoots.popLast() { return Block(offset: offset, size: size) }
        } else if let offset = free[block.units].popLast() {
            freeUnits -= block.units
            return Block(offset: offset, size: size)
        }
        let end = top + block.units * Layout.unit
        if end > area.capacity {
            // A larger block will do, and is cut: else sizes that went out of use would never be used again.
            if size != Layout.rootSize, freeUnits > area.capacity / Layout.unit / 8,
                let larger = free[block.units...].firstIndex(where: { !$0.isEmpty }),
                let offset = free[larger].popLast()
            {
                free[larger - block.units].append(offset + block.units * Layout.unit)
                freeUnits -= block.units
                return Block(offset: offset, size: size)
            }
            // Versions that are in use keep the former area.
            precondition(area.capacity < Layout.maxSize, "there are not as many routes in the world")
            let larger = Area(capacity: area.capacity * 2)
            // SAFETY: `top` is at most the capacity of either.
            unsafe larger.base.copyMemory(from: area.base, byteCount: top)
            area = larger
        }
        top = end
        return block
    }

    /// A root with the same entries; without routes where there was none.
    mutating func copyRoot(_ former: Block) -> Block {
        let block = allocate(Layout.rootSize)
        // SAFETY: each takes this many octets; `allocate` returns some that nobody else reads or writes.
        unsafe area.base.advanced(by: block.offset).copyMemory(
            from: area.base.advanced(by: former.offset), byteCount: Layout.rootSize)
        return block
    }

    /// Writes the entries of one first octet into a root that has not been published.
    ///
    /// - Parameter below: offsets.
    func write(_ targets: Span<UInt32>, _ below: Span<Int>, octet: Int, into root: Block) {
        // SAFETY: 256 entries of the root's 65,536, which nobody reads yet.
        let at = unsafe area.base.advanced(by: root.offset + octet * 256 * 8).bindMemory(
            to: UInt64.self, capacity: 256)
        for octet in 0..<256 { unsafe at[octet] = Layout.entry(target: targets[octet], below: below[octet]) }
    }

    /// - Parameter values: for each octet.
    mutating func makeRanked(_ values: Span<UInt32>) -> Block {
        let ranked = Ranked(values)
        let block = allocate(64 + 4 * ranked.count)
        write(ranked, at: block.offset)
        return block
    }

    private struct Ranked {
        var runs = InlineArray<256, UInt32>(repeating: 0)
        var words = InlineArray<32, UInt16>(repeating: 0)
        var count = 0

        init(_ values: Span<UInt32>) {
            for octet in 0..<256 {
                if octet & 7 == 0 { words[octet >> 3] = UInt16(count) << 8 }
                if octet == 0 || values[octet] != runs[count - 1] {
                    words[octet >> 3] |= 1 << UInt16(octet & 7)
                    runs[count] = values[octet]
                    count += 1
                }
            }
        }
    }

    private func write(_ ranked: Ranked, at offset: Int) {
        // SAFETY: as for a root; the two parts take 64 octets and 4 for each run.
        let at = unsafe area.base.advanced(by: offset)
        let wordsAt = unsafe at.bindMemory(to: UInt16.self, capacity: 32)
        // The bits come first, whatever the machine's order.
        for i in 0..<32 { unsafe wordsAt[i] = ranked.words[i].littleEndian }
        let runsAt = unsafe at.advanced(by: 64).bindMemory(to: UInt32.self, capacity: ranked.count)
        for i in 0..<ranked.count { unsafe runsAt[i] = ranked.runs[i] }
    }

    mutating func makeLeaf(_ key: Key, target: UInt32, inherited: UInt32) -> Block {
        let block = allocate(MemoryLayout<Leaf>.size)
        let mask = ~(UInt128.max >> key.length)
        let leaf = Leaf(
            high: UInt64(truncatingIfNeeded: key.bits >> 64), low: UInt64(truncatingIfNeeded: key.bits),
            maskHigh: UInt64(truncatingIfNeeded: mask >> 64), maskLow: UInt64(truncatingIfNeeded: mask), target: target,
            inherited: inherited)
        // SAFETY: as above.
        unsafe area.base.storeBytes(of: leaf, toByteOffset: block.offset, as: Leaf.self)
        return block
    }
}

/// A block of memory, or none. In octets.
struct Block {
    var offset = 0
    var size = 0

    var units: Int { (size + Layout.unit - 1) / Layout.unit }
}

/// One piece of memory, as large as it is from the beginning.
@safe final class Area: @unchecked Sendable {
    let base: UnsafeMutableRawPointer
    let capacity: Int

    init(capacity: Int) {
        self.capacity = capacity
        // Look-ups go all over it: with pages of the usual size, the processor would have to look for most of them first.
        let hugePage = 1 << 21
        unsafe base = .allocate(byteCount: capacity, alignment: capacity < hugePage ? Layout.unit : hugePage)
        if capacity >= hugePage { unsafe madvise(base, capacity, MADV_HUGEPAGE) }
    }

    deinit { unsafe base.deallocate() }
}

/// Lives as long as anybody has this version of the table.
@usableFromInline final class PublishedVersion: Sendable {
    let area: Area
    private let lease: VersionLease

    init(_ area: Area, _ lease: VersionLease) {
        self.area = area
        self.lease = lease
    }

    // Whoever lets go last has seen all others do so (the reference count), and tells the writer.
    deinit { lease.end() }
}

/// How the writer learns that a version has gone.
final class VersionLease: Sendable {
    private let ended = Atomic(false)

    var hasEnded: Bool { ended.load(ordering: .acquiring) }
    func end() { ended.store(true, ordering: .releasing) }
}
