"""Benchmarks: of the dashboard, and of what telemetry costs the services that it is put on."""
