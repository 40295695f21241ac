import Kernel
import Packets
import SystemPackage

/// A small process beside the `ebpf` driver: what the kernel does for VLAN devices when their parents change. A gateway interface
/// has no carrier while the parent has none, has no larger MTU, has its address, and goes when it goes. No packet depends on it.
public enum Follower {
    /// Of the calling thread's network namespace.
    static var companion: Companion? { (try? StateFile()).map { Companion(lockPath: $0.followerLockPath) } }

    /// Follows until all parents or vrouter's state are gone.
    public static func run() throws(Failure) {
        let file = try StateFile()
        let lock = try kernel { () throws(KernelError) in try ProcessLock(file.followerLockPath) }
        guard lock.tryLock() else { return }
        // First the events, then the look: what changes in between is an event.
        let events = try kernel { () throws(KernelError) in try NetlinkSocket(groups: NetlinkSocket.linkGroup) }
        let requests = try kernel { () throws(KernelError) in try NetlinkSocket() }
        while let state = try file.load(), state.usesPrograms {
            let links = try kernel { () throws(KernelError) in try requests.links() }
            try? follow(state, links, requests)
            // By index: under another name it is still the same.
            let parents = Set(state.parents.values.map(\.index))
            guard links.contains(where: { parents.contains($0.index) || state.parents[$0.name] != nil }) else { return }
            while !events.wait(milliseconds: 10_000) {
                // A process keeps its namespace alive. Where nobody else has it any more, it is to end.
                guard Namespace.isUsedByOthers() else { return }
            }
            do {
                _ = try events.receive("wait for changes of links")
                // Changes come in bursts, one for each gateway; one look is enough for all.
                events.discardPending()
            } catch {
                // Events were lost: looking again is all that one of them would have caused.
                guard error.errno == .noBufferSpace || error.errno == .interrupted else { throw Failure(error) }
            }
        }
    }

    private static func follow(
        _ state: State, _ links: [Link], _ socket: borrowing NetlinkSocket
    ) throws(KernelError) {
        let named = Dictionary(links.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        let indexed = Dictionary(links.map { ($0.index, $0) }, uniquingKeysWith: { first, _ in first })
        var batch = NetlinkBatch()
        var orphans: Set<UInt32> = []
        for id in state.links.sorted() {
            guard let gateway = named[state.interfaceName(id)], gateway.kind == "veth",
                let peer = gateway.lowerIndex.flatMap({ indexed[$0] }), Action.VethGateway.isPeerName(peer.name, id)
            else { continue }
            let name = state.parent(of: id)
            // One that has come with the same change is known by its name only.
            guard let parent = state.parents[name].flatMap({ indexed[$0.index] }) ?? named[name] else {
                orphans.insert(gateway.index)
                continue
            }
            if peer.isUp != parent.hasCarrier { batch.setLink(.index(peer.index), up: parent.hasCarrier) }
            if gateway.mtu > parent.mtu { batch.setLink(.index(gateway.index), mtu: parent.mtu) }
            if let address = parent.macAddress, gateway.macAddress != address {
                batch.setLink(.index(gateway.index), macAddress: address)
            }
        }
        try socket.execute(batch)
        if !orphans.isEmpty { try socket.deleteLinks { orphans.contains($0.index) } }
    }
}
