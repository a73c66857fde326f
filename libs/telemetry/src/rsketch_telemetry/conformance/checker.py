"""
The checker: spans, points and records go in, violations of the contract come out. Pure: no socket, no clock, no output.

One `Checker` stands for one stream of telemetry. It remembers only what the rules on cardinality and on repeated
exceptions need, within fixed bounds, so it can run for as long as a service does.
"""

from collections.abc import Iterator, Sequence

from rsketch_telemetry.conformance.attributes import Allowances, names, values
from rsketch_telemetry.conformance.contract import Contract, load
from rsketch_telemetry.conformance.points import Cardinality, point
from rsketch_telemetry.conformance.records import Exceptions, record
from rsketch_telemetry.conformance.spans import span
from rsketch_telemetry.conformance.violation import Place, Violation
from rsketch_telemetry.conformance.whole import whole
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Resource, Span

__all__ = ["Checker", "check"]

_MAX_RESOURCES = 10_000


class Checker:
    """
    Checks telemetry as it arrives.

    Args:
        contract: None for that of this release.
        allowed: What the operator of the service allows.
    """

    def __init__(self, contract: Contract | None = None, allowed: Allowances | None = None) -> None:
        self._contract = contract or load()
        self._allowed = allowed or Allowances()
        self._cardinality = Cardinality(self._contract)
        self._exceptions = Exceptions(self._contract)
        self._metrics: set[str] = set()
        self._resources: set[int] = set()
        self._latest: Resource | None = None

    def spans(self, items: Sequence[Span]) -> Iterator[Violation]:
        """Yield what is wrong with spans."""
        for item in items:
            yield from self._resource(item.resource)
            yield from span(self._contract, item, self._allowed)

    def points(self, items: Sequence[MetricPoint]) -> Iterator[Violation]:
        """Yield what is wrong with the points of metrics; those of one export belong together."""
        self._metrics.update(item.name for item in items if item.name in self._contract.registry.metrics)
        for item in items:
            yield from self._resource(item.resource)
            yield from self._cardinality.point(item)
            yield from self._dated(item)

    def logs(self, items: Sequence[LogRecord]) -> Iterator[Violation]:
        """Yield what is wrong with log records."""
        for item in items:
            yield from self._resource(item.resource)
            yield from record(self._contract, item, self._allowed)
            yield from self._exceptions.record(item)

    def _dated(self, item: MetricPoint) -> Iterator[Violation]:
        """Yield what is wrong with a point; an old metric beside the one in its place is there on purpose."""
        replacements = self._contract.registry.deprecated.get(item.name, ())
        migrating = any(name in self._metrics for name in replacements)
        for found in point(self._contract, item, self._allowed):
            if migrating and found.rule == "deprecated-name":
                yield Place(found.where, found.scope).violates("duplicate-name", found.message, link=found.link)
            else:
                yield found

    def _resource(self, resource: Resource) -> Iterator[Violation]:
        """Yield what is wrong with a resource, when it is seen first."""
        if resource is self._latest:
            return
        self._latest = resource
        identity = hash(repr(sorted(resource.attributes.items(), key=str)))
        if identity in self._resources or len(self._resources) >= _MAX_RESOURCES:
            return
        self._resources.add(identity)
        said, group = resource.attributes, self._contract.resource
        place = Place("resource", str(said.get("telemetry.distro.name", "")), group.link)
        for name, use in group.attributes.items():
            if use.level == "required" and not said.get(name):
                yield place.violates("resource-attribute", f"{name} is missing")
        yield from names(self._contract, place, said, migrating=True)
        yield from values(self._contract, place, said, self._allowed, ours=False)


def check(
    spans: Sequence[Span] = (),
    points: Sequence[MetricPoint] = (),
    logs: Sequence[LogRecord] = (),
    *,
    contract: Contract | None = None,
    allowed: Allowances | None = None,
    complete: bool = False,
) -> list[Violation]:
    """
    Return what is wrong with a set of telemetry.

    Args:
        complete: Whether the set is everything that its processes made, nothing sampled away: then spans, metrics and
            logs must agree with each other.
    """
    checker = Checker(contract, allowed)
    found = [*checker.spans(spans), *checker.points(points), *checker.logs(logs)]
    if complete:
        found += whole(contract or load(), spans, points, logs)
    return found
