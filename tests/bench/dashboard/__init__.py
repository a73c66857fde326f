"""What the dashboard costs, measured: `hatch run bench:dashboard` writes it into docs/dashboard.md."""
