import ArgumentParser
import Kernel
import Router

struct Install: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make `vrouter run` a service of this host, which starts with it.",
        discussion: """
            Writes vrouter.service for systemd, and files that keep systemd-networkd and NetworkManager from the gateway interfaces. It starts \
            nothing: `systemctl daemon-reload` and `systemctl enable --now vrouter` do. Run it again when the names of interfaces, \
            the driver or the fast path in the configuration change; where nothing does, nothing is written. Files that vrouter has not \
            written are not touched.
            """)

    @Flag(help: "For systemd, the only manager of services that this knows.")
    var systemd = false

    @Option(
        name: [.customShort("f"), .customLong("file")],
        help: ArgumentHelp("The configuration file that the service is to use.", valueName: "file"))
    var file = ConfigurationFile.defaultPath

    @Option(
        help: ArgumentHelp(
            "The folder that is the root of the host, where that is not this one: of a package or an image.",
            valueName: "folder"))
    var root: String?

    @Flag(help: "Take the files away again.")
    var remove = false

    @Flag(help: "Print the files, and write nothing.")
    var dryRun = false

    func validate() throws {
        guard systemd else { throw ValidationError("name the manager of services: --systemd") }
    }

    func run() throws {
        let installation = Installation(root: root)
        let changes = try reportingFailure { () throws(Failure) in
            remove
                ? try installation.removeService(dryRun: dryRun)
                : try installation.addService(file: file, program: ThisProcess.executable, dryRun: dryRun)
        }
        for change in changes {
            if dryRun, change.kind == .written {
                print("\(change.path):\n\(change.text ?? "")")
            } else {
                print("\(change.path): \(dryRun && change.kind == .removed ? "to be removed" : change.kind.rawValue)")
            }
        }
        guard changes.contains(where: { $0.kind != .unchanged }) else {
            if changes.isEmpty { print("nothing to do") }
            return
        }
        guard !dryRun else { return }
        print(
            """
            systemd, networkd and NetworkManager read them with:
              systemctl daemon-reload; networkctl reload; nmcli general reload
            """)
        if !remove { print("it starts, now and with the host, with:\n  systemctl enable --now vrouter.service") }
    }
}
