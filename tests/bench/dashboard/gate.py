"""
The gate of CI: ingest end to end over gRPC must not be slower than half of the goal.

    python -m bench.dashboard.gate

In CPU-seconds of the dashboard's process, so that other work on the machine counts little; the middle of three.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.dashboard.ingest import GOAL, per_cpu_second
from bench.dashboard.started import dashboard
from bench.process import stoppable

__all__ = ["main"]

_REPEATS = 3
_WARM = 10_000
_SPANS = 60_000
_LEAST = GOAL.bound / 2


def main() -> int:
    """Measure, say the figure, and return 1 where it is too low."""
    stoppable()
    with tempfile.TemporaryDirectory() as folder, dashboard(Path(folder)) as measured:
        per_cpu_second(measured, "grpc", _WARM, 0)
        values = [per_cpu_second(measured, "grpc", _SPANS, 1 + at) for at in range(_REPEATS)]
    figure = median(values)
    said = ", ".join(f"{value:,.0f}" for value in values)
    print(f"dashboard: {figure:,.0f} spans a CPU-second over gRPC ({said}); at least {_LEAST:,.0f} are asked for")
    return 0 if figure >= _LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
