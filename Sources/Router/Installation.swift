import Kernel
import SystemPackage

/// Files of vrouter's on a host: written, brought up to date, taken away, and never in the place of somebody else's.
public struct Installation {
    /// What becomes of a file.
    public struct Change: Sendable {
        public enum Kind: String, Sendable {
            case written
            case unchanged = "up to date"
            case removed
        }

        public var path: String
        public var kind: Kind
        /// What is in it then.
        public var text: String?
    }

    /// The folder that is `/` of the host; empty: this one's.
    private let root: String

    public init(root: String?) {
        var root = root ?? ""
        while root.hasSuffix("/") { root.removeLast() }
        self.root = root
    }

    /// What makes `vrouter run -f FILE` a service of systemd.
    ///
    /// - Parameters:
    ///   - file: the configuration file, as the service names it.
    ///   - program: the program, as it is found here.
    ///   - dryRun: only say what would be done.
    public func addService(file: String, program: String, dryRun: Bool) throws(Failure) -> [Change] {
        try requireVisible(
            file, "the configuration file",
            remedy: "put it where services can read it: \(ConfigurationFile.defaultPath)")
        let program = root.isEmpty || !program.hasPrefix("\(root)/") ? program : String(program.dropFirst(root.count))
        try requireVisible(program, "the program", remedy: "install it first: make install")
        let wanted = try ConfigurationFile(path: root + file) { () throws(Failure) in
            // Without a default route, any interface could be the trunk.
            throw Failure(
                .usage, "\(file) names no trunk, and while the host starts nobody can tell which one it is",
                remedy: "write it into the file, as 'parent: IF'")
        }
        let files = SystemdFiles(
            configuration: wanted.configuration, usesPrograms: usesPrograms(wanted), program: program, file: file)
        return try apply(files.files, dryRun)
    }

    /// The opposite of `addService`.
    public func removeService(dryRun: Bool) throws(Failure) -> [Change] {
        // A link to a file that is gone would be left.
        guard !SmallFile.names(in: "\(root)/etc/systemd/system/multi-user.target.wants").contains("vrouter.service")
        else {
            throw Failure(
                .usage, "vrouter.service starts with the host; nothing was changed",
                remedy: "systemctl disable --now vrouter.service")
        }
        return try apply(SystemdFiles.paths.map { ($0, nil) }, dryRun)
    }

    /// Whether BPF programs do a part of the work. Of another host's kernel, nothing is known.
    private func usesPrograms(_ file: ConfigurationFile) -> Bool {
        if file.configuration.fastPath != nil || file.configuration.vlans.contains(where: { $0.driver == .ebpf }) {
            return true
        }
        if file.driver == nil, !root.isEmpty { return true }
        return (try? Driver.choose(file.driver)) != .ieee8021q && file.driver != .ieee8021q
    }

    /// A service has a /tmp of its own, and no /home.
    private func requireVisible(_ path: String, _ what: String, remedy: String) throws(Failure) {
        let hidden = ["/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"].first { path.hasPrefix($0) }
        guard path.hasPrefix("/"), hidden == nil else {
            throw Failure(
                .usage,
                hidden.map { "\(path): \(what) is below \($0), which the service does not see" }
                    ?? "\(path): a service needs the whole path of \(what)", remedy: remedy)
        }
    }

    private func apply(_ files: [(path: String, text: String?)], _ dryRun: Bool) throws(Failure) -> [Change] {
        var changes: [Change] = []
        for (path, text) in files {
            let present = try read(path)
            if let present, !present.hasPrefix(SystemdFiles.marker) {
                throw Failure(
                    .usage, "\(root)\(path) is there already, and vrouter has not written it; nothing was changed",
                    remedy: "see what it is for, and move it away")
            }
            if let text {
                changes.append(Change(path: path, kind: present == text ? .unchanged : .written, text: text))
            } else if present != nil {
                changes.append(Change(path: path, kind: .removed))
            }
        }
        guard !dryRun else { return changes }
        for change in changes {
            do throws(KernelError) {
                switch change.kind {
                case .unchanged: break
                case .removed: try SmallFile.delete(root + change.path)
                case .written:
                    makeFolders(of: change.path)
                    try SmallFile.replace(root + change.path, with: Array((change.text ?? "").utf8))
                }
            } catch {
                throw Failure(
                    error.isPermission ? .notPermitted : .unavailable, "\(error)",
                    remedy: "run it as root, where \(root)/etc can be written to; once more does what is missing")
            }
        }
        return changes
    }

    /// nil: there is none.
    private func read(_ path: String) throws(Failure) -> String? {
        do {
            return String(decoding: try SmallFile.read(root + path), as: UTF8.self)
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw Failure(
                error.isPermission ? .notPermitted : .usage, "\(error)", remedy: "move away whatever is in its place")
        }
    }

    private func makeFolders(of path: String) {
        var folder = root
        for name in path.split(separator: "/").dropLast() {
            folder += "/\(name)"
            SmallFile.makeDirectory(folder)
        }
    }
}
