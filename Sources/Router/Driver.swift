import Kernel
import Packets
import SystemPackage

/// How a VLAN gateway interface is made.
public enum Driver: String, Hashable, Sendable, Codable, CaseIterable {
    /// An ordinary VLAN device of the kernel.
    case ieee8021q = "8021q"
    /// A veth end and two BPF programs, for kernels without VLAN devices.
    case ebpf

    /// The driver that is wanted, if the kernel has it; without a wish the best that it has. To ask may load the kernel's module.
    public static func choose(_ wanted: Driver?) throws(Failure) -> Driver {
        let hasVLANs: Bool
        do {
            hasVLANs = try NetlinkSocket().supportsVLANs()
        } catch {
            // A dry run without privileges cannot ask; it guesses by what is installed.
            guard error.isPermission else { throw Failure(error) }
            return wanted ?? (isInstalled ? .ieee8021q : .ebpf)
        }
        switch wanted {
        case .ieee8021q where !hasVLANs:
            throw Failure(
                .unavailable, "--vlan-driver 8021q: this kernel has no VLAN devices (CONFIG_VLAN_8021Q)",
                remedy: "use --vlan-driver ebpf, or install the kernel's extra modules")
        case .ieee8021q: return .ieee8021q
        case nil where hasVLANs: return .ieee8021q
        case nil, .ebpf:
            do {
                _ = try VLANProgram()
                return .ebpf
            } catch {
                guard !error.isPermission else { throw Failure(error) }
                let lack = wanted == nil ? "neither VLAN devices (8021q) nor BPF programs" : "no BPF programs"
                throw Failure(
                    .unavailable, "this kernel has \(lack): \(error)",
                    remedy: "install the kernel's extra modules, or a kernel with CONFIG_VLAN_8021Q")
            }
        }
    }

    private static var isInstalled: Bool {
        if !SmallFile.names(in: "/proc/net/vlan").isEmpty { return true }
        guard let release = try? Sysctl("kernel/osrelease").read() else { return false }
        return !SmallFile.names(in: "/lib/modules/\(release)/kernel/net/8021q").isEmpty
    }
}
