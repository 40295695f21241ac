import Kernel

/// A host of a test: a network namespace of its own, in which the tools that users have are run.
public final class TestHost {
    public let name: String

    /// - Parameter trunk: gives it the interface enp0s8, one end of a veth pair whose other end stays in here as `cable`.
    public init(trunk: Bool = true) throws {
        name = "vrouter-test-\(UInt32.random(in: 0 ... .max))"
        try Namespace.add(name)
        if trunk {
            try sh(
                """
                ip link add enp0s8 type veth peer name cable
                ip link set cable addrgenmode none up
                """)
        }
    }

    deinit {
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
        try run([Product.path] + arguments.split(separator: " ").map(String.init), environment: environment)
    }

    /// Everything of the host that vrouter could change, as the standard tools show it.
    public func snapshot() throws -> [String: String] {
        var result: [String: String] = [:]
        let commands = [
            "ip -j -d link", "ip -j address", "ip -j route show table all", "ip -j -6 route show table all",
            "ip -j rule",
            "nft -s list ruleset", "tc qdisc show",
            "for d in $(ls /sys/class/net); do tc filter show dev $d ingress; tc filter show dev $d egress; done",
        ]
        for command in commands {
            // Lifetimes of kernel routes and states of duplicate address detection run by themselves.
            result[command] = try sh(command).replacing(#/"expires":\d+,?/#, with: "")
        }
        // What the kernel counts by itself is no setting.
        let parameters = try sh(
            "grep -rs . /proc/sys/net --exclude=nf_conntrack_count --exclude=route_flush --exclude=flush || true")
        for line in parameters.split(separator: "\n") {
            let pair = line.split(separator: ":", maxSplits: 1)
            result[String(pair[0])] = pair.count > 1 ? String(pair[1]) : ""
        }
        return result
    }
}

public struct CommandFailed: Error, CustomStringConvertible {
    public let script: String
    public let result: ChildProcess.Result

    public var description: String { "\(script)\nexit status \(result.status)\n\(result.output)\(result.errors)" }
}

/// What differs between two snapshots, for a person.
public func differences(_ before: [String: String], _ after: [String: String]) -> [String] {
    Set(before.keys).union(after.keys).sorted().filter { before[$0] != after[$0] }.map {
        "\($0)\n  before: \(before[$0] ?? "-")\n  after:  \(after[$0] ?? "-")"
    }
}
