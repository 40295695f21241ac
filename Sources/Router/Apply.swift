import Firewall
import Kernel
import Packets
import SystemPackage

/// Carries out actions.
struct Apply: ~Copyable {
    private let socket: NetlinkSocket
    private let program: [String]
    /// nil: no action was about them.
    private(set) var endedSessions: Int?

    /// - Parameter program: what has vrouter's subcommands.
    init(_ socket: consuming NetlinkSocket, program: [String] = []) {
        self.socket = socket
        self.program = program
    }

    mutating func perform(_ action: Action) throws(KernelError) {
        var batch = NetlinkBatch()
        switch action {
        case .setSysctls(let settings):
            for setting in settings {
                do {
                    try setting.sysctl.write(setting.value)
                } catch {
                    guard setting.mayBeGone, error.errno == .noSuchFileOrDirectory else { throw error }
                }
            }
        case .commit(let ruleset):
            try Nftables().replace(with: ruleset)
        case .deleteTable:
            _ = try Nftables().delete(table: Host.tableName)
        case .changeAccepts(let changes):
            try Nftables().change(adding: changes.added.map(\.accept), removing: changes.removed.map(\.accept))
        case .raise(let links):
            for link in links { batch.setLink(.name(link), up: true) }
            try socket.execute(batch)
        case .lower(let links):
            for link in links { batch.setLink(.name(link), up: false) }
            try socket.execute(batch)
        case .setPromiscuous(let link, let on):
            batch.setLink(.name(link), promiscuous: on)
            try socket.execute(batch)
        case .addClsact(let link):
            batch.addClsact(linkIndex: try index(of: link))
            try socket.execute(batch)
        case .deleteClsact(let link):
            batch.deleteClsact(linkIndex: try index(of: link))
            try socket.execute(batch)
        case .attachProgram(let parent, let hook):
            let program = try VLANProgram()
            let index = try index(of: parent)
            switch hook {
            case .tcx: try TCX.attach(program.pop, linkIndex: index, hook: .ingress)
            case .clsact:
                batch.addProgram(
                    program.pop, name: VLANProgram.popName, linkIndex: index, hook: .ingress,
                    preference: Host.filterPreference)
                try socket.execute(batch)
            }
        case .detachProgram(let parent, let hook):
            let index = try index(of: parent)
            switch hook {
            case .tcx:
                guard let program = try attachedProgram(parent: index, hook) else { return }
                try TCX.detach(program: program, linkIndex: index, hook: .ingress)
            case .clsact:
                batch.deleteProgram(linkIndex: index, hook: .ingress, preference: Host.filterPreference)
                try socket.execute(batch)
            }
        case .addVLANs(let devices):
            for device in devices {
                let parent = try index(of: device.parent)
                batch.addVLAN(name: device.name, parent: parent, id: device.id, group: Host.linkGroup)
            }
            try socket.execute(batch)
        case .addVethGateways(let gateways):
            for gateway in gateways {
                batch.addVethPair(
                    name: gateway.name, peer: gateway.peer, macAddress: gateway.macAddress, mtu: gateway.mtu,
                    peerMTU: Action.VethGateway.peerMTU, peerGroup: Host.linkGroup)
                batch.setLink(.name(gateway.peer), up: true)
            }
            try socket.execute(batch)
        case .connect(let gateways, let parent, let hook):
            try connect(gateways, parent: parent, hook)
        case .disconnect(let vlans, let parent, let hook):
            let index = try index(of: parent)
            guard let program = try attachedProgram(parent: index, hook) else { return }
            let ports = try VLANPorts(ofProgram: program)
            for vlan in vlans { try ports.disconnect(vlan) }
        case .changeAddresses(let changes):
            for change in changes {
                let link = try index(of: change.link)
                switch change.verb {
                case .add: batch.addAddress(change.address, linkIndex: link, linkName: change.link)
                case .restore:
                    batch.addAddress(change.address, linkIndex: link, linkName: change.link, isReplacement: true)
                case .delete: batch.deleteAddress(change.address, linkIndex: link, linkName: change.link)
                }
            }
            // One that goes may have gone with another already.
            try socket.execute(batch, ignoring: [.addressNotAvailable])
        case .setMTUs(let changes):
            for change in changes { batch.setLink(.name(change.link), mtu: change.mtu) }
            try socket.execute(batch)
        case .changeRoutes(let changes):
            for change in changes {
                let route = change.route
                switch change.verb {
                case .add: batch.addRoute(to: route.destination, via: route.gateway)
                case .restore: batch.addRoute(to: route.destination, via: route.gateway, isReplacement: true)
                case .delete: batch.deleteRoute(to: route.destination, via: route.gateway)
                }
            }
            // One that goes may have gone with its interface.
            try socket.execute(batch, ignoring: [.noSuchProcess])
        case .startFollower:
            try Follower.companion?.start(program + ["follow"]) { true }
        case .stopFollower:
            try Follower.companion?.stop()
        case .startFastPath:
            try FastPath.start(program)
        case .stopFastPath(let parent):
            try FastPath.companion?.stop()
            // What one leaves behind that was killed.
            guard let index = Link.index(of: parent) else { return }
            let left = try socket.filters(linkIndex: index, hook: .ingress).contains {
                $0.preference == Host.ownershipPreference && $0.programName == Ownership.takenName
            }
            guard left else { return }
            batch.deleteProgram(linkIndex: index, hook: .ingress, preference: Host.ownershipPreference)
            try socket.execute(batch)
        case .endSessions(let sessions):
            let netfilter = try NetlinkSocket(.netfilter)
            // As they are now: not as the plan saw them.
            var dump = try ConnectionDump()
            _ = try dump.read(limit: .max) {
                if sessions.contains($0) { batch.deleteConnection($0.original, zone: $0.zone, id: $0.id) }
            }
            // One may have ended by itself.
            try netfilter.execute(batch, ignoring: [.noSuchFileOrDirectory])
            endedSessions = batch.operations.count
        case .deleteLinks(let names):
            let names = Set(names)
            try socket.deleteLinks { names.contains($0.name) }
        }
    }

    private func connect(
        _ gateways: [Action.VethGateway], parent: String, _ hook: Host.ProgramHook
    ) throws(KernelError) {
        let trunk = try index(of: parent)
        guard let attached = try attachedProgram(parent: trunk, .best(linkIndex: trunk)) else {
            throw KernelError("find the VLAN program of \(parent)", .noSuchFileOrDirectory)
        }
        let program = try VLANProgram(sharingPortsOf: attached)
        var hooks = NetlinkBatch()
        var filters = NetlinkBatch()
        for gateway in gateways {
            let index = try index(of: gateway.name)
            try program.ports.connect(gateway.id, gateway: index, trunk: trunk)
            // One that is there already may belong to a program on the trunk that is gone, and to its map.
            for old in try TCX.programs(linkIndex: index, hook: .egress) ?? [] where old.name == VLANProgram.pushName {
                try TCX.detach(program: old.id, linkIndex: index, hook: .egress)
            }
            switch hook {
            case .tcx: try TCX.attach(program.push, linkIndex: index, hook: .egress)
            case .clsact:
                hooks.addClsact(linkIndex: index)
                filters.addProgram(
                    program.push, name: VLANProgram.pushName, linkIndex: index, hook: .egress,
                    preference: Host.filterPreference)
            }
        }
        // A connection that was cut short has left some of its hooks.
        try socket.execute(hooks, ignoring: [.fileExists])
        try socket.execute(filters)
    }

    private func attachedProgram(parent: UInt32, _ hook: Host.ProgramHook) throws(KernelError) -> UInt32? {
        switch hook {
        case .tcx: try TCX.programs(linkIndex: parent, hook: .ingress)?.first { $0.name == VLANProgram.popName }?.id
        case .clsact:
            try socket.filters(linkIndex: parent, hook: .ingress).first {
                $0.preference == Host.filterPreference && $0.programName == VLANProgram.popName
            }?.programID
        }
    }

    private func index(of name: String) throws(KernelError) -> UInt32 {
        guard let index = Link.index(of: name) else { throw missing(name) }
        return index
    }

    private func missing(_ name: String) -> KernelError {
        KernelError("look up \(name)", .operationNotSupportedByDevice, detail: "there is no such interface")
    }
}
