import Kernel
import Packets
import SystemPackage

/// Interfaces for VLANs and nothing more: what a host has that is in these VLANs and does not route between them.
public enum VLANInterfaces {
    /// Adds `<parent>.<id>` for each VLAN in the calling thread's network namespace, and brings it up.
    ///
    /// There is no journal, and what fails half-way stays: for a namespace that is deleted as a whole.
    public static func add(_ vlans: [VLANID], to parent: String, driver: Driver) throws(Failure) {
        try kernel { () throws(KernelError) in
            let socket = try NetlinkSocket()
            guard let trunk = try socket.links().first(where: { $0.name == parent }) else {
                throw KernelError(
                    "look up \(parent)", .operationNotSupportedByDevice, detail: "there is no such interface")
            }
            let hook = try Host.ProgramHook.best(linkIndex: trunk.index)
            var apply = Apply(socket)
            for action in actions(vlans, trunk, driver, hook) { try apply.perform(action) }
        }
    }

    private static func actions(
        _ vlans: [VLANID], _ parent: Link, _ driver: Driver, _ hook: Host.ProgramHook
    ) -> [Action] {
        let names = vlans.map { Configuration.interfaceName($0, on: parent.name) }
        switch driver {
        case .ieee8021q:
            let devices = zip(names, vlans).map { Action.VLANDevice(name: $0, parent: parent.name, id: $1) }
            return [.addVLANs(devices), .raise(names)]
        case .ebpf:
            let gateways = zip(names, vlans).map { Action.VethGateway(name: $0, id: $1, parent: parent) }
            return [.setPromiscuous(parent.name, true)] + (hook == .clsact ? [.addClsact(parent.name)] : []) + [
                .attachProgram(parent: parent.name, hook), .addVethGateways(gateways),
                .connect(gateways, parent: parent.name, hook), .raise(names),
            ]
        }
    }
}
