"""
The gate of CI: what telemetry adds to a request, and what the dashboard takes of a CPU.

    python -m bench.gate            both, whatever comes out of the first
    python -m bench.gate --accept   writes the instructions counted now as the ones that hold
"""

import sys
from collections.abc import Sequence

from bench.dashboard import gate as dashboard
from bench.telemetry import gate as telemetry

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run both; return 1 where one of them fails. Arguments are those of telemetry's, and then it alone is run."""
    failed = telemetry.main(argv)
    if argv:
        return failed
    return dashboard.main() or failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
