"""The greeting endpoints: each asks the gRPC service and passes its answer on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc
from sanic import HTTPResponse, Request
from sanic.response import json as json_response

from rsketch_http.config import HttpConfig
from rsketch_http.errors import RefusedError
from rsketch_http.models import HelloBody, StreamQuery, parse_body, parse_query
from rsketch_http.protocol import elapsed_seconds
from rsketch_http.responses import problem_document
from rsketch_http.upstream import Upstream

__all__ = ["GreetingApi"]

_MAX_BEAT_SECONDS = 15.0


class GreetingApi:
    """Handlers of `/api/v1/hello`."""

    def __init__(self, config: HttpConfig, upstream: Upstream) -> None:
        self._upstream = upstream
        self._timeout_seconds = config.grpc_timeout_seconds
        self._stream_timeout_seconds = config.stream_timeout_seconds
        # Well within the time after which Sanic takes a silent response for a stuck one.
        self._beat_seconds = min(_MAX_BEAT_SECONDS, config.response_timeout_seconds / 3)

    async def hello(self, request: Request) -> HTTPResponse:
        """Greet the name in the query."""
        # A missing name is passed on as an empty one: what a name must be is the greeting service's rule.
        return await self._greet(request, request.args.get("name", ""))

    async def post_hello(self, request: Request) -> HTTPResponse:
        """Greet the name in a JSON body."""
        if request.content_type.partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "The body must be application/json.")
        return await self._greet(request, parse_body(HelloBody, request.body).name)

    async def hello_stream(self, request: Request) -> None:
        """Greet the name in the query several times, as server-sent events."""
        query = parse_query(StreamQuery, {name: values[0] for name, values in request.args.items()})
        greetings = self._upstream.stream(
            query.name,
            count=query.count,
            interval_seconds=query.interval,
            timeout_seconds=self._stream_timeout_seconds - elapsed_seconds(request),
        )
        async with aclosing(greetings):
            # Nothing is sent before the first greeting, so that a refusal is an ordinary problem response.
            first = await anext(greetings, None)
            await self._send_events(request, first, greetings)

    async def _greet(self, request: Request, name: str) -> HTTPResponse:
        left = self._timeout_seconds - elapsed_seconds(request)
        return json_response({"message": await self._upstream.hello(name, timeout_seconds=left)})

    async def _send_events(self, request: Request, first: str | None, rest: AsyncIterator[str]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        response = await request.respond(content_type="text/event-stream", headers=headers)
        async with _heartbeat(response, self._beat_seconds):
            if first is not None:
                await response.send(_event({"message": first}))
            try:
                async for message in rest:
                    await response.send(_event({"message": message}))
            except (grpc.aio.AioRpcError, RefusedError) as error:
                await response.send(_event(problem_document(request, error), kind="error"))


def _event(data: object, kind: str | None = None) -> str:
    head = f"event: {kind}\n" if kind else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


@asynccontextmanager
async def _heartbeat(response: HTTPResponse, seconds: float) -> AsyncIterator[None]:
    """Send a comment every *seconds*, so that neither Sanic nor a proxy ends a stream that is only slow."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(seconds)
            await response.send(": keep-alive\n\n")

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        # Its own failure is that of the connection, which the stream meets as well.
        await asyncio.gather(task, return_exceptions=True)
