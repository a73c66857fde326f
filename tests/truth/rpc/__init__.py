"""The gRPC half of the suite: what is served, how it is called, what must be seen of it."""
