"""
OTLP requests from parts that are encoded already, by concatenation: no message is built or parsed again.

The three export requests have the same shape and the same field numbers, so one function frames all of them:
`{1: {1: resource, 2: {1: scope, 2: item…, 3: scope schema URL}…, 3: resource schema URL}}`
(https://github.com/open-telemetry/opentelemetry-proto).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

from rsketch_telemetry.otlp.wire import field, tag, text, varint

__all__ = ["Item", "Scope", "frame"]


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The instrumentation scope of items.

    Attributes:
        message: The encoded `InstrumentationScope`.
        schema_url: Of the items in it; empty where unknown.
    """

    message: bytes
    schema_url: str = ""


class Item(NamedTuple):
    """
    One encoded `Span`, `LogRecord` or `Metric`, complete and independent of all others.

    Attributes:
        records: What it is counted as: of a metric its points.
    """

    scope: Scope
    body: bytes
    records: int = 1


def frame(resource: bytes, schema_url: str, items: Iterable[Item]) -> bytes:
    """Return the export request that holds *items* under one encoded `Resource`."""
    # Joined once, with the lengths known before: each copy of a large request is paid for with new pages of memory.
    inner = [field(1, resource)]
    for scope, fields in _by_scope(items).items():
        parts = [field(1, scope.message), *fields, text(3, scope.schema_url)]
        inner += (_SCOPED, varint(_length(parts)), *parts)
    inner.append(text(3, schema_url))
    return b"".join([_REQUEST, varint(_length(inner)), *inner])


def _length(parts: Iterable[bytes]) -> int:
    return sum(map(len, parts))


def _by_scope(items: Iterable[Item]) -> dict[Scope, list[bytes]]:
    """Return the fields of the items of each scope."""
    scopes: dict[Scope, list[bytes]] = {}
    for scope, alike in groupby(items, _scope):
        bodies = list(map(_body, alike))
        scopes.setdefault(scope, []).extend(chain.from_iterable(zip(_heads(bodies), bodies, strict=True)))
    return scopes


def _heads(bodies: Sequence[bytes]) -> Iterable[bytes]:
    """Return what the field of each item begins with."""
    lengths = list(map(len, bodies))
    if max(lengths) < len(_HEADS):
        return map(_HEADS.__getitem__, lengths)
    return [_ITEM + varint(length) for length in lengths]


_scope, _body = attrgetter("scope"), attrgetter("body")
_REQUEST = tag(1)
_SCOPED = _ITEM = tag(2)
_HEADS = tuple(_ITEM + varint(length) for length in range(2048))
"""For items of usual sizes."""
