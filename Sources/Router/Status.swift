import Firewall
import Kernel
import Packets

/// What vrouter has made of this host, and whether it is still so. Encoded, this is the document that `status --json` prints;
/// its fields are described in the README, and only ever added to.
public struct Status: Sendable, Encodable {
    /// Whether `up` has been here.
    public var active: Bool
    /// Whether a change was cut short, so that `up` or `down` has to finish it.
    public var interrupted: Bool
    public var parent: String?
    public var driver: Driver?
    public var masquerade: String?
    public var forwarding: Forwarding
    public var vlans: [VLAN]
    public var routes: [RouteEntry]
    public var rules: [Rule]
    /// Chains of other firewalls in which rules of ours accept what passes the gateways, as nft writes them: `ip filter DOCKER-USER`.
    public var acceptedIn: [String]
    /// Whether there is a flow table; absent: none is wanted.
    public var flowtable: Bool?
    /// absent: it is not wanted.
    public var fastPath: FastPathStatus?
    /// What no longer is as `up` left it, in words; empty: nothing.
    public var drift: [String]
    /// `vrouter run`; absent: none runs here.
    public var service: Service?
    /// absent: nothing waits to be confirmed.
    public var unconfirmed: Unconfirmed?

    public struct Service: Sendable, Encodable {
        public var process: Int32
        /// In words: `keeps VLANs 100, 200 on enp0s8`, `waits for enp0s8`.
        public var activity: String
    }

    public struct Forwarding: Sendable, Encodable {
        public var ipv4: Bool
        public var ipv6: Bool
    }

    public struct VLAN: Sendable, Encodable {
        public var id: UInt16
        /// The interface that carries its frames.
        public var parent: String
        public var interface: String
        /// Whether vrouter made the interface, or found it.
        public var adopted: Bool
        public var addresses: [String]
        /// Operational state as `ip link` has it: up, down, lowerlayerdown, …; absent: the interface is not there.
        public var state: String
        /// By the kernel and by the fast path.
        public var received: Counter
        public var sent: Counter
        /// What the fast path received and sent of that; absent: there is none.
        public var fastPath: Part?

        public struct Part: Sendable, Encodable {
            public var received: Counter
            public var sent: Counter
        }
    }

    public struct Counter: Sendable, Encodable {
        public var packets: UInt64
        /// Octets of the frames, without tag.
        public var bytes: UInt64
    }

    public struct RouteEntry: Sendable, Encodable {
        public var destination: String
        public var gateway: String?
        public var interface: String?
    }

    public struct Rule: Sendable, Encodable {
        public var chain: String
        public var comment: String
        public var packets: UInt64
        public var bytes: UInt64
    }

    /// Reads the calling thread's network namespace; needs CAP_NET_ADMIN for rules and counters.
    public static func read() throws(Failure) -> Status {
        let file = try StateFile()
        let state = try file.load()
        let socket = try kernel { () throws(KernelError) in try NetlinkSocket() }
        let host = try Host.read(socket, state)
        var status = Status(
            active: state != nil, interrupted: state?.phase == .applying, parent: state?.configuration.parent,
            driver: state?.driver, masquerade: state?.configuration.masqueradeText,
            forwarding: Forwarding(
                ipv4: host.sysctl(Sysctl("net/ipv4/ip_forward")) == "1",
                ipv6: host.sysctl(Sysctl("net/ipv6/conf/all/forwarding")) == "1"),
            vlans: [], routes: host.routeEntries, rules: [], acceptedIn: [], drift: [])
        // Only root may look whether there is a process.
        if let process = (try? ProcessLock.holder(file.daemonLockPath)) ?? nil {
            status.service = Service(
                process: process, activity: SmallFile.lines(in: file.daemonLockPath).first ?? "begins")
        }
        guard let state else { return status }
        if let waiting = state.unconfirmed {
            status.unconfirmed = Unconfirmed(waiting, process: (try? file.reverter.process()) ?? nil)
        }
        let counted: FastPathStatus.Reading?
        (status.fastPath, counted) = try FastPathStatus.read(state)

        for vlan in state.configuration.vlans {
            let name = state.configuration.interfaceName(vlan.id)
            let link = host.link(name)
            var statistics = link?.statistics ?? Link.Statistics()
            // The pair's own counters see nothing: frames are redirected before they reach it.
            let parent = state.configuration.parent(of: vlan)
            let trunk = host.parent(parent, in: state).flatMap { host.trunks[$0.index] }
            if let program = trunk?.program, state.links.contains(vlan.id),
                let port = (try? VLANPorts(ofProgram: program).port(vlan.id)) ?? nil
            {
                statistics = port.statistics
            }
            let part = counted?.vlans[vlan.id]
            if let part { statistics.add(part) }
            status.vlans.append(
                VLAN(
                    id: vlan.id.rawValue, parent: parent, interface: name, adopted: !state.links.contains(vlan.id),
                    addresses: (link.map(host.addresses) ?? []).map(\.description),
                    state: link?.operationalState ?? "absent",
                    received: Counter(packets: statistics.receivedPackets, bytes: statistics.receivedBytes),
                    sent: Counter(packets: statistics.sentPackets, bytes: statistics.sentBytes),
                    fastPath: part.map {
                        VLAN.Part(
                            received: Counter(packets: $0.receivedPackets, bytes: $0.receivedBytes),
                            sent: Counter(packets: $0.sentPackets, bytes: $0.sentBytes))
                    }))
        }
        status.rules = try rules()
        if state.configuration.flowtable != .off { status.flowtable = state.usesFlowtable }
        status.acceptedIn = Set(state.accepts.map(\.chain)).sorted().map(\.description)
        status.drift = try drift(state, host)
        return status
    }

    private static func rules() throws(Failure) -> [Rule] {
        do {
            return try Nftables().counters(table: Host.tableName).map {
                Rule(chain: $0.chain, comment: $0.comment, packets: $0.packets, bytes: $0.bytes)
            }
        } catch {
            if error.isPermission { return [] }
            throw Failure(error)
        }
    }

    /// What another `up` would do: drift is nothing else.
    private static func drift(_ state: State, _ host: Host) throws(Failure) -> [String] {
        do {
            return try Plan(from: state, on: host, to: state.configuration).complaints
        } catch {
            return [error.message]
        }
    }
}

extension Host {
    var routeEntries: [Status.RouteEntry] {
        routes.filter { $0.linkIndex.flatMap(link(index:))?.isLoopback != true }.map { route in
            Status.RouteEntry(
                destination: route.isDefault
                    ? (route.destination.family == .v4 ? "default" : "default (IPv6)") : route.destination.description,
                gateway: route.gateway?.description, interface: route.linkIndex.flatMap(link(index:))?.name)
        }
    }
}

extension Plan {
    /// What is amiss where this has to be done again, each thing once.
    var complaints: [String] {
        var seen: Set<String> = []
        return actions.flatMap(\.complaints).filter { seen.insert($0).inserted }
    }
}

extension Action {
    /// What is amiss where this has to be done again.
    var complaints: [String] {
        switch self {
        case .setSysctls(let settings): settings.map { "\($0.sysctl) is not \($0.value)" }
        case .endSessions: []
        case .commit: ["the table inet \(Host.tableName) is not as it was committed"]
        case .deleteTable: ["the table inet \(Host.tableName) is still there"]
        case .changeAccepts(let changes): changes.complaints
        case .raise(let links): links.map { "\($0) is down" }
        case .lower(let links): links.map { "\($0) is up" }
        case .setPromiscuous(let link, let on): ["\(link) is \(on ? "not " : "")promiscuous"]
        case .addClsact(let link): ["\(link) has no clsact hook"]
        case .deleteClsact(let link): ["\(link) still has a clsact hook"]
        case .attachProgram(let parent, _): ["the VLAN program is not on \(parent)"]
        case .detachProgram(let parent, _): ["the VLAN program is still on \(parent)"]
        case .addVLANs(let devices): devices.map { "\($0.name) is gone" }
        case .addVethGateways(let gateways): gateways.map { "\($0.name) is gone" }
        case .connect(let gateways, let parent, _): gateways.map { "\($0.name) is not connected to \(parent)" }
        case .disconnect(let vlans, let parent, _): vlans.map { "VLAN \($0) is still connected to \(parent)" }
        case .changeAddresses(let changes):
            changes.map { "\($0.link) \($0.verb == .delete ? "still has" : "lacks") the address \($0.address)" }
        case .setMTUs(let changes): changes.map { "\($0.link) has not the MTU \($0.mtu)" }
        case .changeRoutes(let changes):
            changes.filter { $0.verb != .restore }.map {
                "the route to \($0.route.destination) via \($0.route.gateway) is \($0.verb == .add ? "gone" : "still there")"
            }
        case .deleteLinks(let links): links.map { "\($0) is still there" }
        case .startFollower: ["nothing follows the parent's carrier (vrouter follow)"]
        case .stopFollower: ["something still follows the parent's carrier"]
        case .startFastPath: ["the fast path does not forward (vrouter forward)"]
        case .stopFastPath: []
        }
    }
}
