"""
OTLP requests from parts that are encoded already, by concatenation: no message is built or parsed again.

The three export requests have the same shape and the same field numbers, so one function frames all of them:
`{1: {1: resource, 2: {1: scope, 2: item…, 3: scope schema URL}…, 3: resource schema URL}}`
(https://github.com/open-telemetry/opentelemetry-proto).
"""

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(slots=True, eq=False)
class Item:
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
    parts = [field(1, resource)]
    for scope, bodies in _by_scope(items).items():
        parts.append(field(2, b"".join([field(1, scope.message), *bodies, text(3, scope.schema_url)])))
    parts.append(text(3, schema_url))
    return field(1, b"".join(parts))


def _by_scope(items: Iterable[Item]) -> dict[Scope, list[bytes]]:
    """Return the fields of the items of each scope."""
    scopes: dict[Scope, list[bytes]] = {}
    scope: Scope | None = None
    fields: list[bytes] = []
    for item in items:
        # Most often that of the item before: to look it up means to hash its message.
        if item.scope is not scope:
            scope = item.scope
            fields = scopes.setdefault(scope, [])
        body = item.body
        fields += (_ITEM, varint(len(body)), body)
    return scopes


_ITEM = tag(2)
