// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "micro",
    dependencies: [.package(name: "vrouter", path: "../..")],
    targets: [
        .executableTarget(
            name: "micro",
            dependencies: [.product(name: "DataPath", package: "vrouter")],
            swiftSettings: [.swiftLanguageMode(.v6), .strictMemorySafety(), .treatAllWarnings(as: .error)])
    ]
)
