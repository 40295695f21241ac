import Synchronization

/// The blocks of what is published: made here, never changed, and used again when the last version that refers to them has gone.
struct BlockMemory: ~Copyable {
    private var area: Area
    /// Up to here the area has been given out.
    private var top = 0
    /// Freed blocks by size, in units.
    private var free: [[UInt32]] = Array(repeating: [], count: Layout.directSize / Layout.unit + 1)
    private var freeUnits = 0

    private var lease: VersionLease?
    /// Blocks that the current version refers to and the next one will not.
    private var retired: [Block] = []
    /// The same of each version that has been replaced, oldest first. A block that a version has dropped may be used by all
    /// before it.
    private var waiting: [(lease: VersionLease, blocks: [Block])] = []

    init() {
        area = Area(capacity: 4096)
        // SAFETY: what is written ends at `firstFree`, before the capacity.
        unsafe area.base.initializeMemory(as: UInt8.self, repeating: 0, count: Layout.firstFree)
        for octet in 0..<256 {
            unsafe area.base.storeBytes(
                of: UInt8((octet >> 1).nonzeroBitCount), toByteOffset: Layout.runsOffset + octet, as: UInt8.self)
        }
        top = Layout.firstFree
    }

    /// In octets.
    var size: (used: Int, reserved: Int) { (top - freeUnits * Layout.unit, area.capacity) }

    mutating func retire(_ block: Block) {
        if block.units != 0 { retired.append(block) }
    }

    mutating func publish(ipv4: UInt32, ipv6: UInt32) -> ForwardingTable {
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
                free[Int(block.units)].append(block.reference & ~1)
                freeUnits += Int(block.units)
            }
        }
        waiting.removeFirst(ended)
    }

    // MARK: Blocks

    private mutating func allocate(_ size: Int) -> Block {
        let units = (size + Layout.unit - 1) / Layout.unit
        if let reference = free[units].popLast() {
            freeUnits -= units
            return Block(reference: reference, units: UInt32(units))
        }
        if top + units * Layout.unit > area.capacity {
            // A larger block will do, and is cut: else sizes that went out of use would never be used again.
            if freeUnits > area.capacity / Layout.unit / 8,
                let larger = free[units...].firstIndex(where: { !$0.isEmpty }),
                let reference = free[larger].popLast()
            {
                free[larger - units].append(reference + UInt32(units * Layout.unit))
                freeUnits -= units
                return Block(reference: reference, units: UInt32(units))
            }
            // Versions that are in use keep the former area.
            precondition(area.capacity < Layout.maxSize, "there are not as many routes in the world")
            let larger = Area(capacity: area.capacity * 2)
            // SAFETY: `top` is at most the capacity of either.
            unsafe larger.base.copyMemory(from: area.base, byteCount: top)
            area = larger
        }
        defer { top += units * Layout.unit }
        return Block(reference: UInt32(top), units: UInt32(units))
    }

    mutating func makeDirect(_ targets: Span<UInt32>, _ below: Span<UInt32>) -> Block {
        let block = allocate(Layout.directSize)
        // SAFETY: `allocate` returns this many octets, aligned to 64, that nobody else reads or writes.
        let at = unsafe area.base.advanced(by: Int(block.reference)).bindMemory(
            to: UInt64.self, capacity: 256)
        for octet in 0..<256 { unsafe at[octet] = Layout.entry(target: targets[octet], below: below[octet]) }
        return block
    }

    mutating func makeRanked(
        _ targets: Span<UInt32>, _ below: Span<UInt32>, inherited: UInt32
    ) -> Block {
        // The inherited target, then a value for each run.
        var values = InlineArray<257, UInt32>(repeating: 0)
        var words = InlineArray<32, UInt16>(repeating: 0)
        values[0] = inherited
        var last = 0
        for octet in 0..<256 {
            let target = targets[octet] == 0 ? inherited : targets[octet]
            let value = below[octet] == 0 ? target : Layout.value(below: below[octet])
            if octet == 0 || value != values[last] {
                words[octet >> 3] |= 1 << UInt16(octet & 7)
                last += 1
                values[last] = value
            }
            if octet & 7 == 7 { words[octet >> 3] |= UInt16(last - 1) << 8 }
        }
        let block = allocate(Layout.inheritedOffset + 4 * (last + 1))
        // SAFETY: as above; the two parts take 64 octets and 4 for each value.
        let at = unsafe area.base.advanced(by: Int(block.reference))
        let wordsAt = unsafe at.bindMemory(to: UInt16.self, capacity: 32)
        for i in 0..<32 { unsafe wordsAt[i] = words[i] }
        let valuesAt = unsafe at.advanced(by: Layout.inheritedOffset).bindMemory(to: UInt32.self, capacity: last + 1)
        for i in 0...last { unsafe valuesAt[i] = values[i] }
        return block
    }

    mutating func makeLeaf(_ key: Key, target: UInt32, inherited: UInt32) -> Block {
        var block = allocate(MemoryLayout<Leaf>.size)
        let mask = ~(UInt128.max >> key.length)
        let leaf = Leaf(
            high: UInt64(truncatingIfNeeded: key.bits >> 64), low: UInt64(truncatingIfNeeded: key.bits),
            maskHigh: UInt64(truncatingIfNeeded: mask >> 64), maskLow: UInt64(truncatingIfNeeded: mask), target: target,
            inherited: inherited)
        // SAFETY: as above.
        unsafe area.base.storeBytes(of: leaf, toByteOffset: Int(block.reference), as: Leaf.self)
        block.reference |= 1
        return block
    }
}

/// A block of memory, or none.
struct Block {
    var reference: UInt32 = 0
    var units: UInt32 = 0
}

/// One piece of memory, as large as it is from the beginning.
@safe final class Area: @unchecked Sendable {
    let base: UnsafeMutableRawPointer
    let capacity: Int

    init(capacity: Int) {
        self.capacity = capacity
        unsafe base = .allocate(byteCount: capacity, alignment: 64)
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
