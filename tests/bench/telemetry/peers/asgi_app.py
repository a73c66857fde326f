"""
Hello under uvicorn, by Sanic or FastAPI, with the instrumentation that a stack asks to be put into the code.

It runs in an environment of its own, which has nothing of ours and not everything that is imported here.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any


def main(argv: Sequence[str]) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--framework", choices=("sanic", "fastapi"), required=True)
    parser.add_argument("--stack", choices=("none", "contrib", "contrib-quiet", "logfire"), default="none")
    options = parser.parse_args(argv)
    app = _sanic() if options.framework == "sanic" else _fastapi()
    if options.stack.startswith("contrib"):
        app = _contrib(app, quiet=options.stack == "contrib-quiet")
    elif options.stack == "logfire":
        app = _logfire(app, options.framework)
    uvicorn: Any = import_module("uvicorn")
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


def _sanic() -> Any:
    sanic: Any = import_module("sanic")
    response: Any = import_module("sanic.response")
    app = sanic.Sanic("measured")
    app.config.AUTO_EXTEND = False

    async def hello(_: Any) -> Any:
        return response.text("Hello, world!")

    app.add_route(hello, "/hello")
    return app


def _fastapi() -> Any:
    fastapi: Any = import_module("fastapi")
    responses: Any = import_module("fastapi.responses")
    app = fastapi.FastAPI()

    async def hello() -> str:
        return "Hello, world!"

    app.add_api_route("/hello", hello, response_class=responses.PlainTextResponse)
    return app


def _contrib(app: Any, *, quiet: bool) -> Any:
    middleware: Any = import_module("opentelemetry.instrumentation.asgi")
    return middleware.OpenTelemetryMiddleware(app, exclude_spans=["send", "receive"] if quiet else None)


def _logfire(app: Any, framework: str) -> Any:
    logfire: Any = import_module("logfire")
    logfire.configure(send_to_logfire=False, console=False, service_name="measured")
    if framework == "sanic":
        return logfire.instrument_asgi(app)
    logfire.instrument_fastapi(app)
    return app


if __name__ == "__main__":
    main(sys.argv[1:])
