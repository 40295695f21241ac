import ArgumentParser
import Router

extension JoiningHosts.Format: ExpressibleByArgument {}

struct Hosts: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what hosts on the VLANs run to join them.",
        discussion: "Without options and file it is about the VLANs that `up` has set up here.")

    @OptionGroup var routing: RoutingOptions

    @Option(
        help: ArgumentHelp(
            "'docker', a macvlan network for each VLAN; 'ip', a sub-interface and a default route; 'netplan', a file for /etc/netplan.",
            valueName: "docker|ip|netplan"))
    var format: JoiningHosts.Format = .docker

    func run() throws {
        let running = try reportingFailure { () throws(Failure) in
            routing.isGiven ? nil : try Router.runningConfiguration()
        }
        print(JoiningHosts.text(try running ?? routing.configuration(), format), terminator: "")
    }
}
