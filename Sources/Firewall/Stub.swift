import Packets

public struct Policy: Hashable, Sendable {
    public struct Gateway: Hashable, Sendable {
        public var interface: String
        public var vlan: VLANID
        public var prefixes: [IPPrefix]
        public init(interface: String, vlan: VLANID, prefixes: [IPPrefix]) {
            self.interface = interface
            self.vlan = vlan
            self.prefixes = prefixes
        }
    }
    public struct Pair: Hashable, Sendable {
        public var from: String
        public var to: String
        public init(from: String, to: String) {
            self.from = from
            self.to = to
        }
    }
    public var gateways: [Gateway]
    public var masquerade: Masquerade
    public var denied: [Pair]
    public init(gateways: [Gateway], masquerade: Masquerade, denied: [Pair]) {
        self.gateways = gateways
        self.masquerade = masquerade
        self.denied = denied
    }
}
public enum Masquerade: String, Hashable, Sendable, CaseIterable { case vlans, uplink, all, none }
public struct Ruleset: Hashable, Sendable {
    let p: Policy
    public init(_ p: Policy) { self.p = p }
    public var nftText: String { "stub \(p)\n" }
}
