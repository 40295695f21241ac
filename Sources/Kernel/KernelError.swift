import SystemPackage

/// What the kernel refused, and in whose words.
public struct KernelError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What was asked for, as a person would say it: `add link enp0s8.100`.
    public let operation: String
    public let errno: Errno
    /// The kernel's extended acknowledgement, where it sent one.
    public let detail: String?

    public init(_ operation: String, _ errno: Errno, detail: String? = nil) {
        self.operation = operation
        self.errno = errno
        self.detail = detail
    }

    /// Whether privileges were missing.
    public var isPermission: Bool { errno == .notPermitted || errno == .permissionDenied }

    public var description: String { "\(operation): \(detail ?? errno.description)" }
}
