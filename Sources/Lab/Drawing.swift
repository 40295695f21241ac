import Packets

extension Topology {
    /// The network for a person, at most 80 columns wide.
    public var drawing: String {
        let boxes = hosts.map { host in Box(title: host.name, lines: host.containers.map(\.line)) } + [routerBox]
        let height = boxes.map(\.lines.count).max() ?? 0
        let rows = boxes.map { $0.rows(height: height) }
        let lines = (0..<(height + 3)).map { row in rows.map { $0[row] }.joined(separator: " ") }
        let cable = boxes.map { Self.centred("┴", in: $0.width, with: "─") }.joined(separator: "─")
        let bridge = "\(Self.bridge): forwards frames by MAC address, with whatever tag they have"
        let below = Self.centred(bridge, in: cable.count, with: " ")
        return (lines + [cable, below]).map(\.trimmedAtEnd).joined(separator: "\n")
    }

    private var routerBox: Box {
        Box(title: router, lines: ["vrouter up"] + gateways.map { "\($0.address.address) tag \($0.vlan)" })
    }

    /// A host: its name, what is on it, and the trunk below.
    private struct Box {
        let title: String
        let lines: [String]

        var width: Int { (lines.map(\.count).max() ?? 0) + 4 }

        func rows(height: Int) -> [String] {
            let inner = width - 4
            let content = (0..<height).map { row in
                let line = row < lines.count ? lines[row] : ""
                return "│ \(line)\(String(repeating: " ", count: inner - line.count)) │"
            }
            let name = " \(title) "
            return ["┌\(name)\(String(repeating: "─", count: width - 2 - name.count))┐"] + content + [
                "└\(centred(" \(trunk) ", in: width - 2, with: "─"))┘", centred("│", in: width, with: " "),
            ]
        }
    }

    private static func centred(_ text: String, in width: Int, with filler: Character) -> String {
        let before = max(0, (width - text.count) / 2)
        return String(repeating: filler, count: before) + text
            + String(repeating: filler, count: max(0, width - before - text.count))
    }
}

extension Topology.Container {
    fileprivate var line: String { "\(name) \(address.address) \(vlan.map { "tag \($0)" } ?? "no tag ")" }
}

extension String {
    fileprivate var trimmedAtEnd: String {
        String(reversed().drop { $0 == " " }.reversed())
    }
}
