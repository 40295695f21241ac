import FoundationEssentials
import Kernel
import TestSupport
import Testing

//  generator ─ trunk ═══ trunk ─ router      (the benchmark's own namespaces, made by `vrouter bench`)
//       sink ┘
@Suite struct BenchCommandTests {
    /// What `vrouter bench --json` is documented to write.
    struct Report: Decodable {
        struct Machine: Decodable {
            struct Generator: Decodable {
                var frameBytes: Int
                var maxMpps: Double
                var cpuNanosecondsPerPacket: Double
                var coreShare: Double
            }
            var cpu: String
            var cores: Int
            var kernel: String
            var vrouter: String
            var date: String
            var memoryBytes: UInt64
            var generator: [Generator]
        }
        struct Cell: Decodable {
            struct Latency: Decodable {
                var p50: Double
                var p99: Double
                var p999: Double
            }
            var datapath: String
            var rules: String
            var frameBytes: Int
            var flows: Int
            var routes: Int
            var maxMpps: Double
            var lossFreeMpps: Double
            var cpuNanosecondsPerPacket: Double
            var latencyMicroseconds: Latency?
            var sent: UInt64
            var received: UInt64
            var fastPathShare: Double?
        }
        struct TCP: Decodable {
            var datapath: String
            var rules: String
            var connections: Int
            var gbitPerSecond: Double
        }
        var machine: Machine
        var results: [Cell]
        var tcp: [TCP]
    }

    /// Runs a shell script with its own /run, network and processes.
    private func sh(_ script: String) throws -> ChildProcess.Result {
        try ChildProcess.run([
            "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-uc",
            "mount -t tmpfs tmpfs /run || exit; mkdir /run/netns; vrouter=$1; left() { ls /run/netns; }; \(script)",
            "sh", Product.path,
        ])
    }

    @Test func whatIsMeasuredIsPlausible() throws {
        let run = try sh(
            """
            $vrouter bench --quick --duration 0.1 --datapath kernel --sizes 64,1518 --flows 40,300 --routes 2,500 --tcp 2 --json - --plot /run/plot.svg
            status=$?; left; python3 -c 'import xml.dom.minidom; xml.dom.minidom.parse("/run/plot.svg")' || exit
            exit $status
            """)
        try #require(run.status == 0, "\(run)")
        let end = try #require(run.output.firstRange(of: "\n}\n")?.upperBound)
        #expect(run.output[end...] == "", "left behind")
        let report = try JSONDecoder().decode(Report.self, from: Data(run.output[..<end].utf8))

        #expect(report.machine.kernel == (try Sysctl("kernel/osrelease").read()))
        #expect(report.machine.cores >= 1)
        #expect(report.machine.memoryBytes > 100 << 20)
        #expect(report.machine.generator.map(\.frameBytes) == [64, 1518])
        for limit in report.machine.generator {
            #expect(limit.maxMpps > 0 && limit.cpuNanosecondsPerPacket > 0 && (0...1).contains(limit.coreShare))
        }
        #expect(
            report.results.map { "\($0.datapath) \($0.rules) \($0.frameBytes) \($0.flows) \($0.routes)" } == [
                "kernel none 64 40 2", "kernel none 1518 40 2", "kernel none 64 40 500", "kernel none 64 300 2",
                "kernel article 64 40 2", "kernel article 1518 40 2", "kernel article 64 40 500",
                "kernel article 64 300 2",
            ])
        for cell in report.results {
            #expect(cell.received > 0 && cell.received <= cell.sent, "\(cell)")
            #expect(cell.maxMpps > 0 && cell.maxMpps <= report.machine.generator.map(\.maxMpps).max() ?? 0, "\(cell)")
            #expect(cell.cpuNanosecondsPerPacket > 0, "\(cell)")
            #expect(cell.lossFreeMpps >= 0)
            guard let latency = cell.latencyMicroseconds else { continue }
            #expect(latency.p50 > 0 && latency.p50 <= latency.p99 && latency.p99 <= latency.p999, "\(cell)")
        }
        #expect(report.results.contains { $0.latencyMicroseconds != nil })
        #expect(
            report.tcp.map { "\($0.datapath) \($0.rules) \($0.connections)" } == ["kernel none 2", "kernel article 2"])
        #expect(report.tcp.allSatisfy { $0.gbitPerSecond > 0 })
    }

    /// The workers move what is measured as theirs.
    @Test func theFastPathIsMeasured() throws {
        let run = try sh(
            "$vrouter bench --quick --duration 0.1 --datapath af-packet --rules none --sizes 64 --tcp none --json -"
        )
        try #require(run.status == 0, "\(run)")
        let end = try #require(run.output.firstRange(of: "\n}\n")?.upperBound)
        let report = try JSONDecoder().decode(Report.self, from: Data(run.output[..<end].utf8))
        #expect(report.results.map(\.datapath) == ["af-packet"])
        let cell = try #require(report.results.first)
        #expect(cell.received > 0 && (isEmulated || (cell.fastPathShare ?? 0) > 0.5), "\(cell)")
    }

    @Test func somebodyElsesForwarderIsMeasuredBesideIt() throws {
        // One that forwards nothing is found out, with what it said.
        let run = try sh(
            "$vrouter bench --quick --tcp none --forwarder 'broken=echo I am broken; exit 3' --rules none; status=$?; left; exit $status"
        )
        #expect(run.status == 69, "\(run)")
        #expect(run.errors.contains("broken") && run.errors.contains("I am broken"), "\(run)")
        #expect(!run.output.contains("vrouter-load-"), "left behind: \(run)")
    }

    @Test func anInterruptedBenchmarkIsRemoved() throws {
        let run = try sh(
            """
            $vrouter bench --duration 60 & process=$!
            until [ -e /run/netns/vrouter-load-limit-router ] || ! kill -0 $process; do sleep 0.01; done
            kill -INT $process; wait $process; status=$?; left; exit $status
            """)
        #expect(run.status == 128 + 2, "\(run)")
        #expect(run.output == "", "left behind: \(run)")
    }

    @Test func whatCannotBeMeasuredIsRefused() throws {
        for (arguments, status, says) in [
            ("--sizes 63", 64, "64 to"), ("--sizes 9000", 64, "64 to"), ("--sizes 64,,128", 64, "what is ''"),
            ("--flows 0", 64, "--flows 0"), ("--flows 256,many", 64, "many"), ("--duration 0", 64, "--duration"),
            ("--duration nan", 64, "--duration"),
            ("--routes 1", 64, "--routes 1"), ("--routes 1000,2", 64, "ascending"), ("--tcp 0", 64, "--tcp 0"),
            ("--datapath ebpf", 64, "what is 'ebpf'"), ("--forwarder x", 64, "no '='"),
            ("--rules some", 64, "article"),
        ] {
            let run = try sh("$vrouter bench \(arguments); status=$?; left; exit $status")
            #expect(run.status == status, "\(arguments): \(run)")
            #expect(run.errors.contains(says), "\(arguments): \(run)")
            #expect(run.output == "", "\(arguments): \(run)")
        }
    }

    @Test func withoutRootItSaysSo() throws {
        let run = try sh("cp $vrouter /run/vrouter-copy; setpriv --reuid=65534 --clear-groups /run/vrouter-copy bench")
        #expect(run.status == 77, "\(run)")
        #expect(run.errors.contains("remedy: sudo vrouter bench"), "\(run)")
    }

    @Test func withoutIperfItSaysSo() throws {
        let run = try sh("PATH=/nowhere $vrouter bench")
        #expect(run.status == 69, "\(run)")
        #expect(run.errors.contains("apt-get install iperf3"), "\(run)")
    }

    /// As in a container that may not: before anything is measured.
    @Test func whereSysMayNotBeMountedItSaysSo() throws {
        // A seccomp filter for fsopen(2), which has this number on every architecture.
        let run = try sh(
            """
            cat >/run/forbid.py <<'EOF'
            import ctypes, os, struct, sys
            libc = ctypes.CDLL(None)
            steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 430), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
            filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
            program = ctypes.create_string_buffer(struct.pack("H6xQ", len(steps), ctypes.addressof(filter)))
            assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
            os.execv(sys.argv[1], sys.argv[1:])
            EOF
            python3 /run/forbid.py $vrouter bench --quick; status=$?; left; exit $status
            """)
        #expect(run.status == 69, "\(run)")
        #expect(run.errors.contains("steer the packets of lo to processor"), "\(run)")
        #expect(run.errors.contains("--tcp none") && run.output == "", "\(run)")
    }
}
