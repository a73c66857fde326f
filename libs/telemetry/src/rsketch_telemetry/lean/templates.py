"""
What calls that end alike have in common, found by their facts.

The tables make what is missing, and are bounded: with one entry too many all are forgotten. Facts that come again are
the same objects, so most look-ups are by identity.
"""

import logging
from collections.abc import Hashable
from typing import Any, Final, TypeVar

from opentelemetry.trace import SpanKind

from rsketch_telemetry import access, semconv
from rsketch_telemetry.facts import Attributes, HttpCaller, HttpKind, HttpOutcome, Peer, RpcCall, RpcOutcome
from rsketch_telemetry.lean.cells import Cells, Duration, Open
from rsketch_telemetry.otlp import wire

__all__ = ["Encoded", "HttpTemplates", "OpenCalls", "OpenRequests", "RpcTemplates", "Template"]

_KEPT: Final = 4096
_KEPT_PEERS: Final = 64
_KINDS: Final = {SpanKind.SERVER: 2, SpanKind.CLIENT: 3}
_ERROR: Final = 2
"""As `SpanKind` and `StatusCode` of opentelemetry/proto/trace/v1/trace.proto have them."""


class Template:
    """
    What the spans and the durations of calls have in common.

    Attributes:
        constant: Encoded fields of their spans.
        duration: Their series.
        level: Of their access lines; NOTSET where they have none.
    """

    __slots__ = ("constant", "duration", "level")

    def __init__(self, kind: SpanKind, name: str, attributes: Attributes, duration: Duration) -> None:
        failed = semconv.ERROR_TYPE in attributes
        self.constant = b"".join(
            (
                wire.text(5, name),
                wire.uint64(6, _KINDS[kind]),
                wire.attributes(9, attributes),
                wire.field(15, wire.uint64(3, _ERROR) if failed else b""),
            )
        )
        self.duration = duration
        self.level = access.level(failed=failed) if kind is SpanKind.SERVER else logging.NOTSET


class HttpTemplates(dict[HttpKind, "_HttpEnds"]):
    """Of HTTP requests being served: by their kind, then by how they end."""

    def forget(self) -> None:
        """Begin anew, also for calls that are under way: they hold on to the tables in here."""
        for ends in self._by_value.values():
            ends.forget()

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self._cells = cells
        self._by_value: dict[Hashable, _HttpEnds] = {}

    def __missing__(self, kind: HttpKind) -> "_HttpEnds":
        alike = (kind.method, kind.scheme, kind.protocol_version)
        found = self._by_value.get(alike)
        if found is None:
            plain = HttpKind(kind.method, kind.scheme, kind.protocol_version)
            found = _kept(self._by_value, alike, _HttpEnds(plain, self._cells))
        # Of unknown methods there may be any number; what they have in common says nothing of them.
        return _kept(self, kind, found) if kind.method_original is None else found


class _HttpEnds(dict[HttpOutcome, Template]):
    def forget(self) -> None:
        self.clear()
        self._by_value.clear()

    def __init__(self, kind: HttpKind, cells: Cells) -> None:
        super().__init__()
        self._kind = kind
        self._cells = cells
        self._by_value: dict[Hashable, Template] = {}

    def __missing__(self, outcome: HttpOutcome) -> Template:
        end = (outcome.status_code, outcome.route, outcome.error)
        found = self._by_value.get(end) or _kept(self._by_value, end, self._new(outcome))
        return _kept(self, outcome, found) if outcome.kept else found

    def _new(self, outcome: HttpOutcome) -> Template:
        kind, said = self._kind, outcome.attributes()
        duration = self._cells.duration(semconv.HTTP_SERVER_DURATION, kind.metric_attributes() | said)
        return Template(SpanKind.SERVER, kind.span_name(outcome.route), kind.attributes() | said, duration)


class RpcTemplates(dict[RpcCall, "_RpcEnds"]):
    """Of RPCs on one side: by what they call, then by their status."""

    def forget(self) -> None:
        """Begin anew, as those of HTTP do."""
        for ends in self._by_value.values():
            ends.forget()

    def __init__(self, cells: Cells, *, server: bool) -> None:
        super().__init__()
        self._cells = cells
        self._server = server
        self._by_value: dict[Hashable, _RpcEnds] = {}

    def __missing__(self, call: RpcCall) -> "_RpcEnds":
        alike = (call.method, call.server_address, call.server_port)
        found = self._by_value.get(alike)
        if found is None:
            found = _kept(self._by_value, alike, _RpcEnds(call, self._cells, server=self._server))
        # Of unknown methods, and of calls whose metadata are recorded, there may be any number.
        return _kept(self, call, found) if call.method_original is None and call.metadata is None else found


class _RpcEnds(dict[RpcOutcome, Template]):
    def forget(self) -> None:
        self.clear()
        self._by_value.clear()

    def __init__(self, call: RpcCall, cells: Cells, *, server: bool) -> None:
        super().__init__()
        self._call = call
        self._cells = cells
        self._server = server
        self._by_value: dict[Hashable, Template] = {}

    def __missing__(self, outcome: RpcOutcome) -> Template:
        end = outcome.status_code
        found = self._by_value.get(end) or _kept(self._by_value, end, self._new(outcome))
        # There is one for each connection.
        return _kept(self, outcome, found, _KEPT_PEERS) if outcome.kept else found

    def _new(self, outcome: RpcOutcome) -> Template:
        end = outcome.attributes(server=self._server)
        said = self._call.metric_attributes() | end
        metric = semconv.RPC_SERVER_DURATION if self._server else semconv.RPC_CLIENT_DURATION
        kind = SpanKind.SERVER if self._server else SpanKind.CLIENT
        return Template(kind, self._call.span_name(), said, self._cells.duration(metric, said))


class OpenCalls(dict[str, Open]):
    """The series of RPCs being served, by method."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self._cells = cells

    def __missing__(self, method: str) -> Open:
        return _kept(self, method, self._cells.open(semconv.RSKETCH_RPC_CALLS, {semconv.RPC_METHOD: method}))


class OpenRequests(dict[HttpKind, Open]):
    """The series of HTTP requests being served, by kind."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self._cells = cells

    def __missing__(self, kind: HttpKind) -> Open:
        attributes: Attributes = {semconv.HTTP_REQUEST_METHOD: kind.method, semconv.URL_SCHEME: kind.scheme}
        found = self._cells.open(semconv.HTTP_ACTIVE_REQUESTS, attributes)
        return _kept(self, kind, found) if kind.method_original is None else found


class Encoded(dict[HttpCaller | Peer, bytes]):
    """The fields of a span that say what facts say."""

    def __missing__(self, facts: HttpCaller | Peer) -> bytes:
        return _kept(self, facts, wire.attributes(9, facts.attributes()))


V = TypeVar("V")


def _kept(table: dict[Any, V], key: Hashable, value: V, most: int = _KEPT) -> V:
    if len(table) >= most:
        table.clear()
    table[key] = value
    return value
