"""
Ids of spans as they are sent: trace id and span id with their tags, the first two fields of an encoded span.

Few spans need them as numbers. Random ones are drawn many at once, which takes a tenth of the time.
"""

from collections.abc import Callable
from random import getrandbits
from struct import Struct
from typing import Any, Final

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: TID251 - whose ids these are

from rsketch_telemetry.otlp import wire

__all__ = ["Ids", "span_id_of", "trace_id_of"]

_TRACE_TAG: Final = wire.tag(1) + wire.varint(16)
_SPAN_TAG: Final = wire.tag(2) + wire.varint(8)
_TRACE_ID: Final = slice(len(_TRACE_TAG), len(_TRACE_TAG) + 16)
_SPAN_ID: Final = slice(-8, None)
_SPAN: Final = slice(_TRACE_ID.stop, None)
"""The span id with its tag."""

_MANY = 64
_BYTES: Final = len(_TRACE_TAG) + 16 + len(_SPAN_TAG) + 8
_DRAWN: Final = int.from_bytes(
    (bytes(len(_TRACE_TAG)) + b"\xff" * 16 + bytes(len(_SPAN_TAG)) + b"\xff" * 8) * _MANY, "big"
)
_TAGS: Final = int.from_bytes((_TRACE_TAG + bytes(16) + _SPAN_TAG + bytes(8)) * _MANY, "big")

_APART: Final[Callable[[bytes], tuple[bytes, ...]]] = Struct(f"{_BYTES}s" * _MANY).unpack


class Ids:
    """
    The ids of spans to come, by the generator of a tracer provider; not to be kept over a fork.

    Attributes:
        ready: Those of roots, to be popped; empty at times, and always where the program has a generator of its own.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = None if type(generator) is RandomIdGenerator else generator
        self.ready: list[bytes] = []

    def root(self) -> bytes:
        """Return the ids of a root, and have more of them ready."""
        if self._generator is not None:
            return _encoded(self._generator.generate_trace_id(), self._generator.generate_span_id())
        # That one of them is all zeros is to be expected once in 2**64 spans.
        drawn = (getrandbits(8 * _BYTES * _MANY) & _DRAWN | _TAGS).to_bytes(_BYTES * _MANY, "big")
        first, *more = _APART(drawn)
        self.ready.extend(more)
        return first

    def child(self, trace_id: int) -> bytes:
        """Return the ids of another span in a trace."""
        if self._generator is not None:
            return _encoded(trace_id, self._generator.generate_span_id())
        try:
            own = self.ready.pop()
        except IndexError:
            own = self.root()
        return _TRACE_TAG + trace_id.to_bytes(16, "big") + own[_SPAN]


def _encoded(trace_id: int, span_id: int) -> bytes:
    return _TRACE_TAG + trace_id.to_bytes(16, "big") + _SPAN_TAG + span_id.to_bytes(8, "big")


def trace_id_of(ids: bytes) -> bytes:
    """Return the 16 bytes of a trace id."""
    return ids[_TRACE_ID]


def span_id_of(ids: bytes) -> bytes:
    """Return the 8 bytes of a span id."""
    return ids[_SPAN_ID]
