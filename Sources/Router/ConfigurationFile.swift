import Kernel
import SystemPackage

/// A configuration as a file says it: YAML, or its subset JSON.
public struct ConfigurationFile: Hashable, Sendable {
    public var configuration: Configuration
    /// How the gateway interfaces are made; nil: what is in use, or the first that the kernel has.
    public var driver: Driver?

    public init(_ configuration: Configuration, driver: Driver?) {
        self.configuration = configuration
        self.driver = driver
    }

    public static let defaultPath = "/etc/vrouter/vrouter.yaml"
    /// In octets: ten times what 4,094 VLANs need.
    static let largest = 4 << 20

    /// - Parameters:
    ///   - path: `-` is standard input.
    ///   - parent: the trunk where the file names none.
    /// - Throws: everything that is wrong with the file, each as `FILE:LINE:COLUMN: what is wrong`.
    public init(path: String, parent: () throws(Failure) -> String) throws(Failure) {
        let octets: [UInt8]
        do {
            octets = try SmallFile.read(path == "-" ? "/dev/stdin" : path, atMost: Self.largest + 1)
        } catch {
            let kind: Failure.Kind = error.errno == .permissionDenied ? .notPermitted : .usage
            throw Failure(
                kind, "\(path): the configuration file cannot be read: \(error.errno)",
                remedy: "name another with -f FILE")
        }
        try self.init(octets, name: path == "-" ? "<stdin>" : path, parent: parent)
    }

    /// - Parameter name: of the file, for what is wrong with it.
    init(_ octets: [UInt8], name: String, parent: () throws(Failure) -> String) throws(Failure) {
        var reader = ConfigurationFileReader()
        let root: FileNode?
        do {
            root = try FileNode(yaml: try Self.text(octets))
        } catch {
            throw Self.failure([error], name)
        }
        var withoutParent: Failure?
        let file = reader.read(root) {
            do throws(Failure) {
                return try parent()
            } catch {
                withoutParent = error
                return nil
            }
        }
        guard reader.mistakes.isEmpty else { throw Self.failure(reader.mistakes, name) }
        // What is wrong in the file comes first: the host may be another one.
        if let withoutParent { throw withoutParent }
        self = file
        do {
            _ = try configuration.policy()
        } catch {
            throw Self.failure([FileMistake(mark: FileMark(), text: error.message)], name)
        }
    }

    private static func text(_ octets: [UInt8]) throws(FileMistake) -> String {
        guard octets.count <= largest else {
            throw FileMistake(
                mark: FileMark(offset: largest, in: octets), text: "the file has more than \(largest >> 20) MiB")
        }
        // A mark of the byte order, with which some editors begin a file, is not a column.
        let mark: [UInt8] = [0xef, 0xbb, 0xbf]
        let octets = octets.starts(with: mark) ? Array(octets.dropFirst(mark.count)) : octets
        if let text = String(validating: octets, as: UTF8.self) { return text }
        var rest = octets.makeIterator()
        var decoder = UTF8()
        var place = FileMark()
        while case .scalarValue(let scalar) = decoder.decode(&rest) {
            if scalar == "\n" { place = FileMark(line: place.line + 1) } else { place.column += 1 }
        }
        throw FileMistake(mark: place, text: "the file is not UTF-8")
    }

    /// More say nothing new.
    private static let mostMistakes = 50

    private static func failure(_ mistakes: [FileMistake], _ name: String) -> Failure {
        // What follows from one place is said once.
        var seen: Set<FileMistake> = []
        let sorted = mistakes.filter { seen.insert($0).inserted }.sorted { ($0.mark, $0.text) < ($1.mark, $1.text) }
        var lines = [
            "the configuration file has \(sorted.count == 1 ? "a mistake" : "\(sorted.count) mistakes"), nothing was changed:"
        ]
        lines += sorted.prefix(mostMistakes).map { "\(name):\($0.mark.line):\($0.mark.column): \($0.text)" }
        if sorted.count > mostMistakes { lines.append("… and \(sorted.count - mostMistakes) more") }
        return Failure(.usage, lines.joined(separator: "\n"))
    }
}

extension ConfigurationFile {
    /// Writes a new file, to be edited.
    ///
    /// - Parameter schema: as of `Style.commented`.
    public func create(_ path: String, schema: String) throws(Failure) {
        do {
            try SmallFile.create(path, with: Array(text(.commented(schema: schema)).utf8))
        } catch {
            let isThere = error.errno == .fileExists
            throw Failure(
                error.errno == .permissionDenied ? .notPermitted : .usage,
                isThere ? "\(path) is there already" : "\(path) cannot be written: \(error.errno)",
                remedy: isThere ? "name another file, or move that one away" : "name another file, or make its folder")
        }
    }

    /// What `up` has applied in the calling thread's network namespace; nil where it has not been.
    public static func running() throws(Failure) -> ConfigurationFile? {
        try StateFile().load().map { ConfigurationFile($0.configuration, driver: $0.driver) }
    }
}
