// What the workers count, in a file that whoever asks can read while they do: memory that is shared, one writer for each word.

import CLinux
import Forwarding
import Kernel
import PacketIO
import Packets
import SystemPackage

/// The file of counters, in words of 64 bits: a header, then a block for each worker.
public struct CounterFile: ~Copyable, Sendable {
    private let memory: Mapping
    public let workers: Int

    /// So many are told apart.
    public static let mostAdjacencies = 1 << 16

    /// Where things are, in words.
    private enum Layout {
        /// "vrouter" and the version of this layout.
        static let magic: UInt64 = 0x0001_7265_7475_6f72
        static let workers = 1
        static let isForwarding = 2
        static let process = 3
        static let connections = 4
        static let header = 512

        static let forwardedPackets = 0
        static let forwardedBytes = 1
        static let ringDrops = 2
        static let refused = 3
        /// By the verdict's index.
        static let verdicts = 16
        static let vlans = 256
        static let wordsPerVLAN = 4
        /// A word that is not 0 where a frame went to the adjacency of that number.
        static let used = vlans + 4096 * wordsPerVLAN
        static let block = used + CounterFile.mostAdjacencies

        static func size(workers: Int) -> Int { (header + workers * block) * MemoryLayout<UInt64>.size }
    }

    /// A new file, all zero, in the place of any that is there.
    public init(creating path: String, workers: Int) throws(KernelError) {
        let size = Layout.size(workers: workers)
        try SmallFile.delete(path)
        let file = try Self.open(path, .readWrite, options: [.create, .exclusiveCreate, .closeOnExec, .noFollow])
        defer { try? file.close() }
        do { try file.resize(to: Int64(size)) } catch {
            throw KernelError("write \(path)", error as? Errno ?? .ioError)
        }
        memory = try Mapping(file, count: size)
        self.workers = workers
        store(UInt64(workers), at: Layout.workers)
        store(UInt64(ThisProcess.identifier), at: Layout.process)
        store(Layout.magic, at: 0)
    }

    /// The file of another process; nil: there is none, or it is none of these.
    public init?(reading path: String) throws(KernelError) {
        let file: FileDescriptor
        let size: Int
        do throws(KernelError) {
            file = try Self.open(path, .readOnly, options: [.closeOnExec, .noFollow])
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw error
        }
        defer { try? file.close() }
        size = Int((try? file.seek(offset: 0, from: .end)) ?? 0)
        guard size >= Layout.size(workers: 1) else { return nil }
        let memory = try Mapping(file, count: size, isWritable: false)
        let count = Int(clamping: unsafe vr_load_relaxed64(memory.words + Layout.workers))
        guard unsafe vr_load_relaxed64(memory.words) == Layout.magic, (1...Ownership.mostWorkers).contains(count),
            Layout.size(workers: count) == size
        else { return nil }
        self.memory = memory
        workers = count
    }

    private static func open(
        _ path: String, _ mode: FileDescriptor.AccessMode, options: FileDescriptor.OpenOptions
    ) throws(KernelError) -> FileDescriptor {
        do {
            return try FileDescriptor.open(
                FilePath(path), mode, options: options,
                permissions: options.contains(.create) ? .ownerReadWrite : nil)
        } catch {
            throw KernelError("open \(path)", error as? Errno ?? .ioError)
        }
    }

    /// Whether the workers forward; said once they do.
    public var isForwarding: Bool { load(Layout.isForwarding) != 0 }
    public func setForwarding() { store(1, at: Layout.isForwarding) }
    /// Connections whose packets the workers may get.
    public var connections: Int { Int(truncatingIfNeeded: load(Layout.connections)) }
    public func setConnections(_ count: Int) { store(UInt64(count), at: Layout.connections) }
    public var process: Int32 { Int32(truncatingIfNeeded: load(Layout.process)) }

    private func load(_ word: Int) -> UInt64 { unsafe vr_load_relaxed64(memory.words + word) }
    private func store(_ value: UInt64, at word: Int) { unsafe vr_store_relaxed64(memory.words + word, value) }

    /// The block that a worker writes. Lives for as long as this file is open.
    public func block(worker: Int) -> Counters {
        precondition((0..<workers).contains(worker))
        return unsafe Counters(memory.words + Layout.header + worker * Layout.block)
    }

    // MARK: Reading

    /// What one worker has counted so far.
    public struct Totals: Sendable {
        public var forwardedPackets: UInt64 = 0
        /// Octets of the frames, without tag.
        public var forwardedBytes: UInt64 = 0
        /// Frames that found no free slot.
        public var ringDrops: UInt64 = 0
        /// Frames that the kernel did not take back: its queue was full, or the interface down.
        public var refused: UInt64 = 0
        /// What became of the others.
        public var verdicts: [Verdict: UInt64] = [:]
    }

    public func totals(worker: Int) -> Totals {
        let base = Layout.header + worker * Layout.block
        var totals = Totals()
        totals.forwardedPackets = load(base + Layout.forwardedPackets)
        totals.forwardedBytes = load(base + Layout.forwardedBytes)
        totals.ringDrops = load(base + Layout.ringDrops)
        totals.refused = load(base + Layout.refused)
        for verdict in Verdict.allCases { totals.verdicts[verdict] = load(base + Layout.verdicts + verdict.index) }
        return totals
    }

    /// The numbers of adjacencies, modulo `mostAdjacencies`, to which frames went since this was asked last.
    public func takeUsed() -> [Int] {
        var result: Set<Int> = []
        for worker in 0..<workers {
            let base = Layout.header + worker * Layout.block + Layout.used
            for number in 0..<Self.mostAdjacencies where load(base + number) != 0 {
                result.insert(number)
                store(0, at: base + number)
            }
        }
        return result.sorted()
    }

    /// Frames of a VLAN that the workers received and sent, and their octets without tag.
    public func statistics(_ vlan: VLANID) -> Link.Statistics {
        var statistics = Link.Statistics()
        for worker in 0..<workers {
            let base =
                Layout.header + worker * Layout.block + Layout.vlans + Int(vlan.rawValue) * Layout.wordsPerVLAN
            statistics.receivedPackets &+= load(base)
            statistics.receivedBytes &+= load(base + 1)
            statistics.sentPackets &+= load(base + 2)
            statistics.sentBytes &+= load(base + 3)
        }
        return statistics
    }

    /// One worker's own words.
    @safe public struct Counters: ~Copyable, @unchecked Sendable {
        // SAFETY: `Layout.block` words of the mapping, which only this worker writes.
        private let words: UnsafeMutablePointer<UInt64>

        fileprivate init(_ words: UnsafeMutablePointer<UInt64>) { unsafe self.words = unsafe words }

        @inline(__always)
        private func add(_ amount: UInt64, at word: Int) {
            unsafe vr_store_relaxed64(words + word, words[word] &+ amount)
        }

        /// A frame from one VLAN into another.
        @inline(__always)
        func countForwarded(from: UInt16, to: UInt16, adjacency: Int, bytes: Int) {
            // SAFETY: less than `mostAdjacencies`.
            let used = Layout.used &+ adjacency & (CounterFile.mostAdjacencies &- 1)
            if unsafe words[used] == 0 { unsafe vr_store_relaxed64(words + used, 1) }
            let bytes = UInt64(truncatingIfNeeded: bytes)
            add(1, at: Layout.forwardedPackets)
            add(bytes, at: Layout.forwardedBytes)
            // SAFETY: a VLAN id has 12 bits.
            let input = Layout.vlans &+ Int(from & 0xfff) &* Layout.wordsPerVLAN
            let output = Layout.vlans &+ Int(to & 0xfff) &* Layout.wordsPerVLAN
            add(1, at: input)
            add(bytes, at: input &+ 1)
            add(1, at: output &+ 2)
            add(bytes, at: output &+ 3)
        }

        /// A frame that does not go on.
        @inline(__always)
        func count(_ verdict: Verdict) {
            // SAFETY: there are fewer than 128 verdicts, and room for as many.
            add(1, at: Layout.verdicts &+ verdict.index & 127)
        }

        func countRefused(_ frames: Int) { add(UInt64(frames), at: Layout.refused) }
        func countRingDrops(_ frames: UInt64) { add(frames, at: Layout.ringDrops) }
    }
}

extension Mapping {
    var words: UnsafeMutablePointer<UInt64> { unsafe base.assumingMemoryBound(to: UInt64.self) }
}
