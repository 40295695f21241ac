/// Who forwards the frames of a router.
public enum Datapath: String, Hashable, Sendable, Codable, CaseIterable {
    /// The kernel, as `vrouter up` sets it up.
    case kernel
    /// The userspace fast path.
    case afPacket = "af-packet"

    /// What `vrouter up` is told.
    var upArguments: [String] {
        switch self {
        case .kernel: []
        case .afPacket: ["--fast-path", "af-packet"]
        }
    }
}
