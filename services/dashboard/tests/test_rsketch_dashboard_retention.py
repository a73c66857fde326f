"""What goes when a limit is reached, and what of it is still known."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rsketch_dashboard.queries.overview import overview
from rsketch_dashboard.queries.trace import trace
from rsketch_dashboard.queries.traces import traces
from rsketch_dashboard.store import Limits, Store
from rsketch_dashboard.store.schema import KEPT
from telemetry_made import (
    CLIENT,
    NOW,
    UNLIMITED,
    Json,
    Sent,
    ask,
    logs,
    opened,
    points,
    rows,
    segments_of,
    small,
    spans,
    store_in,
    trace_id,
)

MINUTE = 60 * 10**9


def _fill(store: Store, traces_of: range, **more: object) -> None:
    """Store traces of two spans, one each a transaction."""
    for number in traces_of:
        entry = {"trace": number, "at": number * 10**9, "took": number, **more}
        store.append([spans(Sent(id=1, **entry), Sent(id=2, parent=1, kind=CLIENT, **entry))])  # type: ignore[arg-type]


def _limits(**given: float) -> Limits:
    return Limits(**{"hours": 1e6, **given})  # type: ignore[arg-type]


def test_a_segment_ends_when_it_is_full(tmp_path: Path) -> None:
    """The next transaction after the last row that fits begins the next segment, for each family by itself."""
    with store_in(tmp_path, rows=4) as store:
        _fill(store, range(1, 6))
        store.append([logs("a", "b")])

        assert segments_of(store, "spans") == [(KEPT, 0), (1, 4), (2, 4), (3, 2)]
        assert segments_of(store, "logs") == [(1, 2)]


def test_a_segment_ends_when_its_rows_are_large(tmp_path: Path) -> None:
    """Large rows end a segment by their bytes: otherwise the only segment could outgrow every limit."""
    families = {name: replace(family, segment_bytes=100_000) for name, family in small(1000).items()}
    store = Store(tmp_path / "telemetry.duckdb", UNLIMITED, families=families)
    for number in range(1, 5):
        store.append([spans(Sent(trace=number, attributes=[("body", str(number) * 60_000)]))])
    found = segments_of(store, "spans")
    store.close()

    assert found == [(KEPT, 0), (1, 2), (2, 2)]


@pytest.mark.parametrize("family", ["spans", "logs", "points"])
def test_each_number_of_rows_is_a_limit(tmp_path: Path, family: str) -> None:
    """Beyond it the oldest segment of that family goes, and as many as it takes; others stay."""
    with store_in(tmp_path, _limits(**{family: 10}), rows=4) as store:
        for number in range(1, 31):
            store.append([spans(Sent(trace=number)), logs(f"log {number}"), points(number)])
            store.retain()
        contents = store.contents()

        assert 10 - 4 < contents.rows[family] - _kept(store, family) <= 10
        assert contents.dropped == {family: 30 - contents.rows[family] + _kept(store, family)}
        assert [contents.rows[other] for other in contents.rows if other != family] == [30, 30]


def _kept(store: Store, family: str) -> int:
    return dict(segments_of(store, family)).get(KEPT, 0)


def test_bytes_are_a_limit(tmp_path: Path) -> None:
    """When the file uses too much the oldest segment of all goes, until it does not, and the file gives room back."""
    with store_in(tmp_path, _limits(bytes=8 * 2**20), rows=5) as store:
        for number in range(1, 81):
            store.append([spans(Sent(trace=number, attributes=[("body", os.urandom(80_000).hex())]))])
            store.retain()
            assert store.contents().bytes <= 8 * 2**20
        found = segments_of(store, "spans")

    assert found[1][0] > 1
    assert found[-1][1] == 5


def test_hours_are_a_limit_from_when_rows_arrived(tmp_path: Path) -> None:
    """What arrived too long ago goes, whatever times it bears."""
    with store_in(tmp_path, _limits(hours=0.2 / 3600), rows=2) as store:
        _fill(store, range(1, 4))
        store.retain()
        before = store.contents().rows["spans"]
        time.sleep(0.25)
        store.retain()

        assert before == 6
        assert [number for number, _ in segments_of(store, "spans")] == [KEPT, 4]


def test_the_segment_that_is_written_never_goes(tmp_path: Path) -> None:
    """However low a limit, what has arrived last can be looked at."""
    with store_in(tmp_path, Limits(spans=0, logs=0, points=0, bytes=0, hours=0), rows=2) as store:
        store.append([spans(Sent()), logs("a"), points(1)])
        store.retain()

        assert dict(store.contents().rows) == {"spans": 1, "logs": 1, "points": 1}


def test_a_reader_does_not_make_more_go(tmp_path: Path) -> None:
    """While what was dropped is still read its room is not back: no more is dropped for that, and nothing fails."""
    with store_in(tmp_path, _limits(bytes=2**20), rows=10) as store:
        with store.reading() as connection:
            connection.begin()
            for number in range(1, 41):
                store.append([spans(Sent(trace=number, attributes=[("body", f"{number:06}" * 10_000)]))])
                rows(connection, "SELECT count(*) FROM spans")
            store.retain()
            store.retain()
            while_read = segments_of(store, "spans")
            connection.commit()
        store.retain()
        store.retain()

        assert [number for number, _ in while_read] == [KEPT, 2, 3, 4, 5]
        assert store.contents().bytes <= 2**20 or len(segments_of(store, "spans")) == 2


def _red(found: Json) -> object:
    totals = found["totals"]
    operations = [
        (each["service"], each["name"], each["kind"], each["count"], each["errors"], each["max_ns"], each["counts"])
        for each in found["operations"]
    ]
    return totals["requests"], totals["errors"], sorted(operations)


@pytest.mark.parametrize("asked", [{}, {"from_us": str(NOW // 1000), "to_us": str(NOW // 1000 + 3600_000_000)}])
@pytest.mark.parametrize("kept", [20_000, 30, 0])
def test_rates_and_errors_are_exact_after_their_spans_have_gone(
    tmp_path: Path, kept: int, asked: dict[str, str]
) -> None:
    """The overview counts what has gone and what outlived it: each request once, as before."""
    now = NOW // 1000 + 3600_000_000
    with store_in(tmp_path, _limits(spans=40, kept=kept), rows=20) as store:
        for number in range(1, 201):
            failed, name = number % 7 == 0, f"GET /{number % 3}"
            store.append([spans(Sent(trace=number, name=name, at=number * 10**10, took=number * 1000, failed=failed))])
        before = ask(store, overview, now, **asked)
        store.retain()
        after = ask(store, overview, now, **asked)

        assert store.contents().dropped["spans"] >= 160
        assert _kept(store, "spans") <= kept
        assert _red(after) == _red(before)
        assert [each["p50_ns"] for each in after["operations"]] == [
            pytest.approx(each["p50_ns"], rel=0.1) for each in before["operations"]
        ]


def test_health_checks_are_hidden_after_they_have_gone(tmp_path: Path) -> None:
    """A probe that was rolled up is hidden unless asked for, as it was before."""
    with store_in(tmp_path, _limits(spans=4), rows=4) as store:
        _fill(store, range(1, 6), name="GET /health")
        _fill(store, range(6, 11), name="GET /")
        store.retain()
        hidden, shown = (ask(store, overview, NOW // 1000, **asked) for asked in ({}, {"health": "1"}))

    assert [each["name"] for each in hidden["operations"]] == ["GET /"]
    assert sorted((each["name"], each["count"]) for each in shown["operations"]) == [("GET /", 5), ("GET /health", 5)]


async def test_failed_and_slow_traces_outlive_their_segment(tmp_path: Path) -> None:
    """They are listed, filtered and shown with attributes, resource and logs as before, by the API as well."""
    with store_in(tmp_path, _limits(spans=20), rows=20) as store:
        for number in range(1, 101):
            failed, took = number == 5, 10**9 if number == 9 else number
            mine = {"trace": number, "at": number * 10**6, "run": "run-1"}
            store.append(
                [
                    spans(
                        Sent(id=1, took=took, failed=failed, attributes=[("n", number)], **mine),  # type: ignore[arg-type]
                        Sent(id=2, parent=1, kind=CLIENT, attributes=[("db", "x")], **mine),  # type: ignore[arg-type]
                    ),
                    logs(f"log of {number}", trace=number),
                ]
            )
        store.retain()
    async with opened(tmp_path) as at:
        failed_ones = await at.get("/api/traces?status=error")
        slowest = await at.get("/api/traces?sort=duration&limit=1&attr=n=9&run=run-1")
        found = await at.get(f"/api/trace/{trace_id(5)}")

    assert [row["trace_id"] for row in failed_ones["traces"]] == [trace_id(5)]
    assert [row["trace_id"] for row in slowest["traces"]] == [trace_id(9)]
    assert [span["attributes"] for span in found["spans"]] == [[["n", 5]], [["db", "x"]]]
    assert found["resources"] == [[["service.name", "shop"], ["service.instance.id", "run-1"]]]
    assert [record["body"] for record in found["logs"]] == ["log of 5"]


def test_a_kept_trace_keeps_what_it_has_in_the_next_segment(tmp_path: Path) -> None:
    """A failed trace that goes on in another segment is kept whole when that goes too."""
    with store_in(tmp_path, _limits(spans=3), rows=4) as store:
        store.append([spans(Sent(trace=1, id=1, failed=True))])
        _fill(store, range(2, 4))
        store.append([spans(Sent(trace=1, id=7, parent=1, kind=CLIENT))])
        _fill(store, range(4, 10))
        store.retain()
        with store.reading() as connection:
            found = trace(connection, trace_id(1))

        assert [span["span_id"][-1] for span in found["spans"]] == ["1", "7"]


def test_kept_traces_have_a_limit_of_their_own(tmp_path: Path) -> None:
    """The oldest of them go, with whatever only they referred to."""
    with store_in(tmp_path, _limits(spans=4, kept=6), rows=4) as store:
        for number in range(1, 31):
            mine = {"trace": number, "at": number * MINUTE, "failed": True, "attributes": [("n", number)]}
            store.append([spans(Sent(id=1, **mine), Sent(id=2, parent=1, kind=CLIENT, **mine))])  # type: ignore[arg-type]
            store.retain()
        with store.reading() as connection:
            kept = rows(connection, f"SELECT DISTINCT trace_id FROM spans_{KEPT}")
            interned = rows(connection, f"SELECT DISTINCT value::INTEGER FROM span_attributes_{KEPT}")
        listed = ask(store, traces, status="error")["traces"]

        assert 0 < len(kept) <= 3
        assert sorted(interned) == sorted(kept)
        assert [row["trace_id"] for row in listed[:1]] == [trace_id(30)]


def test_when_a_segment_was_written_is_known_after_a_restart(tmp_path: Path) -> None:
    """Hours count from the arrival of a segment's last rows, also for one that the program before has written."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(id=1))])
        # As if the file had been made and its first rows stored an hour ago.
        store._segments["spans"]._found[-1].noted_ns -= 3600 * 10**9
        store.append([spans(Sent(id=2))])
        (written,) = (segment.written_ns for segment in store._segments["spans"]._found if segment.number == 1)
    with store_in(tmp_path) as store:
        (found,) = (segment.written_ns for segment in store._segments["spans"]._found if segment.number == 1)

    assert found == written
