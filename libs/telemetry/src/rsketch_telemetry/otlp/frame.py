"""
OTLP requests from parts that are encoded already, by concatenation: no message is built or parsed again.

The three export requests have the same shape and the same field numbers, so one function frames all of them:
`{1: {1: resource, 2: {1: scope, 2: item…, 3: scope schema URL}…, 3: resource schema URL}}`
(https://github.com/open-telemetry/opentelemetry-proto).
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Item", "Scope", "field", "frame"]


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


@dataclass(frozen=True, slots=True)
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
    scopes: dict[Scope, list[bytes]] = {}
    for item in items:
        scopes.setdefault(item.scope, []).append(field(2, item.body))
    parts = [field(1, resource)]
    for scope, bodies in scopes.items():
        parts.append(field(2, b"".join([field(1, scope.message), *bodies, _text(3, scope.schema_url)])))
    parts.append(_text(3, schema_url))
    return field(1, b"".join(parts))


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field; *number* is from 1 to 15."""
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _text(number: int, value: str) -> bytes:
    return field(number, value.encode()) if value else b""


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
