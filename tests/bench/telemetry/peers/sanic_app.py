"""
Hello by Sanic's own server, as somebody else measures it: with contrib's instrumentation, with ddtrace, or with none.

It runs in an environment of its own, which has nothing of ours.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import text


def main(argv: Sequence[str]) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(argv)
    app: Sanic[Any, Any] = Sanic("measured")
    app.config.AUTO_EXTEND = False

    async def hello(_: Request) -> HTTPResponse:
        return text("Hello, world!")

    app.add_route(hello, "/hello")
    app.run(host="127.0.0.1", port=options.port, single_process=True, access_log=False, motd=False)


if __name__ == "__main__":
    main(sys.argv[1:])
