// What several subcommands ask for, and how all of them speak.

import ArgumentParser
import Firewall
import FoundationEssentials
import Kernel
import Router

extension Policy.Masquerade: ExpressibleByArgument {}
extension Driver: ExpressibleByArgument {}

/// The VLANs, and what every kernel does between them.
struct VLANOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "The interface on the trunk port. Default: the only Ethernet interface that is hardware and does not carry the default route.",
            valueName: "interface"))
    var parent: String?

    @Option(
        name: .customLong("vlan"), parsing: .singleValue,
        help: ArgumentHelp(
            "A VLAN and the router's addresses in it, IPv4 or IPv6; once for each VLAN. For example 100=172.16.10.1/24,fd00:10::1/64; 100.200=… is VLAN 200 within VLAN 100",
            valueName: "id=address/length,…"))
    var vlans: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            Which IPv4 packets get the router's own address as their source: 'vlans', those that leave into a VLAN; 'uplink', those \
            that leave from a VLAN to the outside; 'all', both; 'none'. Default: vlans.
            """, valueName: "vlans|uplink|all|none"))
    var masquerade: Policy.Masquerade?

    @Option(
        name: .customLong("deny"), parsing: .singleValue,
        help: ArgumentHelp(
            "Hosts of the first VLAN may not open connections to hosts of the second. Can be repeated.",
            valueName: "from:to"))
    var denied: [String] = []
}

/// The VLANs and the policy, by options or by a file.
struct RoutingOptions: ParsableArguments {
    @Option(
        name: [.customShort("f"), .customLong("file")],
        help: ArgumentHelp(
            "A configuration file, which then says everything that these options say; '-' is standard input.",
            valueName: "file"))
    var file: String?

    @OptionGroup var vlan: VLANOptions

    @Option(
        name: .customLong("trunk"), parsing: .singleValue,
        help: ArgumentHelp(
            "The interface that carries a VLAN, where it is not that of --parent. Can be repeated.",
            valueName: "id=interface"))
    var trunks: [String] = []

    @Option(
        name: .customLong("outer"), parsing: .singleValue,
        help: ArgumentHelp(
            "The VLAN around a VLAN, whose frames have the tags of both. Can be repeated.", valueName: "id=outer"))
    var outers: [String] = []

    @Option(
        name: .customLong("name"), parsing: .singleValue,
        help: ArgumentHelp(
            "The name of the gateway interface of a VLAN. Default: <parent>.<id>. Can be repeated.",
            valueName: "id=name"))
    var names: [String] = []

    @Option(
        name: .customLong("mtu"), parsing: .singleValue,
        help: ArgumentHelp(
            "The MTU of a VLAN, in octets of the IP packet. Default: that of the trunk. Can be repeated.",
            valueName: "id=octets"))
    var mtus: [String] = []

    @Option(
        name: .customLong("driver"), parsing: .singleValue,
        help: ArgumentHelp(
            "How the gateway interface of a VLAN is made, where that is not as --vlan-driver says. Can be repeated.",
            valueName: "id=8021q|ebpf"))
    var drivers: [String] = []

    @Option(
        name: .customLong("zone"), parsing: .singleValue,
        help: ArgumentHelp(
            "The zone that a VLAN is in, for --policy. Default: vlans. Can be repeated.", valueName: "id=name"))
    var zones: [String] = []

    @Option(
        name: .customLong("policy"), parsing: .singleValue,
        help: ArgumentHelp(
            """
            How new connections from one zone to another are treated: 'accept', 'drop', 'reject', or the services that are accepted, \
            such as tcp/443+udp/53+icmp. Zones are those of --zone, 'vlans' for VLANs without, 'uplink' for the outside, and 'self' for \
            the router. Or ZONE=isolated: its hosts reach the outside, and no other host. Can be repeated.
            """, valueName: "from:to=treatment"))
    var policies: [String] = []

    @Option(
        name: .customLong("uplink"), parsing: .singleValue,
        help: ArgumentHelp(
            "An interface behind which the outside is. Default: all that are no gateways. Can be repeated.",
            valueName: "interface"))
    var uplinks: [String] = []

    @Option(
        name: .customLong("masquerade-zone"), parsing: .singleValue,
        help: ArgumentHelp(
            "The same as --masquerade, for the VLANs of a zone: what goes into them, or leaves them for other networks. Can be repeated.",
            valueName: "zone=vlans|uplink|all|none"))
    var zoneMasquerades: [String] = []

    @Option(
        name: .customLong("masquerade-ipv6"),
        help: ArgumentHelp(
            "The same as --masquerade, for IPv6. Default: none.", valueName: "vlans|uplink|all|none"))
    var masqueradeIPv6: Policy.Masquerade?

    @Option(
        name: .customLong("port-forward"), parsing: .singleValue,
        help: ArgumentHelp(
            "A port of the router's that leads to a host in a VLAN, for example tcp/8080=172.16.20.10:80. Can be repeated.",
            valueName: "protocol/port=host:port"))
    var portForwards: [String] = []

    @Option(
        name: .customLong("route"), parsing: .singleValue,
        help: ArgumentHelp(
            "A network and the router behind which it is, for example 10.0.0.0/8=172.16.20.254. Can be repeated.",
            valueName: "to=via"))
    var routes: [String] = []

    @Flag(
        name: .customLong("mss-clamp"),
        help: "Tell TCP connections that begin of a smaller MTU on their way.")
    var clampsMSS = false

    @Flag(
        name: .customLong("coexist"),
        help: """
            Where Docker, ufw or firewalld drop what passes the gateways, add rules to their chains that let it pass there, and take \
            them away again with `down`. Who reaches whom is still as the other options say.
            """)
    var coexists = false

    /// Whether any of these is given.
    var isGiven: Bool { file != nil || firstOption != nil }

    /// The first option beside `--file` that is given, as a person writes it.
    private var firstOption: String? {
        let lists = [
            ("--vlan", vlan.vlans), ("--deny", vlan.denied), ("--trunk", trunks), ("--outer", outers),
            ("--name", names), ("--mtu", mtus), ("--driver", drivers), ("--zone", zones),
            ("--masquerade-zone", zoneMasquerades), ("--policy", policies), ("--uplink", uplinks),
            ("--port-forward", portForwards), ("--route", routes),
        ]
        let values = [
            vlan.parent.map { "--parent \($0)" }, vlan.masquerade.map { "--masquerade \($0.rawValue)" },
            masqueradeIPv6.map { "--masquerade-ipv6 \($0.rawValue)" }, clampsMSS ? "--mss-clamp" : nil,
            coexists ? "--coexist" : nil,
        ]
        return values.compactMap(\.self).first
            ?? lists.compactMap { option, texts in unjoined(texts).first.map { "\(option) \($0)" } }.first
    }

    /// What options or a file say, or else what runs here.
    func configurationOrRunning(_ path: PathOptions? = nil) throws -> ConfigurationFile {
        if isGiven || path?.firstOption != nil {
            guard let path else {
                return try reportingFailure { () throws(Failure) in try read(moreOptions: nil, fastPath: nil) }
            }
            return try path.file(self)
        }
        return try reportingFailure { () throws(Failure) in
            guard let running = try ConfigurationFile.running() else {
                throw Failure(
                    .usage, "vrouter is not up here, and no configuration is given",
                    remedy: "give one with -f FILE, or with --vlan ID=ADDRESS/LENGTH")
            }
            return running
        }
    }

    func configuration() throws -> Configuration {
        try reportingFailure { () throws(Failure) in try read(moreOptions: nil, fastPath: nil).configuration }
    }

    /// - Parameters:
    ///   - moreOptions: the first option of the command that a file says as well; nil: none is given.
    ///   - parent: the trunk where none is named.
    func read(
        moreOptions: String?, fastPath: Configuration.FastPath?, flowtable: Configuration.Flowtable = .off,
        driver: Driver? = nil,
        parent defaultParent: () throws(Failure) -> String = { () throws(Failure) in try Parent.find() }
    ) throws(Failure) -> ConfigurationFile {
        if let file {
            if let option = firstOption ?? moreOptions {
                throw Failure(
                    .usage, "--file \(file) and \(option): the file says everything",
                    remedy: "write it into the file, or leave --file out")
            }
            return try ConfigurationFile(path: file, parent: defaultParent)
        }
        let parent = if let parent = vlan.parent { parent } else { try defaultParent() }
        var options = Configuration.Options()
        options.trunks = unjoined(trunks)
        options.outers = unjoined(outers)
        options.names = unjoined(names)
        options.mtus = unjoined(mtus)
        options.drivers = unjoined(drivers)
        options.zones = unjoined(zones)
        options.uplinks = unjoined(uplinks)
        options.zoneMasquerades = unjoined(zoneMasquerades)
        options.masqueradeIPv6 = masqueradeIPv6 ?? .none
        options.policies = unjoined(policies)
        options.portForwards = unjoined(portForwards)
        options.routes = unjoined(routes)
        options.clampsMSS = clampsMSS
        options.coexists = coexists
        options.flowtable = flowtable
        return ConfigurationFile(
            try Configuration(
                parent: parent, vlans: unjoined(vlan.vlans), masquerade: vlan.masquerade ?? .vlans,
                denied: unjoined(vlan.denied), fastPath: fastPath, options: options),
            driver: driver)
    }
}

/// The values of a repeated option: see VRouter.joined.
func unjoined(_ texts: [String]) -> [String] {
    texts.flatMap { $0.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) }
}

/// How the gateway interfaces are made, and what forwards beside the kernel.
struct PathOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            How the gateway interfaces are made: '8021q', VLAN devices of the kernel; 'ebpf', for kernels without them. \
            Default: the first that the kernel has.
            """, valueName: "auto|8021q|ebpf"))
    var vlanDriver: DriverChoice?

    @Option(
        help: ArgumentHelp(
            """
            What forwards between VLANs beside the kernel: 'af-packet', workers in user space that take connections which the \
            kernel has let pass, and what needs no look at its connection, and leave the rest to the kernel; 'none'. Default: none.
            """, valueName: "none|af-packet"))
    var fastPath: FastPathDatapath?

    @Option(
        help: ArgumentHelp(
            """
            Whether TCP and UDP connections that are established bypass the rules, by the kernel's own flow table: 'on'; 'auto', where \
            the kernel has them; 'off'. Not together with --fast-path. Default: off.
            """, valueName: "off|auto|on"))
    var flowtable: Configuration.Flowtable?

    @Option(help: "How many workers the fast path has. Default: 1.")
    var workers: Int?

    @Option(
        help: ArgumentHelp(
            """
            From how many frames a second on, arriving on one processor, the fast path forwards. What comes one by one is forwarded \
            sooner by the kernel, which need wake nobody for it. 0: everything that it can take.
            """, valueName: "frames"))
    var fastPathFrom: UInt32?

    @Option(
        help: ArgumentHelp(
            "How many connections of each family the fast path can carry; those beyond are the kernel's.",
            valueName: "number"))
    var fastPathConnections: Int?

    /// The first that is given, as a person writes it.
    var firstOption: String? {
        [
            vlanDriver.map { "--vlan-driver \($0.rawValue)" }, fastPath.map { "--fast-path \($0.rawValue)" },
            firstOfFastPath, flowtable.map { "--flowtable \($0.rawValue)" },
        ]
        .compactMap(\.self).first
    }

    private var firstOfFastPath: String? {
        [
            workers.map { "--workers \($0)" }, fastPathFrom.map { "--fast-path-from \($0)" },
            fastPathConnections.map { "--fast-path-connections \($0)" },
        ].compactMap(\.self).first
    }

    func file(_ routing: RoutingOptions) throws -> ConfigurationFile {
        try reportingFailure { () throws(Failure) in try read(routing) }
    }

    /// What these and `routing` say together.
    func read(_ routing: RoutingOptions) throws(Failure) -> ConfigurationFile {
        var wanted: Configuration.FastPath?
        if fastPath == .afPacket {
            wanted = Configuration.FastPath(
                workers: workers ?? 1, threshold: fastPathFrom ?? Configuration.FastPath.defaultThreshold,
                connections: fastPathConnections ?? Configuration.FastPath.defaultConnections)
        } else if routing.file == nil, let option = firstOfFastPath {
            throw Failure(
                .usage, "\(option): there is no fast path", remedy: "add --fast-path af-packet, or leave it out")
        }
        return try routing.read(
            moreOptions: firstOption, fastPath: wanted, flowtable: flowtable ?? .off, driver: vlanDriver?.driver)
    }
}

extension FastPathDatapath: ExpressibleByArgument {}
extension Configuration.Flowtable: ExpressibleByArgument {}

/// `--vlan-driver`.
enum DriverChoice: String, ExpressibleByArgument, CaseIterable {
    case auto
    case ieee8021q = "8021q"
    case ebpf

    var driver: Driver? { Driver(rawValue: rawValue) }
}

/// Failures end the command: their text on standard error, their kind as exit status.
func reportingFailure<Result>(_ body: () throws(Failure) -> Result) throws -> Result {
    do {
        return try body()
    } catch {
        complain("vrouter: \(error)")
        throw ExitCode(error.kind.rawValue)
    }
}

/// For commands that make network namespaces.
func requireRoot(_ command: String) throws {
    guard !ThisProcess.isRoot else { return }
    complain("vrouter: network namespaces are made by root only\n  remedy: sudo \(command)")
    throw ExitCode(Failure.Kind.notPermitted.rawValue)
}

func complain(_ line: String) { StandardError.write(line + "\n") }

/// For machines: two-space indentation, sorted keys.
func printJSON(_ value: some Encodable) throws { print(try jsonText(value)) }

func jsonText(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
