import Packets
import Testing

@Suite struct AddressTests {
    @Test(arguments: ["0.0.0.0", "172.16.10.1", "255.255.255.255"]) func ipv4RoundTrip(_ text: String) throws {
        #expect(try #require(IPv4Address(text)).description == text)
    }

    @Test(arguments: [
        "", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.-4", "1.2.3.4 ", "１.2.3.4", "1..2.3", "0x1.2.3.4",
    ])
    func notIPv4(_ text: String) {
        #expect(IPv4Address(text) == nil)
    }

    // Left: forms of RFC 4291 §2.2 and RFC 5952 §4; right: the canonical one.
    @Test(arguments: [
        ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:DB8:0:0:8:800:200C:417A", "2001:db8::8:800:200c:417a"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("::ffff:192.0.2.1", "::ffff:c000:201"),
        ("fd00:10::1", "fd00:10::1"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
    ]) func ipv6(_ text: String, _ canonical: String) throws {
        let address = try #require(IPv6Address(text))
        #expect(address.description == canonical)
        #expect(IPv6Address(canonical) == address)
    }

    @Test(arguments: [
        "", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "12345::", "g::",
        "::1%eth0", "::1.2.3",
        "1.2.3.4::", "::+1", "1:2:3:4:5:6:7:1.2.3.4",
    ]) func notIPv6(_ text: String) {
        #expect(IPv6Address(text) == nil)
    }

    @Test func ipv6RoundTrips() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            // Groups are often zero, so that every place for '::' occurs.
            var value: UInt128 = 0
            for _ in 0..<8 {
                value = value << 16 | (Bool.random(using: &generator) ? 0 : UInt128(UInt16.random(in: 0 ... .max)))
            }
            #expect(IPv6Address(IPv6Address(value).description) == IPv6Address(value))
        }
    }

    @Test func octets() {
        #expect(IPAddress("172.16.10.1")?.octets == [172, 16, 10, 1])
        #expect(IPAddress(octets: [172, 16, 10, 1]) == IPAddress("172.16.10.1"))
        #expect(IPAddress("fd00:10::1")?.octets == [0xfd, 0, 0, 0x10] + Array(repeating: 0, count: 11) + [1])
        #expect(IPAddress(octets: IPAddress("fd00:10::1")?.octets ?? []) == IPAddress("fd00:10::1"))
        #expect(IPAddress(octets: [1, 2, 3]) == nil)
    }

    @Test func macAddress() {
        #expect(MACAddress(octets: [0x02, 0, 0x5e, 0x10, 0, 0xff])?.description == "02:00:5e:10:00:ff")
        #expect(MACAddress(octets: [1, 2, 3, 4, 5]) == nil)
    }

    @Test func vlanIDs() {
        #expect(VLANID(0) == nil && VLANID(4095) == nil && VLANID(65535) == nil)
        #expect(VLANID(1)?.rawValue == 1 && VLANID(4094)?.rawValue == 4094)
    }
}

@Suite struct PrefixTests {
    @Test func parsing() throws {
        let address = try InterfaceAddress("172.16.10.1/24")
        #expect(address.prefix.description == "172.16.10.0/24" && address.description == "172.16.10.1/24")
        #expect(throws: AddressError.noPrefixLength("172.16.10.1")) { try InterfaceAddress("172.16.10.1") }
        #expect(throws: AddressError.notAnAddress("172.16.10")) { try InterfaceAddress("172.16.10/24") }
        #expect(throws: AddressError.prefixLengthOutOfRange("172.16.10.1/33", max: 32)) {
            try InterfaceAddress("172.16.10.1/33")
        }
        #expect(throws: AddressError.prefixLengthOutOfRange("::1/129", max: 128)) { try InterfaceAddress("::1/129") }
        #expect(throws: AddressError.prefixLengthOutOfRange("172.16.10.1/", max: 32)) {
            try InterfaceAddress("172.16.10.1/")
        }
        #expect(throws: AddressError.prefixLengthOutOfRange("172.16.10.1/024", max: 32)) {
            try InterfaceAddress("172.16.10.1/024")
        }
    }

    @Test func networkAndBroadcast() throws {
        #expect(try InterfaceAddress("172.16.10.0/24").isNetworkAddress)
        #expect(try !InterfaceAddress("172.16.10.1/24").isNetworkAddress)
        #expect(try InterfaceAddress("fd00::/64").isNetworkAddress)
        // RFC 3021 and RFC 6164: links of two addresses use both.
        #expect(try !InterfaceAddress("192.0.2.0/31").isNetworkAddress)
        #expect(try !InterfaceAddress("fd00::/127").isNetworkAddress)
        #expect(try InterfaceAddress("172.16.10.1/24").broadcast == IPv4Address("172.16.10.255"))
        #expect(try InterfaceAddress("10.0.0.1/8").broadcast == IPv4Address("10.255.255.255"))
        #expect(try InterfaceAddress("192.0.2.0/31").broadcast == nil)
        #expect(try InterfaceAddress("fd00::1/64").broadcast == nil)
    }

    @Test func extremes() throws {
        #expect(try InterfaceAddress("172.16.10.1/0").prefix.description == "0.0.0.0/0")
        #expect(try InterfaceAddress("172.16.10.1/32").prefix.description == "172.16.10.1/32")
        #expect(try InterfaceAddress("fd00::1/0").prefix.description == "::/0")
        #expect(try InterfaceAddress("fd00::1/128").prefix.description == "fd00::1/128")
    }

    @Test func overlap() throws {
        func prefix(_ text: String) throws -> IPPrefix { try InterfaceAddress(text).prefix }
        #expect(try prefix("172.16.0.0/16").overlaps(prefix("172.16.20.0/24")))
        #expect(try prefix("172.16.20.0/24").overlaps(prefix("172.16.0.0/16")))
        #expect(try !prefix("172.16.10.0/24").overlaps(prefix("172.16.20.0/24")))
        #expect(try !prefix("0.0.0.0/0").overlaps(prefix("fd00::/8")), "families are apart")
    }
}
