"""
The example shop as a program of the suite: warehouse and web application, each in a process, as its README says.

This driver is not instrumented; it starts both with the launcher where the subject has one, and tells when they listen.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from truth.witness import Witness

__all__: list[str] = []

_SHOP = Path(__file__).parents[3] / "libs" / "telemetry" / "examples" / "shop"
_START_SECONDS = 30.0


def main() -> None:
    """Run the shop until this process is told to end."""
    witness = Witness()
    with socket.create_server(("127.0.0.1", 0)) as free:
        stock_port: int = free.getsockname()[1]
    settings = {
        "STOCK_PORT": str(stock_port),
        "SHOP_PORT": str(witness.port),
        "SHOP_DATABASE": str(witness.folder / "shop.db"),
        "SHOP_LOOK_EVERY_SECONDS": "3600",
    }
    launcher = [] if witness.subject == "bare" else ["opentelemetry-instrument"]
    children = [_start([*launcher, sys.executable, name], settings) for name in ("stock.py", "web.py")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        for port in (stock_port, witness.port):
            _wait_for(port)
        witness.ready()
        signal.pause()
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            child.wait()


def _start(argv: Sequence[str], settings: dict[str, str]) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, **settings}  # noqa: TID251 - a program of its own
    return subprocess.Popen(argv, cwd=_SHOP, env=environ)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


if __name__ == "__main__":
    main()
