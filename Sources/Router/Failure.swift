import Kernel
import SystemPackage

/// Why a command could not do what was asked, for a person: what, why, and what to do about it.
public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
    /// Exit statuses as in sysexits.h.
    public enum Kind: Int32, Sendable {
        /// Usage or configuration.
        case usage = 64
        /// The kernel lacks something.
        case unavailable = 69
        /// A mistake of ours.
        case software = 70
        /// Another process is in the way; it may work later.
        case busy = 75
        case notPermitted = 77
        /// A signal asked to end; as a shell says it for Ctrl-C.
        case interrupted = 130
    }

    public let kind: Kind
    public let message: String
    public let remedy: String?

    public init(_ kind: Kind, _ message: String, remedy: String? = nil) {
        self.kind = kind
        self.message = message
        self.remedy = remedy
    }

    public var description: String { remedy.map { "\(message)\n  remedy: \($0)" } ?? message }

    /// What a refusal of the kernel means for the caller.
    public init(_ error: KernelError) {
        switch error.errno {
        case .notPermitted, .permissionDenied:
            self.init(
                .notPermitted, "\(error)", remedy: "run it as root, or with CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN")
        case .notSupported, .notSupportedOnSocket, .protocolNotSupported, .addressFamilyNotSupported:
            self.init(.unavailable, "\(error)", remedy: "see which kernel feature is missing: vrouter doctor")
        case .noSpace, .readOnlyFileSystem, .notDirectory, .isDirectory:
            self.init(
                .unavailable, "\(error)",
                remedy:
                    "vrouter keeps its state in \(StateFile.directory): it must be a directory that can be written to")
        default:
            self.init(.software, "\(error)")
        }
    }
}

/// Runs kernel calls; what they refuse becomes a `Failure`.
package func kernel<Result: ~Copyable>(_ body: () throws(KernelError) -> Result) throws(Failure) -> Result {
    do {
        return try body()
    } catch {
        throw Failure(error)
    }
}
