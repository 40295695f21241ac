/// One octet of the addresses below it.
final class RouteNode {
    /// The prefixes that end inside this octet, or at its end. Sorted, hence the shorter before the longer.
    var ends: [(place: Place, target: UInt32)] = []
    /// What goes on below, by octet, sorted.
    var branches: [Branch] = []
    /// What is published of this node.
    var block = Block()

    var isEmpty: Bool { ends.isEmpty && branches.isEmpty }

    func end(_ place: Place) -> (at: Int, found: Bool) {
        let at = ends.partitioningIndex { $0.place >= place }
        return (at, at < ends.count && ends[at].place == place)
    }

    func branch(_ octet: UInt8) -> (at: Int, found: Bool) {
        let at = branches.partitioningIndex { $0.octet >= octet }
        return (at, at < branches.count && branches[at].octet == octet)
    }
}

struct Branch {
    let octet: UInt8
    var below: Below

    // What is published of it. This is here and not below, so that publishing a node need not look at all that hang on it.
    var isStale = true
    var value: UInt32 = 0
    /// What the prefixes of the nodes above say about its addresses; part of its block.
    var inherited: UInt32 = 0
}

/// What hangs below an octet.
enum Below {
    case node(RouteNode)
    /// One route only, however long: without this, an IPv6 host would take a chain of nodes.
    case leaf(RouteLeaf)
}

final class RouteLeaf {
    let key: Key
    var target: UInt32
    var block = Block()

    init(_ key: Key, _ target: UInt32) {
        self.key = key
        self.target = target
    }
}

/// A prefix of 0 to 8 bits inside a node: a one, then these bits. The numbers are those of a binary heap.
struct Place: Comparable {
    let rawValue: UInt16

    init(_ octet: UInt8, length: Int) { rawValue = 1 << UInt16(length) | UInt16(octet) >> UInt16(8 - length) }

    var length: Int { 15 - rawValue.leadingZeroBitCount }
    var octets: Range<Int> {
        let first = (Int(rawValue) << (8 - length)) & 0xff
        return first..<first + 1 << (8 - length)
    }
    static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// The routes of one family.
struct RouteTrie {
    private let root = RouteNode()
    /// The depth of the first nodes that leaves hang on: none do in the root. IPv4 has so few levels that leaves would not pay.
    private let leafDepth: Int
    private(set) var count = 0

    // What is published.
    private var published = ForwardingTable.Root()
    private var block = Block(offset: Layout.emptyRoot)
    /// What prefixes that end in the first octet say about it; the default route does not count.
    private var firstTargets: [UInt32] = Array(repeating: 0, count: 256)
    /// What is published is out of date: at all, and below a first octet.
    private(set) var isStale = false
    private var isStaleBelow: [Bool] = Array(repeating: false, count: 256)

    init(width: Int) { leafDepth = width > 32 ? Layout.rootOctets : .max }

    mutating func insert(_ key: Key, _ target: UInt32, _ memory: inout BlockMemory) -> UInt32 {
        let former = insert(key, target, root, 0, &memory)
        if former == 0 { count += 1 }
        hasChanged(key)
        return former
    }

    private mutating func hasChanged(_ key: Key) {
        isStale = true
        if key.length > 8 { isStaleBelow[Int(key.octet(0))] = true }
    }

    private func insert(
        _ key: Key, _ target: UInt32, _ start: RouteNode, _ startDepth: Int, _ memory: inout BlockMemory
    ) -> UInt32 {
        var node = start
        var depth = startDepth
        while true {
            let octet = key.octet(min(depth, 15))
            if key.length <= 8 * (depth + 1) {
                let place = Place(octet, length: key.length - 8 * depth)
                let (at, found) = node.end(place)
                guard found else {
                    node.ends.insert((place, target), at: at)
                    return 0
                }
                let former = node.ends[at].target
                node.ends[at].target = target
                return former
            }
            let (at, found) = node.branch(octet)
            guard found else {
                if depth >= leafDepth {
                    node.branches.insert(Branch(octet: octet, below: .leaf(RouteLeaf(key, target))), at: at)
                    return 0
                }
                let new = RouteNode()
                node.branches.insert(Branch(octet: octet, below: .node(new)), at: at)
                node = new
                depth += 1
                continue
            }
            node.branches[at].isStale = true
            switch node.branches[at].below {
            case .node(let next):
                node = next
            case .leaf(let leaf) where leaf.key == key:
                let former = leaf.target
                leaf.target = target
                return former
            case .leaf(let leaf):
                let new = RouteNode()
                node.branches[at].below = .node(new)
                memory.retire(leaf.block)
                _ = insert(leaf.key, leaf.target, new, depth + 1, &memory)
                node = new
            }
            depth += 1
        }
    }

    mutating func remove(_ key: Key, _ memory: inout BlockMemory) -> UInt32 {
        let former = remove(key, root, 0, &memory)
        if former != 0 {
            count -= 1
            hasChanged(key)
        }
        return former
    }

    private func remove(_ key: Key, _ node: RouteNode, _ depth: Int, _ memory: inout BlockMemory) -> UInt32 {
        let octet = key.octet(min(depth, 15))
        if key.length <= 8 * (depth + 1) {
            let (at, found) = node.end(Place(octet, length: key.length - 8 * depth))
            guard found else { return 0 }
            return node.ends.remove(at: at).target
        }
        let (at, found) = node.branch(octet)
        guard found else { return 0 }
        let former: UInt32
        switch node.branches[at].below {
        case .leaf(let leaf):
            guard leaf.key == key else { return 0 }
            former = leaf.target
            memory.retire(leaf.block)
            node.branches.remove(at: at)
        case .node(let next):
            former = remove(key, next, depth + 1, &memory)
            guard former != 0 else { return 0 }
            node.branches[at].isStale = true
            if next.isEmpty {
                memory.retire(next.block)
                node.branches.remove(at: at)
            } else if depth >= leafDepth, let leaf = onlyRoute(next, key, depth + 1) {
                memory.retire(next.block)
                node.branches[at].below = .leaf(leaf)
            }
        }
        return former
    }

    /// The one route in `node`, which lies on the way to `key`, as a leaf; nil where there are more.
    private func onlyRoute(_ node: RouteNode, _ key: Key, _ depth: Int) -> RouteLeaf? {
        if node.branches.isEmpty && node.ends.count == 1 {
            let (place, target) = node.ends[0]
            let above = key.bits & ~(UInt128.max >> UInt128(8 * depth))
            let bits = above | UInt128(place.octets.lowerBound) << UInt128(120 - 8 * depth)
            return RouteLeaf(Key(bits: bits, length: 8 * depth + place.length), target)
        }
        if node.ends.isEmpty && node.branches.count == 1, case .leaf(let leaf) = node.branches[0].below { return leaf }
        return nil
    }

    /// The longest prefix that contains `key`.
    func match(_ key: Key) -> (length: Int, target: UInt32)? {
        var best: (length: Int, target: UInt32)?
        var node = root
        var depth = 0
        while true {
            let octet = key.octet(min(depth, 15))
            for length in (0...min(8, key.length - 8 * depth)).reversed() {
                let (at, found) = node.end(Place(octet, length: length))
                if found {
                    best = (8 * depth + length, node.ends[at].target)
                    break
                }
            }
            guard key.length > 8 * (depth + 1) else { return best }
            let (at, found) = node.branch(octet)
            guard found else { return best }
            switch node.branches[at].below {
            case .leaf(let leaf): return leaf.key.contains(key) ? (leaf.key.length, leaf.target) : best
            case .node(let next): node = next
            }
            depth += 1
        }
    }

    /// By address, the shorter prefix first.
    var routes: [(Key, UInt32)] {
        var result: [(Key, UInt32)] = []
        func visit(_ node: RouteNode, _ above: UInt128, _ depth: Int) {
            func bits(_ octet: Int) -> UInt128 { above | UInt128(octet) << UInt128(max(120 - 8 * depth, 0)) }
            let ends = node.ends.sorted {
                ($0.place.octets.lowerBound, $0.place.length) < ($1.place.octets.lowerBound, $1.place.length)
            }
            var branches = node.branches[...]
            func descend(before octet: Int) {
                while let branch = branches.first, branch.octet < octet {
                    branches.removeFirst()
                    switch branch.below {
                    case .node(let next): visit(next, bits(Int(branch.octet)), depth + 1)
                    case .leaf(let leaf): result.append((leaf.key, leaf.target))
                    }
                }
            }
            for (place, target) in ends {
                descend(before: place.octets.lowerBound)
                result.append((Key(bits: bits(place.octets.lowerBound), length: 8 * depth + place.length), target))
            }
            descend(before: 256)
        }
        visit(root, 0, 0)
        return result
    }

    // MARK: Publishing

    /// Publishes anew what is out of date.
    mutating func build(_ memory: inout BlockMemory) -> ForwardingTable.Root {
        guard isStale else { return published }
        isStale = false
        published.target = 0
        var first = InlineArray<256, UInt32>(repeating: 0)
        for (place, target) in root.ends {
            if place.length == 0 {
                published.target = target
            } else {
                for octet in place.octets { first[octet] = target }
            }
        }
        var new: Block?
        for octet in 0..<256 where isStaleBelow[octet] || first[octet] != firstTargets[octet] {
            let block = new ?? memory.copyRoot(block)
            new = block
            isStaleBelow[octet] = false
            firstTargets[octet] = first[octet]
            build(octet, first[octet], into: block, &memory)
        }
        if let new {
            memory.retire(block)
            block = new
            published.offset = new.offset
        }
        return published
    }

    /// Bits of the second octet: the blocks below inherit what prefixes from /12 on say. To write down in them what a shorter one
    /// says would take too long; that is in the root alone.
    private static let shortestInherited = 4

    /// One first octet's part of the root.
    private func build(_ octet: Int, _ target: UInt32, into block: Block, _ memory: inout BlockMemory) {
        var targets = InlineArray<256, UInt32>(repeating: target)
        var inherited = InlineArray<256, UInt32>(repeating: Layout.nothing)
        var below = InlineArray<256, Int>(repeating: Layout.nothingBelow)
        let (at, found) = root.branch(UInt8(octet))
        if found, case .node(let node) = root.branches[at].below {
            for (place, target) in node.ends {
                for octet in place.octets {
                    targets[octet] = target
                    if place.length >= Self.shortestInherited { inherited[octet] = target }
                }
            }
            for at in node.branches.indices {
                build(&node.branches[at], inherited: inherited[Int(node.branches[at].octet)], &memory)
                below[Int(node.branches[at].octet)] = Layout.block(node.branches[at].value)
            }
        }
        memory.write(targets.span, below.span, octet: octet, into: block)
    }

    private func build(_ branch: inout Branch, inherited: UInt32, _ memory: inout BlockMemory) {
        guard branch.isStale || branch.inherited != inherited else { return }
        branch.isStale = false
        branch.inherited = inherited
        switch branch.below {
        case .leaf(let leaf):
            memory.retire(leaf.block)
            leaf.block = memory.makeLeaf(leaf.key, target: leaf.target, inherited: inherited)
            branch.value = Layout.value(leaf: leaf.block.offset)
        case .node(let node):
            var values = InlineArray<256, UInt32>(repeating: inherited)
            for (place, target) in node.ends {
                for octet in place.octets { values[octet] = target }
            }
            for at in node.branches.indices {
                let octet = Int(node.branches[at].octet)
                let above = values[octet]
                build(&node.branches[at], inherited: above == Layout.nothing ? 0 : above, &memory)
                values[octet] = node.branches[at].value
            }
            memory.retire(node.block)
            node.block = memory.makeRanked(values.span)
            branch.value = Layout.value(block: node.block.offset)
        }
    }
}

extension Array {
    /// The first index whose element, and hence all after it, satisfies `isAfter`.
    func partitioningIndex(_ isAfter: (Element) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
