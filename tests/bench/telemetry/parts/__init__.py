"""The parts of the benchmark: each measures something and returns its rows."""
