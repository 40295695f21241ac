import CLinux
import CMnl
import CNftnl
import Firewall
import Packets

/// One nftables transaction, written as nft would write it: the kernel's copy then lists the same.
struct NftablesBatch {
    private var bytes: [UInt8] = []
    private var sequence: UInt32 = 0
    /// Where the last message of the transaction starts, an index into `bytes`.
    private var lastStart = 0
    /// What each message does, by its sequence number, for errors.
    private(set) var operations: [UInt32: String] = [:]

    /// The sequence number of the last message of the transaction: the one that asks for an answer.
    private(set) var lastSequence: UInt32 = 0

    /// Of the last set: its number within the transaction.
    private var lastSet: UInt32 = 0

    private init() {
        unsafe append { _, scratch in unsafe nftnl_batch_begin(scratch, 0) }
    }

    /// Which the kernel refuses with ERESTART where another one came since this generation.
    init(generation: UInt32) {
        unsafe append { _, scratch in
            let header = unsafe nftnl_batch_begin(scratch, 0)
            unsafe mnl_attr_put_u32(header, UInt16(NFNL_BATCH_GENID.rawValue), generation.bigEndian)
            return unsafe header
        }
    }

    init(deleting table: String, family: Nftables.Family) {
        self.init()
        add(table: table, NFT_MSG_DELTABLE, family, "delete table \(family) \(table)")
    }

    /// A table can only be deleted where there is one, and only what is deleted is really replaced: add, delete, add.
    init(replacing ruleset: Ruleset) {
        self.init()
        let table = "table inet \(Ruleset.table)"
        add(table: Ruleset.table, NFT_MSG_NEWTABLE, .inet, "add \(table)")
        add(table: Ruleset.table, NFT_MSG_DELTABLE, .inet, "replace \(table)")
        add(table: Ruleset.table, NFT_MSG_NEWTABLE, .inet, "add \(table)")
        for chain in ruleset.chains { add(chain) }
        for set in ruleset.sets { add(set.name, set.elements) }
        for set in ruleset.addressSets { add(set) }
        for map in ruleset.maps { add(map) }
        for part in ruleset.flowtableParts { addFlowtable(part) }
        for chain in ruleset.chains {
            for rule in chain.rules { add(rule, to: chain.name) }
        }
    }

    /// The datagram. Without the message that ends it, the kernel verifies the transaction and then forgets it.
    func datagram(commit: Bool) -> [UInt8] {
        var whole = self
        // One answer for the whole transaction; errors come unasked. The flags are octets 6 and 7 of the header.
        if let flags = bytes[lastStart...].load(UInt16.self, at: 6) {
            whole.bytes.replaceSubrange(lastStart + 6..<lastStart + 8, with: (flags | UInt16(NLM_F_ACK)).nativeBytes)
        }
        if commit { unsafe whole.append { sequence, scratch in unsafe nftnl_batch_end(scratch, sequence) } }
        return whole.bytes
    }
}

// MARK: Messages

extension NftablesBatch {
    /// Room for any message here, in octets. libnftnl and libmnl do not check: names and comments come from a `Ruleset`
    /// (15 and 127 octets at most) or are 255 octets at most (`NftablesSelection.canExist`), rules have twenty expressions of
    /// less than 200 octets, and elements are counted (`elementsPerMessage`).
    fileprivate static let messageRoom = 1 << 16

    /// Builds one message in a scratch buffer of `messageRoom` octets.
    private mutating func append(
        _ build: (_ sequence: UInt32, _ scratch: UnsafeMutablePointer<CChar>) -> UnsafeMutablePointer<nlmsghdr>?
    ) {
        lastStart = bytes.count
        lastSequence = sequence
        let number = sequence
        let message = unsafe scratchMessage(room: Self.messageRoom) { scratch in unsafe build(number, scratch) }
        bytes += message
        sequence += 1
    }

    /// A message about an object, whose attributes `attributes` appends to it.
    fileprivate mutating func append(
        _ type: nf_tables_msg_types, _ family: Nftables.Family, flags: Int32, _ operation: String,
        _ attributes: (UnsafeMutablePointer<nlmsghdr>) -> Void
    ) {
        operations[sequence] = operation
        unsafe append { sequence, scratch in
            let header = unsafe nftnl_nlmsg_build_hdr(
                scratch, UInt16(type.rawValue), UInt16(family.rawValue), UInt16(flags), sequence)
            if let header = unsafe header { unsafe attributes(header) }
            return unsafe header
        }
    }

    fileprivate mutating func add(
        table name: String, _ type: nf_tables_msg_types, _ family: Nftables.Family, _ operation: String
    ) {
        // Each object in this file is allocated, used and freed within one function.
        let table = unsafe allocated(nftnl_table_alloc())
        defer { unsafe nftnl_table_free(table) }
        unsafe nftnl_table_set_str(table, UInt16(NFTNL_TABLE_NAME.rawValue), name)
        unsafe append(type, family, flags: type == NFT_MSG_NEWTABLE ? NLM_F_CREATE : 0, operation) { header in
            unsafe nftnl_table_nlmsg_build_payload(header, table)
        }
    }

    fileprivate mutating func add(_ chain: Ruleset.Chain) {
        let object = unsafe allocated(nftnl_chain_alloc())
        defer { unsafe nftnl_chain_free(object) }
        unsafe nftnl_chain_set_str(object, UInt16(NFTNL_CHAIN_TABLE.rawValue), Ruleset.table)
        unsafe nftnl_chain_set_str(object, UInt16(NFTNL_CHAIN_NAME.rawValue), chain.name)
        if let hook = chain.hook {
            unsafe nftnl_chain_set_str(object, UInt16(NFTNL_CHAIN_TYPE.rawValue), hook.words.type)
            unsafe nftnl_chain_set_u32(object, UInt16(NFTNL_CHAIN_HOOKNUM.rawValue), hook.number)
            unsafe nftnl_chain_set_s32(object, UInt16(NFTNL_CHAIN_PRIO.rawValue), Int32(hook.words.number))
            unsafe nftnl_chain_set_u32(object, UInt16(NFTNL_CHAIN_POLICY.rawValue), Verdict.accept.code)
        }
        unsafe append(NFT_MSG_NEWCHAIN, .inet, flags: NLM_F_CREATE, "add nftables chain \(chain.name)") { header in
            unsafe nftnl_chain_nlmsg_build_payload(header, object)
        }
    }

    /// The second time, it gets more devices.
    private mutating func addFlowtable(_ devices: [String]) {
        unsafe append(NFT_MSG_NEWFLOWTABLE, .inet, flags: NLM_F_CREATE, "add nftables flowtable \(Ruleset.flows)") {
            header in
            unsafe mnl_attr_put_strz(header, UInt16(NFTA_FLOWTABLE_TABLE.rawValue), Ruleset.table)
            unsafe mnl_attr_put_strz(header, UInt16(NFTA_FLOWTABLE_NAME.rawValue), Ruleset.flows)
            unsafe mnl_attr_put_u32(
                header, UInt16(NFTA_FLOWTABLE_FLAGS.rawValue), NFT_FLOWTABLE_COUNTER.rawValue.bigEndian)
            let hook = unsafe mnl_attr_nest_start(header, UInt16(NFTA_FLOWTABLE_HOOK.rawValue))
            // NF_NETDEV_INGRESS, and the priority that nft calls `filter`.
            unsafe mnl_attr_put_u32(header, UInt16(NFTA_FLOWTABLE_HOOK_NUM.rawValue), 0)
            unsafe mnl_attr_put_u32(header, UInt16(NFTA_FLOWTABLE_HOOK_PRIORITY.rawValue), 0)
            if !devices.isEmpty {
                let list = unsafe mnl_attr_nest_start(header, UInt16(NFTA_FLOWTABLE_HOOK_DEVS.rawValue))
                for device in devices { unsafe mnl_attr_put_strz(header, UInt16(NFTA_DEVICE_NAME.rawValue), device) }
                unsafe mnl_attr_nest_end(header, list)
            }
            unsafe mnl_attr_nest_end(header, hook)
        }
    }

    /// - Parameter handle: of the rule before which it goes; nil: to the end of its chain.
    mutating func add(_ accept: Nftables.Accept, before handle: UInt64?) {
        let object = unsafe allocated(nftnl_rule_alloc())
        defer { unsafe nftnl_rule_free(object) }
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_TABLE.rawValue), accept.chain.table)
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_CHAIN.rawValue), accept.chain.name)
        unsafe load(
            meta: accept.direction == .input ? NFT_META_IIFNAME : NFT_META_OIFNAME, into: firstRegister, object)
        // A whole name ends with a zero: iptables takes one without for the beginning of several.
        unsafe compare(NFT_CMP_EQ, accept.interface.utf8.prefix(Int(IFNAMSIZ) - 1) + [0], object)
        unsafe nftnl_rule_add_expr(object, expression("counter"))
        unsafe add(.verdict(.accept), to: object)
        unsafe setComment(Nftables.Accept.comment, of: object)
        if let handle { unsafe nftnl_rule_set_u64(object, UInt16(NFTNL_RULE_POSITION.rawValue), handle) }
        let flags = handle == nil ? NLM_F_CREATE | NLM_F_APPEND : NLM_F_CREATE
        let operation = "accept \(accept.interface) in the chain \(accept.chain)"
        unsafe append(NFT_MSG_NEWRULE, accept.chain.family, flags: flags, operation) { header in
            unsafe nftnl_rule_nlmsg_build_payload(header, object)
        }
    }

    mutating func delete(_ accept: Nftables.Accept, handle: UInt64) {
        let object = unsafe allocated(nftnl_rule_alloc())
        defer { unsafe nftnl_rule_free(object) }
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_TABLE.rawValue), accept.chain.table)
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_CHAIN.rawValue), accept.chain.name)
        unsafe nftnl_rule_set_u64(object, UInt16(NFTNL_RULE_HANDLE.rawValue), handle)
        let operation = "no longer accept \(accept.interface) in the chain \(accept.chain)"
        unsafe append(NFT_MSG_DELRULE, accept.chain.family, flags: 0, operation) { header in
            unsafe nftnl_rule_nlmsg_build_payload(header, object)
        }
    }

    fileprivate mutating func add(_ rule: Ruleset.Rule, to chain: String) {
        let object = unsafe allocated(nftnl_rule_alloc())
        defer { unsafe nftnl_rule_free(object) }
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_TABLE.rawValue), Ruleset.table)
        unsafe nftnl_rule_set_str(object, UInt16(NFTNL_RULE_CHAIN.rawValue), chain)
        var isOfFamily = false
        for match in rule.matches {
            // A set without a name comes before the rule that it belongs to.
            let constant = NFT_SET_ANONYMOUS.rawValue | NFT_SET_CONSTANT.rawValue
            switch match {
            case .routed(let interfaces): add(Self.namelessSet, interfaces, type: NftType.string, flags: constant)
            case .transport(.icmp):
                add(Self.namelessSet, octets: [1, 58], type: NftType.protocolNumber, flags: constant)
            case .icmpv6(let types): add(Self.namelessSet, octets: types, type: NftType.icmpv6Type, flags: constant)
            default: break
            }
            unsafe add(match, to: object, isOfFamily: isOfFamily)
            isOfFamily = isOfFamily || match.isOfOneFamily
        }
        // The kernel counts from what an absent attribute means: zero.
        unsafe nftnl_rule_add_expr(object, expression("counter"))
        unsafe add(rule.action, to: object)

        unsafe setComment(rule.comment, of: object)

        let operation = "add nftables rule '\(rule.comment)' to chain \(chain)"
        unsafe append(NFT_MSG_NEWRULE, .inet, flags: NLM_F_CREATE | NLM_F_APPEND, operation) { header in
            unsafe nftnl_rule_nlmsg_build_payload(header, object)
        }
    }
}

extension NftablesBatch {
    private func setComment(_ text: String, of rule: OpaquePointer) {
        let comment = userdata(UInt8(NFTNL_UDATA_RULE_COMMENT.rawValue), Array(text.utf8) + [0])
        unsafe nftnl_rule_set_data(rule, UInt16(NFTNL_RULE_USERDATA.rawValue), comment, UInt32(comment.count))
    }
}

// MARK: Sets and maps

/// nft's numbers for types (its include/datatype.h), which the kernel only stores.
private enum NftType {
    /// What nft takes an interface's name from the routing table for.
    static let string: UInt32 = 5
    static let ipv4Address: UInt32 = 7
    static let ipv6Address: UInt32 = 8
    static let protocolNumber: UInt32 = 12
    static let icmpv6Type: UInt32 = 29
    static let interfaceName: UInt32 = 41
    /// Six bits for each part.
    static func interfaceNames(_ count: Int) -> UInt32 {
        (0..<count).reduce(0) { type, _ in type << 6 | interfaceName }
    }
}

/// A set's userdata in nft, which the kernel only stores too.
private enum ByteOrder {
    static let unknown: UInt32 = 0
    static let host: UInt32 = 1
    static let network: UInt32 = 2
}

/// A key's part is a whole number of 32-bit registers; an interface name is padded with zeros.
private func interfaceKey(_ name: String) -> [UInt8] {
    let octets = name.utf8.prefix(Int(IFNAMSIZ))
    return octets + [UInt8](repeating: 0, count: Int(IFNAMSIZ) - octets.count)
}

/// An element takes at most 100 octets and a list of them 65,535, since an attribute's length has 16 bits.
private let elementsPerMessage = 500

extension NftablesBatch {
    /// - Parameter flags: NFT_SET_ values.
    fileprivate mutating func add(
        _ name: String, _ interfaces: [String], type: UInt32 = NftType.interfaceName, flags: UInt32 = 0
    ) {
        add(
            name, keyType: type, keyLength: UInt32(IFNAMSIZ), flags: flags,
            userdata: userdata(UInt8(NFTNL_UDATA_SET_KEYBYTEORDER.rawValue), ByteOrder.host.nativeBytes))
        unsafe addElements(interfaces, to: name) { element, name in
            let key = interfaceKey(name)
            unsafe nftnl_set_elem_set(element, UInt16(NFTNL_SET_ELEM_KEY), key, UInt32(key.count))
        }
    }

    /// - Parameter flags: NFT_SET_ values.
    fileprivate mutating func add(_ name: String, octets: [UInt8], type: UInt32, flags: UInt32) {
        add(
            name, keyType: type, keyLength: 1, flags: flags,
            userdata: userdata(UInt8(NFTNL_UDATA_SET_KEYBYTEORDER.rawValue), ByteOrder.unknown.nativeBytes))
        unsafe addElements(octets, to: name) { element, octet in
            unsafe nftnl_set_elem_set(element, UInt16(NFTNL_SET_ELEM_KEY), [octet], 1)
        }
    }

    /// A block is two elements: its first address, and the first one behind it with a flag.
    fileprivate mutating func add(_ set: Ruleset.AddressSet) {
        add(
            set.name, keyType: set.family == .v4 ? NftType.ipv4Address : NftType.ipv6Address,
            keyLength: UInt32(set.family.width / 8), flags: NFT_SET_INTERVAL.rawValue,
            userdata: userdata(UInt8(NFTNL_UDATA_SET_KEYBYTEORDER.rawValue), ByteOrder.network.nativeBytes))
        var ends: [(key: [UInt8], isEnd: Bool)] = []
        // As nft does: what is before the first block begins with the end of none.
        if let first = set.elements.first?.network.octets, first.contains(where: { $0 != 0 }) {
            ends.append(([UInt8](repeating: 0, count: first.count), true))
        }
        for block in set.elements {
            ends.append((block.network.octets, false))
            // The last block may have nothing behind it.
            if let next = block.next { ends.append((next.octets, true)) }
        }
        unsafe addElements(ends, to: set.name) { element, end in
            unsafe nftnl_set_elem_set(element, UInt16(NFTNL_SET_ELEM_KEY), end.key, UInt32(end.key.count))
            if end.isEnd {
                unsafe nftnl_set_elem_set_u32(
                    element, UInt16(NFTNL_SET_ELEM_FLAGS), NFT_SET_ELEM_INTERVAL_END.rawValue)
            }
        }
    }

    fileprivate mutating func add(_ map: Ruleset.VerdictMap) {
        // What nft makes of a key of one part, and of several.
        let order = map.keyParts == 1 ? ByteOrder.host : ByteOrder.unknown
        add(
            map.name, keyType: NftType.interfaceNames(map.keyParts), keyLength: UInt32(map.keyParts) * UInt32(IFNAMSIZ),
            flags: NFT_SET_MAP.rawValue,
            userdata: userdata(UInt8(NFTNL_UDATA_SET_KEYBYTEORDER.rawValue), order.nativeBytes)
                + userdata(UInt8(NFTNL_UDATA_SET_DATABYTEORDER.rawValue), ByteOrder.unknown.nativeBytes))
        unsafe addElements(map.elements, to: map.name) { object, element in
            let key = element.key.flatMap(interfaceKey)
            unsafe nftnl_set_elem_set(object, UInt16(NFTNL_SET_ELEM_KEY), key, UInt32(key.count))
            unsafe nftnl_set_elem_set_u32(object, UInt16(NFTNL_SET_ELEM_VERDICT), element.verdict.code)
            if let chain = element.verdict.chain {
                unsafe nftnl_set_elem_set_str(object, UInt16(NFTNL_SET_ELEM_CHAIN), chain)
            }
        }
    }

    private mutating func add(
        _ name: String, keyType: UInt32, keyLength: UInt32, flags: UInt32, userdata: [UInt8]
    ) {
        lastSet += 1
        let set = unsafe allocated(nftnl_set_alloc())
        defer { unsafe nftnl_set_free(set) }
        unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_TABLE.rawValue), Ruleset.table)
        unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_NAME.rawValue), name)
        unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_ID.rawValue), lastSet)
        unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_KEY_TYPE.rawValue), keyType)
        unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_KEY_LEN.rawValue), keyLength)
        unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_FLAGS.rawValue), flags)
        if flags & NFT_SET_MAP.rawValue != 0 {
            unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_DATA_TYPE.rawValue), NFT_DATA_VERDICT.rawValue)
            unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_DATA_LEN.rawValue), 0)
        }
        unsafe nftnl_set_set_data(set, UInt16(NFTNL_SET_USERDATA.rawValue), userdata, UInt32(userdata.count))
        unsafe append(NFT_MSG_NEWSET, .inet, flags: NLM_F_CREATE, "add nftables set \(name)") { header in
            unsafe nftnl_set_nlmsg_build_payload(header, set)
        }
    }

    private mutating func addElements<Element>(
        _ elements: [Element], to name: String, _ fill: (OpaquePointer, Element) -> Void
    ) {
        var rest = elements[...]
        while !rest.isEmpty {
            let set = unsafe allocated(nftnl_set_alloc())
            defer { unsafe nftnl_set_free(set) }
            unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_TABLE.rawValue), Ruleset.table)
            unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_NAME.rawValue), name)
            unsafe nftnl_set_set_u32(set, UInt16(NFTNL_SET_ID.rawValue), lastSet)
            for element in rest.prefix(elementsPerMessage) {
                let object = unsafe allocated(nftnl_set_elem_alloc())
                unsafe fill(object, element)
                // The set owns it from here on, and frees it.
                unsafe nftnl_set_elem_add(set, object)
            }
            rest = rest.dropFirst(elementsPerMessage)
            unsafe append(NFT_MSG_NEWSETELEM, .inet, flags: NLM_F_CREATE, "add elements to nftables set \(name)") {
                unsafe nftnl_set_elems_nlmsg_build_payload($0, set)
            }
        }
    }
}

// MARK: Expressions

extension NftablesBatch {
    /// For which the kernel chooses a number.
    fileprivate static let namelessSet = "__set%d"
}

// A match loads something into register 1 and compares that. An interface name takes the four 32-bit registers that
// make up the 128-bit register 1, so that the second part of a pair goes to register 2.
private let firstRegister = UInt32(NFT_REG_1.rawValue)
private let secondRegister = UInt32(NFT_REG_2.rawValue)

extension NftablesBatch {
    /// - Parameter isOfFamily: other families did not match before.
    fileprivate func add(_ match: Ruleset.Match, to rule: OpaquePointer, isOfFamily: Bool) {
        switch match {
        case .family(let family):
            unsafe require(family, rule)
        case .input(in: let set):
            unsafe load(meta: NFT_META_IIFNAME, into: firstRegister, rule)
            unsafe look(up: set, rule)
        case .inputNot(in: let set):
            unsafe load(meta: NFT_META_IIFNAME, into: firstRegister, rule)
            unsafe look(up: set, rule, negated: true)
        case .inputNotLoopback:
            unsafe load(meta: NFT_META_IIFNAME, into: firstRegister, rule)
            unsafe compare(NFT_CMP_NEQ, interfaceKey("lo"), rule)
        case .output(in: let set):
            unsafe load(meta: NFT_META_OIFNAME, into: firstRegister, rule)
            unsafe look(up: set, rule)
        case .outputNot(in: let set):
            unsafe load(meta: NFT_META_OIFNAME, into: firstRegister, rule)
            unsafe look(up: set, rule, negated: true)
        case .outputNotLoopback:
            unsafe load(meta: NFT_META_OIFNAME, into: firstRegister, rule)
            unsafe compare(NFT_CMP_NEQ, interfaceKey("lo"), rule)
        case .routed:
            unsafe load(route: NFT_FIB_RESULT_OIFNAME, NFTA_FIB_F_DADDR.rawValue, rule)
            unsafe look(up: Self.namelessSet, rule)
        case .toThisHost:
            unsafe load(route: NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR.rawValue, rule)
            unsafe compare(NFT_CMP_EQ, UInt32(RTN_LOCAL).nativeBytes, rule)
        case .toInputInterface:
            unsafe load(route: NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR.rawValue | NFTA_FIB_F_IIF.rawValue, rule)
            unsafe compare(NFT_CMP_EQ, UInt32(RTN_LOCAL).nativeBytes, rule)
        case .address(let side, let family, in: let set):
            // nft asks once.
            if !isOfFamily { unsafe require(family, rule) }
            unsafe load(side, family, rule)
            unsafe look(up: set, rule)
        case .addressNot(let side, let family, in: let set):
            if !isOfFamily { unsafe require(family, rule) }
            unsafe load(side, family, rule)
            unsafe look(up: set, rule, negated: true)
        case .transport(.any): break
        case .transport(.icmp):
            unsafe load(meta: NFT_META_L4PROTO, into: firstRegister, rule)
            unsafe look(up: Self.namelessSet, rule)
        case .transport(let transport):
            unsafe require(transport, rule)
        case .ports(let transport, let ports):
            unsafe require(transport, rule)
            // RFC 9293 §3.1 and RFC 768: the destination's is the second pair of octets of either header.
            unsafe load(NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, count: 2, rule)
            if ports.count == 1 {
                unsafe compare(NFT_CMP_EQ, ports.lowerBound.bigEndian.nativeBytes, rule)
            } else {
                unsafe compare(NFT_CMP_GTE, ports.lowerBound.bigEndian.nativeBytes, rule)
                unsafe compare(NFT_CMP_LTE, ports.upperBound.bigEndian.nativeBytes, rule)
            }
        case .icmpv6:
            unsafe require(.v6, rule)
            unsafe load(meta: NFT_META_L4PROTO, into: firstRegister, rule)
            unsafe compare(NFT_CMP_EQ, [58], rule)
            unsafe load(NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, count: 1, rule)
            unsafe look(up: Self.namelessSet, rule)
        case .state(let states):
            unsafe load(connection: NFT_CT_STATE, rule)
            unsafe testBits(states.reduce(0) { $0 | $1.bit }, rule)
        case .destinationTranslated:
            unsafe load(connection: NFT_CT_STATUS, rule)
            // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
            unsafe testBits(1 << 5, rule)
        case .tcpWithoutSYN:
            unsafe loadFlags(of: .syn, rule)
            unsafe compare(NFT_CMP_EQ, [0], rule)
        case .tcpBeginning:
            unsafe loadFlags(of: [.syn, .rst], rule)
            unsafe compare(NFT_CMP_EQ, [TCPHeader.Flags.syn.rawValue], rule)
        case .limit(let rate, let burst):
            let limit = unsafe expression("limit")
            unsafe nftnl_expr_set_u64(limit, UInt16(NFTNL_EXPR_LIMIT_RATE), UInt64(rate))
            unsafe nftnl_expr_set_u64(limit, UInt16(NFTNL_EXPR_LIMIT_UNIT), 1)
            unsafe nftnl_expr_set_u32(limit, UInt16(NFTNL_EXPR_LIMIT_BURST), burst)
            unsafe nftnl_expr_set_u32(limit, UInt16(NFTNL_EXPR_LIMIT_TYPE), UInt32(NFT_LIMIT_PKTS.rawValue))
            unsafe nftnl_expr_set_u32(limit, UInt16(NFTNL_EXPR_LIMIT_FLAGS), 0)
            unsafe nftnl_rule_add_expr(rule, limit)
        }
    }

    fileprivate func add(_ action: Ruleset.Action, to rule: OpaquePointer) {
        switch action {
        case .verdict(let verdict):
            let immediate = unsafe expression("immediate")
            unsafe nftnl_expr_set_u32(immediate, UInt16(NFTNL_EXPR_IMM_DREG), UInt32(NFT_REG_VERDICT.rawValue))
            unsafe nftnl_expr_set_u32(immediate, UInt16(NFTNL_EXPR_IMM_VERDICT), verdict.code)
            if let chain = verdict.chain {
                unsafe nftnl_expr_set_str(immediate, UInt16(NFTNL_EXPR_IMM_CHAIN), chain)
            }
            unsafe nftnl_rule_add_expr(rule, immediate)
        case .verdictMap(let keys, let map):
            for (key, register) in zip(keys, [firstRegister, secondRegister]) {
                unsafe load(meta: key == .input ? NFT_META_IIFNAME : NFT_META_OIFNAME, into: register, rule)
            }
            unsafe look(up: map, rule, verdict: true)
        case .reject(let rejection):
            let reject = unsafe expression("reject")
            let (type, code) =
                switch rejection {
                case .reset: (NFT_REJECT_TCP_RST.rawValue, UInt8(0))
                case .prohibited: (NFT_REJECT_ICMPX_UNREACH.rawValue, UInt8(NFT_REJECT_ICMPX_ADMIN_PROHIBITED.rawValue))
                }
            unsafe nftnl_expr_set_u32(reject, UInt16(NFTNL_EXPR_REJECT_TYPE), type)
            unsafe nftnl_expr_set_u8(reject, UInt16(NFTNL_EXPR_REJECT_CODE), code)
            unsafe nftnl_rule_add_expr(rule, reject)
        case .log(let prefix):
            let log = unsafe expression("log")
            unsafe nftnl_expr_set_str(log, UInt16(NFTNL_EXPR_LOG_PREFIX), prefix)
            unsafe nftnl_rule_add_expr(rule, log)
        case .notrack:
            unsafe nftnl_rule_add_expr(rule, expression("notrack"))
        case .masquerade:
            unsafe nftnl_rule_add_expr(rule, expression("masq"))
        case .translate(to: let address, let port):
            unsafe set(firstRegister, address.octets, rule)
            unsafe set(secondRegister, port.bigEndian.nativeBytes, rule)
            let nat = unsafe expression("nat")
            unsafe nftnl_expr_set_u32(nat, UInt16(NFTNL_EXPR_NAT_TYPE), NFT_NAT_DNAT.rawValue)
            unsafe nftnl_expr_set_u32(
                nat, UInt16(NFTNL_EXPR_NAT_FAMILY), UInt32((address.isV4 ? Nftables.Family.ip : .ip6).rawValue))
            unsafe nftnl_expr_set_u32(nat, UInt16(NFTNL_EXPR_NAT_REG_ADDR_MIN), firstRegister)
            unsafe nftnl_expr_set_u32(nat, UInt16(NFTNL_EXPR_NAT_REG_PROTO_MIN), secondRegister)
            // NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h: what nft sets where there is a port.
            unsafe nftnl_expr_set_u32(nat, UInt16(NFTNL_EXPR_NAT_FLAGS), 1 << 1)
            unsafe nftnl_rule_add_expr(rule, nat)
        case .clampMSS:
            let size = unsafe expression("rt")
            unsafe nftnl_expr_set_u32(size, UInt16(NFTNL_EXPR_RT_KEY), NFT_RT_TCPMSS.rawValue)
            unsafe nftnl_expr_set_u32(size, UInt16(NFTNL_EXPR_RT_DREG), firstRegister)
            unsafe nftnl_rule_add_expr(rule, size)
            let order = unsafe expression("byteorder")
            unsafe nftnl_expr_set_u32(order, UInt16(NFTNL_EXPR_BYTEORDER_SREG), firstRegister)
            unsafe nftnl_expr_set_u32(order, UInt16(NFTNL_EXPR_BYTEORDER_DREG), firstRegister)
            unsafe nftnl_expr_set_u32(order, UInt16(NFTNL_EXPR_BYTEORDER_OP), NFT_BYTEORDER_HTON.rawValue)
            unsafe nftnl_expr_set_u32(order, UInt16(NFTNL_EXPR_BYTEORDER_LEN), 2)
            unsafe nftnl_expr_set_u32(order, UInt16(NFTNL_EXPR_BYTEORDER_SIZE), 2)
            unsafe nftnl_rule_add_expr(rule, order)
            // RFC 9293 §3.2: option 2, its value behind kind and length. The kernel writes a smaller value only.
            let option = unsafe expression("exthdr")
            unsafe nftnl_expr_set_u8(option, UInt16(NFTNL_EXPR_EXTHDR_TYPE), 2)
            unsafe nftnl_expr_set_u32(option, UInt16(NFTNL_EXPR_EXTHDR_OFFSET), 2)
            unsafe nftnl_expr_set_u32(option, UInt16(NFTNL_EXPR_EXTHDR_LEN), 2)
            unsafe nftnl_expr_set_u32(option, UInt16(NFTNL_EXPR_EXTHDR_OP), NFT_EXTHDR_OP_TCPOPT.rawValue)
            unsafe nftnl_expr_set_u32(option, UInt16(NFTNL_EXPR_EXTHDR_SREG), firstRegister)
            unsafe nftnl_rule_add_expr(rule, option)
        case .offload:
            let flow = unsafe expression("flow_offload")
            unsafe nftnl_expr_set_str(flow, UInt16(NFTNL_EXPR_FLOW_TABLE_NAME), Ruleset.flows)
            unsafe nftnl_rule_add_expr(rule, flow)
        }
    }

    /// Other families do not match.
    private func require(_ family: IPFamily, _ rule: OpaquePointer) {
        unsafe load(meta: NFT_META_NFPROTO, into: firstRegister, rule)
        unsafe compare(NFT_CMP_EQ, [(family == .v4 ? Nftables.Family.ip : .ip6).rawValue], rule)
    }

    /// - Parameter transport: TCP or UDP.
    private func require(_ transport: Service.Transport, _ rule: OpaquePointer) {
        unsafe load(meta: NFT_META_L4PROTO, into: firstRegister, rule)
        unsafe compare(NFT_CMP_EQ, [transport == .tcp ? 6 : 17], rule)
    }

    /// An address of IP's header (RFC 791 §3.1, RFC 8200 §3).
    private func load(_ side: Ruleset.Side, _ family: IPFamily, _ rule: OpaquePointer) {
        let count = UInt32(family.width / 8)
        let source: UInt32 = family == .v4 ? 12 : 8
        unsafe load(
            NFT_PAYLOAD_NETWORK_HEADER, offset: side == .source ? source : source + count, count: count, rule)
    }

    /// Those of TCP's control bits, and zero for the others.
    private func loadFlags(of flags: TCPHeader.Flags, _ rule: OpaquePointer) {
        unsafe require(.tcp, rule)
        // RFC 9293 §3.1.
        unsafe load(NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, count: 1, rule)
        unsafe mask([flags.rawValue], rule)
    }

    private func set(_ register: UInt32, _ data: [UInt8], _ rule: OpaquePointer) {
        let immediate = unsafe expression("immediate")
        unsafe nftnl_expr_set_u32(immediate, UInt16(NFTNL_EXPR_IMM_DREG), register)
        unsafe nftnl_expr_set(immediate, UInt16(NFTNL_EXPR_IMM_DATA), data, UInt32(data.count))
        unsafe nftnl_rule_add_expr(rule, immediate)
    }

    private func load(meta key: nft_meta_keys, into register: UInt32, _ rule: OpaquePointer) {
        let meta = unsafe expression("meta")
        unsafe nftnl_expr_set_u32(meta, UInt16(NFTNL_EXPR_META_KEY), key.rawValue)
        unsafe nftnl_expr_set_u32(meta, UInt16(NFTNL_EXPR_META_DREG), register)
        unsafe nftnl_rule_add_expr(rule, meta)
    }

    private func load(_ base: nft_payload_bases, offset: UInt32, count: UInt32, _ rule: OpaquePointer) {
        let payload = unsafe expression("payload")
        unsafe nftnl_expr_set_u32(payload, UInt16(NFTNL_EXPR_PAYLOAD_DREG), firstRegister)
        unsafe nftnl_expr_set_u32(payload, UInt16(NFTNL_EXPR_PAYLOAD_BASE), UInt32(base.rawValue))
        unsafe nftnl_expr_set_u32(payload, UInt16(NFTNL_EXPR_PAYLOAD_OFFSET), offset)
        unsafe nftnl_expr_set_u32(payload, UInt16(NFTNL_EXPR_PAYLOAD_LEN), count)
        unsafe nftnl_rule_add_expr(rule, payload)
    }

    /// What the routing table says: the name of an interface (none where a route leads to this host), or what kind of address it is.
    ///
    /// - Parameter flags: of what. NFTA_FIB_F_ values.
    private func load(route result: nft_fib_result, _ flags: UInt32, _ rule: OpaquePointer) {
        let fib = unsafe expression("fib")
        unsafe nftnl_expr_set_u32(fib, UInt16(NFTNL_EXPR_FIB_RESULT), result.rawValue)
        unsafe nftnl_expr_set_u32(fib, UInt16(NFTNL_EXPR_FIB_FLAGS), flags)
        unsafe nftnl_expr_set_u32(fib, UInt16(NFTNL_EXPR_FIB_DREG), firstRegister)
        unsafe nftnl_rule_add_expr(rule, fib)
    }

    private func load(connection key: nft_ct_keys, _ rule: OpaquePointer) {
        let connection = unsafe expression("ct")
        unsafe nftnl_expr_set_u32(connection, UInt16(NFTNL_EXPR_CT_KEY), key.rawValue)
        unsafe nftnl_expr_set_u32(connection, UInt16(NFTNL_EXPR_CT_DREG), firstRegister)
        unsafe nftnl_rule_add_expr(rule, connection)
    }

    private func compare(_ operation: nft_cmp_ops, _ data: [UInt8], _ rule: OpaquePointer) {
        let comparison = unsafe expression("cmp")
        unsafe nftnl_expr_set_u32(comparison, UInt16(NFTNL_EXPR_CMP_SREG), firstRegister)
        unsafe nftnl_expr_set_u32(comparison, UInt16(NFTNL_EXPR_CMP_OP), operation.rawValue)
        unsafe nftnl_expr_set(comparison, UInt16(NFTNL_EXPR_CMP_DATA), data, UInt32(data.count))
        unsafe nftnl_rule_add_expr(rule, comparison)
    }

    /// Whether any of these bits is set in register 1.
    private func testBits(_ bits: UInt32, _ rule: OpaquePointer) {
        unsafe mask(bits.nativeBytes, rule)
        unsafe compare(NFT_CMP_NEQ, UInt32(0).nativeBytes, rule)
    }

    /// Leaves these bits in register 1.
    private func mask(_ mask: [UInt8], _ rule: OpaquePointer) {
        let bitwise = unsafe expression("bitwise")
        let zero = [UInt8](repeating: 0, count: mask.count)
        unsafe nftnl_expr_set_u32(bitwise, UInt16(NFTNL_EXPR_BITWISE_SREG), firstRegister)
        unsafe nftnl_expr_set_u32(bitwise, UInt16(NFTNL_EXPR_BITWISE_DREG), firstRegister)
        unsafe nftnl_expr_set_u32(bitwise, UInt16(NFTNL_EXPR_BITWISE_LEN), UInt32(mask.count))
        unsafe nftnl_expr_set(bitwise, UInt16(NFTNL_EXPR_BITWISE_MASK), mask, UInt32(mask.count))
        unsafe nftnl_expr_set(bitwise, UInt16(NFTNL_EXPR_BITWISE_XOR), zero, UInt32(zero.count))
        unsafe nftnl_rule_add_expr(rule, bitwise)
    }

    private func look(up set: String, _ rule: OpaquePointer, negated: Bool = false, verdict: Bool = false) {
        let lookup = unsafe expression("lookup")
        unsafe nftnl_expr_set_u32(lookup, UInt16(NFTNL_EXPR_LOOKUP_SREG), firstRegister)
        unsafe nftnl_expr_set_str(lookup, UInt16(NFTNL_EXPR_LOOKUP_SET), set)
        if set == Self.namelessSet {
            unsafe nftnl_expr_set_u32(lookup, UInt16(NFTNL_EXPR_LOOKUP_SET_ID), lastSet)
        }
        if verdict {
            unsafe nftnl_expr_set_u32(lookup, UInt16(NFTNL_EXPR_LOOKUP_DREG), UInt32(NFT_REG_VERDICT.rawValue))
        }
        if negated {
            unsafe nftnl_expr_set_u32(lookup, UInt16(NFTNL_EXPR_LOOKUP_FLAGS), UInt32(NFT_LOOKUP_F_INV.rawValue))
        }
        unsafe nftnl_rule_add_expr(rule, lookup)
    }

    /// A new expression, for a rule to own. libnftnl knows every name in this file.
    private func expression(_ name: String) -> OpaquePointer { unsafe allocated(nftnl_expr_alloc(name)) }
}

// MARK: Codes

private typealias Verdict = Ruleset.Verdict

extension Ruleset.Verdict {
    /// NF_DROP, NF_ACCEPT (linux/netfilter.h), NFT_GOTO (linux/netfilter/nf_tables.h).
    fileprivate var code: UInt32 {
        switch self {
        case .drop: 0
        case .accept: 1
        case .goto: UInt32(bitPattern: NFT_GOTO.rawValue)
        }
    }

    fileprivate var chain: String? { if case .goto(let chain) = self { chain } else { nil } }
}

extension Ruleset.Match {
    fileprivate var isOfOneFamily: Bool {
        switch self {
        case .family, .address, .addressNot, .icmpv6: true
        default: false
        }
    }
}

extension Ruleset.Hook {
    /// NF_INET_* of linux/netfilter.h.
    fileprivate var number: UInt32 {
        switch self {
        case .raw, .destinationTranslation: 0
        case .input: 1
        case .forward, .mangle: 2
        case .output: 3
        case .postrouting: 4
        }
    }
}

extension Ruleset.ConnectionState {
    /// NF_CT_STATE_INVALID_BIT and NF_CT_STATE_BIT() of linux/netfilter/nf_conntrack_common.h.
    fileprivate var bit: UInt32 {
        switch self {
        case .invalid: 1 << 0
        case .established: 1 << 1
        case .related: 1 << 2
        case .untracked: 1 << 6
        }
    }
}

/// One entry of nft's userdata: type, length, value. No value here is longer than 255 octets.
private func userdata(_ type: UInt8, _ value: [UInt8]) -> [UInt8] {
    let value = value.prefix(255)
    return [type, UInt8(value.count)] + value
}

// MARK: Requests

/// What a request for objects asks for.
enum NftablesSelection {
    case everything
    case table(String)
    case rules(table: String)
    case sets(table: String)
    case elements(table: String, set: String)

    /// Whether the kernel could have such names: shorter than NFT_NAME_MAXLEN, and without a zero that would end them
    /// early. Others are never written to a message, where room is limited.
    var canExist: Bool {
        let names =
            switch self {
            case .everything: [String]()
            case .table(let table), .rules(let table), .sets(let table): [table]
            case .elements(let table, let set): [table, set]
            }
        return names.allSatisfy { $0.utf8.count < Int(NFT_NAME_MAXLEN) && !$0.utf8.contains(0) }
    }
}

/// A message that asks for objects.
func nftablesRequest(
    _ type: nf_tables_msg_types, _ family: Nftables.Family, _ selection: NftablesSelection, flags: UInt16
) -> [UInt8] {
    unsafe scratchMessage(room: NftablesBatch.messageRoom) { scratch in
        let header = unsafe nftnl_nlmsg_build_hdr(scratch, UInt16(type.rawValue), UInt16(family.rawValue), flags, 1)
        guard let header = unsafe header else { return nil }
        switch selection {
        case .everything: break
        case .table(let name):
            let table = unsafe allocated(nftnl_table_alloc())
            defer { unsafe nftnl_table_free(table) }
            unsafe nftnl_table_set_str(table, UInt16(NFTNL_TABLE_NAME.rawValue), name)
            unsafe nftnl_table_nlmsg_build_payload(header, table)
        case .rules(let table):
            let rule = unsafe allocated(nftnl_rule_alloc())
            defer { unsafe nftnl_rule_free(rule) }
            unsafe nftnl_rule_set_str(rule, UInt16(NFTNL_RULE_TABLE.rawValue), table)
            unsafe nftnl_rule_nlmsg_build_payload(header, rule)
        case .sets(let table):
            let set = unsafe allocated(nftnl_set_alloc())
            defer { unsafe nftnl_set_free(set) }
            unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_TABLE.rawValue), table)
            unsafe nftnl_set_nlmsg_build_payload(header, set)
        case .elements(let table, let name):
            let set = unsafe allocated(nftnl_set_alloc())
            defer { unsafe nftnl_set_free(set) }
            unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_TABLE.rawValue), table)
            unsafe nftnl_set_set_str(set, UInt16(NFTNL_SET_NAME.rawValue), name)
            unsafe nftnl_set_elems_nlmsg_build_payload(header, set)
        }
        return unsafe header
    }
}

/// The octets of the message that `build` writes to a buffer of `room` octets.
private func scratchMessage(
    room: Int, _ build: (UnsafeMutablePointer<CChar>) -> UnsafeMutablePointer<nlmsghdr>?
) -> [UInt8] {
    unsafe withUnsafeTemporaryAllocation(byteCount: room, alignment: Int(NLMSG_ALIGNTO)) { scratch in
        // Zeroed, because lengths are padded; `room` octets are there.
        unsafe scratch.initializeMemory(as: UInt8.self, repeating: 0)
        guard let start = unsafe scratch.baseAddress?.assumingMemoryBound(to: CChar.self),
            let header = unsafe build(start)
        else { return [] }
        return unsafe Array(scratch.prefix(Int(header.pointee.nlmsg_len)))
    }
}

/// libnftnl's allocators return nil only where no memory is left, which Swift does not survive either.
private func allocated(_ object: OpaquePointer?) -> OpaquePointer {
    guard let object = unsafe object else { fatalError("out of memory") }
    return unsafe object
}
