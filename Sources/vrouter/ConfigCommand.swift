import ArgumentParser
import Kernel
import Router

struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config",
        abstract: "Check, show or begin a configuration file.",
        subcommands: [Check.self, Show.self, Init.self])

    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Look for mistakes in a configuration file.",
            discussion: """
                Needs no privileges and changes nothing. Every mistake is a line FILE:LINE:COLUMN: what is wrong. What only the host knows \
                (whether an interface is there, whether another has an address) is for `up --dry-run -f FILE`.
                """)

        @Option(
            name: [.customShort("f"), .customLong("file")],
            help: ArgumentHelp("The file; '-' is standard input.", valueName: "file"))
        var file = ConfigurationFile.defaultPath

        func run() throws {
            var trunk: String?
            let checked = try reportingFailure { () throws(Failure) in
                try ConfigurationFile(path: file) {
                    // The file may be for another host.
                    trunk = "a trunk that it does not name"
                    return (try? Parent.find()) ?? "trunk"
                }
            }
            print("\(file): \(checked.configuration.summary(trunk: trunk)); no mistakes")
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print a configuration as a file that says all of it, also what holds without being said.",
            discussion: "Without options and file it is the configuration that `up` has applied here.")

        @OptionGroup var routing: RoutingOptions
        @OptionGroup var path: PathOptions

        func run() throws { print(try routing.configurationOrRunning(path).text(.complete), terminator: "") }
    }

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init",
            abstract: "Write a configuration file with comments, to be edited.",
            discussion: """
                It says what the options say; without any, what `up` has applied here.

                  vrouter config init --vlan 100=172.16.10.1/24 --vlan 200=172.16.20.1/24 -o /etc/vrouter/vrouter.yaml
                """)

        @OptionGroup var routing: RoutingOptions
        @OptionGroup var path: PathOptions

        @Option(
            name: [.customShort("o"), .customLong("output")],
            help: ArgumentHelp(
                "The file; one that is there is not overwritten. Default: standard output.", valueName: "file"))
        var output: String?

        func run() throws {
            let file = try routing.configurationOrRunning(path)
            guard let output, output != "-" else {
                return print(file.text(.commented(schema: Self.schema)), terminator: "")
            }
            try reportingFailure { () throws(Failure) in try file.create(output, schema: Self.schema) }
            print("\(output): written; `vrouter up -f \(output)` applies it")
        }

        /// Where `make install` puts the schema: beside the program's own folder.
        private static var schema: String {
            let folders = ThisProcess.executable.split(separator: "/").dropLast()
            let prefix = folders.last == "bin" ? folders.dropLast() : ["usr", "local"]
            return "/\(prefix.joined(separator: "/"))/share/vrouter/vrouter.schema.json"
        }
    }
}

extension Configuration {
    /// - Parameter trunk: instead of the parent's name.
    fileprivate func summary(trunk: String?) -> String {
        let counts = [
            (vlans.count, "VLAN"), (Set(vlans.map(\.zone)).count, "zone"), (portForwards.count, "port forward"),
            (routes.count, "route"),
        ]
        return counts.filter { $0.0 > 0 }.map { "\($0) \($1)\($0 == 1 ? "" : "s")" }.joined(separator: ", ")
            + " on \(trunk ?? parent)"
    }
}
