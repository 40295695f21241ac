import CLinux

/// The time of day, as a clock on the wall shows it.
public enum LocalTime {
    /// `14:05:09`, that many seconds from now.
    public static func text(secondsFromNow seconds: Int = 0) -> String {
        var moment = time(nil) + seconds
        var parts = unsafe tm()
        // SAFETY: both outlive the call, which writes nothing else.
        unsafe localtime_r(&moment, &parts)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return unsafe "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
    }
}
