"""Requests as rows, and what a file that is not ours or not free comes to."""

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValueList
from rsketch_dashboard.errors import StoreError
from rsketch_dashboard.queries import logs as logs_view
from rsketch_dashboard.queries import services
from rsketch_dashboard.queries.trace import trace
from rsketch_dashboard.queries.traces import traces
from rsketch_dashboard.store import Store
from rsketch_dashboard.store.schema import VERSION
from telemetry_made import NOW, Json, Sent, ask, logs, pair, points, rows, spans, store_in, trace_id

HOSTILE = (
    "nul \0 nul",
    "\u202eright to left",
    "<script>alert(1)</script>",
    "'; DROP TABLE spans_1; --",
    "\u2028",
    "👩‍👩‍👧",
    "",
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


def _trace(store: Store, number: int = 1) -> Json:
    with store.reading() as connection:
        return trace(connection, trace_id(number))


def _count(store: Store, table: str) -> int:
    with store.reading() as connection:
        return int(rows(connection, f"SELECT count(*) FROM {table}")[0][0])


def test_attributes_are_stored_once_a_segment(tmp_path: Path) -> None:
    """An attribute that a thousand spans have is one row, and each of them refers to it."""
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(id=number, attributes=[("route", "/")]) for number in range(1, 1001)))])
        store.append([spans(*(Sent(id=number, attributes=[("route", "/")]) for number in range(1001, 1101)))])

        assert (_count(store, "spans"), _count(store, "span_attributes"), _count(store, "operations")) == (1100, 1, 1)
        assert _trace(store)["spans"][1099]["attributes"] == [("route", "/")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(tmp_path: Path, text: str) -> None:
    """Whatever stands in a name, a key, a value, a resource, a message or a body comes out as it went in."""
    request = spans(Sent(name=text, service=text, run=text, attributes=[(text, text)]))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    request.resource_spans[0].scope_spans[0].scope.name = text
    span.status.message, span.trace_state = text, text
    span.events.add(name=text).attributes.append(pair(text, text))
    span.links.add(trace_id=bytes(16)).attributes.append(pair(text, text))
    with store_in(tmp_path) as store:
        store.append([request, logs(text, service=text)])
        found, records = _trace(store), ask(store, logs_view.logs)["logs"]
    shown = found["spans"][0]

    assert (shown["name"], shown["status_message"], shown["scope"]["name"]) == (text, text, text)
    assert shown["service"] == text or (text == "" and shown["service"] == "unknown_service")
    assert shown["attributes"] == shown["events"][0]["attributes"] == shown["links"][0]["attributes"] == [(text, text)]
    assert [record["body"] for record in records] == [text]


def test_each_hostile_text_can_be_asked_for(tmp_path: Path) -> None:
    """A value with quotes in it is found by that value, and nothing else is."""
    with store_in(tmp_path) as store:
        store.append([spans(*(Sent(trace=at + 1, attributes=[("a", text)]) for at, text in enumerate(HOSTILE)))])
        found = [ask(store, traces, attr=f"a={text}")["traces"] for text in HOSTILE]

    assert [[row["trace_id"] for row in each] for each in found] == [[trace_id(at + 1)] for at in range(len(HOSTILE))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Open one store for many traces."""
    with store_in(tmp_path_factory.mktemp("shared")) as store:
        yield store


NUMBERS = itertools.count(1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXT, st.one_of(TEXT, st.booleans(), st.integers(-(2**53), 2**53))), max_size=8), TEXT)
def test_what_is_stored_is_what_was_sent(shared: Store, attributes: list[tuple[str, object]], name: str) -> None:
    """Names and attributes of any text come out as they went in, in their order."""
    number = next(NUMBERS)
    shared.append([spans(Sent(trace=number, name=name, attributes=attributes))])
    (shown,) = _trace(shared, number)["spans"]

    assert (shown["name"], shown["attributes"]) == (name, attributes)


def test_a_value_of_a_megabyte_is_kept_whole(tmp_path: Path) -> None:
    """Several long values in one request are stored and shown whole."""
    with store_in(tmp_path) as store:
        sent = [(f"body.{number}", chr(97 + number) * 1_000_000) for number in range(10)]
        store.append([spans(Sent(attributes=sent))])

        assert _trace(store)["spans"][0]["attributes"] == sent


def test_ten_thousand_keys_are_taken(tmp_path: Path) -> None:
    """One span with ten thousand keys, and as many over a hundred requests, are stored and found."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(attributes=[(f"one.{number}", number) for number in range(10_000)]))])
        for at in range(100):
            store.append([spans(Sent(trace=2, id=at + 1, attributes=[(f"many.{at}.{n}", n) for n in range(100)]))])

        assert len(_trace(store)["spans"][0]["attributes"]) == 10_000
        assert _count(store, "span_attributes") == 20_000
        assert [row["trace_id"] for row in ask(store, traces, attr="many.99.99=99")["traces"]] == [trace_id(2)]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("trace_id", b"", "a trace id is not 16 bytes, or all zero"),
        ("trace_id", bytes(16), "a trace id is not 16 bytes, or all zero"),
        ("trace_id", b"x" * 17, "a trace id is not 16 bytes, or all zero"),
        ("span_id", b"x" * 7, "a span id is not 8 bytes, or all zero"),
        ("span_id", bytes(8), "a span id is not 8 bytes, or all zero"),
        ("parent_span_id", b"x" * 16, "a parent span id is not 8 bytes"),
        ("start_time_unix_nano", 2**63, "a time is beyond the year 2262"),
        ("end_time_unix_nano", 2**64 - 1, "a time is beyond the year 2262"),
    ],
)
def test_what_cannot_be_a_span_is_rejected_alone(tmp_path: Path, field: str, value: object, reason: str) -> None:
    """The sender hears how many were rejected and why of the first; the spans beside them are taken."""
    request = spans(Sent(id=1), Sent(id=2), Sent(id=3))
    for span in request.resource_spans[0].scope_spans[0].spans[:2]:
        setattr(span, field, value)
    with store_in(tmp_path) as store:
        (outcome,) = store.append([request])

        assert (outcome.taken, outcome.rejected, outcome.reason) == (1, 2, reason)
        assert [span["span_id"] for span in _trace(store)["spans"]] == [f"{3:016x}"]


def test_what_cannot_be_a_record_or_a_point_is_rejected_alone(tmp_path: Path) -> None:
    """Records and points with impossible ids or times are rejected, and those beside them are taken."""
    records, metrics = logs("a", "b", "c"), points(1, 2)
    found = records.resource_logs[0].scope_logs[0].log_records
    found[0].trace_id, found[1].observed_time_unix_nano = b"short", 2**64 - 1
    metrics.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].time_unix_nano = 2**63
    with store_in(tmp_path) as store:
        outcomes = store.append([records, metrics])

    assert [(each.taken, each.rejected, each.reason) for each in outcomes] == [
        (1, 2, "a trace id is not 16 bytes"),
        (1, 1, "a time is beyond the year 2262"),
    ]


def test_times_that_are_missing_are_known_ones(tmp_path: Path) -> None:
    """A span without an end, or without a start, has no duration rather than one of fifty years; records have now."""
    request = spans(Sent(id=1), Sent(id=2), Sent(id=3))
    no_end, no_start, neither = request.resource_spans[0].scope_spans[0].spans
    no_end.end_time_unix_nano = no_start.start_time_unix_nano = 0
    neither.start_time_unix_nano = neither.end_time_unix_nano = 0
    records = logs("no time")
    records.resource_logs[0].scope_logs[0].log_records[0].time_unix_nano = 0
    with store_in(tmp_path) as store:
        store.append([request, records])
        shown = {span["span_id"][-1]: span for span in _trace(store)["spans"]}
        (record,) = ask(store, logs_view.logs)["logs"]

    assert [shown[each]["duration_ns"] for each in "123"] == [0, 0, 0]
    assert (shown["1"]["start_ns"], shown["2"]["start_ns"]) == (str(NOW), str(NOW + 1_000_000))
    assert shown["3"]["start_us"] > 1_700_000_000_000_000
    assert record["time_us"] > 1_700_000_000_000_000


def test_a_span_may_end_before_it_begins(tmp_path: Path) -> None:
    """Clocks that were set back are shown as they are: taken, counted as skewed, and with no time of their own."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(took=-500))])
        found = _trace(store)

    assert (found["spans"][0]["duration_ns"], found["spans"][0]["self_ns"], found["skewed"]) == (-500, 0, 1)


@pytest.mark.parametrize("number", [-1, 6, 1000, 2**31 - 1])
def test_enum_values_of_the_future_are_unspecified(tmp_path: Path, number: int) -> None:
    """A kind, status, severity or temporality that is not known costs neither its item nor those beside it."""
    request, records, metrics = spans(Sent(kind=number)), logs("a", severity=number), ExportMetricsServiceRequest()
    request.resource_spans[0].scope_spans[0].spans[0].status.code = number  # type: ignore[assignment]
    found = metrics.resource_metrics.add().scope_metrics.add()
    for kind in ("sum", "histogram", "exponential_histogram"):
        data = getattr(found.metrics.add(name=kind), kind)
        data.aggregation_temporality = number
        data.data_points.add(time_unix_nano=NOW)
    with store_in(tmp_path) as store:
        outcomes = store.append([request, records, metrics])
        (shown,) = _trace(store)["spans"]
        with store.reading() as connection:
            temporalities = rows(connection, "SELECT temporality FROM metrics")

    assert [outcome.taken for outcome in outcomes] == [1, 1, 3]
    assert (shown["kind"], shown["status"]) == ("UNSPECIFIED", "UNSET")
    assert temporalities == [(0,), (0,), (0,)]


def test_large_integers_are_exact(tmp_path: Path) -> None:
    """What a browser would round is text on the page; what it would not is a number."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(attributes=[("max", 2**63 - 1), ("min", -(2**63)), ("exact", 2**53)]))])

        assert _trace(store)["spans"][0]["attributes"] == [
            ("max", "9223372036854775807"),
            ("min", "-9223372036854775808"),
            ("exact", 2**53),
        ]


def test_values_that_are_no_numbers_are_taken(tmp_path: Path) -> None:
    """NaN and the infinities are values of points and of attributes; the page gets them as text."""
    given = [float("nan"), float("inf"), float("-inf"), 1.5]
    with store_in(tmp_path) as store:
        outcomes = store.append([points(*given), spans(Sent(attributes=[(str(value), value) for value in given]))])
        with store.reading() as connection:
            stored = rows(connection, "SELECT value FROM points ORDER BY time_ns")

        assert [outcome.taken for outcome in outcomes] == [4, 1]
        assert [str(value) for (value,) in stored] == ["nan", "inf", "-inf", "1.5"]
        assert [value for _, value in _trace(store)["spans"][0]["attributes"]] == ["nan", "inf", "-inf", 1.5]


def test_values_may_be_nested_as_deep_as_protobuf_has_it(tmp_path: Path) -> None:
    """A map within a map within thirty others is kept."""
    value = AnyValue(string_value="deep")
    for _ in range(30):
        value = AnyValue(kvlist_value=KeyValueList(values=[pair("in", value)]))
    with store_in(tmp_path) as store:
        store.append([spans(Sent(attributes=[("outer", value)]))])
        ((_, found),) = _trace(store)["spans"][0]["attributes"]
    for _ in range(30):
        found = found["in"]

    assert found == "deep"


def test_empty_requests_are_taken(tmp_path: Path) -> None:
    """A request without anything in it is no error, and neither is a metric without points."""
    metrics = ExportMetricsServiceRequest()
    metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="none")
    with store_in(tmp_path) as store:
        outcomes = store.append([ExportTraceServiceRequest(), metrics])

        assert [(each.taken, each.rejected) for each in outcomes] == [(0, 0), (0, 0)]
        assert dict(store.contents().rows) == {"spans": 0, "logs": 0, "points": 0}


def test_the_same_bytes_are_taken_once(tmp_path: Path) -> None:
    """A request that is sent again, in the same transaction or a later one, is acknowledged and counted, not stored."""
    with store_in(tmp_path) as store:
        first = store.append([spans(Sent()), spans(Sent()), logs("a")])
        again = store.append([spans(Sent()), logs("b")])

        assert [[each.taken for each in outcomes] for outcomes in (first, again)] == [[1, 0, 1], [0, 1]]
        assert store.contents().duplicates == 2
        assert dict(store.contents().rows) == {"spans": 1, "logs": 2, "points": 0}


def test_a_span_that_came_in_two_requests_is_shown_once(tmp_path: Path) -> None:
    """A sender that put a span into another batch when it tried again does not double it on the page."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(id=1), Sent(id=2, parent=1))])
        store.append([spans(Sent(id=1), Sent(id=3, parent=1))])
        (row,) = ask(store, traces)["traces"]

        assert [span["span_id"][-1] for span in _trace(store)["spans"]] == ["1", "2", "3"]
        assert row["spans"] == 3


def test_views_and_ids_go_on_after_a_restart(tmp_path: Path) -> None:
    """What was stored is there when the file is opened again, and what is new gets numbers that nothing has."""
    with store_in(tmp_path, rows=2) as store:
        for number in range(1, 6):
            store.append([spans(Sent(trace=number, attributes=[("n", number)])), logs(f"log {number}")])
    with store_in(tmp_path, rows=2) as store:
        store.append([spans(Sent(trace=6, attributes=[("n", 6)])), logs("log 6")])
        with store.reading() as connection:
            doubled = [
                rows(connection, f"SELECT count(*) - count(DISTINCT {column}) FROM {table}")[0][0]
                for table, column in (("span_attributes", "id"), ("operations", "id"), ("logs", "sequence"))
            ]
        found = {row["trace_id"]: row for row in ask(store, traces, attr="n")["traces"]}

        assert doubled == [0, 0, 0]
        assert set(found) == {trace_id(number) for number in range(1, 7)}
        assert [_trace(store, number)["spans"][0]["attributes"] for number in (1, 6)] == [[("n", 1)], [("n", 6)]]


def test_a_transaction_that_fails_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    """What a failed transaction interned is interned again: the next spans have their attributes."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(trace=1, attributes=[("n", 1)]))])
        with pytest.raises(RuntimeError):
            store._written(lambda: _fail_after(store))
        store.append([spans(Sent(trace=3, attributes=[("n", 2)]))])

        assert [row["trace_id"] for row in ask(store, traces, attr="n=2")["traces"]] == [trace_id(3)]
        assert dict(store.contents().rows) == {"spans": 2, "logs": 0, "points": 0}


def _fail_after(store: Store) -> None:
    request = spans(Sent(trace=2, attributes=[("n", 2)]))
    outcome = store._rows(request, request.SerializeToString())
    for segments in store._segments.values():
        segments.append([outcome])
    raise RuntimeError


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Telemetry may hold what is not for everybody: the file is 0600, the folder that is made for it 0700."""
    with store_in(tmp_path) as store:
        file = store.path

        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def _database(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def _garbage(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)


def _cut(path: Path) -> None:
    _database(path, "CREATE TABLE t AS SELECT * FROM range(100000)")
    os.truncate(path, path.stat().st_size // 2)


def _flipped(path: Path) -> None:
    _database(path, "CREATE TABLE t AS SELECT * FROM range(100000)")
    content = bytearray(path.read_bytes())
    for at in range(4096, len(content), 500):
        content[at] ^= 255
    path.write_bytes(content)


def _sqlite(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(8000))


def _foreign(path: Path) -> None:
    _database(path, "CREATE TABLE somebody_elses (a INTEGER)")


def _older(path: Path) -> None:
    _database(
        path, "CREATE TABLE meta (key VARCHAR, value VARCHAR)", f"INSERT INTO meta VALUES ('version', '{VERSION - 1}')"
    )


@pytest.mark.parametrize(
    "make", [Path.touch, _garbage, _cut, _flipped, _sqlite, _foreign, _older], ids=lambda make: make.__name__.strip("_")
)
def test_a_file_that_is_not_ours_is_moved_aside(tmp_path: Path, make: object) -> None:
    """Whatever is in the way is kept beside the new file, said in a notice, and telemetry is taken."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "telemetry.duckdb"
    assert callable(make)
    make(file)
    before = file.read_bytes()
    with store_in(tmp_path) as store:
        store.append([spans(Sent())])
        (notice,) = store.notices
        (aside,) = [each for each in file.parent.iterdir() if each.name.endswith(".old")]

        assert store.contents().rows["spans"] == 1
        assert (notice.level, aside.read_bytes()) == ("warning", before)
        assert aside.name in notice.text


def test_a_log_beside_a_file_goes_with_it(tmp_path: Path) -> None:
    """The log of changes of a file that is moved aside is moved as well, and is not taken for one of the new file."""
    (tmp_path / "data").mkdir()
    _garbage(tmp_path / "data" / "telemetry.duckdb")
    (tmp_path / "data" / "telemetry.duckdb.wal").write_bytes(b"log")
    with store_in(tmp_path) as store:
        (log,) = [each for each in store.path.parent.iterdir() if each.name.endswith(".old.wal")]

        assert log.read_bytes() == b"log"


def test_a_file_in_a_folder_called_lock_is_not_taken_for_locked(tmp_path: Path) -> None:
    """What the folder is called is not what the database says."""
    folder = tmp_path / "lock"
    (folder / "data").mkdir(parents=True)
    _garbage(folder / "data" / "telemetry.duckdb")
    with store_in(folder) as store:
        assert "moved" in store.notices[0].text


def test_a_file_that_cannot_be_opened_is_left_where_it_is(tmp_path: Path) -> None:
    """Not the content but the way to it is wrong: that is said in one line, and nothing is moved."""
    (tmp_path / "data" / "telemetry.duckdb").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"telemetry\.duckdb: .*directory") as caught, store_in(tmp_path):
        pass

    assert "\n" not in str(caught.value)
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["telemetry.duckdb"]


def test_a_file_that_another_process_has_is_left_alone(tmp_path: Path) -> None:
    """The second dashboard on a file is told so in one line."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent())])
        program = (
            f"from pathlib import Path; from rsketch_dashboard.store import Store; Store(Path({str(store.path)!r}))"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

        assert ended.stderr.splitlines()[-1].endswith(f"StoreError: {store.path}: another program has it open")
        assert store.contents().rows["spans"] == 1


def test_services_are_named_whatever_they_send(tmp_path: Path) -> None:
    """A service that sends logs or metrics alone is known too."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(service="traced")), logs("a", service="logging"), points(1)])
        with store.reading() as connection:
            found = services.names(connection)

    assert found == {"services": ["logging", "shop", "traced"], "oldest_us": NOW // 1000, "newest_us": NOW // 1000}
