import Kernel

/// Gone with the last reference.
public final class TemporaryFile {
    public let path = "/tmp/vrouter-test-\(UInt32.random(in: 0 ... .max))"

    /// - Parameter content: nil makes only a name.
    public init(_ content: String? = nil) {
        if let content { _ = try? ChildProcess.run(["tee", path], input: content) }
    }

    deinit { _ = try? SmallFile.delete(path) }
}
