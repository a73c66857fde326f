"""Whatever bytes a client sends to a Sanic server: it is answered as without telemetry, and telemetry stays valid."""

import asyncio
import logging
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import CONTEXT_HEADERS, Loop, assert_fit_to_leave
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from recording import Instrumented, attributes
from rsketch_telemetry import semconv
from rsketch_telemetry.sanic import SanicInstrumentor

from .echoing import create_app, serving

_SECRET = "s3cr3tPlanted"


class _Pair:
    """The same application twice: in a process without telemetry, and instrumented in this one."""

    def __init__(self, bare: int, instrumented: int, telemetry: Instrumented[SanicInstrumentor], loop: Loop) -> None:
        self._bare = bare
        self._instrumented = instrumented
        self._loop = loop
        self.telemetry = telemetry
        self._seen = 0

    def ask(self, head: bytes) -> tuple[bytes, bytes]:
        """Return what the one and the other answer to the same bytes."""
        return _answer(self._bare, head), _answer(self._instrumented, head)

    def spans(self) -> list[ReadableSpan]:
        """Wait for the span of the last request; return those that were not returned before."""
        self._loop.run(self._new_span())
        found = list(self.telemetry.spans.get_finished_spans()[self._seen :])
        self._seen += len(found)
        return found

    async def _new_span(self) -> None:
        # Not long: a request without a span is a failure, which hypothesis shrinks by many more requests.
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while len(self.telemetry.spans.get_finished_spans()) <= self._seen:
                    await asyncio.sleep(0.001)


def _answer(port: int, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while received := connection.recv(65536):
            answer += received
        return answer


@pytest.fixture(scope="module")
def pair() -> Iterator[_Pair]:
    """The two servers, for all examples of this module."""
    program = Path(__file__).with_name("echoing.py")
    bare = subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    loop, telemetry = Loop(), Instrumented(SanicInstrumentor())
    serve = serving(create_app())
    try:
        telemetry.instrument()
        assert bare.stdout
        yield _Pair(int(bare.stdout.readline()), loop.run(serve.__aenter__()), telemetry, loop)
    finally:
        loop.run(serve.__aexit__(None, None, None))
        loop.close()
        telemetry.close()
        bare.communicate(timeout=10)


_TOKEN = st.text(string.ascii_letters + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
_METHODS = st.one_of(st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS", "get"]), _TOKEN)
# Anything but what ends a line or the head: a server must not take it for two requests.
_BYTES = st.binary(max_size=80).map(lambda raw: raw.translate(None, b"\r\n\0 "))
_NAMES = st.sampled_from(["User-Agent", "Host", "Cookie", "Authorization", "X-Forwarded-For", "Forwarded", "X-Odd"])
_HEADERS = st.lists(
    st.tuples(_NAMES, st.binary(max_size=200).map(lambda raw: raw.translate(None, b"\r\n"))), max_size=8
)


def _head(method: str, target: bytes, headers: list[tuple[str, bytes]], context: dict[str, str]) -> bytes:
    lines = [name.encode() + b": " + value for name, value in headers]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in context.items()]
    return b"\r\n".join([method.encode() + b" " + target + b" HTTP/1.1", *lines, b"Connection: close", b"", b""])


@given(_METHODS, _BYTES, _HEADERS, CONTEXT_HEADERS)
def test_any_request_is_answered_as_without_telemetry(
    pair: _Pair, method: str, path: bytes, headers: list[tuple[str, bytes]], context: dict[str, str]
) -> None:
    """Answers are equal byte for byte, and the one span is fit to leave, whatever method, path, headers and context."""
    head = _head(method, b"/echo/" + path + b"?token=" + _SECRET.encode(), headers, context)
    bare, instrumented = pair.ask(head)

    assert instrumented == bare
    # Also where Sanic breaks on a head, and closes the connection without an answer.
    spans = pair.spans()
    assert len(spans) == 1
    assert (semconv.HTTP_RESPONSE_STATUS_CODE in attributes(spans[0])) is bool(bare)
    assert_fit_to_leave(spans)
    # A fragment is no part of a query, and a server may be sent one all the same.
    assert b"#" in path or b"?" in path or _SECRET not in str([attributes(span) for span in spans])


@given(CONTEXT_HEADERS)
def test_any_context_is_said_to_be_malformed_at_most_once(pair: _Pair, context: dict[str, str]) -> None:
    """However malformed trace context and baggage are, no line of the log holds any of it."""
    said: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = said.append  # type: ignore[assignment, method-assign] # the shortest handler
    logging.getLogger().addHandler(handler)
    try:
        pair.ask(_head("GET", b"/echo/x", [], context))
    finally:
        logging.getLogger().removeHandler(handler)
    pair.spans()

    assert len(said) <= 1
    assert all("malformed trace context" in record.getMessage() for record in said)
