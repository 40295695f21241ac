// embed-object INPUT OUTPUT NAME: writes the bytes of the file INPUT as a Swift array called NAME.
// Runs at build time only, on BPF objects of a few kilobytes.
import Foundation

let arguments = CommandLine.arguments
guard arguments.count == 4 else {
    FileHandle.standardError.write(Data("usage: embed-object INPUT OUTPUT NAME\n".utf8))
    exit(64)
}
let bytes = try Data(contentsOf: URL(fileURLWithPath: arguments[1]))
let source = "let \(arguments[3]): [UInt8] = [\(bytes.map(String.init).joined(separator: ","))]\n"
try Data(source.utf8).write(to: URL(fileURLWithPath: arguments[2]))
