import Kernel
import Router

/// The firewall rules of a measurement.
public enum BenchRules: String, Sendable, Codable, CaseIterable {
    /// No masquerading: `vrouter up --masquerade none`.
    case none
    /// The article's, which are the default of `vrouter up`: masquerade, connection state, accept.
    case article

    var upArguments: [String] { self == .none ? ["--masquerade", "none"] : [] }
}

/// What `vrouter bench --json` writes. Fields are only ever added.
public struct BenchReport: Sendable, Codable {
    public var machine: Machine
    public var results: [Cell] = []
    public var tcp: [TCP] = []

    public struct Machine: Sendable, Codable {
        /// As /proc/cpuinfo names it.
        public var cpu: String
        public var cores: Int
        /// As `uname -r` prints it.
        public var kernel: String
        public var vrouter: String
        /// ISO 8601, UTC.
        public var date: String
        public var memoryBytes: UInt64
        /// Of the VLAN interfaces.
        public var driver: Driver
        /// The processor that the generator ran on.
        public var generatorCore: Int
        /// What the generator makes into an XDP drop at the other end of a cable, by frame size.
        public var generator: [Generator] = []

        public struct Generator: Sendable, Codable {
            public var frameBytes: Int
            public var maxMpps: Double
            public var cpuNanosecondsPerPacket: Double
            /// How much of its processor the generator got. Less than 1: other programs run, and all rates are lower for it.
            public var coreShare: Double
        }

        /// The smallest of the shares.
        public var coreShare: Double { generator.map(\.coreShare).min() ?? 1 }
    }

    public struct Cell: Sendable, Codable {
        public var datapath: String
        public var rules: BenchRules
        /// With the frame check sequence, without the tag, as RFC 2544 counts.
        public var frameBytes: Int
        public var flows: Int
        /// In the router's table.
        public var routes: Int
        /// Forwarded while more is offered, in millions of frames a second: the median of the rounds.
        public var maxMpps: Double
        /// The largest rate of those tried at which every frame came back.
        public var lossFreeMpps: Double?
        /// Of all processors, without what the generator takes by itself, for a frame that is forwarded; while more is offered.
        public var cpuNanosecondsPerPacket: Double
        /// At half of the loss-free rate.
        public var latencyMicroseconds: Latency?
        /// The share of the frames that the fast path forwarded, and not the kernel; absent: it was not asked to.
        public var fastPathShare: Double?
        /// Frames of all measurements.
        public var sent: UInt64 = 0
        public var received: UInt64 = 0

        public struct Latency: Sendable, Codable {
            public var p50: Double
            public var p99: Double
            public var p999: Double
            /// The rate at which it was measured.
            public var atMpps: Double
        }
    }

    public struct TCP: Sendable, Codable {
        public var datapath: String
        public var rules: BenchRules
        public var connections: Int
        public var gbitPerSecond: Double
    }
}

extension BenchReport.Machine {
    static func this(vrouter: String, date: String, driver: Driver) -> Self {
        func value(_ key: String, in file: String) -> String? {
            SmallFile.lines(in: file).first { $0.hasPrefix(key) }.flatMap { line in
                line.firstIndex(of: ":").map { String(line[line.index(after: $0)...].drop { $0 == " " || $0 == "\t" }) }
            }
        }
        let kilobytes = value("MemTotal", in: "/proc/meminfo")?.split(separator: " ").first.flatMap { UInt64($0) }
        return Self(
            cpu: value("model name", in: "/proc/cpuinfo") ?? "unknown",
            cores: SmallFile.lines(in: "/proc/cpuinfo").count { $0.hasPrefix("processor") },
            kernel: (try? Sysctl("kernel/osrelease").read()) ?? "unknown", vrouter: vrouter, date: date,
            memoryBytes: (kilobytes ?? 0) * 1024, driver: driver, generatorCore: Int(Meter.generatorCore))
    }
}
