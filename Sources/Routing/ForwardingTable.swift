internal import CPrefetch
import Packets

/// A longest-prefix match over IPv4 and IPv6 that never changes: workers look up in it without a lock, an allocation or a
/// reference count. Its memory is used again when its last copy has gone, so hold it no longer than it is current.
///
/// Blocks in one piece of memory, each for an octet of the address, referred to by their offset (`Layout`):
///
///     direct     256 × { target, block below }           the first two octets
///     ranked     32 × { 8 bits, rank }  inherited  value…  every other octet
///     leaf       address, length, target, inherited        the only route below an octet (IPv6)
///
/// A ranked block has a value for each run of octets that look up the same: a target, or the block below. A bit is set where a
/// run starts; the rank of an eight is the number of the run that it ends in, from 0. So the number of an octet's run is that
/// rank less the bits set after the octet in its own eight (a table look-up: x86-64 as such has no POPCNT), and a look-up
/// touches two cache lines of the block.
///
/// Target 0 says that this level has no answer, and the last one above stands. So a route is in one block only, and
/// changing the default route changes one block. What a ranked block's value cannot say, because the block below stands
/// in its place, that block inherits: it is the target of whatever it does not know better, and stands ahead of the values for
/// those who go on below.
@safe public struct ForwardingTable {
    @usableFromInline let base: UnsafeRawPointer
    // Offsets of the roots.
    @usableFromInline let ipv4: Int
    @usableFromInline let ipv6: Int
    @usableFromInline let version: PublishedVersion

    init(_ version: PublishedVersion, ipv4: UInt32, ipv6: UInt32) {
        unsafe base = UnsafeRawPointer(version.area.base)
        self.ipv4 = Int(ipv4)
        self.ipv6 = Int(ipv6)
        self.version = version
    }

    /// The target of the longest prefix that contains `address` (host byte order: the first octet in bits 31…24); 0: no route.
    @inlinable public func lookup(ipv4 address: UInt32) -> UInt32 {
        defer { withExtendedLifetime(version) {} }
        let first = direct(ipv4, address &>> 24)
        let second = direct(Layout.below(first), address &>> 16 & 0xff)
        let best = choose(Layout.target(second), Layout.target(first))
        let block = Layout.below(second)
        return block == 0 ? best : descend(block, address, best)
    }

    /// The third octet and the fourth.
    @inlinable func descend(_ block: Int, _ address: UInt32, _ best: UInt32) -> UInt32 {
        let third = value(block, address &>> 8 & 0xff)
        guard Layout.isBelow(third) else { return choose(third, best) }
        return choose(value(Layout.block(third), address & 0xff), best)
    }

    /// The target of the longest prefix that contains the address: `high` its first eight octets, `low` its last, each in
    /// host byte order; 0: no route.
    @inlinable public func lookup(ipv6 high: UInt64, low: UInt64) -> UInt32 {
        defer { withExtendedLifetime(version) {} }
        let first = direct(ipv6, UInt32(truncatingIfNeeded: high &>> 56))
        var best = Layout.target(first)
        var block = Layout.below(first)
        if Layout.isLeaf(block) { return leaf(block, high, low, best) }
        let second = direct(block, UInt32(truncatingIfNeeded: high &>> 48 & 0xff))
        best = choose(Layout.target(second), best)
        block = Layout.below(second)
        if Layout.isLeaf(block) { return leaf(block, high, low, best) }
        // The octets that are left, the next one in bits 63…56. The trie ends before they do.
        var rest = high &<< 16
        var left = 6
        while block != 0 {
            let next = value(block, UInt32(truncatingIfNeeded: rest &>> 56))
            guard Layout.isBelow(next) else { return choose(next, best) }
            block = Layout.below(next)
            if Layout.isLeaf(block) { return leaf(block, high, low, best) }
            best = choose(inherited(block), best)
            left &-= 1
            rest = left == 0 ? low : rest &<< 8
        }
        return best
    }

    // MARK: Blocks
    // SAFETY: for all of these: blocks refer only to blocks of the same version, which `version` keeps, and which nobody writes
    // to before it has gone; an octet selects inside a block, whatever the address. Offset 0 is a block that knows no route.

    @inlinable @inline(__always) func direct(_ block: Int, _ octet: UInt32) -> UInt64 {
        unsafe base.load(fromByteOffset: block &+ Int(octet) &* 8, as: UInt64.self)
    }

    /// Where the bits and the rank of the octet's eight are.
    @inlinable @inline(__always) func wordOffset(_ block: Int, _ octet: UInt32) -> Int {
        block &+ Int(octet &>> 3) &* 2
    }

    /// Where the octet's value is, less `valuesOffset`. Blocks begin at multiples of 64, so that the word's offset tells the
    /// block's.
    @inlinable @inline(__always) func runOffset(_ wordOffset: Int, _ octet: UInt32) -> Int {
        let word = unsafe UInt32(base.load(fromByteOffset: wordOffset, as: UInt16.self))
        let later = Int((word & 0xff) &>> (octet & 7))
        let runs = unsafe Int(base.load(fromByteOffset: Layout.runsOffset &+ later, as: UInt8.self))
        return (wordOffset & ~63) &+ (Int(word &>> 8) &- runs) &* 4
    }

    @inlinable @inline(__always) func value(_ block: Int, _ octet: UInt32) -> UInt32 {
        let offset = runOffset(wordOffset(block, octet), octet)
        return unsafe base.load(fromByteOffset: offset &+ Layout.valuesOffset, as: UInt32.self)
    }

    @inlinable @inline(__always) func inherited(_ block: Int) -> UInt32 {
        unsafe base.load(fromByteOffset: block &+ Layout.inheritedOffset, as: UInt32.self)
    }

    @inlinable func leaf(_ block: Int, _ high: UInt64, _ low: UInt64, _ best: UInt32) -> UInt32 {
        let leaf = unsafe base.load(fromByteOffset: block &- 1, as: Leaf.self)
        let isInside = (high ^ leaf.high) & leaf.maskHigh | (low ^ leaf.low) & leaf.maskLow
        return isInside == 0 ? leaf.target : choose(leaf.inherited, best)
    }

    @inlinable @inline(__always) func choose(_ target: UInt32, _ otherwise: UInt32) -> UInt32 {
        target != 0 ? target : otherwise
    }
}

// SAFETY: nothing that it refers to changes.
extension ForwardingTable: @unchecked Sendable {}

extension ForwardingTable {
    /// Looks up each address, as many as fit into `targets`. Level by level, so that the memory's latencies overlap.
    public func lookup(ipv4 addresses: Span<UInt32>, into targets: inout MutableSpan<UInt32>) {
        unsafe inBatches(addresses, &targets) { unsafe lookup(ipv4: $0, $1, $2) }
    }

    /// The same for IPv6; the first octet in bits 127…120.
    public func lookup(ipv6 addresses: Span<UInt128>, into targets: inout MutableSpan<UInt32>) {
        unsafe inBatches(addresses, &targets) { unsafe lookup(ipv6: $0, $1, $2) }
    }

    @inline(__always) private func inBatches<Address>(
        _ addresses: Span<Address>, _ targets: inout MutableSpan<UInt32>,
        _ body: (UnsafePointer<Address>, UnsafeMutablePointer<UInt32>, Int) -> Void
    ) {
        defer { withExtendedLifetime(version) {} }
        let count = min(addresses.count, targets.count)
        // SAFETY: indices stay below `count`. Without elements there may be no base address, and `body` is not called.
        unsafe addresses.withUnsafeBufferPointer { addresses in
            unsafe targets.withUnsafeMutableBufferPointer { targets in
                var start = 0
                while start < count {
                    let size = min(Self.batch, count &- start)
                    unsafe body(
                        addresses.baseAddress.unsafelyUnwrapped + start, targets.baseAddress.unsafelyUnwrapped + start,
                        size)
                    start &+= size
                }
            }
        }
    }

    private static let batch = 64

    // SAFETY: indices into what the caller passes stay below `count`, at most `batch`, which is the size of each piece of scratch
    // memory; `deep` is below or at the index of the loop that writes there. For the table's memory: as above.
    @inline(__always) private func lookup(
        ipv4 addresses: UnsafePointer<UInt32>, _ targets: UnsafeMutablePointer<UInt32>, _ count: Int
    ) {
        unsafe withUnsafeTemporaryAllocation(of: Int.self, capacity: Self.batch) { offsets in
            unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 2 * Self.batch) { scratch in
                let offsets = unsafe offsets.baseAddress.unsafelyUnwrapped
                let values = unsafe scratch.baseAddress.unsafelyUnwrapped
                let deeper = unsafe values + Self.batch
                // Without a branch, for they would be as good as random: an address that ends early goes on in block 0, which
                // has no answer.
                for i in 0..<count {
                    let address = unsafe addresses[i]
                    let first = direct(ipv4, address &>> 24)
                    let second = direct(Layout.below(first), address &>> 16 & 0xff)
                    unsafe targets[i] = choose(Layout.target(second), Layout.target(first))
                    let offset = wordOffset(Layout.below(second), address &>> 8 & 0xff)
                    unsafe offsets[i] = offset
                    unsafe prefetch(base + offset)
                }
                for i in 0..<count {
                    let offset = unsafe runOffset(offsets[i], addresses[i] &>> 8 & 0xff)
                    unsafe offsets[i] = offset
                    unsafe prefetch(base + Layout.valuesOffset + offset)
                }
                var deep = 0
                for i in 0..<count {
                    let third = unsafe base.load(fromByteOffset: offsets[i] &+ Layout.valuesOffset, as: UInt32.self)
                    unsafe values[i] = third
                    unsafe deeper[deep] = UInt32(truncatingIfNeeded: i)
                    deep &+= Int(third &>> 31)
                }
                for k in 0..<deep {
                    let i = unsafe Int(deeper[k])
                    unsafe values[i] = value(Layout.block(values[i]), addresses[i] & 0xff)
                }
                for i in 0..<count { unsafe targets[i] = choose(values[i], targets[i]) }
            }
        }
    }

    // SAFETY: as for IPv4; an address comes into `leaves` once, and then is no longer in `deeper`. The results have one more,
    // for what is not to be kept.
    @inline(__always) private func lookup(
        ipv6 addresses: UnsafePointer<UInt128>, _ targets: UnsafeMutablePointer<UInt32>, _ count: Int
    ) {
        unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 2 * Self.batch + 1) { scratch in
            unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 2 * Self.batch) { indices in
                let below = unsafe scratch.baseAddress.unsafelyUnwrapped
                let results = unsafe below + Self.batch
                let deeper = unsafe indices.baseAddress.unsafelyUnwrapped
                let leaves = unsafe deeper + Self.batch
                var deep = 0
                var leafCount = 0
                for i in 0..<count {
                    let high = unsafe UInt64(truncatingIfNeeded: addresses[i] &>> 64)
                    let first = direct(ipv6, UInt32(truncatingIfNeeded: high &>> 56))
                    // A leaf stays, and its second octet is looked up in block 0, which knows nothing.
                    let leaf = Layout.below(first) & (0 &- (Layout.below(first) & 1))
                    let second = direct(Layout.below(first) ^ leaf, UInt32(truncatingIfNeeded: high &>> 48 & 0xff))
                    unsafe results[i] = choose(Layout.target(second), Layout.target(first))
                    let next = UInt32(truncatingIfNeeded: leaf | Layout.below(second))
                    let value = next == 0 ? 0 : Layout.value(below: next)
                    unsafe below[i] = value
                    unsafe prefetch(base + Layout.block(value))
                    unsafe leaves[leafCount] = UInt8(truncatingIfNeeded: i)
                    leafCount &+= value &>> 30 == 3 ? 1 : 0
                    unsafe deeper[deep] = UInt8(truncatingIfNeeded: i)
                    deep &+= value &>> 30 == 2 ? 1 : 0
                }
                var depth = 2
                while deep != 0 && depth < 16 {
                    let octets = unsafe UnsafeRawPointer(addresses) + (1.littleEndian == 1 ? 15 &- depth : depth)
                    let before = deep
                    deep = 0
                    var k = 0
                    while k < before {
                        let i = unsafe Int(deeper[k])
                        let block = unsafe Layout.block(below[i])
                        let value = unsafe value(block, UInt32(octets.load(fromByteOffset: 16 &* i, as: UInt8.self)))
                        // What is below begins with what this block inherited, where this one has no answer of its own.
                        let isBelow = UInt32(bitPattern: Int32(bitPattern: value) &>> 31)
                        let target = value & ~isBelow | inherited(block) & isBelow
                        unsafe results[target != 0 ? i : Self.batch] = target
                        unsafe below[i] = value
                        unsafe prefetch(base + Layout.block(value & isBelow))
                        unsafe leaves[leafCount] = UInt8(truncatingIfNeeded: i)
                        leafCount &+= value &>> 30 == 3 ? 1 : 0
                        unsafe deeper[deep] = UInt8(truncatingIfNeeded: i)
                        deep &+= value &>> 30 == 2 ? 1 : 0
                        k &+= 1
                    }
                    depth &+= 1
                }
                var k = 0
                while k < leafCount {
                    let i = unsafe Int(leaves[k])
                    let address = unsafe addresses[i]
                    unsafe results[i] = leaf(
                        Layout.below(below[i]), UInt64(truncatingIfNeeded: address &>> 64),
                        UInt64(truncatingIfNeeded: address), results[i])
                    k &+= 1
                }
                for i in 0..<count { unsafe targets[i] = results[i] }
            }
        }
    }
}

/// How blocks are laid out, and what refers to them.
///
/// A reference is the block's offset in octets, a multiple of 64; bit 0 is set for a leaf. A direct entry has the target in
/// bits 31…0, and the reference above. A value is a target, or it has bit 31 set and a reference: bit 30 for a leaf, the
/// offset in units of 64 below.
@usableFromInline enum Layout {
    static let unit = 64
    static let directLevels = 2
    static let directSize = 256 * 8
    /// What a reference can tell.
    static let maxSize = 1 << 32

    /// At offset 0 a direct block without routes, which also is a ranked block without routes; then for each number below 256
    /// how many bits are set above its lowest.
    @usableFromInline static var runsOffset: Int { 256 * 8 }
    static let firstFree = 256 * 8 + 256
    @usableFromInline static var inheritedOffset: Int { 64 }
    @usableFromInline static var valuesOffset: Int { 68 }

    static func entry(target: UInt32, below: UInt32) -> UInt64 { UInt64(below) << 32 | UInt64(target) }
    @inlinable static func target(_ entry: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: entry) }
    @inlinable static func below(_ entry: UInt64) -> Int { Int(truncatingIfNeeded: entry &>> 32) }

    static func value(below: UInt32) -> UInt32 { 1 << 31 | (below & 1) << 30 | below >> 6 }
    @inlinable static func isBelow(_ value: UInt32) -> Bool { Int32(bitPattern: value) < 0 }
    /// The block, where it is known that there is one, and no leaf.
    @inlinable static func block(_ value: UInt32) -> Int { Int(value & 0x3ff_ffff) &<< 6 }
    @inlinable static func below(_ value: UInt32) -> Int { block(value) | Int(value &>> 30 & 1) }

    @inlinable static func isLeaf(_ below: Int) -> Bool { below & 1 != 0 }
}

@usableFromInline struct Leaf: BitwiseCopyable {
    @usableFromInline let high: UInt64
    @usableFromInline let low: UInt64
    @usableFromInline let maskHigh: UInt64
    @usableFromInline let maskLow: UInt64
    @usableFromInline let target: UInt32
    @usableFromInline let inherited: UInt32
}
