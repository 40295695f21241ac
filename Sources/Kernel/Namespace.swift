// Network namespaces, as `ip netns` makes and enters them.

import CLinux
import SystemPackage

public enum Namespace {
    /// Where named namespaces are, as iproute2 has it.
    public static let directory = "/run/netns"

    /// Tells one network namespace from every other one, also from those that had its inode number before.
    public struct Identity: Hashable, Sendable {
        public let inode: UInt64
        /// SO_NETNS_COOKIE: unique until the next boot. nil before Linux 5.14.
        public let cookie: UInt64?

        public init(inode: UInt64, cookie: UInt64?) {
            self.inode = inode
            self.cookie = cookie
        }
    }

    /// The namespace of the calling thread.
    public static func current() throws(KernelError) -> Identity {
        let inode = unsafe vr_inode("/proc/thread-self/ns/net")
        guard inode != 0 else { throw KernelError("look at /proc/thread-self/ns/net", .last) }
        var cookie: UInt64 = 0
        var size = socklen_t(MemoryLayout<UInt64>.size)
        let descriptor = CLinux.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw KernelError("open a socket", .last) }
        defer { CLinux.close(descriptor) }
        let known = unsafe getsockopt(descriptor, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0
        guard known || Errno.last == .protocolNotAvailable else {
            throw KernelError("ask for the namespace's cookie", .last)
        }
        return Identity(inode: inode, cookie: known ? cookie : nil)
    }

    /// `ip netns add NAME`
    public static func add(_ name: String) throws(KernelError) {
        let operation = "add namespace \(name)"
        unsafe mkdir(directory, 0o755)
        // So that namespaces added here are seen in other mount namespaces, and those deleted there do not stay busy here.
        if unsafe mount("", directory, "none", UInt(MS_SHARED | MS_REC), nil) != 0 {
            guard unsafe mount(directory, directory, "none", UInt(MS_BIND | MS_REC), nil) == 0,
                unsafe mount("", directory, "none", UInt(MS_SHARED | MS_REC), nil) == 0
            else { throw KernelError("share \(directory)", .last) }
        }
        let path = "\(directory)/\(name)"
        let descriptor = unsafe vr_create_exclusively(path)
        guard descriptor >= 0 else { throw KernelError(operation, .last) }
        CLinux.close(descriptor)
        do {
            try onNewThread { () throws(KernelError) in
                guard vr_unshare_net() == 0,
                    unsafe mount("/proc/thread-self/ns/net", path, "none", UInt(MS_BIND), nil) == 0
                else { throw KernelError(operation, .last) }
            }
        } catch {
            unsafe unlink(path)
            throw error
        }
    }

    /// `ip netns del NAME`. It lives on for as long as a process or a socket is in it.
    public static func delete(_ name: String) throws(KernelError) {
        let path = "\(directory)/\(name)"
        guard unsafe umount2(path, Int32(MNT_DETACH)) == 0 || Errno.last == .invalidArgument, unsafe unlink(path) == 0
        else {
            throw KernelError("delete namespace \(name)", .last)
        }
    }

    /// Ends what `ip netns pids NAME` lists for each of them, except for this process: so that nothing keeps them alive.
    public static func endProcesses(in names: [String]) {
        // A name may stand for the namespace that we are in ourselves: `ip netns attach`.
        let doomed = Set(names.map { unsafe vr_inode("\(directory)/\($0)") })
            .subtracting([unsafe vr_inode("/proc/thread-self/ns/net")])
        for process in SmallFile.names(in: "/proc").compactMap({ pid_t($0) }) where process != getpid() {
            let inode = unsafe vr_inode("/proc/\(process)/ns/net")
            // 0: it has just ended.
            if inode != 0, doomed.contains(inode) { kill(process, SIGKILL) }
        }
    }

    /// What `ip netns pids NAME` lists.
    public static func processes(in name: String) throws(KernelError) -> [Int32] {
        let wanted = unsafe vr_inode("\(directory)/\(name)")
        guard wanted != 0 else { throw KernelError("look at namespace \(name)", .last) }
        return SmallFile.names(in: "/proc").compactMap { pid_t($0) }.filter {
            unsafe vr_inode("/proc/\($0)/ns/net") == wanted
        }
    }

    /// Whether the calling thread's namespace has a name, another process in it, or a mount that holds it, as far as this process
    /// can see.
    public static func isUsedByOthers() -> Bool {
        let inode = unsafe vr_inode("/proc/thread-self/ns/net")
        if SmallFile.lines(in: "/proc/self/mountinfo").contains(where: { $0.contains("net:[\(inode)]") }) {
            return true
        }
        return SmallFile.names(in: "/proc").compactMap { pid_t($0) }.contains { process in
            let other = unsafe vr_inode("/proc/\(process)/ns/net")
            return process != getpid() && other == inode
        }
    }

    public static func exists(_ name: String) -> Bool { unsafe access("\(directory)/\(name)", F_OK) == 0 }

    /// Runs `body` on a thread of its own inside the namespace. Sockets opened and programs started in it stay there.
    public static func run<Result>(
        in name: String, _ body: () throws(KernelError) -> Result
    ) throws(KernelError) -> Result {
        try onNewThread { () throws(KernelError) in
            try enter(name)
            return try body()
        }
    }

    /// The same for a new namespace without a name, which ends with the last thing in it.
    public static func runInNew<Result>(_ body: () throws(KernelError) -> Result) throws(KernelError) -> Result {
        try onNewThread { () throws(KernelError) in
            guard vr_unshare_net() == 0 else { throw KernelError("make a namespace", .last) }
            return try body()
        }
    }

    /// Moves the calling thread. To be used before `exec`, or on a thread that ends.
    public static func enter(_ name: String) throws(KernelError) {
        let descriptor = try open(name)
        defer { CLinux.close(descriptor) }
        guard vr_setns_net(descriptor) == 0 else { throw KernelError("enter namespace \(name)", .last) }
    }

    /// A descriptor of the namespace, to be closed by the caller; for IFLA_NET_NS_FD.
    public static func open(_ name: String) throws(KernelError) -> Int32 {
        let descriptor = unsafe vr_open_to_read("\(directory)/\(name)")
        guard descriptor >= 0 else { throw KernelError("open namespace \(name)", .last) }
        return descriptor
    }

    /// Closes what `open` returned.
    public static func close(_ descriptor: Int32) { _ = CLinux.close(descriptor) }

    /// A namespace belongs to a thread, and a thread of the runtime's pool must not be left in another one.
    private static func onNewThread<Result>(_ body: () throws(KernelError) -> Result) throws(KernelError) -> Result {
        let outcome: Swift.Result<Result, KernelError> = withoutActuallyEscaping(body) { body in
            let call = ThreadCall(body: body)
            var thread = pthread_t()
            // SAFETY: `call` outlives the thread, which is joined below; nobody else looks at it meanwhile.
            let started = unsafe pthread_create(
                &thread, nil,
                { argument in
                    guard let argument = unsafe argument else { return nil }
                    unsafe Unmanaged<AnyThreadCall>.fromOpaque(argument).takeUnretainedValue().run()
                    return nil
                }, Unmanaged<AnyThreadCall>.passUnretained(call).toOpaque())
            guard started == 0 else { return .failure(KernelError("start a thread", Errno(rawValue: started))) }
            pthread_join(thread, nil)
            return call.outcome ?? .failure(KernelError("run a thread", .canceled))
        }
        return try outcome.get()
    }
}

/// What a C function pointer can call without knowing the result's type.
private class AnyThreadCall {
    func run() {}
}

private final class ThreadCall<Value>: AnyThreadCall {
    private let body: () throws(KernelError) -> Value
    private(set) var outcome: Result<Value, KernelError>?

    init(body: @escaping () throws(KernelError) -> Value) { self.body = body }

    override func run() {
        do {
            outcome = .success(try body())
        } catch {
            outcome = .failure(error)
        }
    }
}
