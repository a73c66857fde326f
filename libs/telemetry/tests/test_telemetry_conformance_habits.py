"""The rules that one item alone cannot break: what they find, and what they leave alone."""

from dataclasses import replace

import pytest
from rsketch_telemetry.conformance import RULES, Habits, habits, load, orphans
from rsketch_telemetry.conformance.habits import RULES_OF_MANY
from rsketch_telemetry.otlp.model import Exemplar, MetricPoint, Resource, Scope, Span

RESOURCE = Resource(attributes={"service.name": "shop"})
SCOPE = Scope(name="shop.web", attributes={})
SPAN = Span(
    trace_id="1" * 32,
    span_id="2" * 16,
    parent_span_id="",
    name="GET /users/<id>",
    kind="SERVER",
    start_ns=1,
    end_ns=2,
    attributes={},
    status="UNSET",
    status_message="",
    trace_state="",
    flags=1,
    events=(),
    links=(),
    dropped=0,
    resource=RESOURCE,
    scope=SCOPE,
)
POINT = MetricPoint(
    name="shop.wait",
    description="",
    unit="s",
    type="histogram",
    temporality="CUMULATIVE",
    monotonic=None,
    attributes={},
    start_ns=1,
    time_ns=2,
    flags=0,
    count=1,
    bounds=(1.0,),
    bucket_counts=(1, 0),
    resource=RESOURCE,
    scope=SCOPE,
)
EXEMPLAR = Exemplar(value=0.5, time_ns=2, trace_id="1" * 32, span_id="2" * 16, attributes={})


def _named(*names: str) -> list[str]:
    """Return the rules that spans of these names break."""
    return [found.rule for found in Habits().spans([replace(SPAN, name=name) for name in names])]


def test_each_rule_is_among_all_rules() -> None:
    """Every id has its summary and its link."""
    assert set(RULES) >= RULES_OF_MANY


@pytest.mark.parametrize(
    "template",
    [
        "GET /users/{}",
        "/orders/0{}?page",
        "GET /f/{}0000000-0000-4000-8000-000000000000/x",
        "GET /a/abcdef0123456789{}",
    ],
)
def test_values_in_names_are_found_when_there_are_several(template: str) -> None:
    """Numbers, UUIDs and long hexadecimal parts of a path are values as soon as five names differ in them alone."""
    assert _named(*(template.format(number) for number in range(5))) == ["span-name-values"]


@pytest.mark.parametrize(
    "names",
    [
        ["GET /users/<id>"] * 10,
        ["GET /errors/404", "GET /errors/500", "GET /errors/404", "GET /errors/500", "GET /errors/503"],
        [f"GET /api/v{number}/users" for number in range(9)],
        [f"shop.v{number}.Till/Pay" for number in range(9)],
        [f"GET /{word}" for word in ("deadbeefdeadbeef", "facadefacadefacade", "a", "b", "c", "d")],
    ],
)
def test_templates_are_no_values(names: list[str]) -> None:
    """Versions, words and a few numbers are left alone."""
    assert _named(*names) == []


def test_too_many_names_are_found_and_not_remembered() -> None:
    """Of a thousand different names no more are kept; each further one is told."""
    names = [f"name-{number}" for number in range(1003)]

    assert _named(*names, "name-1") == ["span-name-values"] * 3


def test_a_service_without_a_name_is_told_once() -> None:
    """What an SDK calls a service that nobody named is told at its first item."""
    nameless = replace(SPAN, resource=Resource(attributes={"service.name": "unknown_service:python"}))
    looking = Habits()

    assert [found.rule for found in looking.resources([SPAN, nameless, nameless])] == ["service-name"]
    assert list(looking.resources([nameless])) == []


def _children(count: int, **about: object) -> list[Span]:
    return [replace(SPAN, span_id=f"{at:016x}", parent_span_id="f" * 16, **about) for at in range(1, count + 1)]  # type: ignore[arg-type]  # fields of a span


def test_lost_parents_are_told_where_they_are_many() -> None:
    """Ten of them, and a twentieth of all with a parent in the process."""
    lost = _children(12, kind="INTERNAL")
    fine = [replace(child, trace_id="3" * 32) for child in _children(300, kind="INTERNAL")]
    known = {("3" * 32, "f" * 16)}

    assert [found.rule for found in orphans(lost, set(), 10)] == ["span-parent"]
    assert list(orphans(lost[:9], set(), 10)) == []
    assert list(orphans([*lost, *fine], known, 10)) == []


def test_remote_and_late_parents_are_not_lost() -> None:
    """Flags say where a parent was; without them servers have theirs elsewhere. What is recent may still come."""
    assert list(orphans(_children(20), set(), 10)) == []
    assert list(orphans(_children(20, kind="INTERNAL", flags=0x301), set(), 10)) == []
    assert list(orphans(_children(20, kind="INTERNAL", end_ns=50), set(), 10)) == []
    assert [found.rule for found in orphans(_children(20, flags=0x101), set(), 10)] == ["span-parent"]


def test_an_attribute_that_grows_is_told() -> None:
    """More than a hundred values, and as many as half of the series: the metric grows by it."""
    users = [replace(POINT, exemplars=(EXEMPLAR,), attributes={"user": user}) for user in range(101)]
    grid = [
        replace(POINT, exemplars=(EXEMPLAR,), attributes={"host": at % 101, "pool": at // 101}) for at in range(101 * 3)
    ]

    assert [found.rule for found in habits(load(), [], users)] == ["metric-attribute-values"]
    assert list(habits(load(), [], users[:100])) == []
    assert list(habits(load(), [], grid)) == []


def test_durations_without_exemplars_are_told() -> None:
    """Only where something was measured that spans of the same scope stand for, and no point has an example."""
    rising = [replace(POINT, time_ns=at, count=at * 10) for at in range(1, 4)]
    shining = [*rising, replace(POINT, time_ns=9, count=40, exemplars=(EXEMPLAR,))]
    idle = [replace(POINT, time_ns=at, count=1000) for at in range(1, 4)]
    deltas = [replace(point, temporality="DELTA", count=10) for point in rising]

    assert [found.rule for found in habits(load(), [SPAN], rising)] == ["exemplar-missing"]
    assert [found.rule for found in habits(load(), [SPAN], deltas)] == ["exemplar-missing"]
    assert list(habits(load(), [], rising)) == []
    assert list(habits(load(), [SPAN], shining)) == []
    assert list(habits(load(), [SPAN], idle)) == []
