import Kernel

/// A host of a test: a network namespace of its own, in which the tools that users have are run.
public final class TestHost {
    public let name: String

    /// - Parameter trunk: gives it the interface enp0s8, one end of a veth pair whose other end stays in here as `cable`. It is down, and
    ///   has been up before, which leaves traces that nobody can remove.
    public init(trunk: Bool = true) throws {
        name = "vrouter-test-\(UInt32.random(in: 0 ... .max))"
        try Namespace.add(name)
        // IPv6 addresses are usable at once, and their state does not change under a comparison.
        try sh("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad")
        if trunk {
            try sh(
                """
                ip link add enp0s8 type veth peer name cable
                ip link set cable addrgenmode none up
                ip link set enp0s8 up
                ip link set enp0s8 down
                """)
        }
    }

    deinit {
        Namespace.endProcesses(in: [name])
        // Nobody will ask for its state again.
        let identity = try? Namespace.run(in: name) { () throws(KernelError) in try Namespace.current() }
        for file in SmallFile.names(in: "/run/vrouter") where file.hasPrefix("netns-\(identity?.inode ?? 0).") {
            _ = try? SmallFile.delete("/run/vrouter/\(file)")
        }
        try? Namespace.delete(name)
    }

    /// Runs a program in the host, to its end.
    public func run(_ arguments: [String], input: String = "", environment: [String: String] = [:]) throws
        -> ChildProcess.Result
    {
        try Namespace.run(in: name) { () throws(KernelError) in
            try ChildProcess.run(arguments, input: input, environment: environment)
        }
    }

    public func start(_ arguments: [String], input: String = "", environment: [String: String] = [:]) throws
        -> ChildProcess
    {
        try Namespace.run(in: name) { () throws(KernelError) in
            try ChildProcess(arguments, input: input, environment: environment)
        }
    }

    /// Runs shell commands; the first that fails is an error.
    @discardableResult
    public func sh(_ script: String) throws -> String {
        let result = try run(["sh", "-ec", script])
        guard result.status == 0 else { throw CommandFailed(script: script, result: result) }
        return result.output
    }

    /// Runs the product as a user does.
    public func vrouter(_ arguments: String, environment: [String: String] = [:]) throws -> ChildProcess.Result {
        try run(
            [Product.path(in: environment)] + arguments.split(separator: " ").map(String.init), environment: environment
        )
    }

    /// Everything of the host that vrouter could change, as the standard tools show it, line by line.
    public func snapshot() throws -> [String] {
        // What the kernel counts by itself, how long a route still lives, and when it notices a carrier, is no setting.
        try sh(
            """
            ip -d -o link | grep -v '^[0-9]*: cable@' | sed 's/ state [A-Z]*//; s/,LOWER_UP//; s/NO-CARRIER,//'; ip -o address; ip rule; nft -s list ruleset; tc qdisc show
            { ip route show table all; ip -6 route show table all; } | sed '/dev cable/d; s/ expires [^ ]*//; s/ linkdown//'
            for link in $(tc qdisc show | sed -n 's/^qdisc clsact .* dev \\([^ ]*\\) .*/\\1/p'); do
                echo "filters of $link"; tc filter show dev "$link" ingress; tc filter show dev "$link" egress
            done
            for process in /proc/[0-9]*; do
                if [ "$process/ns/net" -ef /proc/self/ns/net ]; then tr '\\0' ' ' <"$process/cmdline" | grep '[v]router ' || [ $? -eq 1 ]; fi
            done | sort
            # 2: a secret that nobody has set cannot be read.
            grep -rs . /proc/sys/net --exclude=nf_conntrack_count --exclude=flush || [ $? -eq 2 ]
            """
        ).split(separator: "\n").map(String.init) + programs()
    }

    /// The same without what differs between two interfaces of the same kind: index, address, and what follows from them.
    public func vlanSnapshot() throws -> [String] {
        try snapshot().filter { !$0.contains("fe80::") && !$0.hasPrefix("filters of") }.map { line in
            line.replacing(#/^\d+: /#, with: "").replacing(#/link.ether [^ ]*/#, with: "").replacing(
                #/\.\.*@\w+/#, with: ""
            )
            .replacing(#/id \d+ name|tag [0-9a-f]+|jited/#, with: "")
        }.sorted()
    }

    /// What runs on tcx hooks, which the tools of Debian 12 do not show.
    public func programs() throws -> [String] { try programsByID().map(\.text) }

    /// The same with their ids.
    public func programsByID() throws -> [(id: UInt32, text: String)] {
        try Namespace.run(in: name) { () throws(KernelError) in
            var result: [(UInt32, String)] = []
            for link in try NetlinkSocket().links() {
                for hook in [FilterHook.ingress, .egress] {
                    for program in try TCX.programs(linkIndex: link.index, hook: hook) ?? [] {
                        result.append((program.id, "tcx \(hook) of \(link.name): \(program.name)"))
                    }
                }
            }
            return result
        }
    }
}

public struct CommandFailed: Error, CustomStringConvertible {
    public let script: String
    public let result: ChildProcess.Result

    public init(script: String, result: ChildProcess.Result) {
        self.script = script
        self.result = result
    }

    public var description: String { "\(script)\nexit status \(result.status)\n\(result.output)\(result.errors)" }
}

/// What differs between two snapshots, for a person; empty: nothing.
public func differences(_ before: [String], _ after: [String]) -> [String] {
    after.difference(from: before).map { change in
        switch change {
        case .remove(_, let line, _): "- \(line)"
        case .insert(_, let line, _): "+ \(line)"
        }
    }
}
