"""SQL of people: what it may ask for, what it must not do, and that it takes nothing down."""

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from otlp_json import identified, logs, metrics, number, record, span, traces
from rsketch_dashboard import DashboardConfig, serve
from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.queries.desk import Desk
from rsketch_dashboard.queries.sql import EXAMPLES, read_query, schema, sql
from rsketch_dashboard.store import Store
from stored import NOW, requests, stored

TRACE = identified("trace")
SAID = (
    traces(
        "shop",
        [
            span("GET /a", trace=TRACE, at=NOW, ms=5, attributes={"http.route": "/a"}, id=identified("root", 8)),
            span("query", trace=TRACE, at=NOW, ms=1.5, parent=identified("root", 8), kind="CLIENT", error="no"),
        ],
    ),
    logs("shop", [record("hello", NOW, severity="ERROR", trace=TRACE)]),
    metrics("shop", [number("load", 0.5, NOW, attributes={"cpu": 3})]),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a little of everything."""
    with stored(tmp_path, *SAID) as store:
        yield store


async def _ask(store: Store, query: str, seconds: float = 5.0) -> dict[str, Any]:
    desk = Desk(store)
    with desk.open():
        return await desk.ask(lambda connection: sql(connection, query), seconds=seconds, at_one_time=False)


async def test_views_have_ids_times_and_names_as_one_reads_them(store: Store) -> None:
    """A span is a row with hexadecimal ids, a timestamp, milliseconds and words."""
    found = await _ask(
        store,
        "SELECT trace_id, parent_span_id, start, duration_ms, service, name, kind, status FROM otel.spans ORDER BY 6",
    )

    assert [column["type"] for column in found["columns"]][2:4] == ["TIMESTAMP", "DOUBLE"]
    assert found["rows"][0] == [TRACE, None, "2030-03-17 17:47:00", 5.0, "shop", "GET /a", "SERVER", "UNSET"]
    assert found["rows"][1][1:2] + found["rows"][1][3:] == [
        identified("root", 8),
        1.5,
        "shop",
        "query",
        "CLIENT",
        "ERROR",
    ]
    assert not found["truncated"]


async def test_attributes_are_looked_up_by_key(store: Store) -> None:
    """The macro of a view has its rows that have an attribute, with the value."""
    spans = await _ask(store, "SELECT name, attribute FROM otel.spans_with('http.route')")
    points = await _ask(store, "SELECT name, value, attribute FROM otel.points_with('cpu')")
    records = await _ask(store, "SELECT severity, body, trace_id FROM otel.logs")

    assert spans["rows"] == [["GET /a", "/a"]]
    assert points["rows"] == [["load", 0.5, "3"]]
    assert records["rows"] == [["ERROR", "hello", TRACE]]


@pytest.mark.parametrize(("title", "query"), EXAMPLES)
async def test_the_examples_work(store: Store, title: str, query: str) -> None:
    """Each example is answered."""
    found = await _ask(store, query)

    assert title
    assert len(found["rows"]) >= 1


def test_the_schema_lists_what_there_is(store: Store) -> None:
    """Views and macros have columns and a description, and every name in the list can be asked for."""
    with store.reading() as connection:
        found = schema(connection)

    names = [each["name"] for each in found["tables"]]
    assert names[:2] == ["otel.spans", "otel.spans_with('<key>')"]
    assert all(each["columns"] and each["description"] for each in found["tables"])
    assert len(found["examples"]) == len(EXAMPLES)


async def test_views_outlive_segments(store: Store) -> None:
    """After a segment has begun and another one has gone, the views show what there is."""
    store._segments["spans"]._create(99)  # as the writer does when one is full
    store.append(requests(traces("shop", [span("later", trace=TRACE, at=NOW, ms=1)])))
    found = await _ask(store, "SELECT count(*) FROM otel.spans")

    assert found["rows"] == [[3]]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "SELECT",
        "SELECT 1; SELECT 2",
        "EXPLAIN SELECT 1",
        "PRAGMA version",
        "SET threads = 1",
        "RESET threads",
        "USE otel",
        "CHECKPOINT",
        "CALL checkpoint()",
        "VACUUM",
        "LOAD json",
        "INSTALL httpfs",
        "ATTACH ':memory:' AS other",
        "COPY meta TO '/tmp/stolen.csv'",
        "EXPORT DATABASE '/tmp/stolen'",
        "CREATE TABLE mine (a INTEGER)",
        "CREATE TEMP MACRO mine() AS 1",
        "INSERT INTO meta VALUES ('a', 'b')",
        "DELETE FROM meta",
        "DROP VIEW otel.spans",
        "PREPARE mine AS SELECT 1",
        "BEGIN",
        "WITH mine AS (INSERT INTO meta VALUES ('a', 'b') RETURNING key) SELECT * FROM mine",
        "SELECT * FROM (WITH mine AS (DELETE FROM meta RETURNING key) SELECT * FROM mine)",
        "SELECT * FROM query('DELETE FROM meta')",
        "SELECT * FROM query_table('meta')",
        "SELECT * FROM checkpoint()",
        "SELECT * FROM force_checkpoint()",
        "SELECT * FROM json_execute_serialized_sql('{}')",
        "SELECT * FROM enable_profiling()",
        "SELECT * FROM truncate_duckdb_logs()",
        "SELECT * FROM pandas_scan(1, 2, 3)",
        "SELECT * FROM python_arrow_scan(1, 2, 3)",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT (SELECT count(*) FROM arrow_scan(1, 2, 3))",
        "SELECT * FROM main.read_text('/etc/hostname')",
        "SELECT * FROM system.main.read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "FROM '/etc/hostname'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM parquet_metadata('/etc/hostname')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT getenv('HOME')",
        "SELECT write_log('mine')",
        "SELECT 'mine'.write_log()",
        "SELECT sleep_ms(10000)",
        "SELECT setseed(0.5)",
        "SELECT * FROM query_of_mine",
        "SELECT " + "a." * 100 + "b",
        "SELECT '" + "x" * 30_000 + "'",
        "SELECT 1 \0",
    ],
)
async def test_what_is_no_plain_select_is_refused(store: Store, query: str) -> None:
    """Nothing is written, no file is read, no setting changed; the answer is one line."""
    with pytest.raises(QueryError) as caught:
        await _ask(store, query)

    assert "\n" not in str(caught.value)
    assert (await _ask(store, "SELECT count(*) FROM meta WHERE key = 'a'"))["rows"] == [[0]]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT repeat('x', 1000000000)",
        "SELECT max(length(repeat('x', 10000000 + i::INTEGER))) FROM range(2000) r(i)",
        "SELECT len(range(1000000000))",
        "SELECT printf('%900000000d', 1)",
        "SELECT list(i) FROM range(100000000) r(i)",
        "WITH RECURSIVE r AS (SELECT 'x' AS a UNION ALL SELECT a || a FROM r) SELECT max(length(a)) FROM r",
        "SELECT sum(hash(a.range + b.range)) FROM range(10000000) a, range(100000) b",
    ],
)
async def test_what_takes_too_much_is_given_up(store: Store, query: str) -> None:
    """Too much memory, or too long, is an error; the process keeps its limits, and the writer goes on."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(QueryError, match=r"more memory than a query may take|longer than 1 s"):
        await _ask(store, query, seconds=1.0)

    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    store.append(requests(traces("shop", [span("after", trace=TRACE, at=NOW, ms=1)])))
    assert (await _ask(store, "SELECT count(*) FROM otel.spans WHERE name = 'after'"))["rows"] == [[1]]


async def test_answers_are_bounded(store: Store) -> None:
    """Ten thousand rows, cells of ten thousand characters, eight megabytes: what is beyond is cut, and said to be."""
    rows = await _ask(store, "SELECT range FROM range(1000000000000)")
    cell = await _ask(store, "SELECT repeat('é', 50000), range(100000)")
    size = await _ask(store, "SELECT repeat('y', 9000) FROM range(5000)")

    assert (len(rows["rows"]), rows["truncated"]) == (10_000, True)
    assert len(cell["rows"][0][0]) == 10_001
    assert cell["rows"][0][1].startswith("[0, 1, 2")
    assert size["truncated"]
    assert len(json.dumps(size["rows"])) < 9 * 1024 * 1024


async def test_values_that_json_has_not_are_text(store: Store) -> None:
    """Large numbers, bytes, times and what is not finite come as text; lists, maps and decimals as they are."""
    found = await _ask(
        store,
        "SELECT 9007199254740993, 170141183460469231731687303715884105727::HUGEINT, 'nan'::DOUBLE, '-inf'::FLOAT, "
        "'\\xAA'::BLOB, 1.50, TIMESTAMP '2030-01-02 03:04:05', INTERVAL 90 SECOND, [1, NULL], "
        "{'a': 1}, MAP {'k': 'infinity'::DOUBLE}, true, NULL, 0.5",
    )

    assert found["rows"] == [
        [
            *("9007199254740993", "170141183460469231731687303715884105727", "nan", "-inf", "aa", 1.5),
            *("2030-01-02 03:04:05", "0:01:30", [1, None], {"a": 1}, {"k": "inf"}, True, None, 0.5),
        ]
    ]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"query": 1}', b'{"query": "  "}', b"[" * 100_000])
def test_a_body_without_a_query_is_refused(body: bytes) -> None:
    """The message shows what is accepted."""
    with pytest.raises(QueryError, match="accepts a JSON object"):
        read_query(body)


async def test_sql_is_asked_over_http(tmp_path: Path) -> None:
    """A query is posted as JSON and answered with columns and rows, or with one line of error."""
    config = DashboardConfig(grpc_port=0, http_port=0, file=tmp_path / "a.duckdb", idle_seconds=0)
    async with (
        serve(config) as dashboard,
        httpx.AsyncClient(base_url=dashboard.url, trust_env=False, timeout=30) as client,
    ):
        good = await client.post("/api/sql", json={"query": "SELECT 1 AS one"})
        bad = await client.post("/api/sql", json={"query": "DROP TABLE meta"})
        tables = await client.get("/api/sql/schema")
        began = time.monotonic()
        both = await client.post("/api/sql", json={"query": "SELECT sum(hash(range)) FROM range(100000000000)"})

    assert good.json()["columns"] == [{"name": "one", "type": "INTEGER"}]
    assert good.json()["rows"] == [[1]]
    assert bad.status_code == 400
    assert set(tables.json()) == {"tables", "examples"}
    assert (both.status_code, "longer than 5 s" in both.json()["error"]) == (400, True)
    assert time.monotonic() - began < 8
