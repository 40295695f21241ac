import DataPlane
import Forwarding
import Kernel
import Packets
import TestSupport
import Testing

/// The table of flows as it lies in the kernel's maps.
@Suite struct FlowMemoryTests {
    private static func entries(_ family: IPFamily, _ count: Int) -> [FlowEntry] {
        var generator = SeededGenerator(seed: 4)
        var result: Set<FlowEntry> = []
        while result.count < count {
            func address() -> IPAddress {
                family == .v4
                    ? .v4(IPv4Address(UInt32.random(in: 0x0a00_0000..<0x0a01_0000, using: &generator)))
                    : .v6(IPv6Address(0xfd << 120 | UInt128(generator.next() & 0xffff)))
            }
            func port() -> UInt16 { .random(in: 1 ... .max, using: &generator) }
            result.insert(
                FlowEntry(
                    source: address(), destination: address(), transport: .tcp, sourcePort: port(),
                    destinationPort: port(), vlan: TestWorld.vlan(100), newSource: address(),
                    newDestination: address(), newSourcePort: port(), newDestinationPort: port(), way: 7))
        }
        return Array(result)
    }

    /// As many connections as were wanted have a place, with an entry for each direction, and each is found again. Whether the last ones
    /// do is a matter of luck: both buckets of one in some ten thousand are full.
    @Test(arguments: [IPFamily.v4, .v6]) func asManyAsWereWanted(_ family: IPFamily) throws {
        let connections = isEmulated ? 500 : 5000
        let memory = try FlowMemory(
            Ownership(workers: 1, longestFrame: 0, threshold: 0, connections: connections))
        let entries = Self.entries(family, 2 * connections)
        let placed = entries.compactMap { entry in memory.insert(entry).map { (entry, $0) } }
        let slots = placed.map(\.1)
        try #require(slots.count >= entries.count - entries.count / 1000)
        #expect(Set(slots).count == slots.count)
        for (entry, slot) in placed where memory.find(entry) != slot || memory.entry(slot) != entry {
            Issue.record("\(entry) is not where it was put")
        }
        for slot in slots { memory.setState(slot, FlowLayout.ownedState) }
        #expect(Self.owned(memory) == Set(placed.map(\.0)))
        for slot in slots.dropFirst(10) { memory.clear(slot) }
        #expect(entries.filter { memory.find($0) != nil }.count == 10)
        // Others in the same buckets have gone.
        #expect(Self.owned(memory) == Set(placed.prefix(10).map(\.0)))
    }

    private static func owned(_ memory: FlowMemory) -> Set<FlowEntry> {
        var result: Set<FlowEntry> = []
        memory.forEachOwned { entry, _ in result.insert(entry) }
        return result
    }

    /// Nobody takes back what the filter has ended.
    @Test func states() throws {
        let memory = try FlowMemory(Ownership(workers: 1, longestFrame: 0, threshold: 0, connections: 1))
        let slot = try #require(memory.insert(Self.entries(.v4, 1)[0]))
        #expect(memory.state(slot) == FlowLayout.knownState)
        #expect(memory.setState(slot, FlowLayout.ownedState, from: FlowLayout.knownState))
        #expect(memory.setState(slot, FlowLayout.endedState))
        #expect(!memory.setState(slot, FlowLayout.ownedState, from: FlowLayout.knownState))
        #expect(memory.state(slot) == FlowLayout.endedState && memory.counts(slot).packets == 0)
        memory.clear(slot)
        #expect(!memory.setState(slot, FlowLayout.ownedState), "there is nothing")
        #expect(memory.entry(slot) == nil)
    }
}
