// The article's scenario in network namespaces.
