"""What the views of traces, services and logs answer, over several segments."""

from pathlib import Path
from typing import Any

import pytest
from rsketch_dashboard.queries.logs import logs as logs_view
from rsketch_dashboard.queries.overview import overview
from rsketch_dashboard.queries.service_map import service_map
from rsketch_dashboard.queries.services import runs, services
from rsketch_dashboard.queries.traces import SCATTERED, scatter, traces
from rsketch_dashboard.store import Store
from telemetry_made import CLIENT, INTERNAL, NOW, PRODUCER, SERVER, Json, Sent, ask, logs, spans, store_in, trace_id

CONSUMER = 5
SECOND = 10**9
SECOND_US = 10**6


def _traces(store: Store, **asked: Any) -> list[int]:
    """Return the numbers of the traces that are listed, in their order."""
    return [int(row["trace_id"], 16) for row in ask(store, traces, **asked)["traces"]]


def _mixed(store: Store) -> None:
    """Store twenty traces of two services, one each two seconds, three spans a segment."""
    for number in range(1, 21):
        even = number % 2 == 0
        mine = {"trace": number, "at": number * 2 * SECOND, "run": "run-2" if number > 10 else "run-1"}
        sent = Sent(
            id=1,
            name=f"GET /{number % 5}",
            took=number * 1_000_000,
            failed=number % 10 == 3,
            service="shop" if even else "till",
            attributes=[("parity", "even" if even else "odd"), ("n", number), ("rare", "x")][: 3 if number == 7 else 2],
            **mine,  # type: ignore[arg-type]
        )
        store.append([spans(sent, Sent(id=2, parent=1, kind=INTERNAL, name="inside", **mine))])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, list(range(20, 0, -1))),
        ({"service": "till"}, list(range(19, 0, -2))),
        ({"operation": "GET /3"}, [18, 13, 8, 3]),
        ({"q": "get /4"}, [19, 14, 9, 4]),
        ({"kind": "CLIENT"}, []),
        ({"status": "error"}, [13, 3]),
        ({"status": "ok", "operation": "GET /3"}, [18, 8]),
        ({"min_ms": "18"}, [20, 19, 18]),
        ({"max_ms": "2"}, [2, 1]),
        ({"min_ms": "5", "max_ms": "6.5"}, [6, 5]),
        ({"attr": "parity=odd", "min_ms": "17"}, [19, 17]),
        ({"attr": ["parity=even", "n=4"]}, [4]),
        ({"attr": ["parity=even", "n=5"]}, []),
        ({"attr": "rare"}, [7]),
        ({"attr": "never"}, []),
        ({"run": "run-1", "service": "shop"}, [10, 8, 6, 4, 2]),
        ({"from_us": str(NOW // 1000 + 4 * SECOND_US), "to_us": str(NOW // 1000 + 8 * SECOND_US)}, [3, 2]),
        ({"sort": "duration", "limit": "2"}, [20, 19]),
        ({"service": "nobody"}, []),
    ],
)
def test_traces_are_narrowed_down(tmp_path: Path, asked: dict[str, Any], expected: list[int]) -> None:
    """Each parameter alone and together with others, over segments that each intern by themselves."""
    with store_in(tmp_path, rows=3) as store:
        _mixed(store)

        assert _traces(store, **asked) == expected


def test_traces_are_paged_by_their_time(tmp_path: Path) -> None:
    """Page after page there is each trace once, newest first, and the last page says that it is."""
    with store_in(tmp_path, rows=3) as store:
        _mixed(store)
        pages: list[list[int]] = []
        before, more = dict[str, str](), True
        while more:
            found = ask(store, traces, limit="6", **before)
            pages.append([int(row["trace_id"], 16) for row in found["traces"]])
            before, more = {"before_ns": found["traces"][-1]["listed_ns"]}, found["more"]

    assert pages == [list(range(20, 14, -1)), list(range(14, 8, -1)), list(range(8, 2, -1)), [2, 1]]


def test_a_page_after_a_long_trace_skips_nothing(tmp_path: Path) -> None:
    """A trace that began long before the span that it is listed by is no reason to go back as far."""
    with store_in(tmp_path) as store:
        _mixed(store)
        store.append([spans(Sent(trace=99, id=1), Sent(trace=99, id=2, parent=1, at=60 * SECOND))])
        first = ask(store, traces, limit="1")
        second = ask(store, traces, limit="1", before_ns=first["traces"][0]["listed_ns"])

    assert [row["trace_id"] for row in first["traces"]] == [trace_id(99)]
    assert [row["trace_id"] for row in second["traces"]] == [trace_id(20)]


def test_a_trace_with_many_entries_hides_no_others(tmp_path: Path) -> None:
    """One trace whose entries would fill the page by themselves leaves room for the others."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(trace=1))])
        store.append([spans(*(Sent(trace=2, id=at, parent=999, at=SECOND + at) for at in range(1, 200)))])
        found = ask(store, traces, limit="10")

    assert [row["trace_id"] for row in found["traces"]] == [trace_id(2), trace_id(1)]
    assert not found["more"]


def test_facets_count_what_is_narrowed_down(tmp_path: Path) -> None:
    """They count entry spans by service, operation and status, of what the filters leave."""
    with store_in(tmp_path, rows=3) as store:
        _mixed(store)
        facets = ask(store, traces, facets="1", operation="GET /3")["facets"]
        none = ask(store, traces, facets="1", service="nobody")["facets"]

    assert facets == {
        "services": [{"value": "shop", "count": 2}, {"value": "till", "count": 2}],
        "operations": [{"value": "GET /3", "count": 4}],
        "statuses": [{"value": "ERROR", "count": 2}, {"value": "UNSET", "count": 2}],
    }
    assert none == {"services": [], "operations": [], "statuses": []}


def test_a_row_is_of_the_whole_trace(tmp_path: Path) -> None:
    """Whichever span was asked for, the row names the root, and counts all spans, errors, services and logs."""
    with store_in(tmp_path, rows=2) as store:
        store.append([spans(Sent(id=3, parent=2, name="POST /pay", service="till", at=20, failed=True))])
        store.append([spans(Sent(id=2, parent=1, kind=CLIENT, at=10))])
        store.append([spans(Sent(id=1, took=77, attributes=[("http.response.status_code", 503)])), logs("a", trace=1)])
        (row,) = ask(store, traces, service="till")["traces"]

    assert row == {
        "trace_id": trace_id(1),
        "root": "GET /",
        "service": "shop",
        "kind": "SERVER",
        "start_us": NOW // 1000,
        "duration_ns": 77,
        "status": "UNSET",
        "spans": 3,
        "errors": 1,
        "services": ["shop", "till"],
        "code": "503",
        "orphan": False,
        "logs": 1,
        "listed_us": NOW // 1000,
        "listed_ns": str(NOW + 20),
    }


def test_a_trace_without_its_root_is_listed_as_an_orphan(tmp_path: Path) -> None:
    """While the root has not arrived the entry closest to it stands for the trace."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(id=3, parent=2, name="late", at=20), Sent(id=2, parent=1, name="early", at=10))])
        (row,) = ask(store, traces)["traces"]

    assert (row["root"], row["orphan"], row["spans"]) == ("early", True, 2)


def test_probes_are_hidden_unless_asked_for(tmp_path: Path) -> None:
    """Health checks of the usual names are in no view, and in all of them with health=1."""
    probes = ["GET /health", "GET /healthz", "/livez", "GET /ready", "grpc.health.v1.Health/Check", "GET /ping"]
    real = ["GET /healthy-food", "GET /", "POST /already"]
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(trace=at + 1, name=name) for at, name in enumerate(probes + real)))])
        now = NOW // 1000
        hidden = (ask(store, traces), ask(store, scatter), ask(store, overview, now))
        shown = tuple(ask(store, view, *more, health="1") for view, *more in ((traces,), (scatter,), (overview, now)))

    for found, count in ((hidden, 3), (shown, 9)):
        listed, dots, red = found
        assert (len(listed["traces"]), dots["total"], red["totals"]["requests"]) == (count, count, count)
        assert len(red["operations"]) == count


def test_the_scatter_has_every_entry(tmp_path: Path) -> None:
    """A dot says when, how long, whether it failed, of which operation, and which trace it opens."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(trace=1, took=5), Sent(trace=2, at=2000, failed=True, name="GET /b"))])
        store.append([spans(Sent(trace=3, id=2, parent=1, kind=CLIENT))])
        found = ask(store, scatter)
    named = sorted((dot[0], dot[1], dot[2], found["operations"][dot[3]], dot[4]) for dot in found["points"])

    assert named == [
        (NOW // 1000, 5, 0, "shop GET /", trace_id(1)),
        (NOW // 1000 + 2, 1_000_000, 1, "shop GET /b", trace_id(2)),
    ]
    assert (found["total"], found["sampled"]) == (2, False)


def test_a_sample_of_the_scatter_keeps_every_error(tmp_path: Path) -> None:
    """Of many dots a sample is drawn, the same each time; whoever looks for the failed finds all of them."""
    count = 3 * SCATTERED
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(trace=n, id=n, at=n, failed=n % 100 == 0) for n in range(1, count + 1)))])
        found, again = ask(store, scatter), ask(store, scatter)

    assert (found["total"], found["sampled"]) == (count, True)
    assert SCATTERED // 2 < len(found["points"]) <= SCATTERED
    assert sum(dot[2] for dot in found["points"]) == count // 100
    assert sorted(map(str, found["points"])) == sorted(map(str, again["points"]))


def test_the_overview_counts_each_operation_and_step(tmp_path: Path) -> None:
    """Counts, errors, rates, quantiles and steps of what was served, and apart from it of what was called."""
    with store_in(tmp_path) as store:
        for number in range(1, 101):
            served = Sent(trace=number, id=1, at=number * SECOND, took=number * 1_000_000, failed=number > 90)
            called = Sent(trace=number, id=2, parent=1, kind=CLIENT, name="SELECT", at=number * SECOND, took=500)
            store.append([spans(served, called)])
        start = NOW // 1000
        found = ask(store, overview, start + 200 * SECOND_US, from_us=str(start), to_us=str(start + 200 * SECOND_US))
    (operation,), (outgoing,) = found["operations"], found["outgoing"]

    assert found["window"] == {"from_us": start, "to_us": start + 200 * SECOND_US, "step_us": 5 * SECOND_US}
    assert (len(found["steps"]), found["steps"][:2]) == (40, [start, start + 5 * SECOND_US])
    assert (found["totals"]["requests"], found["totals"]["errors"], found["totals"]["spans"]) == (100, 10, 200)
    assert (operation["count"], operation["errors"], operation["rate"]) == (100, 10, 0.5)
    assert [operation[each] for each in ("p50_ns", "p95_ns", "p99_ns", "max_ns")] == [
        50_000_000,
        95_000_000,
        99_000_000,
        100_000_000,
    ]
    assert operation["counts"] == [4, *[5] * 19, 1, *[0] * 19]
    assert (sum(operation["errors_by_step"]), operation["p95_by_step"][20:22]) == (10, [100_000_000, None])
    assert (outgoing["name"], outgoing["kind"], outgoing["count"]) == ("SELECT", "CLIENT", 100)
    assert [int(row["trace_id"], 16) for row in found["slowest"]] == list(range(100, 90, -1))
    assert [int(row["trace_id"], 16) for row in found["failed"]] == list(range(100, 90, -1))


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"last": "1m"}, 60),
        ({"last": "1h"}, 100),
        ({"last": "all"}, 100),
        ({"last": "all", "status": "error"}, 10),
        ({"last": "all", "service": "nobody"}, 0),
    ],
)
def test_the_overview_has_a_window(tmp_path: Path, asked: dict[str, str], count: int) -> None:
    """The steps cover the window, and their counts are the whole."""
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(trace=n, at=-n * SECOND + 1, failed=n <= 10) for n in range(1, 101)))])
        found = ask(store, overview, NOW // 1000, **asked)
    counted = [sum(operation["counts"]) for operation in found["operations"]]

    assert found["totals"]["requests"] == count
    assert counted == ([count] if count else [])
    assert 1 <= len(found["steps"]) <= 41


def test_an_empty_store_has_empty_views(tmp_path: Path) -> None:
    """Nothing is shown where nothing has arrived, and nothing fails."""
    with store_in(tmp_path) as store:
        found = ask(store, overview, NOW // 1000)

        assert found["totals"] == {
            "spans": 0,
            "requests": 0,
            "errors": 0,
            "rate": 0.0,
            "p50_ns": None,
            "p95_ns": None,
            "p99_ns": None,
        }
        assert ask(store, traces) == {"traces": [], "more": False}
        assert ask(store, scatter)["points"] == []
        assert ask(store, service_map) == {"nodes": [], "edges": []}
        assert ask(store, logs_view)["logs"] == []
        assert ask(store, runs) == {"runs": []}


def test_services_and_runs_are_told_apart(tmp_path: Path) -> None:
    """A service has its runs, newest first, each with its spans and errors."""
    with store_in(tmp_path, rows=3) as store:
        _mixed(store)
        with store.reading() as connection:
            named = services(connection)["services"]
        found = ask(store, runs, service="till")["runs"]

    assert [(each["name"], each["spans"], each["runs"]) for each in named] == [("shop", 30, 2), ("till", 10, 2)]
    assert [(each["run"], each["service"], each["spans"], each["errors"]) for each in found] == [
        ("run-2", "till", 5, 1),
        ("run-1", "till", 5, 1),
    ]


def _edges(found: Json) -> set[tuple[str, str, int, int]]:
    return {(edge["from"], edge["to"], edge["count"], edge["errors"]) for edge in found["edges"]}


def test_the_map_has_who_calls_whom(tmp_path: Path) -> None:
    """Services that call one another, databases, queues and whatever sends nothing itself."""
    with store_in(tmp_path, rows=4) as store:
        for number in (1, 2):
            mine: dict[str, Any] = {"trace": number, "service": "shop", "parent": 1, "kind": CLIENT}
            store.append(
                [
                    spans(
                        Sent(trace=number, id=1),
                        Sent(id=2, **mine),
                        Sent(trace=number, id=3, parent=2, service="till", failed=number == 2),
                        Sent(id=4, name="SELECT", attributes=[("db.system.name", "postgresql")], **mine),
                        Sent(id=5, name="GET", attributes=[("server.address", "bank.example")], **mine),
                        Sent(id=6, **{**mine, "kind": PRODUCER}, attributes=[("messaging.system", "kafka")]),
                        Sent(id=7, name="odd", **mine),
                    )
                ]
            )
        found = ask(store, service_map)
    types = {node["name"]: node["type"] for node in found["nodes"]}

    assert _edges(found) == {
        ("shop", "till", 2, 1),
        ("shop", "postgresql", 2, 0),
        ("shop", "bank.example", 2, 0),
        ("shop", "kafka", 2, 0),
        ("shop", "unknown", 2, 0),
    }
    assert types == {
        "shop": "service",
        "till": "service",
        "postgresql": "database",
        "bank.example": "external",
        "kafka": "queue",
        "unknown": "external",
    }


def test_logs_are_narrowed_down(tmp_path: Path) -> None:
    """By severity, text, service, trace and attribute; newest first, with a histogram of all of them."""
    with store_in(tmp_path, rows=2) as store:
        store.append([logs("started", "Listening", severity=9)])
        store.append([logs("slow", at=SECOND, severity=13, trace=5)])
        failed = logs("failed: 50%", at=2 * SECOND, severity=17, service="till", trace=5)
        failed.resource_logs[0].scope_logs[0].log_records[0].attributes.add(key="code").value.int_value = 7
        store.append([failed])
        store.append([logs("debug", at=3 * SECOND, severity=5)])

        def bodies(**asked: Any) -> list[str]:
            return [record["body"] for record in ask(store, logs_view, **asked)["logs"]]

        found = ask(store, logs_view)

        assert bodies() == ["debug", "failed: 50%", "slow", "Listening", "started"]
        assert bodies(severity="WARN") == ["failed: 50%", "slow"]
        assert bodies(q="LISTEN") == ["Listening"]
        assert bodies(q="50%") == ["failed: 50%"]
        assert bodies(service="till") == bodies(attr="code=7") == bodies(attr="code") == ["failed: 50%"]
        assert bodies(trace=trace_id(5)) == ["failed: 50%", "slow"]
        assert bodies(after_us=str(NOW // 1000 + SECOND_US)) == ["debug", "failed: 50%"]
        assert bodies(before_us=str(NOW // 1000 + SECOND_US), limit="1") == ["Listening"]
        assert {name: sum(counts) for name, counts in found["histogram"]["counts"].items()} == {
            "ERROR": 1,
            "WARN": 1,
            "INFO": 2,
            "DEBUG": 1,
        }
        assert len({record["id"] for record in found["logs"]}) == 5


@pytest.mark.parametrize(
    ("severity", "name"),
    [(0, "UNSPECIFIED"), (1, "TRACE"), (8, "DEBUG"), (9, "INFO"), (16, "WARN"), (17, "ERROR"), (24, "FATAL")],
)
def test_a_severity_has_the_name_of_its_number(tmp_path: Path, severity: int, name: str) -> None:
    """All senders share the numbers; one that was not given is said to be none."""
    with store_in(tmp_path) as store:
        store.append([logs("a", severity=severity)])
        (record,) = ask(store, logs_view)["logs"]

    assert (record["severity"], record["severity_number"]) == (name, severity)


def test_entries_are_what_somebody_asked_for(tmp_path: Path) -> None:
    """Roots of any kind, servers and consumers are listed by themselves; what is inside them is not."""
    kinds = [(1, 0, INTERNAL), (2, 1, CLIENT), (3, 1, SERVER), (4, 1, CONSUMER), (5, 0, CLIENT)]
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(trace=n, id=n, parent=parent, kind=kind) for n, parent, kind in kinds))])

        assert sorted(_traces(store)) == [1, 3, 4, 5]
