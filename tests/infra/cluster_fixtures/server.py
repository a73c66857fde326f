"""
A program for the cluster's tests: an HTTP server that does, or says of itself, what a path asks for.

Arguments are the ports. /env, /argv, /who and /read?/etc/hosts tell; /write?/path, /status?503 (of /healthz) and
/exit?3 do. SLOW_SECONDS is how long it takes to start, SLEEPS_ON_TERM how long it goes on after SIGTERM.
"""

import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ENVIRON = dict(os.environ)
health = [200]


def main() -> None:
    """Serve on every port until SIGTERM."""
    signal.signal(signal.SIGTERM, leave)
    print("started as", socket.gethostname(), "with", sys.argv[1:], flush=True)
    time.sleep(float(ENVIRON.get("SLOW_SECONDS") or 0))
    for port in sys.argv[1:]:
        server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        signal.pause()


def leave(_: int, __: FrameType | None) -> None:
    """End with status 0, after the time that was asked for."""
    print("SIGTERM", flush=True)
    time.sleep(float(ENVIRON.get("SLEEPS_ON_TERM") or 0))
    print("bye", flush=True)
    sys.exit(0)


def write(path: str) -> str:
    """Append a line to a file."""
    with Path(path).open("a") as file:
        file.write("written\n")
    return "written"


def set_health(status: str) -> str:
    """Have /healthz answer with a status from now on."""
    health[0] = int(status)
    return status


ANSWERS: dict[str, Callable[[str], str]] = {
    "/argv": lambda _: json.dumps(sys.argv[1:]),
    "/env": lambda _: json.dumps(ENVIRON),
    "/exit": lambda code: os._exit(int(code)),
    "/read": lambda path: Path(path).read_text(),
    "/resolve": lambda name: json.dumps(sorted({str(each[4][0]) for each in socket.getaddrinfo(name, 80)})),
    "/status": set_health,
    "/who": lambda _: socket.gethostname(),
    "/write": write,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with text; what went wrong is status 500 and its words."""

    def do_GET(self) -> None:
        """Answer one request."""
        path, _, query = self.path.partition("?")
        if path == "/healthz":
            self.reply(health[0], f"health {health[0]} for {self.headers['User-Agent']}")
            return
        try:
            self.reply(200, ANSWERS[path](query))
        except (KeyError, OSError) as error:
            self.reply(500, f"{type(error).__name__}: {error}")

    def reply(self, status: int, text: str) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Keep the log to what the tests look for."""


if __name__ == "__main__":
    main()
