import Router

/// Who forwards the frames of a router.
public enum Datapath: String, Hashable, Sendable, Codable, CaseIterable {
    /// The kernel, as `vrouter up` sets it up.
    case kernel
    /// The userspace fast path.
    case afPacket = "af-packet"

    /// What `vrouter up` is told.
    func upArguments(flows: Int) -> [String] {
        switch self {
        case .kernel: []
        case .afPacket where flows > Configuration.FastPath.defaultConnections:
            ["--fast-path", "af-packet", "--fast-path-connections", "\(flows)"]
        case .afPacket: ["--fast-path", "af-packet"]
        }
    }
}

/// What is measured: a vrouter, or something else that is to be compared to it.
public enum Forwarder: Sendable {
    case vrouter(Datapath)
    /// A shell command that forwards between VLAN 100 and VLAN 200 of an interface until it is ended.
    case command(name: String, String)

    public var name: String {
        switch self {
        case .vrouter(let datapath): datapath.rawValue
        case .command(let name, _): name
        }
    }
}
