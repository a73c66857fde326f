"""The rules for log records: exceptions, one each and in their call's context, and access lines."""

from collections import OrderedDict
from collections.abc import Iterator

from rsketch_telemetry.conformance import attributes as rules
from rsketch_telemetry.conformance.attributes import Allowances
from rsketch_telemetry.conformance.contract import Contract, Event, Lines
from rsketch_telemetry.conformance.schema import schema_url
from rsketch_telemetry.conformance.violation import Place, Violation, shown
from rsketch_telemetry.otlp.model import LogRecord

__all__ = ["Exceptions", "place_of", "record"]

_SEVERITIES = {"INFO": range(9, 13), "WARN": range(13, 17), "ERROR": range(17, 21)}


def record(contract: Contract, item: LogRecord, allowed: Allowances) -> Iterator[Violation]:
    """Yield what is wrong with one log record."""
    known = contract.events.get(item.event_name)
    lines = contract.lines.get(item.scope.name)
    place = place_of(item, known.link if known else None)
    ours = item.scope.name.startswith(contract.scopes)
    yield from rules.names(contract, place, item.attributes, migrating=True)
    yield from rules.values(contract, place, item.attributes, allowed, ours=ours)
    yield from _body(contract, place, item)
    if known:
        yield from _event(contract, place, known, item, ours=ours)
    elif lines:
        yield from _line(contract, place, lines, item)
    elif rules.reserved(contract, item.event_name):
        yield from _unknown(contract, place, item.event_name)
    elif ours and item.event_name:
        yield place.violates("unknown-item", "the contract has no such event")


def place_of(item: LogRecord, link: str | None = None) -> Place:
    """Return where a record is, for people."""
    kind = f"event {shown(item.event_name)}" if item.event_name else f"log record of {shown(item.scope.name)!r}"
    return Place(kind, item.scope.name, link)


def _body(contract: Contract, place: Place, item: LogRecord) -> Iterator[Violation]:
    if isinstance(item.body, str) and len(item.body) > contract.limits["body"]:
        yield place.violates("limits", f"its body has more than {contract.limits['body']} characters")
    if isinstance(item.body, str) and not rules.encodable(item.body):
        yield place.violates("attribute-value", "its body cannot be UTF-8")


def _event(contract: Contract, place: Place, known: Event, item: LogRecord, *, ours: bool) -> Iterator[Violation]:
    if item.severity_number not in _SEVERITIES[known.severity]:
        yield place.violates("log-severity", f"its severity is {item.severity_number}, not {known.severity}")
    if not item.trace_id or not item.span_id:
        yield place.violates("log-context", "it is in no span")
    yield from schema_url(contract, place, item.scope.schema_url, known.since, ours=ours)
    yield from rules.present(place, known.attributes, item.attributes, ours=ours)
    if not {"exception.type", "exception.message"} & set(item.attributes) and not ours:
        # The conventions ask for one of the two; ours has both.
        yield place.violates("required-attribute", "exception.type and exception.message are missing")


def _line(contract: Contract, place: Place, lines: Lines, item: LogRecord) -> Iterator[Violation]:
    if not item.trace_id or not item.span_id:
        yield place.violates("log-context", "it is in no span")
    for name in item.attributes:
        if rules.reserved(contract, name) and name not in lines.attributes:
            yield place.violates("log-attribute", f"{shown(name)} is no attribute of it")


def _unknown(contract: Contract, place: Place, name: str) -> Iterator[Violation]:
    replacements = rules.deprecated(contract, name)
    if replacements is not None:
        message = f"{shown(name)} {rules.replaced(replacements)}"
        yield place.violates("deprecated-name", message, link=rules.dated_link(name))
    elif name not in contract.registry.events:
        yield place.violates("unknown-name", f"{shown(name)} is no published event")


class Exceptions:
    """Remembers the calls whose exception has been recorded; at most *calls* of them, the latest."""

    def __init__(self, contract: Contract, *, calls: int = 100_000) -> None:
        self._contract = contract
        self._calls = calls
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def record(self, item: LogRecord) -> Iterator[Violation]:
        """Yield the violation that a second record of one call's exception is."""
        if item.event_name not in self._contract.events or not item.span_id:
            return
        call = (item.trace_id, item.span_id, item.event_name)
        if call in self._seen:
            yield place_of(item).violates("exception-duplicate", "one call has several")
        self._seen[call] = None
        if len(self._seen) > self._calls:
            self._seen.popitem(last=False)
