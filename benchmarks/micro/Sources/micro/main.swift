import Foundation

let usage = """
    usage: micro routing [--rounds N] [--peer PROGRAM] [--json FILE]
      --peer   the program of benchmarks/peers/rte_lpm, to measure in turn with
      --json   also write all rounds there
    """

var rounds = 11
var peer: String?
var json: String?
var arguments = CommandLine.arguments.dropFirst()

guard arguments.popFirst() == "routing" else {
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
    var benchmark = RoutingBenchmark(peer: peer, rounds: rounds)
    let report = try benchmark.run()
    print(report.text)
    if let json { try JSONEncoder().encode(report).write(to: URL(fileURLWithPath: json)) }
} catch {
    FileHandle.standardError.write(Data("micro: \(error)\n".utf8))
    exit(1)
}
