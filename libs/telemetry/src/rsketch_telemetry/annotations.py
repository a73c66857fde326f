"""
Attributes that an application puts on the span of the request it is serving, from wherever it happens to be.

`trace.get_current_span()` gives the innermost span, which deep in a call is that of a query or of a call to another
service; what is worth knowing of a request belongs on the request's own span.
"""

import logging
import weakref
from collections.abc import Sequence
from typing import Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import Span

from rsketch_telemetry._once import Once
from rsketch_telemetry.redaction import REDACTED, as_text, clean, names_secret, scrub

__all__ = ["RESERVED", "SERVER_SPAN", "annotate", "is_served", "with_server_span"]

SERVER_SPAN: Final = context_api.create_key("rsketch-server-span")
"""The key, in a context, of the span that `annotate` writes on."""

RESERVED: Final = ("client", "error", "exception", "http", "network", "rpc", "server", "url", "user_agent")
"""Namespaces of the attributes that a server span has without anyone's doing."""
_MAX_ATTRIBUTES = 64
_MAX_NAME_LENGTH = 128
_MAX_VALUE_LENGTH = 1024
_MAX_VALUES = 32
_MAX_INTEGER = 2**63 - 1

_names: weakref.WeakKeyDictionary[Span, set[str]] = weakref.WeakKeyDictionary()
"""What is on a span by `annotate`."""

_Plain = str | bool | int | float

_refused = Once(
    f"annotate() refuses names in {', '.join(RESERVED)}: these are telemetry's own; this is said once",
    level=logging.WARNING,
    traceback=False,
)
_full = Once(
    f"annotate() keeps {_MAX_ATTRIBUTES} attributes of a request and drops more; this is said once",
    level=logging.WARNING,
    traceback=False,
)


def with_server_span(span: Span, context: Context) -> Context:
    """Return *context* with *span* as the one that `annotate` writes on."""
    return context_api.set_value(SERVER_SPAN, span, context)


def _served() -> Span | None:
    found = context_api.get_value(SERVER_SPAN)
    return found if isinstance(found, Span) else None


def is_served() -> bool:
    """Return whether a request or an RPC is being served, as far as its span tells: an unsampled one says nothing."""
    span = _served()
    return span is not None and (span.is_recording() or not span.get_span_context().trace_flags.sampled)


def annotate(**attributes: _Plain | Sequence[_Plain]) -> None:
    """
    Put attributes on the span of the request or RPC that is being served; nothing where none is, or it has ended.

    Text is cut to 1,024 characters and loses what looks like a credential; of a name that promises one the value is
    replaced. At most 64 attributes a call are kept. The namespaces of telemetry's own
    attributes, such as `http.`, are refused.

        annotate(tenant="acme", **{"shop.basket.items": 3})
    """
    span = _served()
    if span is None or not span.is_recording():
        return
    names = _names.setdefault(span, set())
    for given, value in attributes.items():
        name = clean(given, _MAX_NAME_LENGTH)
        if name.partition(".")[0] in RESERVED:
            _refused()
        elif name not in names and len(names) >= _MAX_ATTRIBUTES:
            _full()
        elif name:
            names.add(name)
            span.set_attribute(name, REDACTED if names_secret(name) else _value(value))


def _value(value: object) -> _Plain | tuple[str, ...]:
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_text(each) for each in tuple(value)[:_MAX_VALUES])
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= _MAX_INTEGER):
        return value
    return _text(value)


def _text(value: object) -> str:
    return scrub(as_text(value), _MAX_VALUE_LENGTH)
