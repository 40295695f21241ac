// XDP programs that make frames and count them, run for `vrouter bench`. What they are is in Sources/Lab/BPF/traffic.bpf.c.

import CBPF
import CLinux
import Synchronization
import SystemPackage

/// A BPF object, loaded, with its maps by name.
public struct TrafficProgram: ~Copyable {
    private let object: BPFObject
    private let processors: Int

    /// - Parameters:
    ///   - object: an ELF file.
    ///   - sizes: of maps that get another number of entries than the object says.
    public init(object bytes: [UInt8], sizes: [String: UInt32]) throws(KernelError) {
        let count = libbpf_num_possible_cpus()
        guard count > 0 else { throw KernelError("count the processors", Errno(rawValue: -count)) }
        object = try BPFObject(bytes, operation: "load the traffic programs") { map throws(KernelError) in
            if let size = sizes[map.name] { try map.setEntries(size) }
        }
        processors = Int(count)
    }

    private func program(_ name: String) throws(KernelError) -> Int32 { try object.program(name).rawValue }

    /// The descriptor of a map, its number of entries, and the size of a value as the calls below take it: rounded up to 8 octets.
    private func map(_ name: String) throws(KernelError) -> (descriptor: Int32, entries: Int, valueSize: Int) {
        let map = try object.map(name)
        return (map.descriptor.rawValue, map.entries, (map.valueSize + 7) & ~7)
    }

    /// Sets one entry of an array. `value` has the size of one.
    public func set(_ name: String, key: UInt32 = 0, to value: [UInt8]) throws(KernelError) {
        let map = try map(name)
        precondition(value.count == map.valueSize, "a value of \(name) has \(map.valueSize) octets")
        var key = key
        let status = unsafe value.withUnsafeBytes {
            // SAFETY: the kernel reads a value, which is as long as the buffer.
            unsafe bpf_map_update_elem(map.descriptor, &key, $0.baseAddress, UInt64(BPF_ANY))
        }
        guard status == 0 else { throw KernelError("set \(name)", Errno(rawValue: -status)) }
    }

    /// Sets the first entries of an array, one after the other in `values`.
    public func setAll(_ name: String, to values: [UInt8]) throws(KernelError) {
        let map = try map(name)
        var count = UInt32(values.count / map.valueSize)
        precondition(Int(count) * map.valueSize == values.count && Int(count) <= map.entries, "\(name) is smaller")
        let keys = Array(0..<count)
        let status = unsafe keys.withUnsafeBytes { keys in
            unsafe values.withUnsafeBytes { values in
                // SAFETY: the kernel reads `count` keys and values, and there are as many.
                unsafe bpf_map_update_batch(map.descriptor, keys.baseAddress, values.baseAddress, &count, nil)
            }
        }
        guard status == 0 else { throw KernelError("set \(name)", Errno(rawValue: -status)) }
    }

    /// One entry of an array of each processor, whose values are 64-bit numbers: their sums.
    public func sums(_ name: String, key: UInt32 = 0) throws(KernelError) -> [UInt64] {
        let map = try map(name)
        var key = key
        // SAFETY: the kernel writes a value for each possible processor, and there is room for as many.
        var values = [UInt8](repeating: 0, count: map.valueSize * processors)
        let status = unsafe values.withUnsafeMutableBytes {
            unsafe bpf_map_lookup_elem(map.descriptor, &key, $0.baseAddress)
        }
        guard status == 0 else { throw KernelError("read \(name)", Errno(rawValue: -status)) }
        return (0..<(map.valueSize / 8)).map { number in
            (0..<processors).reduce(0) { sum, processor in
                sum &+ (values[...].load(UInt64.self, at: processor * map.valueSize + 8 * number) ?? 0)
            }
        }
    }

    /// The first number of every entry of such an array.
    public func histogram(_ name: String) throws(KernelError) -> [UInt64] {
        try (0..<(try map(name).entries)).map { key throws(KernelError) in try sums(name, key: UInt32(key))[0] }
    }

    /// Sets every entry of such an array to 0.
    public func clear(_ name: String) throws(KernelError) {
        let map = try map(name)
        let zeros = [UInt8](repeating: 0, count: map.valueSize * processors)
        for key in 0..<map.entries {
            var key = UInt32(key)
            let status = unsafe zeros.withUnsafeBytes {
                // SAFETY: the kernel reads a value for each possible processor, and there are as many.
                unsafe bpf_map_update_elem(map.descriptor, &key, $0.baseAddress, UInt64(BPF_ANY))
            }
            guard status == 0 else { throw KernelError("clear \(name)", Errno(rawValue: -status)) }
        }
    }

    /// `ip link set dev LINK xdpdrv …`, in the calling thread's network namespace: the program sees every frame that comes in.
    public func attach(_ name: String, linkIndex: UInt32) throws(KernelError) {
        let status = bpf_xdp_attach(
            Int32(bitPattern: linkIndex), try program(name), UInt32(XDP_FLAGS_DRV_MODE), nil)
        guard status == 0 else { throw KernelError("attach \(name) to #\(linkIndex)", Errno(rawValue: -status)) }
    }

    /// `ip link set dev LINK xdpdrv off`
    public static func detach(linkIndex: UInt32) throws(KernelError) {
        let status = bpf_xdp_detach(Int32(bitPattern: linkIndex), UInt32(XDP_FLAGS_DRV_MODE), nil)
        guard status == 0 else { throw KernelError("detach from #\(linkIndex)", Errno(rawValue: -status)) }
    }

    /// Runs a program over and over on a thread of its own, and sends what it makes, until it is stopped.
    ///
    /// - Parameters:
    ///   - bytes: the size of a frame.
    ///   - linkIndex: frames are sent there, as if the program ran at that link and said XDP_TX.
    ///   - namespace: the link's.
    ///   - processor: where the thread runs.
    ///   - batch: as many frames are made before they are sent.
    public func start(
        _ name: String, bytes: Int, linkIndex: UInt32, namespace: String, processor: UInt32, batch: UInt32
    ) throws(KernelError) -> TrafficGenerator {
        try TrafficGenerator(
            program: try program(name), bytes: bytes, linkIndex: linkIndex, namespace: namespace, processor: processor,
            batch: batch)
    }
}

/// A thread that is in BPF_PROG_TEST_RUN. The program outlives it.
public final class TrafficGenerator: Sendable {
    private let program: Int32
    private let bytes: Int
    private let linkIndex: UInt32
    private let namespace: String
    private let processor: UInt32
    private let batch: UInt32
    private let thread = Atomic<UInt>(0)
    private let isStopping = Atomic<Bool>(false)
    private let hasEnded = Atomic<Bool>(false)
    private let error = Mutex<KernelError?>(nil)

    fileprivate init(
        program: Int32, bytes: Int, linkIndex: UInt32, namespace: String, processor: UInt32, batch: UInt32
    ) throws(KernelError) {
        self.program = program
        self.bytes = bytes
        self.linkIndex = linkIndex
        self.namespace = namespace
        self.processor = processor
        self.batch = batch
        // Ends the call and nothing else.
        _ = CLinux.signal(SIGUSR1) { _ in }
        var thread = pthread_t()
        // SAFETY: the thread owns the reference that it is given.
        let started = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let generator = unsafe Unmanaged<TrafficGenerator>.fromOpaque(argument).takeRetainedValue()
                generator.run()
                generator.hasEnded.store(true, ordering: .releasing)
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        guard started == 0 else {
            unsafe Unmanaged.passUnretained(self).release()
            throw KernelError("start a thread", Errno(rawValue: started))
        }
        self.thread.store(UInt(thread), ordering: .relaxed)
    }

    /// One call for as long as it goes: after each the kernel waits until it has all its pages back.
    private func run() {
        do throws(KernelError) {
            try Namespace.enter(namespace)
            let status = vr_pin_thread(processor)
            guard status == 0 else { throw KernelError("run on processor \(processor)", Errno(rawValue: status)) }
            let room = [UInt8](repeating: 0, count: bytes)
            while !isStopping.load(ordering: .acquiring) {
                var context = xdp_md()
                context.data_end = UInt32(bytes)
                context.ingress_ifindex = linkIndex
                let status = unsafe room.withUnsafeBytes { room in
                    unsafe withUnsafeMutablePointer(to: &context) { context in
                        // SAFETY: the kernel reads the frame and the context, which live until it returns.
                        var options = unsafe bpf_test_run_opts()
                        unsafe options.sz = MemoryLayout<bpf_test_run_opts>.size
                        unsafe options.data_in = room.baseAddress
                        unsafe options.data_size_in = UInt32(room.count)
                        unsafe options.ctx_in = UnsafeRawPointer(context)
                        unsafe options.ctx_size_in = UInt32(MemoryLayout<xdp_md>.size)
                        unsafe options.repeat = .max
                        unsafe options.flags = BPF_F_TEST_XDP_LIVE_FRAMES
                        unsafe options.batch_size = batch
                        return unsafe bpf_prog_test_run_opts(program, &options)
                    }
                }
                guard status == 0 || status == -EINTR else {
                    throw KernelError("run the traffic program", Errno(rawValue: -status))
                }
            }
        } catch {
            self.error.withLock { $0 = error }
        }
    }

    /// The processor time of the thread, in nanoseconds: also that of the interrupts that it was disturbed by, where the kernel
    /// does not count them by themselves (CONFIG_IRQ_TIME_ACCOUNTING).
    public var processorTime: UInt64 {
        var clock: clockid_t = 0
        var time = timespec()
        guard unsafe pthread_getcpuclockid(pthread_t(thread.load(ordering: .relaxed)), &clock) == 0,
            unsafe clock_gettime(clock, &time) == 0
        else { return 0 }
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    /// Ends it. To be called once.
    public func stop() throws(KernelError) {
        isStopping.store(true, ordering: .releasing)
        let thread = pthread_t(thread.load(ordering: .relaxed))
        // A signal that comes just before the call does not end it.
        while !hasEnded.load(ordering: .acquiring) {
            pthread_kill(thread, SIGUSR1)
            usleep(1000)
        }
        pthread_join(thread, nil)
        if let error = error.withLock({ $0 }) { throw error }
    }
}

/// The clock of BPF programs.
public enum MonotonicClock {
    public static var nanoseconds: UInt64 { vr_nanoseconds() }
}
