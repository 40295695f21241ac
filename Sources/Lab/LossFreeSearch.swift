/// Looks for the throughput of RFC 2544 §26.1: the largest rate at which no frame is lost. Rates are frames a second.
struct LossFreeSearch {
    /// How close two rates are when there is no more to find out, as a share of the largest.
    private static let precision = 0.02
    /// So many tries at most: the largest rate, then halves of what is left.
    static let most = 7

    private let largest: Double
    private var lossFree = 0.0
    private var lossy: Double
    private(set) var isDone = false
    /// What came back at the best rate that was tried; 0: nothing was without loss.
    private(set) var found = 0.0
    /// The rate to try.
    private(set) var next: Double

    /// - Parameter largest: what is forwarded when more is offered.
    init(largest: Double) {
        self.largest = largest
        lossy = largest
        next = largest
        isDone = largest <= 0
    }

    /// - Parameter forwarded: what came back at the rate `next`; nil: not all of it.
    mutating func note(forwarded: Double?) {
        if let forwarded {
            found = max(found, forwarded)
            lossFree = next
            isDone = next == largest
        } else {
            lossy = next
        }
        isDone = isDone || lossy - lossFree <= largest * Self.precision
        next = (lossFree + lossy) / 2
    }
}
