// What the pipeline says of a frame. A reason is data: its case is the index of a counter, its name the counter's, its
// description what a person reads.

/// What becomes of a frame.
public enum Verdict: Hashable, Sendable {
    /// It goes out, as it stands now.
    case forward
    /// Nobody gets it: the kernel would have dropped it as well, without an answer.
    case drop(DropReason)
    /// The kernel gets it as it came, and does what it always does: delivers, answers with an ICMP error, fragments, resolves, translates.
    case punt(PuntReason)
}

extension Verdict: CaseIterable {
    public static let allCases: [Verdict] =
        [.forward] + DropReason.allCases.map(Verdict.drop) + PuntReason.allCases.map(Verdict.punt)

    /// The position in `allCases`: where its counter stands.
    @inlinable
    public var index: Int {
        switch self {
        case .forward: 0
        case .drop(let reason): 1 &+ Int(reason.rawValue)
        case .punt(let reason): 1 &+ Int(DropReason.last.rawValue) &+ 1 &+ Int(reason.rawValue)
        }
    }

    /// The counter's name: `forward`, `drop_ip_checksum`, `punt_no_route`, …
    public var name: String {
        switch self {
        case .forward: "forward"
        case .drop(let reason): "drop_\(reason.name)"
        case .punt(let reason): "punt_\(reason.name)"
        }
    }

    public var description: String {
        switch self {
        case .forward: "sent to the next hop"
        case .drop(let reason): reason.description
        case .punt(let reason): reason.description
        }
    }
}

extension Verdict: CustomStringConvertible {}

/// Why nobody gets a frame. Each is something that Linux drops silently, too: the file and function that does it stands at the case.
public enum DropReason: UInt8, CaseIterable, Hashable, Sendable, CustomStringConvertible {
    // RFC 1812 §5.2.2, in the order in which Linux looks (net/ipv4/ip_input.c, ip_rcv_core; net/ipv6/ip6_input.c, ip6_rcv_core).
    case ipHeaderTruncated
    case ipVersion
    case ipHeaderLength
    case ipChecksum
    case ipTotalLength
    case ipTruncated
    // net/ipv4/route.c, ip_route_input_slow; ip6_rcv_core and net/ipv6/ip6_output.c, ip6_forward.
    case sourceAddress
    case destinationAddress
    // net/ipv4/fib_frontend.c, fib_validate_source.
    case sourceOwn
    case sourceUnreachable
    // net/ipv4/route.c, ip_error; net/core/dst.c, dst_discard.
    case blackhole

    /// Has the highest raw value.
    @usableFromInline static let last = DropReason.blackhole

    /// As in a counter's name.
    public var name: String { text.name }
    public var description: String { text.description }

    private var text: (name: String, description: String) {
        switch self {
        case .ipHeaderTruncated: ("ip_header_truncated", "the frame ends within the IP header")
        case .ipVersion: ("ip_version", "the IP version is not the one that the EtherType names")
        case .ipHeaderLength: ("ip_header_length", "the IP header's length is less than 20 octets")
        case .ipChecksum: ("ip_checksum", "the IP header's checksum is wrong")
        case .ipTotalLength: ("ip_total_length", "the IP packet's length is less than its header's")
        case .ipTruncated: ("ip_truncated", "the frame ends before the IP packet does")
        case .sourceAddress: ("source_address", "the source is an address that no host can have")
        case .destinationAddress: ("destination_address", "the destination is an address that no host can have")
        case .sourceOwn: ("source_own", "the source is an address of this router")
        case .sourceUnreachable: ("source_unreachable", "the way back to the source is another one (rp_filter)")
        case .blackhole: ("blackhole", "the route is a blackhole")
        }
    }
}

/// Why the kernel gets a frame.
public enum PuntReason: UInt8, CaseIterable, Hashable, Sendable, CustomStringConvertible {
    // The frame, in the order of Classify.swift.
    case shortFrame
    case untagged
    case serviceTag
    case otherVLAN
    case groupDestination
    case otherDestination
    case innerTag
    case notIP
    case options
    case extensionHeader
    case fragment
    case specialSource
    case specialDestination
    case timeToLive
    case superFrame
    // The way, in the order of Flows.swift and Lookup.swift.
    case unknownFlow
    case sourceUndecided
    case noRoute
    case local
    case broadcast
    case unresolved
    case unreachable
    case prohibited
    case otherInterface
    case otherRoute
    case sameVLAN
    case denied
    case masqueraded
    case tooBig
    case unknownTarget

    /// As in a counter's name.
    public var name: String { text.name }
    public var description: String { text.description }

    private var text: (name: String, description: String) {
        switch self {
        case .shortFrame: ("short_frame", "the frame is shorter than an Ethernet header")
        case .untagged: ("untagged", "the frame has no VLAN tag, or a priority tag only")
        case .serviceTag: ("service_tag", "the tag is not one of 802.1Q")
        case .otherVLAN: ("other_vlan", "this router has no gateway in the VLAN")
        case .groupDestination: ("group_destination", "it is sent to several stations: broadcast or multicast")
        case .otherDestination: ("other_destination", "it is sent to another station's MAC address")
        case .innerTag: ("inner_tag", "there is a second tag behind the first")
        case .notIP: ("not_ip", "it is neither IPv4 nor IPv6")
        case .options: ("options", "the IPv4 header has options")
        case .extensionHeader: ("extension_header", "the IPv6 header is followed by an extension header")
        case .fragment: ("fragment", "it is a fragment of a packet")
        case .specialSource:
            ("special_source", "the source is an address with a meaning of its own, such as link-local")
        case .specialDestination:
            ("special_destination", "the destination is an address with a meaning of its own, such as multicast")
        case .timeToLive: ("time_to_live", "the time to live ends here")
        case .superFrame: ("super_frame", "it stands for several packets that are not plainly TCP")
        case .unknownFlow:
            ("unknown_flow", "the firewall tracks connections, and it belongs to none that the workers know")
        case .sourceUndecided: ("source_undecided", "only the kernel knows whether the source may come this way")
        case .noRoute: ("no_route", "there is no route to the destination")
        case .local: ("local", "it is for this router")
        case .broadcast: ("broadcast", "the destination is a subnet's broadcast address")
        case .unresolved: ("unresolved", "the next hop's MAC address is not known yet")
        case .unreachable: ("unreachable", "the route says 'unreachable'")
        case .prohibited: ("prohibited", "the route says 'prohibit'")
        case .otherInterface: ("other_interface", "it leaves through an interface that is not a VLAN's gateway")
        case .otherRoute: ("other_route", "the route is of a kind that only the kernel follows")
        case .sameVLAN: ("same_vlan", "it leaves into the VLAN that it came from, and a redirect may be due")
        case .denied: ("denied", "the firewall looks at what passes between these VLANs")
        case .masqueraded: ("masqueraded", "its source address is to be translated")
        case .tooBig: ("too_big", "it is larger than the MTU")
        case .unknownTarget: ("unknown_target", "the route leads nowhere: a mistake of vrouter's own")
        }
    }
}
