import Foundation
import PackagePlugin

/// Compiles each `*.bpf.c` of a target with the Swift toolchain's own clang and embeds the object in the target as a byte array
/// named after the file: `vlan.bpf.c` becomes `let vlanObject: [UInt8]`.
@main
struct CompileBPF: BuildToolPlugin {
    func createBuildCommands(context: PluginContext, target: Target) throws -> [Command] {
        guard let module = target.sourceModule else { return [] }
        let clang = try context.tool(named: "clang").url
        let embed = try context.tool(named: "embed-object").url
        // <asm/types.h> lives below the multiarch folder on Debian, and only the one of this machine is installed.
        let multiarch =
            (try? FileManager.default.contentsOfDirectory(atPath: "/usr/include"))?
            .filter { $0.hasSuffix("-linux-gnu") }.sorted().map { "-I/usr/include/\($0)" } ?? []

        let sources = try FileManager.default.contentsOfDirectory(
            at: module.directoryURL.appending(path: "BPF"), includingPropertiesForKeys: nil)
        return sources.filter { $0.lastPathComponent.hasSuffix(".bpf.c") }.sorted { $0.path < $1.path }.flatMap {
            source in
            let name = source.lastPathComponent.replacing(".bpf.c", with: "")
            let object = context.pluginWorkDirectoryURL.appending(path: "\(name).bpf.o")
            let swift = context.pluginWorkDirectoryURL.appending(path: "\(name).bpf.swift")
            return [
                Command.buildCommand(
                    displayName: "Compiling \(source.lastPathComponent)", executable: clang,
                    arguments: ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf"] + multiarch
                        + ["-c", source.path, "-o", object.path],
                    inputFiles: [source], outputFiles: [object]),
                Command.buildCommand(
                    displayName: "Embedding \(object.lastPathComponent)", executable: embed,
                    arguments: [object.path, swift.path, "\(name)Object"],
                    inputFiles: [object], outputFiles: [swift]),
            ]
        }
    }
}
