import Packets

/// What is known of a frame beside its octets: from the ring's header, or from a file.
public struct FrameMetadata: Hashable, Sendable {
    /// The outer tag.
    public var tag: VLANTag
    /// The payload octets of each segment that a super-frame is to be cut into; 0: it is an ordinary frame.
    ///
    /// The segments' headers are read from the frame: the virtio header's `hdr_len` is only a hint, and on Linux counts whatever
    /// happened to be linear.
    public var gsoSize: UInt16
    /// Of a frame whose checksum is yet to be made: where what it is to cover begins, in octets from the start of the frame; 0: there is
    /// nothing to be made. The checksum covers the pseudo-header only, so far.
    public var checksumStart: UInt16

    @inlinable
    public init(tag: VLANTag, gsoSize: UInt16 = 0, checksumStart: UInt16 = 0) {
        self.tag = tag
        self.gsoSize = gsoSize
        self.checksumStart = checksumStart
    }
}

/// What the pipeline has decided and done.
public struct Outcome: Hashable, Sendable {
    public var verdict: Verdict
    /// Of a frame that is forwarded, with its tag, in octets from the start of the room: without what followed the IP packet.
    public var length: Int
    /// Of a frame that is forwarded: which of the snapshot's adjacencies it goes to.
    public var adjacency: Int
    /// Of a frame that is forwarded: the VLAN that it goes to.
    public var vlan: UInt16
    /// Of a frame that is forwarded as one of a flow: the entry's number in the table of its family; otherwise negative.
    public var flow: Int
    public var isIPv4: Bool

    init(_ verdict: Verdict) {
        self.verdict = verdict
        length = 0
        adjacency = 0
        vlan = 0
        flow = -1
        isIPv4 = true
    }

    init(length: Int, adjacency: Int, vlan: UInt16, flow: Int = -1, isIPv4: Bool = true) {
        verdict = .forward
        self.flow = flow
        self.isIPv4 = isIPv4
        self.length = length
        self.adjacency = adjacency
        self.vlan = vlan
    }
}

/// The way of one frame: Classify.swift, Flows.swift or Lookup.swift, Rewrite.swift. It reads nothing but its arguments, and nothing that it is given
/// can stop it.
public enum Pipeline {
    /// The room in front of a frame, in octets: for its tag.
    @inlinable
    public static var room: Int { VLANTag.length }

    /// Decides about a frame, and makes it ready to be sent.
    ///
    /// - Parameters:
    ///   - frame: the room, then the frame without its outer tag. If the verdict is `forward`, it is a tagged frame of the outcome's
    ///     length from its very start; if not, no octet has changed.
    ///   - metadata: the outer tag, and what else stands beside the frame.
    ///   - flows: looked at first.
    @inline(never)
    public static func process(
        _ frame: inout MutableSpan<UInt8>, _ metadata: FrameMetadata, _ snapshot: borrowing Snapshot,
        _ flows: borrowing FlowTable
    ) -> Outcome {
        let outcome = decide(frame.span, metadata, snapshot, flows)
        guard case .forward = outcome.verdict else { return outcome }
        return rewrite(&frame, metadata, outcome, snapshot, flows)
    }

    /// The same where no flows are known.
    public static func process(
        _ frame: inout MutableSpan<UInt8>, _ metadata: FrameMetadata, _ snapshot: borrowing Snapshot
    ) -> Outcome {
        process(&frame, metadata, snapshot, FlowTable(v4: Span(), v6: Span(), seed: 0))
    }

    /// The decision alone: reads the frame and changes nothing.
    @inline(__always)
    private static func decide(
        _ frame: Span<UInt8>, _ metadata: FrameMetadata, _ snapshot: borrowing Snapshot, _ flows: borrowing FlowTable
    ) -> Outcome {
        guard frame.count >= room, let ethernet = EthernetView(frame.extracting(room...)) else {
            return Outcome(.punt(.shortFrame))
        }
        let vlan = metadata.tag.vid
        let gateways = snapshot.gateways.span
        guard Int(vlan) < gateways.count else { return Outcome(.punt(.otherVLAN)) }
        let gateway = gateways[Int(vlan)]
        let verdict = classify(ethernet, metadata.tag, gateway)
        guard case .forward = verdict else { return Outcome(verdict) }

        let octets = ethernet.payload
        // Linux drops frames that are larger than the interface they came in through, except on VLAN devices.
        guard metadata.gsoSize > 0 || octets.count <= Int(gateway.mtu) else { return Outcome(.punt(.tooBig)) }
        return ethernet.type == .ipv4
            ? decideIPv4(octets, metadata, gateway, snapshot, flows)
            : decideIPv6(octets, metadata, gateway, snapshot, flows)
    }

    @inline(__always)
    private static func decideIPv4(
        _ octets: Span<UInt8>, _ metadata: FrameMetadata, _ gateway: GatewayEntry, _ snapshot: borrowing Snapshot,
        _ flows: borrowing FlowTable
    ) -> Outcome {
        guard let packet = IPv4View(octets) else { return Outcome(.drop(.ipHeaderTruncated)) }
        let classified = classify(packet, available: octets.count, gsoSize: metadata.gsoSize)
        guard case .forward = classified.verdict else { return Outcome(classified.verdict) }
        if flows.v4.count > 0, let id = flowID(packet.transport, packet.payload) {
            let flow = flows.find(packet.source, packet.destination, id)
            if flow >= 0 { return follow(flow, isIPv4: true, classified, from: metadata.tag.vid, snapshot, flows) }
        }
        return lookUp(packet.source, packet.destination, classified, from: metadata.tag.vid, gateway, snapshot)
    }

    @inline(never)
    private static func decideIPv6(
        _ octets: Span<UInt8>, _ metadata: FrameMetadata, _ gateway: GatewayEntry, _ snapshot: borrowing Snapshot,
        _ flows: borrowing FlowTable
    ) -> Outcome {
        guard let packet = IPv6View(octets) else { return Outcome(.drop(.ipHeaderTruncated)) }
        let classified = classify(packet, available: octets.count, gsoSize: metadata.gsoSize)
        guard case .forward = classified.verdict else { return Outcome(classified.verdict) }
        if flows.v6.count > 0, let id = flowID(packet.nextHeader, packet.payload) {
            let flow = flows.find(packet.source, packet.destination, id)
            if flow >= 0 { return follow(flow, isIPv4: false, classified, from: metadata.tag.vid, snapshot, flows) }
        }
        return lookUp(packet.source, packet.destination, classified, from: metadata.tag.vid, gateway, snapshot)
    }
}
