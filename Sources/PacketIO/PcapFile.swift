// Files of frames, as tcpdump and Wireshark read and write them.

import CPcap
import Packets

/// A frame and when it was seen.
public struct CapturedFrame: Hashable, Sendable {
    /// Since 1970.
    public var seconds: Int
    public var nanoseconds: Int
    /// As on the wire, its tags in place, without the check sequence.
    public var octets: [UInt8]
    /// How long it was on the wire, in octets; a capture may have kept only its beginning.
    public var originalLength: Int

    public init(seconds: Int = 0, nanoseconds: Int = 0, octets: [UInt8], originalLength: Int? = nil) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
        self.octets = octets
        self.originalLength = originalLength ?? octets.count
    }

    public var isComplete: Bool { octets.count >= originalLength }

    /// As a ring has it: room for a tag, then the frame without its outer tag, and that tag.
    public var inRing: (octets: [UInt8], tag: VLANTag) {
        let addresses = 12
        let end = addresses + VLANTag.length
        guard octets.count >= end else { return ([0, 0, 0, 0] + octets, .none) }
        let identifier = EtherType(UInt16(octets[12]) << 8 | UInt16(octets[13]))
        guard identifier == .vlan || identifier == .serviceVLAN else { return ([0, 0, 0, 0] + octets, .none) }
        var frame = octets
        frame.replaceSubrange(VLANTag.length..<end, with: octets[..<addresses])
        return (frame, VLANTag(identifier: identifier, control: UInt16(octets[14]) << 8 | UInt16(octets[15])))
    }
}

public struct PcapError: Error, Hashable, Sendable, CustomStringConvertible {
    public var path: String
    public var reason: String

    public var description: String { "\(path): \(reason)" }
}

/// Reads the frames of a capture file, pcap or pcapng, one after the other.
@safe public struct PcapReader: ~Copyable {
    private let path: String
    private let handle: OpaquePointer

    /// - Parameter path: `-` is standard input.
    public init(_ path: String) throws(PcapError) {
        // SAFETY: libpcap writes a message of less than PCAP_ERRBUF_SIZE octets with its terminating zero, if it returns NULL.
        let (opened, message) = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PCAP_ERRBUF_SIZE)) {
            buffer -> (OpaquePointer?, String) in
            let opened = unsafe pcap_open_offline_with_tstamp_precision(
                path, UInt32(PCAP_TSTAMP_PRECISION_NANO), buffer.baseAddress)
            guard unsafe opened == nil, let text = buffer.baseAddress else { return unsafe (opened, "") }
            return unsafe (nil, String(cString: text))
        }
        guard let handle = unsafe opened else {
            // It puts the path in front of some of its messages.
            let prefix = "\(path): "
            throw PcapError(
                path: path, reason: message.hasPrefix(prefix) ? String(message.dropFirst(prefix.count)) : message)
        }
        let type = unsafe pcap_datalink(handle)
        guard type == DLT_EN10MB else {
            unsafe pcap_close(handle)
            throw PcapError(path: path, reason: "it holds no Ethernet frames (link type \(type))")
        }
        self.path = path
        unsafe self.handle = handle
    }

    deinit { unsafe pcap_close(handle) }

    /// nil: there are no more.
    public mutating func next() throws(PcapError) -> CapturedFrame? {
        var header: UnsafeMutablePointer<pcap_pkthdr>?
        var data: UnsafePointer<UInt8>?
        switch unsafe pcap_next_ex(handle, &header, &data) {
        case 1:
            guard let header = unsafe header?.pointee, let data = unsafe data else { return nil }
            // SAFETY: libpcap's buffer holds caplen octets until the next call.
            let octets = unsafe [UInt8](UnsafeBufferPointer(start: data, count: Int(header.caplen)))
            return CapturedFrame(
                seconds: header.ts.tv_sec, nanoseconds: header.ts.tv_usec, octets: octets,
                originalLength: Int(header.len))
        case PCAP_ERROR_BREAK: return nil
        default: throw PcapError(path: path, reason: unsafe String(cString: pcap_geterr(handle)))
        }
    }

    /// Whether `path` names the file that is read here: whoever opens it for writing would empty it.
    public borrowing func isSameFile(as path: String) -> Bool {
        var mine = stat()
        var other = stat()
        guard let file = unsafe pcap_file(handle), unsafe fstat(fileno(file), &mine) == 0,
            unsafe stat(path, &other) == 0
        else { return false }
        return mine.st_dev == other.st_dev && mine.st_ino == other.st_ino
    }
}

/// Writes a capture file with times in nanoseconds.
@safe public struct PcapWriter: ~Copyable {
    private let path: String
    private let handle: OpaquePointer
    private let dumper: OpaquePointer

    /// The longest frame that libpcap reads back, in octets (its MAXIMUM_SNAPLEN).
    private static let longestFrame: Int32 = 262_144

    /// A file that is there already is replaced.
    public init(_ path: String) throws(PcapError) {
        guard
            let handle = unsafe pcap_open_dead_with_tstamp_precision(
                DLT_EN10MB, Self.longestFrame, UInt32(PCAP_TSTAMP_PRECISION_NANO))
        else { throw PcapError(path: path, reason: "no memory") }
        guard let dumper = unsafe pcap_dump_open(handle, path) else {
            let message = unsafe String(cString: pcap_geterr(handle))
            unsafe pcap_close(handle)
            throw PcapError(path: path, reason: message)
        }
        self.path = path
        unsafe self.handle = handle
        unsafe self.dumper = dumper
    }

    deinit {
        unsafe pcap_dump_close(dumper)
        unsafe pcap_close(handle)
    }

    public mutating func write(_ frame: CapturedFrame) {
        var header = pcap_pkthdr()
        header.ts.tv_sec = frame.seconds
        header.ts.tv_usec = frame.nanoseconds
        header.caplen = UInt32(truncatingIfNeeded: frame.octets.count)
        header.len = UInt32(truncatingIfNeeded: frame.originalLength)
        unsafe frame.octets.withUnsafeBufferPointer { octets in
            // SAFETY: libpcap takes the dumper as its callbacks do, as a pointer to octets, and reads caplen octets.
            unsafe pcap_dump(UnsafeMutablePointer(dumper), &header, octets.baseAddress)
        }
    }

    /// Everything is in the file, or it is an error.
    public mutating func flush() throws(PcapError) {
        // What failed before leaves nothing to flush, but a mark.
        guard unsafe pcap_dump_flush(dumper) == 0, unsafe ferror(pcap_dump_file(dumper)) == 0 else {
            throw PcapError(path: path, reason: "it could not be written to the end")
        }
    }
}
