import Kernel

/// The `vrouter` that was built together with the tests.
public enum Product {
    /// Beside the test bundle, which is this process's program, or an argument of the one that runs it.
    public static let path: String = {
        let bundle = CommandLine.arguments.first { $0.contains(".xctest") } ?? CommandLine.arguments[0]
        let product = bundle[..<(bundle.range(ofXCTest: ".xctest") ?? bundle.endIndex)]
        let folder = product.lastIndex(of: "/").map { product[..<$0] } ?? "."
        return "\(folder)/vrouter"
    }()
}

extension String {
    fileprivate func range(ofXCTest marker: String) -> Index? { firstRange(of: marker)?.lowerBound }
}
