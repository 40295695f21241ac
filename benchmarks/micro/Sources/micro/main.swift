import Foundation

let usage = """
    usage: micro packets [--rounds N] [--json FILE]
           micro routing [--rounds N] [--peer PROGRAM] [--json FILE]
      --peer   the program of benchmarks/peers/rte_lpm, to measure in turn with
      --json   also write all rounds there
    """

var rounds = 11
var peer: String?
var json: String?
var arguments = CommandLine.arguments.dropFirst()

let benchmark = arguments.popFirst()
guard benchmark == "packets" || benchmark == "routing" else {
    print(usage)
    exit(2)
}
while let option = arguments.popFirst() {
    switch (option, arguments.popFirst()) {
    case ("--rounds", let value?): rounds = max(Int(value) ?? 1, 1)
    case ("--peer", let value?): peer = value
    case ("--json", let value?): json = value
    default:
        print(usage)
        exit(2)
    }
}

do {
    let encoded: Data
    if benchmark == "packets" {
        let results = try interleaved(try packetCases(), rounds: rounds)
        print(packetTable(results))
        encoded = try JSONEncoder().encode(results)
    } else {
        var benchmark = RoutingBenchmark(peer: peer, rounds: rounds)
        let report = try benchmark.run()
        print(report.text)
        encoded = try JSONEncoder().encode(report)
    }
    if let json { try encoded.write(to: URL(fileURLWithPath: json)) }
} catch {
    FileHandle.standardError.write(Data("micro: \(error)\n".utf8))
    exit(1)
}
