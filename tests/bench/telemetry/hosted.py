"""
The measured app under Sanic's own server, as an ordinary program that knows nothing of telemetry.

    python -m bench.telemetry.hosted --port 8000 --workers 2
"""

import argparse
import sys
from collections.abc import Sequence

from sanic import Sanic
from sanic.worker.loader import AppLoader

from bench.telemetry.application import create_app

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="hosted", description="Serves hello.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0, help="under Sanic's manager; 0 for none of it")
    options = parser.parse_args(argv)
    if not options.workers:
        create_app().run(host="127.0.0.1", port=options.port, single_process=True, motd=False)
        return 0
    loader = AppLoader(factory=create_app)
    app = loader.load()
    app.prepare(host="127.0.0.1", port=options.port, workers=options.workers, motd=False)
    Sanic.serve(primary=app, app_loader=loader)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
