import Kernel
import Router

/// Makes a step fail, or ends or stops the process at it, so that tests can watch what is left. Not in release builds.
enum Fault {
    /// `VROUTER_FAULT=fail:STEP:before`, `…:after`, or `kill` or `stop` for `fail`. Steps count from 0.
    static func fromEnvironment() throws -> Router.Fault? {
        #if DEBUG
            guard let text = ThisProcess.environment["VROUTER_FAULT"] else { return nil }
            let parts = text.split(separator: ":")
            guard parts.count == 3, let wanted = Int(parts[1]) else { fatalError("VROUTER_FAULT=\(text)") }
            return { (step, moment) throws(Failure) in
                guard step == wanted, (moment == .before) == (parts[2] == "before") else { return }
                switch parts[0] {
                case "kill": ThisProcess.signal(SignalNumber.kill)
                case "stop": ThisProcess.signal(SignalNumber.stop)
                default: throw Failure(.software, "step \(step) was made to fail")
                }
            }
        #else
            return nil
        #endif
    }
}
