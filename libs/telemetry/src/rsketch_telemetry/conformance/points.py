"""The rules for metrics: instrument, unit, buckets, and the few attributes that one may have."""

from collections import OrderedDict
from collections.abc import Iterator

from rsketch_telemetry.conformance import attributes as rules
from rsketch_telemetry.conformance.attributes import Allowances
from rsketch_telemetry.conformance.contract import Contract, Metric
from rsketch_telemetry.conformance.schema import schema_url
from rsketch_telemetry.conformance.spans import failed
from rsketch_telemetry.conformance.violation import Place, Violation, shown
from rsketch_telemetry.otlp.model import Attributes, MetricPoint

__all__ = ["Cardinality", "place_of", "point"]

_OVERFLOW = "otel.metric.overflow"
_WITH_TEMPORALITY = ("sum", "histogram", "exponential_histogram")


def point(contract: Contract, item: MetricPoint, allowed: Allowances) -> Iterator[Violation]:
    """Yield what is wrong with one point by itself."""
    known = contract.metrics.get(item.name)
    place = place_of(item, known.link if known else None)
    ours = item.scope.name.startswith(contract.scopes)
    replacements = rules.deprecated(contract, item.name)
    if replacements is not None:
        # What else is old about it goes with the name.
        message = f"{shown(item.name)} {rules.replaced(replacements)}"
        yield place.violates("deprecated-name", message, link=rules.dated_link(item.name))
        return
    yield from rules.names(contract, place, item.attributes, migrating=False)
    yield from rules.values(contract, place, item.attributes, allowed, ours=ours)
    yield from _consistent(place, item)
    if known:
        yield from _known(contract, place, known, item, ours=ours)
    elif rules.reserved(contract, item.name) and item.name not in contract.registry.metrics:
        yield place.violates("unknown-name", f"{shown(item.name)} is no published metric")
    elif ours:
        yield place.violates("unknown-item", "the contract has no such metric")


def place_of(item: MetricPoint, link: str | None = None) -> Place:
    """Return where a point is, for people."""
    return Place(f"metric {shown(item.name)}", item.scope.name, link)


def _known(contract: Contract, place: Place, known: Metric, item: MetricPoint, *, ours: bool) -> Iterator[Violation]:
    if item.unit != known.unit:
        yield place.violates("metric-unit", f"its unit is {shown(item.unit)!r}, not {known.unit!r}")
    if not _is_instrument(known.instrument, item):
        yield place.violates("metric-instrument", f"it is a {_instrument(item)}, not a {known.instrument}")
    elif known.buckets and item.type == "histogram" and item.bounds != known.buckets:
        listed = ", ".join(f"{bound:g}" for bound in known.buckets)
        yield place.violates("metric-buckets", f"the bounds of its buckets are not {listed}")
    # A delta may well be below zero.
    total = item.temporality != "DELTA"
    if known.instrument == "updowncounter" and known.unit != "By" and total and (item.value or 0) < 0:
        yield place.violates("metric-value", "it counts fewer than none")
    yield from schema_url(contract, place, item.scope.schema_url, known.since, ours=ours)
    if _OVERFLOW in item.attributes:
        # It has lost what it should have had; that it is there at all is another rule's.
        return
    yield from rules.present(place, known.attributes, item.attributes, ours=ours)
    permitted = {*known.attributes, *(() if ours else known.also_published)}
    # An old name is a violation by itself.
    for name in item.attributes:
        if name not in permitted and rules.deprecated(contract, name) is None:
            yield place.violates("metric-attribute", f"{shown(name)} is no attribute of it")
    if known.span:
        yield from _outcome(place, contract.spans[known.span].status, item.attributes)


def _outcome(place: Place, rule: str, attributes: Attributes) -> Iterator[Violation]:
    bad, named = failed(rule, attributes), "error.type" in attributes
    if bad is True and not named:
        yield place.violates("error-type", "error.type is missing on a failure")
    if bad is False and named:
        yield place.violates("error-type", "error.type is there, though nothing failed")


def _is_instrument(wanted: str, item: MetricPoint) -> bool:
    return _instrument(item) == wanted


def _instrument(item: MetricPoint) -> str:
    if item.type == "sum":
        return "counter" if item.monotonic else "updowncounter"
    return "histogram" if item.type == "exponential_histogram" else item.type


def _consistent(place: Place, item: MetricPoint) -> Iterator[Violation]:
    if item.type == "histogram" and item.bucket_counts and sum(item.bucket_counts) != item.count:
        yield place.violates("metric-value", "its buckets do not add up to its count")
    if item.bucket_counts and len(item.bucket_counts) != len(item.bounds) + 1:
        yield place.violates("metric-value", "its buckets are not one more than their bounds")
    if item.type in _WITH_TEMPORALITY and item.temporality not in ("CUMULATIVE", "DELTA"):
        yield place.violates("metric-value", "it is neither cumulative nor a delta")
    if item.time_ns < max(item.start_ns, 1):
        yield place.violates("metric-value", "its time is not set, or before its start")
    if item.bounds != tuple(sorted(set(item.bounds))):
        yield place.violates("metric-value", "the bounds of its buckets do not rise")
    if item.unit == "s" and item.type == "histogram" and (item.sum or 0) < 0:
        yield place.violates("metric-value", "it has durations below zero")


class Cardinality:
    """
    Counts the different values that the attributes of each metric have, over all points seen.

    It keeps no more than what the contract allows, of at most *metrics* metrics.
    """

    def __init__(self, contract: Contract, *, metrics: int = 1000) -> None:
        self._contract = contract
        self._metrics = metrics
        # Of the values their hashes: a value is as long as whoever sends it likes.
        self._values: OrderedDict[int, dict[str, set[int]]] = OrderedDict()

    def point(self, item: MetricPoint) -> Iterator[Violation]:
        """Yield what one more point makes too much."""
        service = str(item.resource.attributes.get("service.name", ""))
        seen = self._values.setdefault(hash((service, item.scope.name, item.name)), {})
        if len(self._values) > self._metrics:
            self._values.popitem(last=False)
        place = place_of(item)
        if _OVERFLOW in item.attributes:
            yield place.violates("metric-cardinality", "it has more series than its SDK keeps")
        if self._grew(seen, "", repr(sorted(item.attributes.items())), self._contract.limits["series"]):
            yield place.violates("metric-cardinality", f"it has more than {self._contract.limits['series']} series")
        for name, value in item.attributes.items():
            known = self._contract.attribute(name)
            if known and known.distinct and self._grew(seen, name, repr(value), known.distinct):
                yield place.violates("metric-cardinality", f"{name} has more than {known.distinct} values")

    def _grew(self, seen: dict[str, set[int]], name: str, value: str, limit: int) -> bool:
        values, hashed = seen.setdefault(name, set()), hash(value)
        if hashed in values:
            return False
        if len(values) >= limit:
            return True
        values.add(hashed)
        return False
