import Router

/// Tells on standard error what happens, where it takes long enough for a person to wonder.
final class Progress {
    private let start = ContinuousClock.now

    func report(_ event: Router.Event) {
        switch event {
        case .waiting(let holder): complain("waiting for \(holder) to end …")
        case .undoing: complain("a step failed; undoing what was done …")
        case .step(let number, let total, let summary):
            // The first steps are quick with few VLANs, and worth a line each with thousands.
            if ContinuousClock.now - start > .seconds(1) { complain("[\(number)/\(total)] \(summary)") }
        }
    }
}
