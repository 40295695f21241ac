// Receive Packet Steering, which Documentation/networking/scaling.rst of the kernel describes.

import CLinux
import SystemPackage

public enum PacketSteering {
    /// Has one processor do what is done with the packets that a link receives: `rps_cpus` of its first queue, in the calling
    /// thread's network namespace. It has no effect on VLAN and macvlan devices: what they receive is steered where their parent
    /// receives it.
    public static func steer(_ link: String, to processor: Int32) throws(KernelError) {
        let operation = "steer the packets of \(link) to processor \(processor)"
        let root = vr_open_sysfs()
        guard root >= 0 else { throw KernelError(operation, .last) }
        defer { CLinux.close(root) }
        do {
            let path = FilePath("/proc/self/fd/\(root)/class/net/\(link)/queues/rx-0/rps_cpus")
            let file = try FileDescriptor.open(path, .writeOnly, options: .closeOnExec)
            _ = try file.closeAfter { try file.writeAll(mask(processor).utf8) }
        } catch {
            throw KernelError(operation, error as? Errno ?? .ioError)
        }
    }

    /// As bitmaps are in /sys: words of 32 bits, the lowest one last.
    private static func mask(_ processor: Int32) -> String {
        String(UInt32(1) << UInt32(processor % 32), radix: 16) + String(repeating: ",0", count: Int(processor / 32))
    }
}
