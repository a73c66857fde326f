"""Response headers that name the span, and headers captured onto it: both only for those who ask."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NoOpTracerProvider
from recording import attributes
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Request
from sanic.response import HTTPResponse, ResponseStream, empty, file, file_stream, text
from sanic_server import App, Telemetry, asgi, create_app, fetch, send, serving

_BOTH = frozenset({"traceresponse", "server-timing"})


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Providers that nothing is connected to yet."""
    with Telemetry.recording() as seen:
        yield seen


def _named(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _shop(path: Path) -> App:  # noqa: C901 - one small handler for each kind of response
    app = create_app()
    shared = text("shared")

    @app.get("/plain")
    async def plain(request: Request) -> HTTPResponse:
        return text("plain")

    @app.get("/shared")
    async def same(request: Request) -> HTTPResponse:
        return shared

    @app.get("/nothing")
    async def nothing(request: Request) -> HTTPResponse:
        return empty()

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond()
        await response.send("a")
        await response.send("b")

    @app.get("/written")
    async def written(request: Request) -> ResponseStream:
        async def write(response: Any) -> None:
            await response.write("a")

        return ResponseStream(write)

    @app.get("/file")
    async def whole(request: Request) -> HTTPResponse:
        return await file(path)

    @app.get("/file-stream")
    async def parts(request: Request) -> ResponseStream:
        return await file_stream(path)

    @app.get("/boom")
    async def boom(request: Request) -> HTTPResponse:
        raise ValueError("boom")

    @app.get("/own")
    async def own(request: Request) -> HTTPResponse:
        return text("own", headers={"traceresponse": "mine", "Server-Timing": "db;dur=53"})

    return app


_PATHS = ["/plain", "/shared", "/nothing", "/stream", "/written", "/file", "/file-stream", "/boom", "/lost"]


@pytest.mark.parametrize("serve", [serving, asgi])
@pytest.mark.parametrize("path", _PATHS)
async def test_trace_headers_on_every_response(telemetry: Telemetry, tmp_path: Path, serve: Any, path: str) -> None:
    """Whatever the response is and whoever serves it, both headers name the request's own span."""
    (tmp_path / "file").write_text("content")
    telemetry.instrument(InstrumentorSettings(response_trace_headers=_BOTH))
    async with serve(_shop(tmp_path / "file")) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
        span = await telemetry.server()

    assert answer.headers.get_list("traceresponse") == [_named(span)]
    assert answer.headers.get_list("server-timing") == [f'traceparent;desc="{_named(span)}"']


async def test_trace_headers_of_an_answer_to_a_bad_head(telemetry: Telemetry) -> None:
    """A request that Sanic refuses before it is one has them too."""
    telemetry.instrument(InstrumentorSettings(response_trace_headers=_BOTH))
    async with serving(create_app()) as port:
        raw = await send(port, b"GET / HTTP/7\r\n\r\n")
        span = await telemetry.server()

    assert f"\r\ntraceresponse: {_named(span)}\r\n".encode() in raw


async def test_trace_headers_respect_the_applications_own(telemetry: Telemetry, tmp_path: Path) -> None:
    """A traceresponse that the application has set stays alone, and its timings come before ours."""
    telemetry.instrument(InstrumentorSettings(response_trace_headers=_BOTH))
    answer = await fetch(_shop(tmp_path / "file"), "/own")
    span = await telemetry.server()

    assert answer.headers.get_list("traceresponse") == ["mine"]
    assert answer.headers.get_list("server-timing") == ["db;dur=53", f'traceparent;desc="{_named(span)}"']


async def test_trace_headers_do_not_stay_on_a_shared_response(telemetry: Telemetry, tmp_path: Path) -> None:
    """A response object that is sent twice names each time the span of its request."""
    telemetry.instrument(InstrumentorSettings(response_trace_headers=_BOTH))
    async with serving(_shop(tmp_path / "file")) as port, httpx.AsyncClient() as client:
        answers = [await client.get(f"http://127.0.0.1:{port}/shared") for _ in range(3)]

    assert [answer.headers.get_list("traceresponse") for answer in answers] == [
        [_named(span)] for span in telemetry.servers
    ]


async def test_one_trace_header_alone(telemetry: Telemetry, tmp_path: Path) -> None:
    """Who asks for one gets one."""
    telemetry.instrument(InstrumentorSettings(response_trace_headers=frozenset({"traceresponse"})))
    answer = await fetch(_shop(tmp_path / "file"), "/plain")

    assert "traceresponse" in answer.headers
    assert "server-timing" not in answer.headers


async def test_trace_headers_without_a_sampled_span(telemetry: Telemetry, tmp_path: Path) -> None:
    """A caller that does not sample is told that nothing was stored."""
    telemetry.instrument(InstrumentorSettings(response_trace_headers=_BOTH))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    answer = await fetch(_shop(tmp_path / "file"), "/plain", headers={"traceparent": parent})

    assert not telemetry.servers
    assert answer.headers["traceresponse"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert answer.headers["traceresponse"].endswith("-00")


async def test_trace_headers_without_an_sdk(tmp_path: Path) -> None:
    """Where tracing is off no span is named."""
    instrumentor = SanicInstrumentor()
    instrumentor.instrument(
        tracer_provider=NoOpTracerProvider(), settings=InstrumentorSettings(response_trace_headers=_BOTH)
    )
    try:
        answer = await fetch(_shop(tmp_path / "file"), "/plain")
    finally:
        instrumentor.uninstrument()

    assert answer.text == "plain"
    assert "traceresponse" not in answer.headers


async def test_excluded_requests_have_no_trace_headers(telemetry: Telemetry, tmp_path: Path) -> None:
    """Where there is no span there is none to name."""
    settings = InstrumentorSettings(response_trace_headers=_BOTH, excluded_urls=(re.compile("^/plain"),))
    telemetry.instrument(settings)
    answer = await fetch(_shop(tmp_path / "file"), "/plain")

    assert "traceresponse" not in answer.headers
    assert "server-timing" not in answer.headers


@pytest.mark.parametrize("path", [*_PATHS, "/own"])
async def test_responses_are_the_same_when_nothing_is_asked(telemetry: Telemetry, tmp_path: Path, path: str) -> None:
    """By default not one byte of a response is ours."""
    (tmp_path / "file").write_text("content")
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with serving(_shop(tmp_path / "file")) as port:
        bare = await send(port, request)
        telemetry.instrument()
        raw = await send(port, request)
        await telemetry.server()

    assert raw == bare


@pytest.mark.parametrize("serve", [serving, asgi])
async def test_captured_headers(telemetry: Telemetry, serve: Any) -> None:
    """Headers that were asked for are on the span alone, as sent, or masked where they may hold a credential."""
    wanted = frozenset(
        {"x-shop", "authorization", "x-customer", "x-absent", "x-number", "content-length", "set-cookie"}
    )
    telemetry.instrument(
        InstrumentorSettings(
            request_headers=wanted, response_headers=wanted, masked_headers=(re.compile("x-customer"),)
        )
    )
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        response = text("ok", headers={"x-shop": "north", "x-customer": "ada", "x-number": 7})  # type: ignore[dict-item]
        response.add_cookie("session", "hush")
        return response

    headers = [("x-shop", "a"), ("X-Shop", "b"), ("authorization", "Bearer hush"), ("x-customer", "ada"), ("y", "z")]
    async with serve(app) as port, httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}/", headers=headers)
        span = await telemetry.server()
    said = {name: value for name, value in attributes(span).items() if ".header." in name}

    assert said.pop("http.response.header.content-length", ("2",)) == ("2",)
    assert said == {
        "http.request.header.x-shop": ("a", "b"),
        "http.request.header.authorization": ("REDACTED",),
        "http.request.header.x-customer": ("REDACTED",),
        "http.response.header.x-shop": ("north",),
        "http.response.header.x-customer": ("REDACTED",),
        "http.response.header.x-number": ("7",),
        "http.response.header.set-cookie": ("REDACTED",),
    }
    assert not [name for name in attributes(telemetry.point) if "header" in name]


async def test_captured_headers_of_odd_requests(telemetry: Telemetry) -> None:
    """Headers of a request that Sanic refuses are captured as far as they were read, without what is no text."""
    telemetry.instrument(
        InstrumentorSettings(request_headers=frozenset({"x-shop"}), response_headers=frozenset({"content-type"}))
    )
    async with serving(create_app()) as port:
        await send(port, b"GET / HTTP/7\r\nX-Shop: \xff" + b"x" * 5000 + b"\r\nx-shop: b\r\n\r\n")
        span = await telemetry.server()
    (first, second) = attributes(span)["http.request.header.x-shop"]

    assert first.startswith("\ufffdx")
    assert len(first) <= 512
    assert second == "b"
    assert attributes(span)["http.response.header.content-type"] == ("text/plain; charset=utf-8",)
    assert json.dumps(attributes(span)).encode()


async def test_headers_are_not_captured_unasked(telemetry: Telemetry) -> None:
    """By default no header is on a span."""
    telemetry.instrument()
    await fetch(create_app(), "/other", headers={"x-shop": "a"})
    span = await telemetry.server()

    assert not [name for name in attributes(span) if ".header." in name]
