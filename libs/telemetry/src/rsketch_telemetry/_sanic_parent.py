"""The context of a request's caller, by the global propagator."""

from multidict import istr
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter
from sanic.compat import Header

from rsketch_telemetry._w3c import NOTHING, is_pair, parent

__all__ = ["parent_context"]


# Folded once; a plain string is folded with each look-up.
_BAGGAGE, _TRACEPARENT, _TRACESTATE = istr("baggage"), istr("traceparent"), istr("tracestate")


def parent_context(headers: Header) -> Context:
    """Return the caller's context; an empty one without, whatever span was current where the server was started."""
    propagator = get_global_textmap()
    if is_pair(propagator) and _BAGGAGE not in headers:
        if _TRACEPARENT not in headers:
            return NOTHING
        if _TRACESTATE not in headers:
            lines = headers.getall(_TRACEPARENT)
            found = parent(lines[0]) if len(lines) == 1 else None
            if found is not None:
                return found
    return propagator.extract(headers, Context(), getter=_HEADERS)


class _HeaderGetter(Getter[Header]):
    """
    Joins the lines of a header that came more than once: propagators look at the first value only.

    Bytes outside ASCII come as surrogates, on which a propagator may fail: each is replaced.
    """

    def get(self, carrier: Header, key: str) -> list[str] | None:
        lines = carrier.getall(key, None)
        return [",".join(lines).encode("ascii", "replace").decode("ascii")] if lines else None

    def keys(self, carrier: Header) -> list[str]:
        return list(carrier)


_HEADERS = _HeaderGetter()
