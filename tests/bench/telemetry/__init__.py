"""What telemetry costs a service, measured: `hatch run bench` writes it into docs/performance.md."""
