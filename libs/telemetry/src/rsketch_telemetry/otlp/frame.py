"""
OTLP requests from parts that are encoded already, by concatenation: no message is built or parsed again.

The three export requests have the same shape and the same field numbers, so one function frames all of them:
`{1: {1: resource, 2: {1: scope, 2: item…, 3: scope schema URL}…, 3: resource schema URL}}`
(https://github.com/open-telemetry/opentelemetry-proto).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

from rsketch_telemetry.otlp.wire import field, tag, text, varint

__all__ = ["Item", "Run", "Scope", "frame", "runs"]


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

    @property
    def items(self) -> int:
        """How many items it is."""
        return 1

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.body)

    @property
    def fields(self) -> bytes:
        """What it is in a request."""
        return field(_ITEM_NUMBER, self.body)


class Run(NamedTuple):
    """
    Spans or log records of one scope that came one behind the other, as they are in a request.

    They are put together while they are fresh: to gather many small ones later is to wait for memory at each of them.
    """

    scope: Scope
    fields: bytes
    items: int

    @property
    def records(self) -> int:
        """What they are counted as."""
        return self.items

    @property
    def size(self) -> int:
        """The bytes that they take."""
        return len(self.fields)


def runs(scope: Scope, bodies: Sequence[bytes]) -> list[Item] | list[Run]:
    """Return encoded items of one scope together; each by itself where they are so large that it is no use."""
    if sum(map(len, bodies)) > _RUN_BYTES:
        return [Item(scope, body) for body in bodies]
    fields = b"".join(chain.from_iterable(zip(map(_head, map(len, bodies)), bodies, strict=True)))
    return [Run(scope, fields, len(bodies))] if bodies else []


@lru_cache(maxsize=4096)
def _head(length: int) -> bytes:
    """Return what the field of an item begins with."""
    return tag(_ITEM_NUMBER) + varint(length)


def frame(resource: bytes, schema_url: str, items: Iterable[Item | Run]) -> bytes:
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


def _by_scope(items: Iterable[Item | Run]) -> dict[Scope, list[bytes]]:
    """Return the fields of the items of each scope."""
    scopes: dict[Scope, list[bytes]] = {}
    for scope, alike in groupby(items, _scope):
        scopes.setdefault(scope, []).extend(map(_fields, alike))
    return scopes


_scope, _fields = attrgetter("scope"), attrgetter("fields")
_ITEM_NUMBER = 2
_REQUEST = tag(1)
_SCOPED = tag(2)
_RUN_BYTES = 256 * 1024
