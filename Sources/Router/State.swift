import FoundationEssentials
import Kernel
import Packets
import SystemPackage

/// What vrouter has changed in a network namespace, written down before it is done: the journal that `down` and the next `up` go by.
/// Everything here may or may not have happened where `phase` is `applying`.
struct State: Hashable, Codable {
    static let currentVersion = 4

    var version = currentVersion
    var phase = Phase.applying
    /// Of the boot and the namespace that this is about; anything else is over and gone.
    var bootID: String
    var namespaceInode: UInt64
    var namespaceCookie: UInt64?

    /// What is being applied, or was applied last.
    var configuration: Configuration
    /// What was applied last, completely; to which a change that fails goes back. nil: nothing.
    var applied: Configuration?
    var driver: Driver
    /// What carries VLANs, by its name in the configuration.
    var parents: [String: Parent] = [:]

    /// Gateway interfaces that we made. Those that were there before are not among them.
    var links: Set<VLANID> = []
    /// Addresses that we gave to gateway interfaces.
    var addresses: [VLANID: [InterfaceAddress]] = [:]
    /// What the MTU of a gateway interface was that was there before, in octets.
    var mtus: [VLANID: UInt32] = [:]
    /// Routes that we added.
    var routes: Set<Configuration.StaticRoute> = []
    /// Interfaces that were down.
    var raised: Set<String> = []
    var startedFollower = false
    var startedFastPath = false
    /// Parameters that we changed, in the order in which they are to be restored.
    var sysctls: [FormerValue] = []
    /// The ruleset as we committed it, and as the kernel then showed it.
    var table: Table?
    /// Whether the kernel has the flow table that is wanted.
    var usesFlowtable = false
    /// Rules that we added to chains of other firewalls.
    var accepts: Set<Nftables.Accept> = []
    /// The change goes back by itself unless it is confirmed; nil: it stays.
    var unconfirmed: Confirmation?

    /// Whether there may be programs of ours on the parents.
    var looksAtTrunks: Bool {
        usesPrograms || startedFastPath || configuration.fastPath != nil
            || parents.values.contains(where: \.addedClsact)
    }

    /// Whether programs of ours carry frames between trunks and gateways.
    var usesPrograms: Bool { configuration.vlans.contains { driver(of: $0.id) == .ebpf } || driver == .ebpf }

    /// How the gateway interface of a VLAN is made.
    func driver(of id: VLANID) -> Driver { vlan(id)?.driver ?? driver }

    /// Of the interface that the fast path works on; 0: none is known.
    var parentIndex: UInt32 { parents[configuration.parent]?.index ?? 0 }

    /// A VLAN as it is to be, or where it is on its way out, as it was.
    func vlan(_ id: VLANID) -> Configuration.VLAN? { configuration.vlan(id) ?? applied?.vlan(id) }

    /// The name of what carries a VLAN's frames.
    func parent(of id: VLANID) -> String {
        guard let outer = vlan(id)?.outer else { return vlan(id)?.parent ?? configuration.parent }
        return interfaceName(outer)
    }

    /// The gateway interface of a VLAN.
    func interfaceName(_ id: VLANID) -> String {
        vlan(id)?.name ?? Configuration.interfaceName(id, on: parent(of: id))
    }

    struct Parent: Hashable, Codable {
        /// By which it is found under another name.
        var index: UInt32
        var madePromiscuous = false
        var addedClsact = false
        var attachedProgram = false
    }

    enum Phase: String, Codable { case applying, applied }

    struct FormerValue: Hashable, Codable {
        var sysctl: Sysctl
        var value: String
        var purpose: Purpose
    }

    /// What a parameter was changed for, and is restored after.
    enum Purpose: Hashable, Codable {
        case forwardingIPv4
        case forwardingIPv6
        case gateway(VLANID)
    }

    struct Table: Hashable, Codable {
        var ruleset: String
        var fingerprint: String?
    }
}

/// The state file of the calling thread's network namespace, and the lock beside it.
struct StateFile {
    static let directory = "/run/vrouter"

    let path: String
    private let lockPath: String
    private let identity: Namespace.Identity
    private let bootID: String

    init() throws(Failure) {
        identity = try kernel { () throws(KernelError) in try Namespace.current() }
        bootID = try kernel { () throws(KernelError) in try Sysctl("kernel/random/boot_id").read() } ?? ""
        path = "\(Self.directory)/netns-\(identity.inode).json"
        lockPath = "\(Self.directory)/netns-\(identity.inode).lock"
    }

    /// Held by the namespace's follower, whose process identifier it contains.
    var followerLockPath: String { "\(path).follower" }

    /// Held by the namespace's `vrouter forward`.
    var fastPathLockPath: String { "\(path).forward" }
    /// What its workers count.
    var countersPath: String { "\(path).counters" }

    /// A state for this namespace with nothing in it.
    func empty(_ configuration: Configuration, driver: Driver) -> State {
        State(
            bootID: bootID, namespaceInode: identity.inode, namespaceCookie: identity.cookie,
            configuration: configuration, driver: driver)
    }

    /// nil where vrouter has changed nothing, or where what it changed ended with its namespace or with the boot.
    func load() throws(Failure) -> State? {
        let bytes: [UInt8]
        do {
            bytes = try SmallFile.read(path)
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw Failure(error)
        }
        func corrupt(_ reason: String) -> Failure {
            Failure(
                .usage, "the state file \(path) \(reason)",
                remedy: "compare it with `ip link`, `nft list table inet vrouter` and `sysctl net.ipv4.ip_forward`; "
                    + "undo by hand what is left, then delete the file")
        }
        if let owner = SmallFile.owner(path), owner != 0 {
            throw corrupt("belongs to user \(owner) and not to root")
        }
        do {
            let header = try JSONDecoder().decode(Header.self, from: Data(bytes))
            // Whatever else is in a file of another boot or namespace, what it is about is gone.
            guard header.bootID == bootID, header.namespaceInode == identity.inode,
                header.namespaceCookie == identity.cookie
            else { return nil }
            guard header.version == State.currentVersion else {
                throw corrupt("was written by another version of vrouter (format \(header.version))")
            }
            return try JSONDecoder().decode(State.self, from: Data(bytes))
        } catch let failure as Failure {
            throw failure
        } catch {
            throw corrupt("is not one of vrouter's or is damaged: \(Self.reason(error))")
        }
    }

    private struct Header: Decodable {
        var version: Int
        var bootID: String
        var namespaceInode: UInt64
        var namespaceCookie: UInt64?
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? DecodingError else { return "\(error)" }
        return switch error {
        case .keyNotFound(let key, _): "no '\(key.stringValue)'"
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
            (context.codingPath.map(\.stringValue) + [context.debugDescription]).joined(separator: ": ")
        @unknown default: "\(error)"
        }
    }

    /// Replaces the file in one step: whoever reads it sees the old or the new one.
    func store(_ state: State) throws(Failure) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        let data: Data
        do {
            data = try encoder.encode(state)
        } catch {
            throw Failure(.software, "write \(path): \(error)")
        }
        try kernel { () throws(KernelError) in try SmallFile.replace(path, with: Array(data)) }
    }

    func remove() throws(Failure) {
        _ = try kernel { () throws(KernelError) in try SmallFile.delete(path) }
    }

    /// Removes the lock too: nobody will come for this namespace any more.
    func forget() throws(Failure) {
        try remove()
        for path in [lockPath, followerLockPath, fastPathLockPath, countersPath, reverterLockPath, daemonLockPath] {
            _ = try kernel { () throws(KernelError) in try SmallFile.delete(path) }
        }
    }

    /// One that has just taken the lock has not yet written who it is.
    private func holder(of lock: borrowing FileLock) -> String { lock.holder.isEmpty ? "another vrouter" : lock.holder }

    /// Who changes this namespace now; nil: nobody.
    func lockHolder() -> String? {
        guard let lock = try? FileLock(lockPath) else { return nil }
        return lock.tryLock(holder: ThisProcess.description) ? nil : holder(of: lock)
    }

    /// Runs `body` while no other `up` or `down` changes this namespace. Waits half a minute for one that does: longer than any
    /// change takes, shorter than a person's patience.
    ///
    /// - Parameter report: told who that is.
    func locked<Result>(
        _ report: (Router.Event) -> Void, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        SmallFile.makeDirectory(Self.directory)
        let lock = try kernel { () throws(KernelError) in try FileLock(lockPath) }
        let clock = ContinuousClock()
        let deadline = clock.now + .seconds(30)
        var told = false
        while !lock.tryLock(holder: ThisProcess.description) {
            guard clock.now < deadline else {
                throw Failure(
                    .busy, "\(holder(of: lock)) is still changing this host's VLANs",
                    remedy: "wait for it to end, or end it, and try again")
            }
            if !told { report(.waiting(holder: holder(of: lock))) }
            told = true
            ThisProcess.sleep(milliseconds: 50)
        }
        return try body()
    }
}
