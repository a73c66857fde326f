"""The rules for spans: what kind of call one is of, its name, its status, and when it ended."""

from collections.abc import Callable, Iterator, Mapping

from rsketch_telemetry.conformance import attributes as rules
from rsketch_telemetry.conformance.attributes import Allowances
from rsketch_telemetry.conformance.contract import Contract, SpanGroup
from rsketch_telemetry.conformance.schema import schema_url
from rsketch_telemetry.conformance.violation import Place, Violation, shown
from rsketch_telemetry.otlp.model import Attributes, Span
from rsketch_telemetry.semconv import OTHER, RPC_SERVER_ERRORS

__all__ = ["failed", "group_of", "place_of", "span"]


def span(contract: Contract, item: Span, allowed: Allowances) -> Iterator[Violation]:
    """Yield what is wrong with one span."""
    group = group_of(contract, item)
    place = place_of(item, group.link if group else None)
    ours = item.scope.name.startswith(contract.scopes)
    yield from rules.names(contract, place, item.attributes, migrating=group is not None)
    yield from rules.values(contract, place, item.attributes, allowed, ours=ours)
    if not _is_id(item.trace_id, 32) or not _is_id(item.span_id, 16):
        yield place.violates("span-context", "it has no trace id, or no id of its own")
    if item.end_ns < max(item.start_ns, 1):
        yield place.violates("span-time", "it has no end, or one before its start")
    for event in item.events:
        if event.name == "exception":
            yield place.violates("exception-span-event", "an exception is an event of it")
        inside = Place(f"event {shown(event.name)} of {place.where}", place.scope)
        yield from rules.names(contract, inside, event.attributes, migrating=True)
        yield from rules.values(contract, inside, event.attributes, allowed, ours=ours)
    if group:
        yield from _grouped(contract, place, group, item, ours=ours)
    elif ours:
        yield place.violates("unknown-item", "the contract has no such span")


def _grouped(contract: Contract, place: Place, group: SpanGroup, item: Span, *, ours: bool) -> Iterator[Violation]:
    yield from rules.present(place, group.attributes, item.attributes, ours=ours, status=item.status)
    yield from schema_url(contract, place, item.scope.schema_url, group.since, ours=ours)
    expected = _NAMES[group.name](item.attributes)
    if expected is not None and item.name != expected:
        yield place.violates("span-name", f"its name is not {group.name_text}")
    yield from _status(place, group, item)


def _is_id(text: str, digits: int) -> bool:
    return len(text) == digits and text.strip("0") != ""


def group_of(contract: Contract, item: Span) -> SpanGroup | None:
    """Return the kind of call that a span is of; None where the contract has none for it."""
    if item.attributes.get("rpc.system.name", "grpc") != "grpc" and not item.scope.name.startswith(contract.scopes):
        return None
    return next((each for each in contract.spans.values() if _is_of(each, item)), None)


def _is_of(group: SpanGroup, item: Span) -> bool:
    return item.kind == group.kind and any(mark in item.attributes for mark in group.marks)


def place_of(item: Span, link: str | None = None) -> Place:
    """Return where a span is, for people."""
    return Place(f"{item.kind} span {shown(item.name)!r}", item.scope.name, link)


def _http_name(attributes: Attributes) -> str | None:
    method, route = attributes.get("http.request.method"), attributes.get("http.route")
    if not isinstance(method, str):
        return None
    label = "HTTP" if method == OTHER else method
    return f"{label} {route}" if isinstance(route, str) and route else label


def _rpc_name(attributes: Attributes) -> str:
    method = attributes.get("rpc.method")
    return method if isinstance(method, str) and method != OTHER else "grpc"


_NAMES: Mapping[str, Callable[[Attributes], str | None]] = {"http": _http_name, "rpc": _rpc_name}


def _status(place: Place, group: SpanGroup, item: Span) -> Iterator[Violation]:
    bad = failed(group.status, item.attributes)
    if bad is True and item.status != "ERROR":
        yield place.violates("span-status", f"it is {item.status}: it should be {group.status_text}")
    if bad is False and item.status == "ERROR":
        yield place.violates("span-status", f"it is ERROR: it should be {group.status_text}")


def failed(rule: str, attributes: Attributes) -> bool | None:
    """
    Return whether a call with these attributes failed, by the rule of its kind.

    None where they do not say: a response of 200 may not have been sent whole.
    """
    status = attributes.get("http.response.status_code" if rule == "http.server" else "rpc.status_code")
    if rule == "http.server":
        if isinstance(status, int) and status >= 500:
            return True
        # A status below 500 is no failure by itself, so it is no error's name either.
        return False if status is not None and attributes.get("error.type") == str(status) else None
    if not isinstance(status, str):
        return None
    return status in RPC_SERVER_ERRORS if rule == "rpc.server" else status != "OK"
