"""Slow spans against the rest, and one run against another."""

from pathlib import Path

import pytest
from otlp_json import identified, span, traces
from rsketch_dashboard.errors import NotFoundError, QueryError
from rsketch_dashboard.queries.compare import compare, compare_runs
from stored import NOW, Json, asked, stored

MS = 10**6


def _orders(run: str = "1", slow_ms: float = 400.0, offset: int = 0) -> Json:
    """Return a thousand orders: those of one region are slow, each has a port of its own."""
    spans = []
    for at in range(1000):
        slow = at % 20 == 0
        region = "south" if slow else ("north", "west")[at % 2]
        spans.append(
            span(
                "POST /orders",
                trace=identified(f"{run} {at}"),
                at=NOW - 60 * 10**9 + offset + at * MS,
                ms=slow_ms if slow else 10 + at % 7,
                attributes={
                    "region": region,
                    "network.peer.port": 32768 + at,
                    "url.path": f"/orders/{at}",
                    "kind": "x",
                },
                error="out of stock" if slow and at % 40 == 0 else None,
            )
        )
    return traces("shop", spans, {"service.instance.id": run})


def test_what_the_slow_ones_share_comes_first(tmp_path: Path) -> None:
    """The region of the slow ones wins; what all have, and what each has for itself, is not listed."""
    with stored(tmp_path, _orders()) as store:
        found = asked(store, compare, operation="POST /orders")

    first, *others = found["attributes"]
    assert (found["selected"], found["rest"], found["threshold_ns"]) == (50, 950, 400 * MS)
    assert (first["key"], first["value"], first["selected"], first["rest"]) == ("region", "south", 50, 0)
    assert (first["selected_share"], first["rest_share"], first["score"]) == (1.0, 0.0, 1.0)
    assert {each["key"] for each in others} == {"span.status"}


def test_a_brush_selects_by_time_and_duration(tmp_path: Path) -> None:
    """With a brush, it is the spans in it that are compared with the rest."""
    start = (NOW - 60 * 10**9) // 1000
    with stored(tmp_path, _orders()) as store:
        found = asked(
            store, compare, sel_from_us=str(start), sel_to_us=str(start + 500_000), sel_min_ms="100", sel_max_ms="500"
        )

    assert (found["selected"], found["rest"], found["threshold_ns"]) == (25, 975, None)
    assert found["attributes"][0]["value"] == "south"


def test_a_threshold_is_taken_as_given(tmp_path: Path) -> None:
    """What takes as long as the threshold, or longer, is selected; nothing to compare with gives no attributes."""
    with stored(tmp_path, _orders()) as store:
        found = asked(store, compare, threshold_ms="15.5")
        everything = asked(store, compare, threshold_ms="0")
        nothing = asked(store, compare, service="nobody")

    assert found["threshold_ns"] == 15_500_000
    assert found["selected"] > 50
    assert (everything["selected"], everything["attributes"]) == (1000, [])
    assert nothing == {"selected": 0, "rest": 0, "threshold_ns": None, "attributes": []}


def test_calls_elsewhere_can_be_compared(tmp_path: Path) -> None:
    """An operation that has no entry spans, such as a query, is compared by its calls."""
    calls = [
        span("query", trace=identified(f"{at}"), at=NOW - 10**9, ms=at + 1, kind="CLIENT", parent=identified("p", 8))
        for at in range(20)
    ]
    with stored(tmp_path, traces("shop", calls)) as store:
        found = asked(store, compare, operation="query")

    assert (found["selected"], found["rest"]) == (1, 19)


def test_two_runs_are_beside_each_other(tmp_path: Path) -> None:
    """Each operation has the counts and quantiles of both runs; the newest two are the default."""
    with stored(tmp_path, _orders("old"), _orders("new", slow_ms=800, offset=10**9)) as store:
        found = asked(store, compare_runs, a="old", b="new")
        default = asked(store, compare_runs)

    (operation,) = found["operations"]
    assert (found["a"], found["b"]) == ("old", "new")
    assert (operation["a"]["count"], operation["a"]["errors"]) == (1000, 25)
    assert operation["b"]["p99_ns"] == 800 * MS
    assert operation["p95_ratio"] == pytest.approx(operation["b"]["p95_ns"] / operation["a"]["p95_ns"])
    assert default == found


def test_an_operation_of_one_run_alone_has_no_ratio(tmp_path: Path) -> None:
    """What only one of the runs did is shown beside nothing."""
    new = traces("shop", [span("GET /new", trace=identified("n"), at=NOW, ms=1)], {"service.instance.id": "new"})
    with stored(tmp_path, _orders("old"), new) as store:
        found = asked(store, compare_runs, a="old", b="new")

    by_name = {each["name"]: each for each in found["operations"]}
    assert (by_name["GET /new"]["a"], by_name["GET /new"]["p95_ratio"]) == (None, None)
    assert by_name["POST /orders"]["b"] is None


def test_runs_that_are_not_there_are_errors(tmp_path: Path) -> None:
    """One run alone cannot be compared, nor one that has sent nothing."""
    with stored(tmp_path, _orders("only")) as store:
        with pytest.raises(NotFoundError, match="no two runs"):
            asked(store, compare_runs)
        with pytest.raises(QueryError, match="a, b: accept"):
            asked(store, compare_runs, a="only")
        with pytest.raises(NotFoundError, match="no spans of this run"):
            asked(store, compare_runs, a="only", b="gone")
