// Echo requests of an exact size, as `ping -M do -s SIZE -I LINK ADDRESS` sends them.

import CLinux
import Packets
import SystemPackage

/// An echo request that no router may fragment, whatever is known of the way.
public struct Echo: Hashable, Sendable {
    /// Through which it leaves.
    public var link: String
    public var source: IPAddress
    public var destination: IPAddress
    /// Of the whole IP packet, in octets.
    public var size: Int

    public init(link: String, source: IPAddress, destination: IPAddress, size: Int) {
        self.link = link
        self.source = source
        self.destination = destination
        self.size = size
    }

    /// Sends all of them, and waits until all are answered, or until the time is over.
    ///
    /// - Parameter requests: up to 65,536.
    /// - Returns: which were answered.
    /// - Throws: EPERM without CAP_NET_RAW.
    public static func answered(_ requests: [Echo], milliseconds: Int) throws(KernelError) -> Set<Echo> {
        let identifier = UInt16(truncatingIfNeeded: getpid())
        var sockets: [(descriptor: Int32, family: IPFamily)] = []
        defer { for socket in sockets { close(socket.descriptor) } }
        var opened: [String: Int32] = [:]
        for (number, request) in requests.enumerated() {
            let family = request.destination.family
            let key = "\(request.link) \(family)"
            let descriptor: Int32
            if let open = opened[key] {
                descriptor = open
            } else {
                descriptor = try open(on: request.link, family)
                opened[key] = descriptor
                sockets.append((descriptor, family))
            }
            let headers = family == .v4 ? 28 : 48
            let message = ICMPEcho(identifier: identifier, sequence: UInt16(truncatingIfNeeded: number)).octets(
                [UInt8](repeating: 0x76, count: max(0, request.size - headers)), from: request.source,
                to: request.destination)
            // One that cannot be sent is one that is not answered.
            send(message, to: request.destination, descriptor)
        }
        var answered: Set<Echo> = []
        let end = MonotonicClock.nanoseconds + UInt64(milliseconds) * 1_000_000
        while answered.count < requests.count, MonotonicClock.nanoseconds < end {
            var descriptors = sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
            let left = (end - min(end, MonotonicClock.nanoseconds)) / 1_000_000
            // SAFETY: the count is that of the array, which outlives the call.
            let count = unsafe descriptors.withUnsafeMutableBufferPointer {
                unsafe poll($0.baseAddress, nfds_t($0.count), Int32(clamping: left) + 1)
            }
            guard count > 0 else { continue }
            for (socket, event) in zip(sockets, descriptors) where event.revents != 0 {
                while let message = receive(socket.descriptor) {
                    guard let number = answer(in: message, socket.family, to: identifier), number < requests.count
                    else {
                        continue
                    }
                    answered.insert(requests[number])
                }
            }
        }
        return answered
    }

    private static func open(on link: String, _ family: IPFamily) throws(KernelError) -> Int32 {
        let type = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let descriptor =
            family == .v4 ? socket(AF_INET, type, 1) : socket(AF_INET6, type, 58)
        guard descriptor >= 0 else { throw KernelError("open a socket for echo requests", .last) }
        var probe: Int32 = family == .v4 ? IP_PMTUDISC_PROBE : IPV6_PMTUDISC_PROBE
        let size = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: the values outlive the calls.
        let isSet =
            unsafe family == .v4
            ? setsockopt(descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &probe, size)
            : setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, &probe, size)
        let name = Array(link.utf8)
        guard isSet == 0,
            unsafe setsockopt(descriptor, SOL_SOCKET, SO_BINDTODEVICE, name, socklen_t(name.count)) == 0
        else {
            let failure = KernelError("send echo requests through \(link)", .last)
            close(descriptor)
            throw failure
        }
        return descriptor
    }

    private static func send(_ message: [UInt8], to destination: IPAddress, _ descriptor: Int32) {
        switch destination {
        case .v4(let v4):
            var address = sockaddr_in()
            address.sin_family = UInt16(AF_INET)
            address.sin_addr.s_addr = v4.rawValue.bigEndian
            // SAFETY: the address has that size, and is used within the call.
            _ = unsafe withUnsafePointer(to: &address) { address in
                unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe sendto(
                        descriptor, message, message.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        case .v6(let v6):
            var address = sockaddr_in6()
            address.sin6_family = UInt16(AF_INET6)
            unsafe withUnsafeMutableBytes(of: &address.sin6_addr) { unsafe $0.copyBytes(from: v6.octets) }
            // SAFETY: as above.
            _ = unsafe withUnsafePointer(to: &address) { address in
                unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe sendto(
                        descriptor, message, message.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
                }
            }
        }
    }

    /// nil: nothing is there.
    private static func receive(_ descriptor: Int32) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 256)
        // SAFETY: the length is that of the buffer; what is longer is cut.
        let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
        return count < 0 ? nil : Array(buffer.prefix(count))
    }

    /// The number of the request that a message answers; nil: it is another message. IPv4's header comes with it, IPv6's does not.
    private static func answer(in message: [UInt8], _ family: IPFamily, to identifier: UInt16) -> Int? {
        let start = family == .v4 ? Int(message.first ?? 0) % 16 * 4 : 0
        guard message.count >= start + 8, message[start] == (family == .v4 ? 0 : 129) else { return nil }
        func number(_ offset: Int) -> UInt16 {
            UInt16(message[start + offset]) << 8 | UInt16(message[start + offset + 1])
        }
        return number(4) == identifier ? Int(number(6)) : nil
    }
}
