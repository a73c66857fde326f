"""Errors of every kind leave as problem documents that reveal nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from opentelemetry import trace
from rsketch_http import problems
from rsketch_http.app import create_app
from rsketch_http.config import HttpConfig
from rsketch_http.errors import RefusedError
from rsketch_http.readiness import Readiness
from rsketch_http.server import bind, running
from rsketch_http.upstream import open_upstream
from sanic import Sanic

if TYPE_CHECKING:
    from services.http.tests.conftest import OpenClient, Upstream

MAPPED = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 503,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def check(response: httpx.Response, status: int, instance: str | None) -> dict[str, Any]:
    """Assert that *response* is a problem document with all members, and return it."""
    problem: dict[str, Any] = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "about:blank"
    assert problem["title"] == problems.title(status)
    assert problem["status"] == status
    assert problem["detail"]
    assert problem.get("instance") == instance
    return problem


async def raw(client: httpx.AsyncClient, sent: bytes) -> httpx.Response:
    """Send bytes as they are and return the response."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(status_line.split()[1]), headers=headers, content=body)


def test_every_grpc_status_is_mapped() -> None:
    """No status of gRPC is forgotten in this test, whose table is that of the documentation."""
    assert {code.name for code in grpc.StatusCode} == {*MAPPED, "OK"}


@pytest.mark.parametrize(("code", "status"), MAPPED.items())
async def test_grpc_statuses_become_http_statuses(client: httpx.AsyncClient, code: str, status: int) -> None:
    """Each gRPC status has its HTTP status; the words of upstream pass only where the caller is at fault."""
    response = await client.get(f"/api/v1/hello?name=fail-{code}")

    problem = check(response, status, "/api/v1/hello")
    assert ("told by upstream" in problem["detail"]) == (status < 500)


async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    """404; the query is not repeated."""
    response = await client.get("/nowhere?token=secret")

    check(response, 404, "/nowhere")
    assert "secret" not in response.text


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "BREW"])
async def test_another_method_is_a_problem_with_allow(client: httpx.AsyncClient, method: str) -> None:
    """405 for methods that exist elsewhere and for those that exist nowhere; Allow lists what is supported."""
    response = await client.request(method, "/api/v1/hello")

    check(response, 405, "/api/v1/hello")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_over_the_limit_is_a_problem(upstream: Upstream, open_client: OpenClient, method: str) -> None:
    """413 by declared length, for any method, and by what arrives in chunks; the limit itself is allowed."""

    async def chunks() -> Any:
        for _ in range(3):
            yield b"x" * 1000

    async with open_client(upstream.port, {"RSKETCH_HTTP_MAX_BODY_BYTES": "2KiB"}) as client:
        declared = await client.request(method, "/api/v1/hello", content=b"x" * 2049)
        chunked = await client.request(method, "/api/v1/hello", content=chunks())
        allowed = await client.request(method, "/api/v1/hello", content=b"x" * 2048)

    check(declared, 413, "/api/v1/hello")
    check(chunked, 413, "/api/v1/hello")
    assert allowed.status_code in (400, 415)


async def test_a_small_body_limit_leaves_headers_alone(upstream: Upstream, open_client: OpenClient) -> None:
    """Sanic would take the limit of bodies for headers as well."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_MAX_BODY_BYTES": "64"}) as client:
        response = await client.get("/api/v1/hello?name=ada", headers={"x-long": "y" * 4000})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/3.7\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET nowhere?token=abc HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20000 + b"\r\n\r\n", 413),
    ],
)
async def test_a_head_that_cannot_be_read_is_a_problem(client: httpx.AsyncClient, sent: bytes, status: int) -> None:
    """What fails before there is a request is a problem as well, without an instance."""
    check(await raw(client, sent), status, None)


async def test_an_absolute_url_without_a_path_is_the_root(client: httpx.AsyncClient) -> None:
    """A proxy may ask like that; there is nothing at the root."""
    check(await raw(client, b"GET http://x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"), 404, "/")


async def test_an_unknown_expectation_is_a_problem(client: httpx.AsyncClient) -> None:
    """417."""
    sent = b"POST /api/v1/hello HTTP/1.1\r\nhost: x\r\nexpect: tea\r\ncontent-length: 1\r\n\r\nx"

    check(await raw(client, sent), 417, None)


async def test_a_head_that_does_not_arrive_is_a_timeout(upstream: Upstream, open_client: OpenClient) -> None:
    """408 after the time for requests, and the connection ends."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_REQUEST_TIMEOUT_SECONDS": "200ms"}) as client:
        check(await raw(client, b"GET /health HT"), 408, None)


async def test_a_body_that_does_not_arrive_is_a_timeout(upstream: Upstream, open_client: OpenClient) -> None:
    """408 and not 503, and the connection ends although the rest of the body never comes."""
    sent = b"POST /api/v1/hello HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    async with open_client(upstream.port, {"RSKETCH_HTTP_RESPONSE_TIMEOUT_SECONDS": "200ms"}) as client:
        check(await raw(client, sent), 408, "/api/v1/hello")


async def test_an_answer_that_takes_too_long_is_a_503(upstream: Upstream, open_client: OpenClient) -> None:
    """A handler that says nothing for longer than is allowed is ended, and so is its call."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_RESPONSE_TIMEOUT_SECONDS": "200ms"}) as client:
        response = await client.get("/api/v1/hello?name=stuck")
        await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)

    check(response, 503, "/api/v1/hello")


async def test_an_idle_connection_is_closed(upstream: Upstream, open_client: OpenClient) -> None:
    """Keep-alive ends after its time, without a word."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_KEEP_ALIVE_SECONDS": "200ms"}) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        received = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"OK")


async def test_a_fault_of_ours_is_logged_and_not_told(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """The caller sees a bare 500; the log has the traceback, the route, and no query."""
    config = HttpConfig(port=0, grpc_target=f"127.0.0.1:{upstream.port}")

    async def broken(request: Any) -> None:
        raise RuntimeError("password is hunter2")

    async with open_upstream(config) as opened:
        readiness = Readiness(opened.ready)
        app = create_app(config, opened, readiness)
        app.config.TOUCHUP = False
        app.add_route(broken, "/broken", name="broken")
        sock = await bind(config)
        try:
            async with running(app, sock, config, readiness), httpx.AsyncClient(trust_env=False) as client:
                response = await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/broken?token=secret")
        finally:
            Sanic.unregister_app(app)
            sock.close()

    check(response, 500, "/broken")
    assert "hunter2" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "unhandled exception in GET /broken"
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


async def test_the_trace_id_is_that_of_the_current_span(upstream: Upstream, open_client: OpenClient) -> None:
    """A problem carries the trace id when there is a valid span, so that a caller can name it."""
    context = trace.SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, is_remote=False)

    # The tasks of connections inherit the context in which the listener was started.
    with trace.use_span(trace.NonRecordingSpan(context)):
        async with open_client(upstream.port) as client:
            refused = await client.get("/api/v1/hello")
            cut = await client.get("/api/v1/hello/stream?name=fail-INTERNAL")

    assert refused.json()["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert '"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"' in cut.text


async def test_there_is_no_trace_id_without_a_span(client: httpx.AsyncClient) -> None:
    """A zero id would look like one."""
    response = await client.get("/nowhere")

    assert "trace_id" not in response.json()


async def test_ordinary_errors_are_not_logged(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """What callers do wrong fills no log: telemetry writes the access line."""
    with caplog.at_level(logging.INFO):
        await client.get("/nowhere")
        await client.delete("/health")
        await client.get("/api/v1/hello")
        await client.request("GET", "/health", content=b"body")
        await raw(client, b"nonsense\r\n\r\n")
        await raw(client, b"GET nowhere?token=abc HTTP/1.1\r\nhost: x\r\n\r\n")

    assert [record.name for record in caplog.records if not record.name.startswith("httpx")] == []


def test_a_cancelled_request_has_a_status_of_its_own() -> None:
    """Nobody reads it, but telemetry may see it."""
    assert problems.from_exception(asyncio.CancelledError()).status == 499


def test_a_refusal_keeps_its_words_and_fields() -> None:
    """What handlers say is what callers get."""
    problem = problems.from_exception(RefusedError(422, "No.", {"name": "too long"}))

    assert problem.document(instance="/x", trace_id=None) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "No.",
        "instance": "/x",
        "fields": {"name": "too long"},
    }
