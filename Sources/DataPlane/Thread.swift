import CLinux
import Kernel
import SystemPackage

/// Starts a thread of its own for `body`: not one of a pool, which would be waited for. `top -H` shows it by its name, of 15
/// octets at most.
func startThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(KernelError) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    // SAFETY: the thread takes over the reference that is handed to it, and nobody else uses the pointer.
    let box = unsafe Unmanaged.passRetained(Box(body)).toOpaque()
    let status = unsafe pthread_create(
        &thread, nil,
        { box in
            guard let box = unsafe box else { return nil }
            unsafe Unmanaged<Box>.fromOpaque(box).takeRetainedValue().body()
            return nil
        }, box)
    guard status == 0 else {
        unsafe Unmanaged<Box>.fromOpaque(box).release()
        throw KernelError("start \(name)", Errno(rawValue: status))
    }
    _ = unsafe pthread_setname_np(thread, name)
    pthread_detach(thread)
}
