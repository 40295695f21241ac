internal import CPrefetch
import Packets

/// A longest-prefix match over IPv4 and IPv6 that never changes: workers look up in it without a lock, an allocation or a
/// reference count. Its memory is used again when its last copy has gone, so hold it no longer than it is current.
///
/// Blocks in one piece of memory, referred to by their offset (`Layout`):
///
///     root       65,536 × { target, block below }    the first two octets
///     ranked     32 × { 8 bits, rank }  value…       each octet after them
///     leaf       address, length, target, inherited  the only route below an octet (IPv6)
///
/// A ranked block has a value for each run of octets that look up the same: a target, or what goes on below. A bit is set
/// where a run starts; the rank of an eight is the number of runs that start before it. So the number of an octet's run is that
/// rank and the bits set up to the octet in its own eight (a table look-up: x86-64 as such has no POPCNT), and a look-up
/// touches two cache lines of the block.
///
/// Target 0 says that there is no answer: then the root's target stands, or the default route's, which would else be in every
/// entry of the root. What the prefixes of a ranked block say about the addresses below it, the blocks there say, too. What those
/// shorter than /12 say is in the root alone, for they have very many blocks below. A third octet that has no answer goes on in a
/// block without any: so in bulk, only those that go on need the root's target.
@safe public struct ForwardingTable {
    @usableFromInline let base: UnsafeRawPointer
    @usableFromInline let ipv4: Root
    @usableFromInline let ipv6: Root
    @usableFromInline let version: PublishedVersion

    init(_ version: PublishedVersion, ipv4: Root, ipv6: Root) {
        unsafe base = UnsafeRawPointer(version.area.base)
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.version = version
    }

    /// Where the look-ups of a family begin.
    @usableFromInline struct Root {
        @usableFromInline var offset = Layout.emptyRoot
        /// The default route's target.
        @usableFromInline var target: UInt32 = 0
    }

    /// The target of the longest prefix that contains `address` (host byte order: the first octet in bits 31…24); 0: no route.
    @inlinable @inline(__always) public func lookup(ipv4 address: UInt32) -> UInt32 {
        defer { withExtendedLifetime(version) {} }
        let entry = entry(ipv4, address &>> 16)
        var value: UInt32 = 0
        if Layout.below(entry) != Layout.nothingBelow {
            value = self.value(Layout.below(entry), address &>> 8)
            if Layout.isBlock(value) { value = self.value(Layout.block(value), address) }
        }
        return choose(value, Layout.target(entry), ipv4.target)
    }

    /// The target of the longest prefix that contains the address: `high` its first eight octets, `low` its last, each in
    /// host byte order; 0: no route.
    @inlinable public func lookup(ipv6 high: UInt64, low: UInt64) -> UInt32 {
        defer { withExtendedLifetime(version) {} }
        let entry = entry(ipv6, UInt32(truncatingIfNeeded: high &>> 48))
        var value = value(Layout.below(entry), UInt32(truncatingIfNeeded: high &>> 40))
        // The octets that are left, the next one in bits 63…56. The trie ends before they do.
        var rest = high &<< 24
        var left = 5
        while Layout.isBlock(value) {
            value = self.value(Layout.block(value), UInt32(truncatingIfNeeded: rest &>> 56))
            left &-= 1
            rest = left == 0 ? low : rest &<< 8
        }
        if Layout.isLeaf(value) { value = leaf(Layout.block(value), high, low) }
        return choose(value, Layout.target(entry), ipv6.target)
    }

    // MARK: Blocks
    // SAFETY: for all of these: blocks refer only to blocks of the same version, which `version` keeps, and which nobody writes
    // to before it has gone; an octet selects inside a block, whatever the address. Offset 0 is a block that has no answer.

    /// - Parameter octets: the first two; below 65,536.
    @inlinable @inline(__always) func entry(_ root: Root, _ octets: UInt32) -> UInt64 {
        unsafe base.load(fromByteOffset: root.offset &+ Int(octets) &* 8, as: UInt64.self)
    }

    /// The first that is a target.
    @inlinable @inline(__always) func choose(_ first: UInt32, _ second: UInt32, _ third: UInt32) -> UInt32 {
        let otherwise = second != 0 ? second : third
        return first != 0 ? first : otherwise
    }

    // In these, the octet is bits 7…0 of what they get.

    /// Where the bits and the rank of the octet's eight are.
    @inlinable @inline(__always) func wordOffset(_ block: Int, _ octet: UInt32) -> Int {
        block &+ Int(octet &>> 2 & 0x3e)
    }

    /// Where the octet's value is, less `valuesOffset`. Blocks begin at multiples of 64, so that the word's offset tells the
    /// block's.
    @inlinable @inline(__always) func valueOffset(_ wordOffset: Int, _ octet: UInt32) -> Int {
        let bits = unsafe Int(base.load(fromByteOffset: wordOffset, as: UInt8.self))
        let rank = unsafe Int(base.load(fromByteOffset: wordOffset &+ 1, as: UInt8.self))
        let counted = Layout.countsOffset &+ Int(octet & 7) &* 256 &+ bits
        let count = unsafe Int(base.load(fromByteOffset: counted, as: UInt8.self))
        return (wordOffset & ~63) &+ (rank &+ count) &* 4
    }

    @inlinable @inline(__always) func value(_ block: Int, _ octet: UInt32) -> UInt32 {
        value(at: valueOffset(wordOffset(block, octet), octet))
    }

    @inlinable @inline(__always) func value(at offset: Int) -> UInt32 {
        unsafe base.load(fromByteOffset: offset &+ Layout.valuesOffset, as: UInt32.self)
    }

    @inlinable func leaf(_ block: Int, _ high: UInt64, _ low: UInt64) -> UInt32 {
        let leaf = unsafe base.load(fromByteOffset: block, as: Leaf.self)
        let isInside = (high ^ leaf.high) & leaf.maskHigh | (low ^ leaf.low) & leaf.maskLow
        return isInside == 0 ? leaf.target : leaf.inherited
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

    // SAFETY: for both: indices into what the caller passes stay below `count`, at most `batch`, which is the size of each piece
    // of scratch memory. For the table's memory: as above.
    @inline(__always) private func lookup(
        ipv4 addresses: UnsafePointer<UInt32>, _ targets: UnsafeMutablePointer<UInt32>, _ count: Int
    ) {
        unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.batch) { scratch in
            let deeper = unsafe scratch.baseAddress.unsafelyUnwrapped
            let deep = unsafe firstLevels(ipv4, count, targets, deeper) {
                unsafe addresses[$0]
            }
            for k in 0..<deep {
                let i = unsafe Int(deeper[k])
                let address = unsafe addresses[i]
                let value = unsafe value(Layout.block(targets[i]), address)
                unsafe targets[i] = choose(value, Layout.target(entry(ipv4, address &>> 16)), ipv4.target)
            }
        }
    }

    @inline(__always) private func lookup(
        ipv6 addresses: UnsafePointer<UInt128>, _ targets: UnsafeMutablePointer<UInt32>, _ count: Int
    ) {
        unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 2 * Self.batch) { scratch in
            let values = unsafe scratch.baseAddress.unsafelyUnwrapped
            let deeper = unsafe values + Self.batch
            var deep = unsafe firstLevels(ipv6, count, values, deeper) {
                unsafe UInt32(truncatingIfNeeded: addresses[$0] &>> 96)
            }
            var depth = 3
            while deep != 0 && depth < 16 {
                let octets = unsafe UnsafeRawPointer(addresses) + (1.littleEndian == 1 ? 15 &- depth : depth)
                var next = 0
                for k in 0..<deep {
                    let i = unsafe deeper[k]
                    let octet = unsafe UInt32(octets.load(fromByteOffset: 16 &* Int(i), as: UInt8.self))
                    let value = unsafe value(Layout.block(values[Int(i)]), octet)
                    unsafe values[Int(i)] = value
                    unsafe prefetch(base + Layout.block(value))
                    unsafe deeper[next] = i
                    next &+= Int(value &>> 31)
                }
                deep = next
                depth &+= 1
            }
            var leaves = 0
            for i in 0..<count {
                unsafe deeper[leaves] = UInt32(truncatingIfNeeded: i)
                leaves &+= unsafe Int(values[i] &>> 30 & 1)
            }
            for k in 0..<leaves {
                let i = unsafe Int(deeper[k])
                let address = unsafe addresses[i]
                unsafe values[i] = leaf(
                    Layout.block(values[i]), UInt64(truncatingIfNeeded: address &>> 64),
                    UInt64(truncatingIfNeeded: address))
            }
            for i in 0..<count {
                let octets = unsafe UInt32(truncatingIfNeeded: addresses[i] &>> 112)
                unsafe targets[i] = choose(values[i], Layout.target(entry(ipv6, octets)), ipv6.target)
            }
        }
    }

    /// The first three octets (`head`: the first four, of an index) of each. One load that may miss the caches in each pass: so
    /// few instructions wait that the processor gets on with the next address.
    ///
    /// `values` gets what the third octet's block says, and `deeper` the indices of those that go on in a block. Returns how
    /// many these are.
    @inline(__always) private func firstLevels(
        _ root: Root, _ count: Int, _ values: UnsafeMutablePointer<UInt32>, _ deeper: UnsafeMutablePointer<UInt32>,
        _ head: (Int) -> UInt32
    ) -> Int {
        // Without a branch, for they would be as good as random: an address that ends early goes on in a block that has no
        // answer.
        for i in 0..<count {
            let offset = wordOffset(Layout.below(entry(root, head(i) &>> 16)), head(i) &>> 8)
            unsafe values[i] = UInt32(truncatingIfNeeded: offset)
            unsafe prefetch(base + offset)
        }
        for i in 0..<count {
            let offset = unsafe valueOffset(Int(values[i]), head(i) &>> 8)
            unsafe values[i] = UInt32(truncatingIfNeeded: offset)
            unsafe prefetch(base + Layout.valuesOffset + offset)
        }
        var deep = 0
        for i in 0..<count {
            let value = unsafe value(at: Int(values[i]))
            unsafe values[i] = value
            // At or below the index of the loop.
            unsafe deeper[deep] = UInt32(truncatingIfNeeded: i)
            deep &+= Int(value &>> 31)
        }
        return deep
    }
}

/// How blocks are laid out, and what refers to them.
///
/// A block begins at a multiple of 64. An entry of the root has the target in bits 31…0, and the offset of the block below above
/// them. A value is a target, or the offset of what is below in units of 64, with bit 31 set for a block and bit 30 for a leaf.
@usableFromInline enum Layout {
    static let unit = 64
    /// How many octets the root stands for.
    static let rootOctets = 2
    static let rootSize = 65_536 * 8
    static let largestRanked = 64 + 256 * 4
    /// What a value can tell.
    static let maxSize = 1 << 32

    // At offset 0 a ranked block that has no answer. Then one that says of each third octet that this one is below. Then for
    // each octet in its eight, and each set of the eight's bits, how many of these are up to the octet. Then a root without routes.
    @usableFromInline static var nothing: UInt32 { 1 << 31 }
    @usableFromInline static var nothingBelow: Int { 128 }
    @usableFromInline static var countsOffset: Int { 256 }
    static let emptyRoot = 256 + 8 * 256
    static let firstFree = emptyRoot + rootSize
    /// The first run is number 1.
    @usableFromInline static var valuesOffset: Int { 60 }

    static func entry(target: UInt32, below: Int) -> UInt64 { UInt64(below) << 32 | UInt64(target) }
    @inlinable static func target(_ entry: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: entry) }
    @inlinable static func below(_ entry: UInt64) -> Int { Int(truncatingIfNeeded: entry &>> 32) }

    static func value(block: Int) -> UInt32 { 1 << 31 | UInt32(block / unit) }
    static func value(leaf: Int) -> UInt32 { 1 << 30 | UInt32(leaf / unit) }
    @inlinable static func isBlock(_ value: UInt32) -> Bool { value &>> 31 == 1 }
    @inlinable static func isLeaf(_ value: UInt32) -> Bool { value &>> 30 == 1 }
    /// The offset of what is below, where something is.
    @inlinable static func block(_ value: UInt32) -> Int { Int(value & 0x3ff_ffff) &<< 6 }
}

@usableFromInline struct Leaf: BitwiseCopyable {
    @usableFromInline let high: UInt64
    @usableFromInline let low: UInt64
    @usableFromInline let maskHigh: UInt64
    @usableFromInline let maskLow: UInt64
    @usableFromInline let target: UInt32
    @usableFromInline let inherited: UInt32
}
