import Firewall
import FoundationEssentials
import Kernel
import TestSupport
import Testing

@testable import Router

/// packaging/vrouter.schema.json, which editors go by, and the example of the README.
@Suite struct ConfigurationSchemaTests {
    /// The files of this repository.
    static let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()

    /// The README's configuration file.
    static func example() throws -> String {
        let readme = String(decoding: try SmallFile.read("\(root)/README.md"), as: UTF8.self)
        let block = try #require(readme.firstRange(of: "```yaml\n"))
        let rest = readme[block.upperBound...]
        return String(rest[..<(try #require(rest.firstRange(of: "```\n"))).lowerBound])
    }

    @Test func theReadmesExampleIsRight() throws {
        let file = try ConfigurationFile(Array(Self.example().utf8), name: "README.md") { "found0" }
        #expect(file.configuration.vlans.count > 1 && !file.configuration.routes.isEmpty)
    }

    private struct Schema: Decodable {
        struct Mapping: Decodable { var properties: [String: Property]? }
        struct Property: Decodable { var description: String? }
        struct Definitions: Decodable {
            var vlan, route: Mapping
            var portForward, fastPath: Mapping
            var treatment: Treatment

            enum CodingKeys: String, CodingKey {
                case vlan, route, treatment
                case portForward = "port-forward"
                case fastPath = "fast-path"
            }
        }
        struct Treatment: Decodable { var oneOf: [Mapping] }

        var properties: [String: Property]
        var definitions: Definitions

        enum CodingKeys: String, CodingKey {
            case properties
            case definitions = "$defs"
        }
    }

    @Test func itHasTheReadersKeys() throws {
        let octets = try SmallFile.read("\(Self.root)/packaging/vrouter.schema.json")
        let schema = try JSONDecoder().decode(Schema.self, from: Data(octets))
        let treatment = schema.definitions.treatment.oneOf.compactMap(\.properties)
        #expect(treatment.count == 1)
        for (properties, keys) in [
            (schema.properties, FileKey.Top.allCases.map(\.rawValue)),
            (schema.definitions.vlan.properties, FileKey.VLAN.allCases.map(\.rawValue)),
            (treatment.first, FileKey.Treatment.allCases.map(\.rawValue)),
            (schema.definitions.portForward.properties, FileKey.PortForward.allCases.map(\.rawValue)),
            (schema.definitions.route.properties, FileKey.Route.allCases.map(\.rawValue)),
            (schema.definitions.fastPath.properties, FileKey.FastPath.allCases.map(\.rawValue)),
        ] {
            #expect(properties?.keys.sorted() == keys.sorted())
            #expect(properties?.values.allSatisfy { $0.description?.isEmpty == false } == true, "\(keys)")
        }
    }

    /// What we write and the README are valid by it, and what is wrong in the same way for it and for us is not.
    @Test func validators() throws {
        var generator = SeededGenerator(seed: 23)
        var right = [try Self.example(), "vlans: {1: 10.0.1.1/24}", "vlans: {100: {}, \"100.200\": 10.0.1.1/24}"]
        for _ in 0..<40 {
            let file = GeneratedConfiguration.file(using: &generator)
            right += [file.text(.complete), file.text(.commented(schema: "/x"))]
        }
        let good = "vlans: {1: 10.0.1.1/24}\n"
        let wrong = [
            "{}", "vlans: {}", "vlans: {4095: 10.0.1.1/24}", "vlans: {\"1.4095\": 10.0.1.1/24}", "vlans: {1: []}",
            "vlans: {1: {outer: 0}}",
            "vlans: {1: {addresses: 10.0.1.1/24, mtu: 67}}", "vlans: {1: {addresses: 10.0.1.1/24, mtu: \"1500\"}}",
            "vlans: {1: {addresses: 10.0.1.1/24, zone: self}}", good + "masquerade: some", good + "mss-clamp: 'true'",
            good + "coexist: 'true'", good + "flowtable: maybe",
            good + "paren: p", good + "deny: [1-2]", good + "policy: {vlans: drop}",
            good + "policy: {vlans: {vlans: [http]}}", good + "policy: {vlans: {vlans: {limit: 0, otherwise: accept}}}",
            good + "port-forwards: [{port: tcp, to: 10.0.1.9}]", good + "routes: [{to: 10.0.0.0/8}]",
            good + "fast-path: {workers: 65}", good + "vlan-driver: vconfig",
        ]
        for text in wrong {
            #expect(throws: Failure.self, "\(text)") { try ConfigurationFile(Array(text.utf8), name: "f") { "p" } }
        }
        let script = """
            import json, sys, yaml, jsonschema
            schema = json.load(open(sys.argv[1]))
            jsonschema.Draft202012Validator.check_schema(schema)
            validator = jsonschema.Draft202012Validator(schema)
            for kind in "right", "wrong":
                for text in json.loads(sys.stdin.readline()):
                    # JSON has texts for keys.
                    errors = list(validator.iter_errors(json.loads(json.dumps(yaml.safe_load(text)))))
                    if (kind == "right") != (errors == []):
                        print(kind, text, [(list(each.path), each.message) for each in errors])
            """
        let input = try [right, wrong].map { String(decoding: try JSONEncoder().encode($0), as: UTF8.self) + "\n" }
        let result = try ChildProcess.run(
            ["python3", "-c", script, "\(Self.root)/packaging/vrouter.schema.json"], input: input.joined())
        #expect(result.status == 0 && result.output.isEmpty, "\(result)")
    }
}
