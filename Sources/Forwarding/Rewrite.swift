// What changes in a frame that is forwarded (RFC 1812 §5.2.1, §5.3.1): addresses, tag, time to live; of a flow that is translated, what Flows.swift says.

import Packets

extension Pipeline {
    /// Puts the tag in and sends the frame to its next hop. The EtherType and everything behind it stay where they are:
    ///
    ///     before: |   room    |  destination  |    source     | EtherType | packet …
    ///     after:  |  destination  |    source     |   tag     | EtherType | packet …
    @inline(__always)
    static func rewrite(
        _ frame: inout MutableSpan<UInt8>, _ metadata: FrameMetadata, _ outcome: Outcome,
        _ snapshot: borrowing Snapshot, _ flows: borrowing FlowTable
    ) -> Outcome {
        let adjacencies = snapshot.adjacencies.span
        let start = room &+ EthernetHeader.length
        guard outcome.adjacency < adjacencies.count, frame.count >= start else {
            return Outcome(.punt(.unknownTarget))
        }
        let adjacency = adjacencies[outcome.adjacency]
        frame.write(
            adjacency.destination, adjacency.source,
            VLANTag(adjacency.vlan, priority: metadata.tag.control & snapshot.priorityMask))
        if frame[start &- 1] == UInt8(truncatingIfNeeded: EtherType.ipv4.rawValue) {
            frame.decrementTimeToLive(ipv4At: start)
        } else {
            frame.decrementHopLimit(ipv6At: start)
        }
        translate(&frame, at: start, checksumStart: room &+ Int(metadata.checksumStart), outcome, flows)
        return outcome
    }
}
