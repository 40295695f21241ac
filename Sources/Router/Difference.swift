import Firewall
import Kernel
import SystemPackage

/// What `up` would change on the host as it is now. Encoded, this is what `vrouter diff --json` prints; its fields are described in
/// the README, and only ever added to.
public struct Difference: Sendable, Encodable {
    /// Whether `up` would do anything.
    public var differs: Bool
    /// What it would do, in order, beside the ruleset.
    public var steps: [Router.Step]
    /// From the rules that the kernel has to those that it would get, as `diff -u` shows it; empty: they are the same, or the kernel's
    /// could not be read.
    public var ruleset: String
    public var notes: [String]
}

extension Router {
    /// Compares; changes nothing.
    ///
    /// - Parameters:
    ///   - configuration: nil: what `up` has applied here, so that what differs is what others have changed since.
    ///   - driver: as for `up`.
    public func difference(to configuration: Configuration?, driver: Driver?) throws(Failure) -> Difference {
        let file = try StateFile()
        let state = try file.load()
        guard let wanted = configuration ?? state?.applied ?? state?.configuration else {
            throw Failure(
                .usage, "vrouter is not up here, and no configuration is given",
                remedy: "give one with -f FILE, or with --vlan ID=ADDRESS/LENGTH")
        }
        let table = Host.readTable()
        let (_, plan, outcome) = try plan(wanted, driver, file)
        var difference = Difference(
            differs: !plan.actions.isEmpty, steps: [], ruleset: "", notes: outcome.notes)
        var committed: Ruleset?
        for action in plan.actions {
            if case .commit(let ruleset) = action {
                // Of several, the last one stays.
                committed = ruleset
            } else {
                difference.steps.append(Step(summary: action.summary, commands: action.commands))
            }
        }
        if case .unknown = table {
            difference.notes.append(
                "not permitted to see the kernel's rules, BPF programs and processes: they are taken to be as `up` left them"
            )
        }
        guard let committed else { return difference }
        let texts: (live: String, wanted: String)
        switch table {
        case .absent: texts = ("", committed.tableText)
        case .present(let fingerprint) where state?.table?.fingerprint != fingerprint:
            do throws(KernelError) {
                texts = try listings(committed)
            } catch {
                difference.notes.append(
                    "somebody has changed the table inet \(Host.tableName), which cannot be shown: \(error)")
                return difference
            }
        default: texts = (Ruleset.tableText(of: state?.table?.ruleset ?? ""), committed.tableText)
        }
        difference.ruleset = UnifiedDiff.text(
            from: texts.live, to: texts.wanted,
            names: ("the kernel's table inet \(Host.tableName)", "the wanted table inet \(Host.tableName)"))
        return difference
    }

    /// Of the table that somebody has changed, and of the wanted one, both as `nft` writes what the kernel has: the wanted one is
    /// committed in a network namespace that ends with this.
    private func listings(_ wanted: Ruleset) throws(KernelError) -> (live: String, wanted: String) {
        func listing() throws(KernelError) -> String {
            let arguments = ["nft", "--stateless", "list", "table", "inet", Host.tableName]
            let result = try ChildProcess.run(arguments)
            guard result.status == 0 else {
                throw KernelError(arguments.joined(separator: " "), .ioError, detail: result.errors)
            }
            return result.output
        }
        return (
            try listing(),
            try Namespace.runInNew { () throws(KernelError) in
                try Nftables().replace(with: wanted)
                return try listing()
            }
        )
    }
}

extension Ruleset {
    fileprivate var tableText: String { Self.tableText(of: nftText) }

    /// Without the commands that replace the table that was there before.
    fileprivate static func tableText(of text: String) -> String {
        text.firstRange(of: "\ntable inet ").map { String(text[text.index(after: $0.lowerBound)...]) } ?? ""
    }
}
