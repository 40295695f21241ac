import Firewall

public struct Nftables: ~Copyable {
    public init() throws(KernelError) {}
    public func replace(with r: Ruleset) throws(KernelError) {}
    public func delete(table: String) throws(KernelError) -> Bool { true }
    public func fingerprint(table: String) throws(KernelError) -> String? { nil }
}
