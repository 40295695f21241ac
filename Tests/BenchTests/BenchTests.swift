import Kernel
import Packets
import Router
import Testing

@testable import Lab

/// What `vrouter bench` computes; that it measures is in SystemTests.
@Suite struct BenchTests {
    // MARK: The search for the loss-free rate

    /// Searches where frames are lost above `limit`.
    private func search(largest: Double, limit: Double) -> (found: Double, tries: Int) {
        var search = LossFreeSearch(largest: largest)
        var tries = 0
        while !search.isDone && tries < 100 {
            tries += 1
            search.note(forwarded: search.next <= limit ? search.next : nil)
        }
        return (search.found, tries)
    }

    @Test(arguments: [0.03, 0.1, 0.333, 0.5, 0.77, 0.99])
    func theLossFreeRateIsFound(share: Double) {
        let (found, tries) = search(largest: 500_000, limit: 500_000 * share)
        #expect(found <= 500_000 * share)
        #expect(found >= 500_000 * (share - 0.021))
        #expect(tries <= LossFreeSearch.most)
    }

    @Test func whatLosesNothingIsTriedOnce() {
        #expect(search(largest: 500_000, limit: 500_000) == (500_000, 1))
    }

    @Test func whatAlwaysLosesHasNoLossFreeRate() {
        let (found, tries) = search(largest: 500_000, limit: -1)
        #expect(found == 0)
        #expect(tries <= LossFreeSearch.most)
        #expect(search(largest: 0, limit: 1) == (0, 0))
    }

    /// What the router forwards counts, and not what was asked for: a generator may not get that far.
    @Test func theRateThatCameBackIsReported() {
        var search = LossFreeSearch(largest: 500_000)
        search.note(forwarded: 470_000)
        #expect(search.isDone)
        #expect(search.found == 470_000)
    }

    // MARK: Latencies

    /// note_latency of traffic.bpf.c, in other words.
    private func index(_ nanoseconds: UInt64) -> Int {
        guard nanoseconds >= 32 else { return Int(nanoseconds) }
        let octave = 63 - nanoseconds.leadingZeroBitCount
        return octave * 32 + Int(nanoseconds >> UInt64(octave - 5)) - 32
    }

    @Test func aStepOfTheHistogramIsExactToThreePercent() {
        for exponent in 5..<40 {
            for _ in 0..<50 {
                let value = UInt64.random(in: (1 << exponent)..<(2 << exponent))
                let middle = Latencies.middle(of: index(value))
                #expect(abs(middle - Double(value)) <= Double(value) * 0.032, "\(value)")
            }
        }
    }

    @Test func percentilesAreThoseOfTheSortedTimes() throws {
        let times = (0..<5000).map { _ in UInt64.random(in: 1000...9_000_000) }.sorted()
        var counts = [UInt64](repeating: 0, count: 2048)
        for time in times { counts[index(time)] += 1 }
        let latencies = Latencies(counts: counts)
        for share in [0.5, 0.99, 0.999, 1] {
            let exact = Double(times[Int((5000 * share).rounded(.up)) - 1]) / 1000
            let found = try #require(latencies.percentile(share))
            #expect(abs(found - exact) <= exact * 0.032, "\(share)")
        }
        #expect(Latencies(counts: [0, 0]).percentile(0.5) == nil)
    }

    // MARK: Frames

    @Test(arguments: [64, 65, 1518, 3400])
    func aFrameIsWhatARouterForwards(size: Int) throws {
        let flow = try #require(BenchNetwork.flows(300).last)
        let router = MACAddress(0x0a0b_0c0d_0e0f)
        // As generate() of traffic.bpf.c puts them together.
        var frame = Array(Traffic.pattern(frameBytes: size, router: router)[..<size])
        let own = Traffic.bytes(of: flow, frameBytes: size)
        #expect(own.count == 16)
        frame.replaceSubrange(14..<16, with: own[12..<14])
        frame.replaceSubrange(30..<38, with: own[0..<8])
        frame.replaceSubrange(28..<30, with: own[10..<12])
        frame.replaceSubrange(38..<40, with: own[8..<10])

        func number(_ offset: Int) -> Int { Int(frame[offset]) << 8 | Int(frame[offset + 1]) }
        #expect(Array(frame[0..<6]) == router.octets)
        #expect(Array(frame[6..<12]) == [2, 0, 0, 0, 0, 2])
        #expect([12, 14, 16].map(number) == [0x8100, 100, 0x0800])
        #expect(frame[18] == 0x45 && frame[26] == 64 && frame[27] == 17)
        #expect(number(20) == size - 18, "IPv4 length")
        let sum = stride(from: 18, to: 38, by: 2).reduce(0) { $0 + number($1) }
        #expect(sum & 0xffff + sum >> 16 == 0xffff, "header checksum")
        #expect(IPAddress(octets: Array(frame[30..<34])) == .v4(flow.source))
        #expect(IPAddress(octets: Array(frame[34..<38])) == .v4(flow.destination))
        #expect([38, 40, 42, 44].map(number) == [Int(flow.sourcePort), 9, size - 38, 0])
    }

    @Test func flowsDiffer() {
        let flows = BenchNetwork.flows(70_000)
        #expect(Set(flows.map { "\($0.source) \($0.destination) \($0.sourcePort)" }).count == 70_000)
        #expect(flows.allSatisfy { $0.vlan.rawValue == 100 && $0.destinationVLAN.rawValue == 200 })
    }

    // MARK: The image

    @Test func theImageIsWellFormed() throws {
        var machine = BenchReport.Machine(
            cpu: "<CPU> & \"more\"", cores: 2, kernel: "6.1", vrouter: "0", date: "2026", memoryBytes: 8 << 30,
            driver: .ebpf,
            generatorCore: 0)
        machine.generator = []
        var report = BenchReport(machine: machine)
        #expect(try texts(of: report.plot).contains { $0.contains("<CPU> & \"more\"") })
        for (datapath, rate) in [("kernel", 0.5), ("a<b>&\"c\"", 0.0), ("third", .infinity)] {
            for size in [64, 1518] {
                var cell = BenchReport.Cell(
                    datapath: datapath, rules: .article, frameBytes: size, flows: 1, routes: 2, maxMpps: rate,
                    cpuNanosecondsPerPacket: 1)
                cell.lossFreeMpps = rate / 2
                cell.latencyMicroseconds = .init(p50: 0.5, p99: 20, p999: 12_345, atMpps: 0.1)
                report.results.append(cell)
            }
            report.results.append(
                .init(
                    datapath: datapath, rules: .article, frameBytes: 64, flows: 70_000, routes: 2, maxMpps: rate,
                    cpuNanosecondsPerPacket: 1))
            report.tcp.append(.init(datapath: datapath, rules: .none, connections: 8, gbitPerSecond: rate))
        }
        let texts = try texts(of: report.plot)
        for expected in ["kernel", "a<b>&\"c\"", "64", "1518", "microseconds", "Gbit/s", "8", "100000", "70000"] {
            #expect(texts.contains(expected), "\(expected) in \(texts)")
        }
    }

    /// The texts of an image, read by somebody else's parser.
    private func texts(of svg: String) throws -> [String] {
        let script = """
            import sys, xml.etree.ElementTree as tree
            for text in tree.parse(sys.stdin).getroot().iter('{http://www.w3.org/2000/svg}text'): print(text.text)
            """
        let run = try ChildProcess.run(["python3", "-c", script], input: svg)
        try #require(run.status == 0, "\(run.errors)")
        return run.output.split(separator: "\n").map(String.init)
    }
}
