// The clsact queueing discipline and the BPF programs on it, as `tc` shows and changes them.

import CLinux
import SystemPackage

/// A queueing discipline of an interface.
public struct QueueingDiscipline: Hashable, Sendable {
    public let linkIndex: UInt32
    public let kind: String
}

/// A filter on an interface's clsact hook.
public struct Filter: Hashable, Sendable {
    public let kind: String
    public let preference: UInt16
    public let handle: UInt32
    /// Of a BPF program.
    public let programID: UInt32?
    public let programName: String?
}

public enum FilterHook: Sendable {
    case ingress
    case egress

    var parent: UInt32 { self == .ingress ? vr_tc_ingress_parent() : vr_tc_egress_parent() }
}

extension NetlinkSocket {
    /// Of every interface.
    public func queueingDisciplines() throws(KernelError) -> [QueueingDiscipline] {
        var request = NetlinkBatch()
        request.add("list queueing disciplines", type: RTM_GETQDISC, flags: NLM_F_DUMP, header: tcmsg())
        return try dump(request).compactMap { message in
            guard let index = message.payload.load(UInt32.self, at: 4),
                let kind = message.attributes(after: MemoryLayout<tcmsg>.size).string(Int(TCA_KIND))
            else { return nil }
            return QueueingDiscipline(linkIndex: index, kind: kind)
        }
    }

    /// The filters on one hook; empty where the interface has no clsact.
    public func filters(linkIndex: UInt32, hook: FilterHook) throws(KernelError) -> [Filter] {
        var header = tcmsg()
        header.tcm_ifindex = Int32(bitPattern: linkIndex)
        header.tcm_parent = hook.parent
        var request = NetlinkBatch()
        request.add("list filters", type: Int(RTM_GETTFILTER), flags: NLM_F_DUMP, header: header)
        return try dump(request).compactMap { message in
            guard Int(message.type) == RTM_NEWTFILTER, let handle = message.payload.load(UInt32.self, at: 8),
                let info = message.payload.load(UInt32.self, at: 16)
            else { return nil }
            let attributes = message.attributes(after: MemoryLayout<tcmsg>.size)
            guard let kind = attributes.string(Int(TCA_KIND)), let options = attributes.nested(Int(TCA_OPTIONS)) else {
                return nil
            }
            return Filter(
                kind: kind, preference: UInt16(truncatingIfNeeded: info >> 16), handle: handle,
                programID: kind == "bpf" ? options.integer(Int(TCA_BPF_ID)) : nil,
                programName: kind == "bpf" ? options.string(Int(TCA_BPF_NAME)) : nil)
        }
    }
}

extension NetlinkBatch {
    private func hook(_ linkIndex: UInt32) -> tcmsg {
        var header = tcmsg()
        header.tcm_ifindex = Int32(bitPattern: linkIndex)
        header.tcm_parent = vr_tc_clsact_parent()
        header.tcm_handle = vr_tc_clsact_handle()
        return header
    }

    /// `tc qdisc add dev LINK clsact`
    public mutating func addClsact(linkIndex: UInt32) {
        add(
            "add clsact to #\(linkIndex)", type: Int(RTM_NEWQDISC), flags: NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
            header: hook(linkIndex)
        ) {
            $0.put(Int(TCA_KIND), "clsact")
        }
    }

    /// `tc qdisc del dev LINK clsact`
    public mutating func deleteClsact(linkIndex: UInt32) {
        add("delete clsact of #\(linkIndex)", type: Int(RTM_DELQDISC), flags: NLM_F_ACK, header: hook(linkIndex))
    }

    /// `tc filter add dev LINK HOOK pref PREFERENCE handle 1 bpf da …`, with a loaded program.
    /// What is attached there with this preference is replaced.
    public mutating func addProgram(
        _ program: FileDescriptor, name: String, linkIndex: UInt32, hook: FilterHook, preference: UInt16
    ) {
        add(
            "attach \(name) to #\(linkIndex)", type: Int(RTM_NEWTFILTER), flags: NLM_F_CREATE | NLM_F_ACK,
            header: filter(linkIndex, hook, preference)
        ) {
            $0.put(Int(TCA_KIND), "bpf")
            $0.nest(Int(TCA_OPTIONS)) {
                $0.put(Int(TCA_BPF_FD), UInt32(program.rawValue))
                $0.put(Int(TCA_BPF_NAME), name)
                $0.put(Int(TCA_BPF_FLAGS), UInt32(TCA_BPF_FLAG_ACT_DIRECT))
            }
        }
    }

    /// `tc filter del dev LINK HOOK pref PREFERENCE handle 1 bpf`
    public mutating func deleteProgram(linkIndex: UInt32, hook: FilterHook, preference: UInt16) {
        add(
            "detach program \(preference) from #\(linkIndex)", type: Int(RTM_DELTFILTER), flags: NLM_F_ACK,
            header: filter(linkIndex, hook, preference)
        ) {
            $0.put(Int(TCA_KIND), "bpf")
        }
    }

    private func filter(_ linkIndex: UInt32, _ hook: FilterHook, _ preference: UInt16) -> tcmsg {
        var header = tcmsg()
        header.tcm_ifindex = Int32(bitPattern: linkIndex)
        header.tcm_parent = hook.parent
        header.tcm_handle = 1
        // TC_H_MAKE(preference << 16, protocol in network order)
        header.tcm_info = UInt32(preference) << 16 | UInt32(UInt16(ETH_P_ALL).bigEndian)
        return header
    }
}
