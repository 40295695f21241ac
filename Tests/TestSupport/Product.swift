import Kernel

/// The `vrouter` that the tests run.
public enum Product {
    /// What users run where `VROUTER_TEST_PRODUCT` names it, and else the same as `withFaults`.
    public static let path = ThisProcess.environment["VROUTER_TEST_PRODUCT"] ?? withFaults

    /// For a command with this environment.
    public static func path(in environment: [String: String]) -> String {
        environment["VROUTER_FAULT"] == nil ? path : withFaults
    }

    /// Built together with the tests, so that `VROUTER_FAULT` makes its steps fail. Beside the test bundle, which is this process's
    /// program, or an argument of the one that runs it.
    public static let withFaults: String = {
        let bundle = CommandLine.arguments.first { $0.contains(".xctest") } ?? CommandLine.arguments[0]
        let product = bundle[..<(bundle.firstRange(of: ".xctest")?.lowerBound ?? bundle.endIndex)]
        let folder = product.lastIndex(of: "/").map { product[..<$0] } ?? "."
        return "\(folder)/vrouter"
    }()
}
