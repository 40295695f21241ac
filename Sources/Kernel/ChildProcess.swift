// Child processes. They start in the network namespace of the thread that starts them.

import CLinux
import SystemPackage

/// A program that was started. Whoever starts one waits for it.
public final class ChildProcess: Sendable {
    public struct Result: Hashable, Sendable {
        /// The exit status; 128 + N after signal N, as a shell says it.
        public let status: Int32
        public let output: String
        public let errors: String
    }

    public let processIdentifier: pid_t
    private let output: FileDescriptor
    private let errors: FileDescriptor

    /// Starts a program, found in PATH.
    ///
    /// - Parameters:
    ///   - input: what it reads from standard input.
    ///   - environment: added to this process's own.
    public init(
        _ arguments: [String], input: String = "", environment: [String: String] = [:]
    ) throws(KernelError) {
        let name = arguments.first ?? ""
        // Files in memory and not pipes: nobody has to read while another writes, whatever the size.
        let files = ["input", "output", "errors"].map { (name: String) in
            FileDescriptor(rawValue: unsafe vr_memory_file(name))
        }
        var child: pid_t = 0
        do {
            try files[0].writeAll(Array(input.utf8))
            try files[0].seek(offset: 0, from: .start)

            var actions = unsafe posix_spawn_file_actions_t()
            unsafe posix_spawn_file_actions_init(&actions)
            defer { unsafe posix_spawn_file_actions_destroy(&actions) }
            for (number, file) in files.enumerated() {
                unsafe posix_spawn_file_actions_adddup2(&actions, file.rawValue, Int32(number))
            }
            var attributes = freshSignals()
            defer { unsafe posix_spawnattr_destroy(&attributes) }

            let variables = ThisProcess.environment.merging(environment) { $1 }.map { "\($0)=\($1)" }
            let status = unsafe withCStrings(arguments) { arguments in
                unsafe withCStrings(variables) { variables in
                    unsafe posix_spawnp(&child, name, &actions, &attributes, arguments, variables)
                }
            }
            guard status == 0 else { throw Errno(rawValue: status) }
        } catch {
            for file in files { try? file.close() }
            throw KernelError("run \(name)", error as? Errno ?? .ioError)
        }
        try? files[0].close()
        processIdentifier = child
        output = files[1]
        errors = files[2]
    }

    deinit {
        try? output.close()
        try? errors.close()
    }

    public func signal(_ number: Int32) { kill(processIdentifier, number) }

    /// Waits for its end. To be called once.
    public func wait() -> Result {
        var status: Int32 = 0
        while unsafe waitpid(processIdentifier, &status, 0) < 0 && Errno.last == .interrupted {}
        return Result(status: vr_exit_status(status), output: text(of: output), errors: text(of: errors))
    }

    /// What it has written until now.
    public var outputSoFar: String { text(of: output) }

    public static func run(
        _ arguments: [String], input: String = "", environment: [String: String] = [:]
    ) throws(KernelError) -> Result {
        try ChildProcess(arguments, input: input, environment: environment).wait()
    }

    /// Starts a program in a session of its own, which nobody waits for and which outlives this process.
    public static func startDetached(_ arguments: [String]) throws(KernelError) {
        var child: pid_t = 0
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        for number: Int32 in 0...2 {
            unsafe posix_spawn_file_actions_addopen(&actions, number, "/dev/null", O_RDWR, 0)
        }
        // Nor a pipe or a lock of whoever started this process: it would stay open for as long as that program runs.
        unsafe posix_spawn_file_actions_addclosefrom_np(&actions, 3)
        unsafe posix_spawn_file_actions_addchdir_np(&actions, "/")
        var attributes = freshSignals(alsoSetting: vr_spawn_new_session())
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        let variables = ThisProcess.environment.map { "\($0)=\($1)" }
        let status = unsafe withCStrings(arguments) { pointers in
            unsafe withCStrings(variables) { variables in
                unsafe posix_spawn(&child, arguments.first ?? "", &actions, &attributes, pointers, variables)
            }
        }
        guard status == 0 else { throw KernelError("start \(arguments.first ?? "")", Errno(rawValue: status)) }
    }

    public static func signal(_ number: Int32, to process: Int32) { kill(process, number) }

    /// Replaces this process. Returns only if that failed.
    public static func replaceThisProcess(_ arguments: [String]) -> KernelError {
        _ = unsafe withCStrings(arguments) { pointers in unsafe execvp(arguments.first ?? "", pointers) }
        return KernelError("run \(arguments.first ?? "")", .last)
    }
}

/// Threads of a pool run with their signals blocked, which a program that they start would inherit: its timers would never ring.
private func freshSignals(alsoSetting flags: Int32 = 0) -> posix_spawnattr_t {
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    var none = sigset_t()
    unsafe sigemptyset(&none)
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    var all = sigset_t()
    unsafe sigfillset(&all)
    unsafe posix_spawnattr_setsigdefault(&attributes, &all)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | flags))
    return attributes
}

private func text(of file: FileDescriptor) -> String {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
        let count = unsafe chunk.withUnsafeMutableBytes { buffer in
            unsafe (try? file.read(fromAbsoluteOffset: Int64(bytes.count), into: buffer)) ?? 0
        }
        guard count > 0 else { break }
        bytes += chunk[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
}

/// The strings as C has them, the list ended by nil, for the length of the call.
private func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    // SAFETY: each copy lives until the end of this function.
    var pointers = unsafe strings.map { unsafe strdup($0) } + [nil]
    defer { for index in unsafe pointers.indices { unsafe free(pointers[index]) } }
    return unsafe pointers.withUnsafeMutableBufferPointer { buffer in
        // SAFETY: there is at least the nil, so the buffer has an address.
        unsafe body(buffer.baseAddress.unsafelyUnwrapped)
    }
}

/// Numbers that every Linux has in common.
public enum SignalNumber {
    public static let kill = SIGKILL
    public static let terminate = SIGTERM
    public static let stop = SIGSTOP
    public static let resume = SIGCONT
}

/// The process that this is.
public enum ThisProcess {
    /// As a person finds it: `process 4711 (vrouter up)`.
    public static var description: String {
        "process \(getpid()) (\(CommandLine.arguments.prefix(2).joined(separator: " ")))"
    }

    public static var identifier: Int32 { getpid() }

    /// The processors that it may run on, ascending.
    public static var processors: [Int32] {
        var list = [Int32](repeating: 0, count: 1024)
        // SAFETY: as many are written as there is room for.
        let count = unsafe list.withUnsafeMutableBufferPointer { unsafe vr_processors($0.baseAddress, Int32($0.count)) }
        return Array(list.prefix(Int(count)))
    }

    /// The file of this program, wherever it was found.
    public static var executable: String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count)
        guard count > 0 else { return "/proc/self/exe" }
        return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    public static var isRoot: Bool { geteuid() == 0 }

    public static var environment: [String: String] {
        var result: [String: String] = [:]
        // SAFETY: `environ` ends with nil; nothing in this program writes to it.
        guard var entry = unsafe vr_environment() else { return [:] }
        while let text = unsafe entry.pointee {
            let pair = unsafe String(cString: text).split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2 { result[String(pair[0])] = String(pair[1]) }
            unsafe entry += 1
        }
        return result
    }

    /// Sends it a signal, as somebody outside would.
    public static func signal(_ number: Int32) { kill(getpid(), number) }

    public static func sleep(milliseconds: UInt32) { usleep(milliseconds * 1000) }
}

public enum StandardError {
    public static func write(_ text: String) { _ = try? FileDescriptor.standardError.writeAll(text.utf8) }
    public static var isTerminal: Bool { isatty(STDERR_FILENO) == 1 }
}

public enum StandardOutput {
    /// Makes the process end with status 74 (EX_IOERR), and a word about it, where what it printed could not be written: on a full
    /// disk, for example.
    public static func reportLoss() {
        // However it ends: the argument parser exits by itself.
        atexit {
            let errno = vr_flush_output()
            guard errno != 0 else { return }
            StandardError.write("vrouter: standard output: \(Errno(rawValue: errno))\n")
            _exit(74)
        }
    }

    public static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }
}
