import Kernel
import Packets
import TestSupport
import Testing

@testable import PacketIO

@Suite struct PcapFileTests {
    @Test func whatIsWrittenIsRead() throws {
        let file = TemporaryFile()
        var generator = SeededGenerator(seed: 1)
        let frames = [0, 1, 14, 60, 1514, 65535, 262_144].map { length in
            CapturedFrame(
                seconds: 1_700_000_000 + length, nanoseconds: 999_999_999 - length, octets: generator.octets(length))
        }
        var writer = try PcapWriter(file.path)
        for frame in frames { writer.write(frame) }
        try writer.flush()
        var reader = try PcapReader(file.path)
        var read: [CapturedFrame] = []
        while let frame = try reader.next() { read.append(frame) }
        #expect(read == frames)
        let same = [file.path, "/etc/passwd", "/nowhere"].map { reader.isSameFile(as: $0) }
        #expect(same == [true, false, false])
    }

    @Test func partsOfFrames() throws {
        let file = TemporaryFile()
        let part = CapturedFrame(octets: [1, 2, 3], originalLength: 60)
        var writer = try PcapWriter(file.path)
        writer.write(part)
        try writer.flush()
        var reader = try PcapReader(file.path)
        let read = try reader.next()
        #expect(read == part && read?.isComplete == false)
    }

    @Test func filesThatAreNone() throws {
        #expect(throws: PcapError(path: "/nowhere/at.pcap", reason: "No such file or directory")) {
            _ = try PcapReader("/nowhere/at.pcap")
        }
        #expect(throws: PcapError.self) { _ = try PcapWriter("/nowhere/at.pcap") }
        let text = TemporaryFile("not a capture, whatever its name is")
        #expect(throws: PcapError(path: text.path, reason: "unknown file format")) { _ = try PcapReader(text.path) }
        let empty = TemporaryFile("")
        #expect(throws: PcapError.self) { _ = try PcapReader(empty.path) }
    }

    /// A disk that is full is an error, if not at once, then at the end.
    @Test func aFullDisk() throws {
        #expect(throws: PcapError(path: "/dev/full", reason: "it could not be written to the end")) {
            var writer = try PcapWriter("/dev/full")
            for _ in 0..<100 { writer.write(CapturedFrame(octets: [UInt8](repeating: 0, count: 1514))) }
            try writer.flush()
        }
    }

    /// A file that ends within a frame gives the frames before, and then an error.
    @Test func aFileThatWasCutOff() throws {
        let file = TemporaryFile()
        var writer = try PcapWriter(file.path)
        for _ in 0..<2 { writer.write(CapturedFrame(octets: [UInt8](repeating: 5, count: 60))) }
        try writer.flush()
        let result = try ChildProcess.run(["truncate", "--size=-10", file.path])
        try #require(result.status == 0, "\(result)")
        var reader = try PcapReader(file.path)
        let first = try reader.next()
        #expect(first?.octets.count == 60)
        #expect(throws: PcapError.self) { try reader.next() }
    }

    @Test func tagsLeaveTheFrame() {
        let frame = TestFrame.ipv4().with { $0.tags = [VLANTag(VLANID(100)!, priority: 0xa000)] }
        let (octets, tag) = CapturedFrame(octets: frame.octets).inRing
        #expect(tag == frame.tags[0])
        #expect(octets.dropFirst(4) == frame.inRing.dropFirst(4))
        let double = frame.with { $0.tags = [VLANTag(identifier: .serviceVLAN, control: 5), $0.tags[0]] }
        let (inner, outerTag) = CapturedFrame(octets: double.octets).inRing
        #expect(outerTag == double.tags[0] && inner.dropFirst(4) == double.inRing.dropFirst(4))
        let untagged = frame.with { $0.tags = [] }
        let (same, none) = CapturedFrame(octets: untagged.octets).inRing
        #expect(none == .none && Array(same.dropFirst(4)) == untagged.octets)
        for length in 0..<20 {
            let (octets, _) = CapturedFrame(octets: Array(frame.octets.prefix(length))).inRing
            #expect(octets.count == (length < 16 ? length + 4 : length))
        }
    }
}
