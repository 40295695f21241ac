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
    var reference: UInt32 = 0
    /// What the prefixes of the node that it hangs on say about its addresses; part of its block.
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
    /// IPv4 has so few levels that leaves would not pay.
    private let hasLeaves: Bool
    private(set) var count = 0
    /// What is published is out of date.
    private(set) var isStale = false

    init(width: Int) { hasLeaves = width > 32 }

    mutating func insert(_ key: Key, _ target: UInt32, _ memory: inout BlockMemory) -> UInt32 {
        let former = insert(key, target, root, 0, &memory)
        if former == 0 { count += 1 }
        isStale = true
        return former
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
                if hasLeaves {
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
            isStale = true
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
            } else if hasLeaves, let leaf = onlyRoute(next, key, depth + 1) {
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

    /// Publishes anew what is out of date. Returns the root's block.
    mutating func build(_ memory: inout BlockMemory) -> UInt32 {
        if isStale { build(root, 0, inherited: 0, &memory) }
        isStale = false
        return root.block.reference
    }

    private func build(_ node: RouteNode, _ depth: Int, inherited: UInt32, _ memory: inout BlockMemory) {
        // For each octet what the prefixes of this node say, and the block below.
        var targets = InlineArray<256, UInt32>(repeating: 0)
        var below = InlineArray<256, UInt32>(repeating: 0)
        for (place, target) in node.ends {
            for octet in place.octets { targets[octet] = target }
        }
        let isDirect = depth < Layout.directLevels
        for at in node.branches.indices {
            let octet = Int(node.branches[at].octet)
            // A direct entry has room for both; elsewhere the block below takes the target's place, and takes it over.
            let inherited = isDirect ? 0 : targets[octet]
            if node.branches[at].isStale || node.branches[at].inherited != inherited {
                switch node.branches[at].below {
                case .node(let next):
                    build(next, depth + 1, inherited: inherited, &memory)
                    node.branches[at].reference = next.block.reference
                case .leaf(let leaf):
                    memory.retire(leaf.block)
                    leaf.block = memory.makeLeaf(leaf.key, target: leaf.target, inherited: inherited)
                    node.branches[at].reference = leaf.block.reference
                }
                node.branches[at].isStale = false
                node.branches[at].inherited = inherited
            }
            below[octet] = node.branches[at].reference
        }
        memory.retire(node.block)
        node.block =
            isDirect
            ? memory.makeDirect(targets.span, below.span)
            : memory.makeRanked(targets.span, below.span, inherited: inherited)
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
