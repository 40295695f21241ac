// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .strictMemorySafety(), .treatAllWarnings(as: .error),
    // A member comes from a module that its file imports: without this, all of Foundation slips into the program.
    .enableUpcomingFeature("MemberImportVisibility"),
]

// Views of packets that cannot outlive the octets.
let views: [SwiftSetting] = [.enableExperimentalFeature("Lifetimes")]

let package = Package(
    name: "vrouter",
    products: [
        .executable(name: "vrouter", targets: ["vrouter"]),
        // What benchmarks/micro measures; `swift build --product vrouter` builds none of it that the program does not use.
        .library(name: "DataPath", targets: ["Packets", "Routing", "Forwarding"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // C: headers and system libraries
        .target(name: "CLinux"),
        .target(name: "CPrefetch"),
        .systemLibrary(name: "CMnl", pkgConfig: "libmnl", providers: [.apt(["libmnl-dev"])]),
        .systemLibrary(name: "CNftnl", pkgConfig: "libnftnl", providers: [.apt(["libnftnl-dev"])]),
        .systemLibrary(name: "CBPF", pkgConfig: "libbpf", providers: [.apt(["libbpf-dev"])]),
        .systemLibrary(name: "CPcap", pkgConfig: "libpcap", providers: [.apt(["libpcap-dev"])]),

        // The BPF programs are C in Sources/Kernel/BPF, compiled by the toolchain's clang and embedded as bytes.
        .plugin(name: "CompileBPF", capability: .buildTool(), dependencies: ["embed-object"]),
        .executableTarget(name: "embed-object", swiftSettings: strict),

        .target(name: "Packets", swiftSettings: strict + views),
        .target(name: "Routing", dependencies: ["CPrefetch", "Packets"], swiftSettings: strict),
        .target(name: "Forwarding", dependencies: ["Packets", "Routing"], swiftSettings: strict + views),
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
            name: "PacketIO",
            dependencies: [
                "CLinux", "CPcap", "CPrefetch", "Kernel", "Packets",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: strict),
        .target(
            name: "DataPlane",
            dependencies: [
                "PacketIO", "Forwarding", "Kernel", "Packets",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: strict),
        .target(
            name: "Router",
            dependencies: [
                "DataPlane", "PacketIO", "Forwarding", "Routing", "Kernel", "Firewall", "Packets",
                .product(name: "SystemPackage", package: "swift-system"), "Yams",
            ],
            swiftSettings: strict),
        .target(
            name: "Lab", dependencies: ["Router", "Kernel", "Packets"], exclude: ["BPF"], swiftSettings: strict,
            plugins: ["CompileBPF"]),
        .executableTarget(
            name: "vrouter",
            dependencies: [
                "Router", "Lab", "Firewall", "Kernel", "Packets", "Forwarding", "PacketIO",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),

        .target(
            name: "TestSupport", dependencies: ["Firewall", "Forwarding", "Kernel", "Packets"],
            path: "Tests/TestSupport",
            swiftSettings: strict),
        .testTarget(name: "PacketsTests", dependencies: ["Packets", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "PacketIOTests", dependencies: ["PacketIO", "Packets", "Kernel", "TestSupport"], swiftSettings: strict
        ),
        .testTarget(name: "RoutingTests", dependencies: ["Routing", "Packets", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "ForwardingTests",
            dependencies: ["Forwarding", "Packets", "Routing", "PacketIO", "Kernel", "TestSupport"],
            swiftSettings: strict),
        .testTarget(
            name: "FirewallTests", dependencies: ["Firewall", "Packets", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "KernelTests", dependencies: ["Kernel", "Firewall", "Packets", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "RouterTests",
            dependencies: [
                "Router", "Kernel", "Firewall", "Packets", "TestSupport",
                .product(name: "SystemPackage", package: "swift-system"),
            ], swiftSettings: strict),
        .testTarget(
            name: "BenchTests", dependencies: ["Lab", "Router", "Kernel", "Packets"], swiftSettings: strict),
        .testTarget(
            name: "SystemTests",
            dependencies: [
                "DataPlane", "Firewall", "Kernel", "Packets", "Router", "Forwarding", "PacketIO", "TestSupport",
            ],
            swiftSettings: strict),
    ]
)
