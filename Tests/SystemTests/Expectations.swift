import Kernel
import TestSupport
import Testing

/// The host is as it was: every line of every tool. The first difference ends the test: what follows would only repeat it.
func requireUnchanged(
    _ host: TestHost, since before: [String], _ comment: String = "", sourceLocation: SourceLocation = #_sourceLocation
) throws {
    let changes = differences(before, try host.snapshot())
    try #require(
        changes.isEmpty, "\(comment)\n\(changes.joined(separator: "\n"))", sourceLocation: sourceLocation)
}

/// The host is not as it was.
func requireChanged(_ host: TestHost, since before: [String], sourceLocation: SourceLocation = #_sourceLocation) throws
{
    try #require(try host.snapshot() != before, sourceLocation: sourceLocation)
}

/// Whether this is the virtual machine of `make test`: ten times slower than a real one.
var isEmulated: Bool { ThisProcess.environment["VROUTER_TEST_IN_VM"] == "1" }

/// For a test that takes minutes where the machine is emulated, and shows little there that others do not.
let whereItIsFast: ConditionTrait = .enabled(
    if: !isEmulated || ThisProcess.environment["VROUTER_TEST_EVERYTHING"] == "1",
    "takes minutes where the machine is emulated: there, `make test VM=all` runs it")
