"""
The application's program: `python -m truth.http.serve MODEL` serves it by one process model.

Models: `single`, `workers`, `uvicorn`, `testing` and `testing-asgi` (each request by sanic-testing's client), and
`before` and `after` (the program instruments itself, before it makes the application or after).
"""

import asyncio
import json
import signal
import socket
import sys
from typing import Any

from sanic import Sanic

from truth.http.app import create_app
from truth.witness import EXCLUDED, Witness

# All of this runs on import: Sanic's workers import their program again and need its application.
witness = Witness()
model = sys.argv[1]


def instrument() -> None:
    """Switch the subject on from code."""
    if witness.subject == "ours":
        import rsketch_telemetry

        rsketch_telemetry.instrument()
    elif witness.subject != "bare":
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()


if model == "before":
    instrument()
app = create_app(witness)
if model == "after":
    instrument()

if not model.startswith("testing"):

    @app.after_server_start
    async def ready(_: Sanic[Any, Any]) -> None:
        """Tell that this process serves."""
        witness.ready()


def uvicorn() -> None:
    """Serve under uvicorn; contrib has no instrumentor for Sanic, but a middleware for whatever speaks ASGI."""
    from uvicorn import Config, Server

    served: Any = app
    if witness.subject == "contrib":
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        served = OpenTelemetryMiddleware(app, excluded_urls=f"{EXCLUDED}$")
    # The application is told to start before uvicorn listens; what comes in between waits in the socket.
    with socket.create_server(("127.0.0.1", witness.port)) as listening:
        config = Config(
            served,
            log_level="warning",
            timeout_graceful_shutdown=1,
            http="h11",
            ws="websockets-sansio",
            proxy_headers=False,
        )
        Server(config).run([listening])


def by_test_client() -> None:
    """Send each request that the suite asks for by sanic-testing, which starts and stops a server around it."""
    from sanic_testing.testing import SanicTestClient  # type: ignore[import-untyped]  # it has no types

    client = SanicTestClient(app)

    def fetch(method: str, target: str, headers: list[list[str]], body: str) -> dict[str, Any]:
        given: Any = {"headers": [tuple(pair) for pair in headers]} | ({"content": body} if body else {})
        _, answer = client._sanic_endpoint_test("request", target, http_method=method, **given)
        # The server that has just stopped took the signal for itself, and gave it back to nobody.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        return _plain(answer)

    witness.ready()
    witness.obey({"fetch": fetch})


def by_asgi_client() -> None:
    """Send each request that the suite asks for by sanic-testing's client without sockets."""
    from sanic_testing.testing import SanicASGITestClient

    client = SanicASGITestClient(app)

    async def fetch(method: str, target: str, headers: list[list[str]], body: str) -> dict[str, Any]:
        given: Any = {"headers": [tuple(pair) for pair in headers]} | ({"content": body} if body else {})
        _, answer = await client.request(method, target, **given)
        return _plain(answer)

    async def obey() -> None:
        async with witness.obeying({"fetch": fetch}):
            witness.ready()
            await asyncio.Event().wait()

    asyncio.run(obey())


def _plain(answer: Any) -> dict[str, Any]:
    headers = [f"{name}: {value}" for name, value in answer.headers.multi_items() if name != "date"]
    seen: dict[str, Any] = json.loads(
        json.dumps({"status": answer.status_code, "headers": headers, "body": answer.text})
    )
    return seen


if __name__ == "__main__":
    match model:
        case "workers":
            app.run("127.0.0.1", witness.port, workers=2)
        case "uvicorn":
            uvicorn()
        case "testing":
            by_test_client()
        case "testing-asgi":
            by_asgi_client()
        case _:
            app.run("127.0.0.1", witness.port, single_process=True)
