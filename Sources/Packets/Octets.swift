// Numbers in network order: the most significant octet first. Each view has checked its length once, so that none of these can trap in it.

extension Span<UInt8> {
    @inlinable @inline(__always)
    func uint16(at offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset &+ 1]) }

    @inlinable @inline(__always)
    func uint32(at offset: Int) -> UInt32 {
        UInt32(self[offset]) << 24 | UInt32(self[offset &+ 1]) << 16 | UInt32(self[offset &+ 2]) << 8
            | UInt32(self[offset &+ 3])
    }

    @inlinable @inline(__always)
    func uint48(at offset: Int) -> UInt64 {
        UInt64(uint16(at: offset)) << 32 | UInt64(uint32(at: offset &+ 2))
    }

    @inlinable @inline(__always)
    func uint64(at offset: Int) -> UInt64 {
        UInt64(uint32(at: offset)) << 32 | UInt64(uint32(at: offset &+ 4))
    }

    /// What follows `start`, at most up to `end`; where there is nothing, an empty span.
    @inlinable @inline(__always)
    @_lifetime(copy self)
    func part(from start: Int, to end: Int) -> Span<UInt8> {
        let end = Swift.min(end, count)
        return extracting(Swift.min(start, end)..<end)
    }
}

extension MutableSpan<UInt8> {
    @inlinable @inline(__always)
    func uint16(at offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset &+ 1]) }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    mutating func write(uint16 value: UInt16, at offset: Int) {
        self[offset] = UInt8(truncatingIfNeeded: value >> 8)
        self[offset &+ 1] = UInt8(truncatingIfNeeded: value)
    }

    @inlinable @inline(__always)
    func uint32(at offset: Int) -> UInt32 {
        UInt32(self[offset]) << 24 | UInt32(self[offset &+ 1]) << 16 | UInt32(self[offset &+ 2]) << 8
            | UInt32(self[offset &+ 3])
    }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    mutating func write(uint32 value: UInt32, at offset: Int) {
        self[offset] = UInt8(truncatingIfNeeded: value >> 24)
        self[offset &+ 1] = UInt8(truncatingIfNeeded: value >> 16)
        self[offset &+ 2] = UInt8(truncatingIfNeeded: value >> 8)
        self[offset &+ 3] = UInt8(truncatingIfNeeded: value)
    }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    mutating func write(uint64 value: UInt64, at offset: Int) {
        write(uint32: UInt32(truncatingIfNeeded: value >> 32), at: offset)
        write(uint32: UInt32(truncatingIfNeeded: value), at: offset &+ 4)
    }
}

extension [UInt8] {
    mutating func append(uint16 value: UInt16) { append(contentsOf: [UInt8(value >> 8), UInt8(value & 0xff)]) }

    mutating func append(uint32 value: UInt32) {
        append(uint16: UInt16(value >> 16))
        append(uint16: UInt16(value & 0xffff))
    }
}
