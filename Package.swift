// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .strictMemorySafety(), .treatAllWarnings(as: .error),
    // A member comes from a module that its file imports: without this, all of Foundation slips into the program.
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "vrouter",
    products: [
        .executable(name: "vrouter", targets: ["vrouter"])
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    ],
    targets: [
        // C: headers and system libraries
        .target(name: "CLinux"),
        .systemLibrary(name: "CMnl", pkgConfig: "libmnl", providers: [.apt(["libmnl-dev"])]),
        .systemLibrary(name: "CNftnl", pkgConfig: "libnftnl", providers: [.apt(["libnftnl-dev"])]),
        .systemLibrary(name: "CBPF", pkgConfig: "libbpf", providers: [.apt(["libbpf-dev"])]),

        // The BPF programs are C in Sources/Kernel/BPF, compiled by the toolchain's clang and embedded as bytes.
        .plugin(name: "CompileBPF", capability: .buildTool(), dependencies: ["embed-object"]),
        .executableTarget(name: "embed-object", swiftSettings: strict),

        .target(name: "Packets", swiftSettings: strict),
        .target(name: "Firewall", dependencies: ["Packets"], swiftSettings: strict),
        .target(
            name: "Kernel",
            dependencies: [
                "CLinux", "CMnl", "CNftnl", "CBPF", "Packets", "Firewall",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            exclude: ["BPF"],
            swiftSettings: strict,
            plugins: ["CompileBPF"]),
        .target(
            name: "Router",
            dependencies: [
                "Kernel", "Firewall", "Packets",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: strict),
        .target(
            name: "Lab", dependencies: ["Router", "Kernel", "Packets"], exclude: ["BPF"], swiftSettings: strict,
            plugins: ["CompileBPF"]),
        .executableTarget(
            name: "vrouter",
            dependencies: [
                "Router", "Lab", "Firewall", "Kernel", "Packets",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),

        .target(name: "TestSupport", dependencies: ["Kernel"], path: "Tests/TestSupport", swiftSettings: strict),
        .testTarget(name: "PacketsTests", dependencies: ["Packets"], swiftSettings: strict),
        .testTarget(name: "FirewallTests", dependencies: ["Firewall", "Packets"], swiftSettings: strict),
        .testTarget(
            name: "KernelTests", dependencies: ["Kernel", "Firewall", "Packets", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "RouterTests", dependencies: ["Router", "Kernel", "Firewall", "Packets"], swiftSettings: strict),
        .testTarget(
            name: "SystemTests", dependencies: ["Kernel", "Packets", "Router", "TestSupport"], swiftSettings: strict),
    ]
)
