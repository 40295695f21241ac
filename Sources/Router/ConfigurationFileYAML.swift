// The YAML of a configuration file: its text as a tree that knows where everything stands.

import Yams

/// Where something stands in a file, both from 1; columns count Unicode scalars.
struct FileMark: Hashable, Comparable {
    var line = 1
    var column = 1

    static func < (left: Self, right: Self) -> Bool { (left.line, left.column) < (right.line, right.column) }
}

/// A mistake in a file, and where.
struct FileMistake: Error, Hashable {
    var mark: FileMark
    var text: String
}

/// A value in a YAML file.
///
/// Scalars are kept as they are written: what is a number, a flag, a name or a VLAN id is for the reader to say. YAML itself may take
/// `100:30` for a number to the base of 60, and `no` for a truth value.
struct FileNode {
    var mark: FileMark
    var content: Content

    /// The keys of a mapping differ: the parser sees to it.
    enum Content {
        /// - isPlain: without quotation marks.
        case scalar(String, isPlain: Bool)
        case list([FileNode])
        case mapping([(key: FileNode, value: FileNode)])
    }

    /// Whether nothing stands there.
    var isMissing: Bool {
        guard case .scalar(let text, isPlain: true) = content else { return false }
        return text.isEmpty || text == "~" || text == "null"
    }

    /// nil: nothing but comments.
    init?(yaml text: String) throws(FileMistake) {
        if let mistake = Self.alias(in: text) { throw mistake }
        do {
            let parser = try Parser(yaml: text, resolver: .basic, encoding: .utf8)
            guard let root = try parser.singleRoot() else { return nil }
            // Nodes do not keep their anchors, the parser does.
            self = try withExtendedLifetime(parser) { try FileNode(root) }
        } catch let error as FileMistake {
            throw error
        } catch {
            throw FileMistake(error, in: text)
        }
    }

    private init(_ node: Node) throws {
        guard let mark = node.mark else { throw FileMistake(mark: FileMark(), text: "a value stands nowhere") }
        self.mark = FileMark(mark)
        guard node.anchor == nil else {
            throw FileMistake(mark: self.mark, text: "anchors ('&name') are not supported")
        }
        let (tag, usual): (Tag, String)
        switch node {
        case .scalar(let scalar):
            content = .scalar(scalar.string, isPlain: scalar.style == .plain)
            (tag, usual) = (scalar.tag, "str")
        case .sequence(let sequence):
            content = .list(try sequence.map(FileNode.init))
            (tag, usual) = (sequence.tag, "seq")
        case .mapping(let mapping):
            content = .mapping(try mapping.map { (try FileNode($0.key), try FileNode($0.value)) })
            (tag, usual) = (mapping.tag, "map")
        case .alias: throw FileMistake(mark: self.mark, text: "aliases ('*name') are not supported")
        }
        guard ["", "tag:yaml.org,2002:\(usual)"].contains(tag.rawValue) else {
            throw FileMistake(mark: self.mark, text: "tags ('\(tag.rawValue)') are not supported")
        }
    }

    /// An alias of an anchor: a file of ten lines may be a tree of ten thousand million nodes by them, so that they are found before there
    /// is a tree. Both are looked for wherever they could stand, also in comments.
    private static func alias(in text: String) -> FileMistake? {
        var anchors: Set<String> = []
        var mark = FileMark()
        var before: Unicode.Scalar = " "
        let scalars = text.unicodeScalars
        guard scalars.contains("&") else { return nil }
        var index = scalars.startIndex
        while index < scalars.endIndex {
            let scalar = scalars[index]
            let next = scalars.index(after: index)
            if scalar == "&" || scalar == "*", " \t\n\r[{,:-?".unicodeScalars.contains(before) {
                let name = String(
                    scalars[next...].prefix {
                        $0.isASCII && ($0.properties.isAlphabetic || $0.properties.numericType != nil) || $0 == "-"
                            || $0 == "_"
                    })
                if scalar == "*", anchors.contains(name) {
                    return FileMistake(mark: mark, text: "aliases ('*\(name)') are not supported")
                }
                if scalar == "&", !name.isEmpty { anchors.insert(name) }
            }
            mark = scalar == "\n" ? FileMark(line: mark.line + 1) : FileMark(line: mark.line, column: mark.column + 1)
            before = scalar
            index = next
        }
        return nil
    }
}

extension FileMark {
    fileprivate init(_ mark: Mark) { self.init(line: max(1, mark.line), column: max(1, mark.column)) }

    /// Behind so many octets.
    init(offset: Int, in octets: some Sequence<UInt8>) {
        self.init()
        for octet in octets.prefix(offset) {
            if octet == UInt8(ascii: "\n") {
                self = FileMark(line: line + 1)
            } else if octet & 0xc0 != 0x80 {
                column += 1
            }
        }
    }
}

extension FileMistake {
    /// What the parser says of a text.
    fileprivate init(_ error: any Error, in text: String) {
        guard let error = error as? YamlError else {
            self.init(mark: FileMark(), text: "not YAML: \(error)")
            return
        }
        switch error {
        case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _):
            let problem = problem.contains("nesting level") ? "it is nested too deeply" : problem
            let context = context.map { " \($0.text)" } ?? ""
            self.init(mark: FileMark(mark), text: "not YAML:\(context): \(problem)".replacing("YAML::", with: "YAML:"))
        case .composer(_, let problem, let mark, _):
            let text = problem.contains("another document") ? "a second document begins here" : "not YAML: \(problem)"
            self.init(mark: FileMark(mark), text: text)
        case .reader(let problem, let offset, _, _):
            self.init(mark: FileMark(offset: offset ?? 0, in: text.utf8), text: "not YAML: \(problem)")
        case .duplicatedKeysInMapping(let keys, let context):
            self.init(mark: FileMark(context.mark), text: "'\(keys.first ?? "")' is given twice")
        default: self.init(mark: FileMark(), text: "not YAML: \(error)")
        }
    }
}
