extension Router {
    /// The configuration that `up` has applied here; nil where it has not been.
    public static func runningConfiguration() throws(Failure) -> Configuration? {
        try StateFile().load()?.configuration
    }
}
