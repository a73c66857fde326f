"""Whatever metadata and method names go over gRPC: the call ends as it would, and telemetry stays valid."""

import string
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from hostile import CONTEXT_HEADERS, Loop, assert_fit_to_leave
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from recording import Recording, attributes, until
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from till import SERVICE, Channel, Handler, listening, path

_CONTEXT = frozenset({"traceparent", "tracestate", "baggage", "b3"})
_TRANSPORTS_OWN = ("user-agent", "grpc-", "te", "content-type")


class _Till:
    """An instrumented server that returns the metadata it was sent, and an instrumented channel to it."""

    def __init__(self, recording: Recording, loop: Loop, channel: Channel) -> None:
        self.recording = recording
        self._loop = loop
        self._channel = channel
        self._seen = 0

    def echoed(self, metadata: list[tuple[str, str | bytes]]) -> str:
        """Return what the handler says of its metadata."""
        return self._loop.run(self._call(path("Echo"), metadata)).decode()

    async def _call(self, method: str, metadata: list[tuple[str, str | bytes]]) -> bytes:
        answer: bytes = await self._channel.unary_unary(method)(b"", metadata=tuple(metadata), timeout=20)
        return answer

    def status_of(self, method: str) -> str:
        """Return the status of a call of any method."""
        try:
            self._loop.run(self._call(method, []))
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    def spans(self, count: int) -> list[Any]:
        """Wait for *count* spans that were not returned before, and return them."""
        self._loop.run(until(lambda: len(self.recording.spans.get_finished_spans()) >= self._seen + count))
        found = list(self.recording.spans.get_finished_spans()[self._seen :])
        self._seen += len(found)
        return found


async def _echo(_request: bytes, context: Any) -> bytes:
    return _said(context.invocation_metadata()).encode()


def _said(metadata: Any) -> str:
    pairs = [tuple(pair) for pair in metadata]
    theirs = [pair for pair in pairs if pair[0] not in _CONTEXT and not pair[0].startswith(_TRANSPORTS_OWN)]
    # gRPC keeps the order of one name's values alone.
    return repr(sorted(theirs, key=lambda pair: pair[0]))


@asynccontextmanager
async def _serving() -> AsyncIterator[Channel]:
    server = grpc.aio.server()
    methods: dict[str, Handler] = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def till() -> Iterator[_Till]:
    """Server and channel for all examples of this module."""
    recording, loop = Recording(), Loop()
    instrumentors = [GrpcAioServerInstrumentor(), GrpcAioClientInstrumentor()]
    for instrumentor in instrumentors:
        instrumentor.instrument(**recording.providers)
    serve = _serving()
    try:
        yield _Till(recording, loop, loop.run(serve.__aenter__()))
    finally:
        loop.run(serve.__aexit__(None, None, None))
        loop.close()
        for instrumentor in instrumentors:
            instrumentor.uninstrument()
        recording.close()


_NAMES = st.text(string.ascii_lowercase + string.digits + "_.-", min_size=1, max_size=20).filter(
    lambda name: not name.startswith(("grpc-", "te", "content", "user-agent", ":")) and not name.endswith("-bin")
)
# What gRPC lets through: anything else it refuses by itself.
_VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=200)
_METADATA = st.lists(
    st.one_of(st.tuples(_NAMES, _VALUES), st.tuples(_NAMES.map("{}-bin".format), st.binary(max_size=60))), max_size=12
)


@given(_METADATA, CONTEXT_HEADERS)
def test_any_metadata_reaches_the_handler_as_sent(
    till: _Till, metadata: list[tuple[str, str | bytes]], context: dict[str, str]
) -> None:
    """Metadata of the application is not changed, and a malformed context costs only the parent."""
    given_context = [(name, value.replace("\t", " ").strip()) for name, value in context.items()]
    expected = _said(metadata)
    echoed = till.echoed([*metadata, *given_context])
    server, client = sorted(till.spans(2), key=lambda span: span.kind is SpanKind.CLIENT)

    assert echoed == expected
    assert_fit_to_leave([server, client])
    assert attributes(server)["rpc.status_code"] == attributes(client)["rpc.status_code"] == "OK"
    assert server.parent.span_id == client.context.span_id


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_any_method_name_ends_as_its_caller_sees_it(till: _Till, method: str) -> None:
    """Calls of methods that nobody serves: the client's span says the status that was raised, and names no stranger."""
    status = till.status_of(f"/{method}")
    client = next(span for span in till.spans(1) if span.kind is SpanKind.CLIENT)

    assert attributes(client)["rpc.status_code"] == status
    assert_fit_to_leave([client])
