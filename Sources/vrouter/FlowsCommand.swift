import ArgumentParser
import Router

struct FlowsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flows",
        abstract: "Show the connections between the VLANs.",
        discussion: """
            Those that the kernel tracks, of TCP, UDP and echo requests, with their addresses before and after translation. \
            Packets and bytes are there for connections that began after `sysctl net.netfilter.nf_conntrack_acct=1`; what the \
            fast path has carried of a connection that is the workers' is always known.

            Exit status: 0 done; 3 vrouter is not up here.
            """)

    @Flag(help: "Print it as JSON.")
    var json = false

    func run() throws {
        let list = try reportingFailure { () throws(Failure) in try FlowList.read() }
        guard let list else {
            complain("vrouter is not up here")
            throw ExitCode(3)
        }
        if json { return try printJSON(list) }
        guard !list.flows.isEmpty else { return print("no connections") }
        print(table(list).text, terminator: "")
    }

    private func table(_ list: FlowList) -> Table {
        let isCarried = list.flows.contains { $0.fastPath != nil }
        let counts = list.flows.contains { $0.sent != nil }
        var table = Table(
            ["protocol", "VLANs", "from", "to", "seen as", "at", "state", "expires", "forwarded by"]
                + (counts ? ["packets", "bytes", "packets back", "bytes back"] : [])
                + (isCarried ? ["workers' packets", "and back"] : []))
        table.rightAligned = [7, 9, 10, 11, 12, 13, 14]
        for flow in list.flows {
            // What is not translated is not said again.
            let (before, after) = (flow.original, flow.translated)
            table.add(
                [
                    flow.protocol, "\(flow.from) > \(flow.to)", before.sourceText, before.destinationText,
                    before.sourceText == after.sourceText ? "" : after.sourceText,
                    before.destinationText == after.destinationText ? "" : after.destinationText,
                    flow.state, "\(flow.expires) s", flow.forwardedBy.rawValue,
                ]
                    + (counts
                        ? [flow.sent?.packets, flow.sent?.bytes, flow.received?.packets, flow.received?.bytes]
                            .map { $0.map(String.init) ?? "" }
                        : [])
                    + (isCarried
                        ? [flow.fastPath?.sent.packets, flow.fastPath?.received.packets].map {
                            $0.map(String.init) ?? ""
                        }
                        : []))
        }
        return table
    }
}

extension FlowList.Endpoints {
    fileprivate var sourceText: String { text(source, sourcePort) + (id.map { " id \($0)" } ?? "") }
    fileprivate var destinationText: String { text(destination, destinationPort) }

    /// As RFC 3986 §3.2.2 and RFC 5952 §6 have it: IPv6 addresses in brackets before a port.
    private func text(_ address: String, _ port: UInt16?) -> String {
        guard let port else { return address }
        return address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    }
}
