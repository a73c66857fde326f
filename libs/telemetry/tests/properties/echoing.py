"""
The Sanic application of the property tests, also as a program without any instrumentation.

    python echoing.py    serves until its standard input ends; prints its port
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.response import text

App = Sanic[Any, Any]

__all__ = ["create_app", "serving"]


def create_app() -> App:
    """Return an application that answers any path below /echo with what it was asked."""
    config = Config(env_prefix=None)
    config.update({"TOUCHUP": False, "MOTD": False, "AUTO_EXTEND": False, "FALLBACK_ERROR_FORMAT": "text"})
    app: App = Sanic("echoing", config=config, configure_logging=False)
    # One method, because Sanic lists those that are allowed in no order.
    app.add_route(_echo, "/echo/<path:path>", methods=["GET"])
    return app


async def _echo(request: Request, path: str) -> HTTPResponse:
    return text(ascii((request.method, path, request.query_string, sorted(request.headers.items()))))


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[int]:
    """Serve *app* on a free port of loopback, which is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server: Any = await app.create_server(
            sock=listening,
            access_log=False,
            return_asyncio_server=True,
            asyncio_server_kwargs={"start_serving": False},
        )
        await server.startup()
        await server.start_serving()
        try:
            yield listening.getsockname()[1]
        finally:
            server.close()
            await server.wait_closed()
            Sanic.unregister_app(app)


async def _until_stdin_ends() -> None:
    async with serving(create_app()) as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_until_stdin_ends())
