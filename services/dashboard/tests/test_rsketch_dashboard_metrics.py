"""Metrics: from points as they were sent to what is drawn."""

import math
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA
from otlp_json import BOUNDS, histogram, identified, metrics, number
from rsketch_dashboard.errors import NotFoundError, QueryError
from rsketch_dashboard.queries.buckets import MOST_BUCKETS, Exponential, common_bounds, quantile
from rsketch_dashboard.queries.metrics import metric
from rsketch_dashboard.queries.metrics import metrics as listed
from rsketch_dashboard.queries.promql import promql
from rsketch_dashboard.queries.series import Sample, increases, rates
from stored import NOW, Json, asked, stored

SECOND = 10**9
START = NOW - 300 * SECOND
GET: tuple[tuple[str, Any], ...] = (("http.request.method", "GET"),)


def _said(*values: float | None, run: str = "1", start: int = START, **about: Any) -> list[Json]:
    """Return a counter's totals, one every ten seconds up to now; None for one that was not sent."""
    first = NOW - 10 * SECOND * len(values)
    return [
        metrics(
            "shop",
            [number("orders", value, first + at * 10 * SECOND, start=start, unit="{order}", **about)],
            {"service.instance.id": run},
        )
        for at, value in enumerate(values)
        if value is not None
    ]


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def test_a_cumulative_counter_is_a_rate(tmp_path: Path) -> None:
    """What is counted up is shown by how much it rises a second."""
    with stored(tmp_path, *_said(*range(100, 400, 10))) as store:
        found = asked(store, metric, last="5m", name="orders")

    (series,) = found["series"]
    assert found["type"] == "sum"
    assert found["monotonic"]
    assert len(found["steps"]) == len(series["values"])
    assert _known(series["values"])[1:] == pytest.approx([1.0] * (len(_known(series["values"])) - 1))


def test_a_restart_is_no_fall(tmp_path: Path) -> None:
    """A count that falls, or begins anew, has risen by all that it counts; a rate is never below zero."""
    fallen = _said(100, 200, 300, 50, 150, 250, start=NOW - 3600 * SECOND)
    with stored(tmp_path, *fallen) as store:
        found = asked(store, metric, last="2m", name="orders")

    (series,) = found["series"]
    assert min(_known(series["values"])) == pytest.approx(5.0)
    assert max(_known(series["values"])) == pytest.approx(10.0)


def test_runs_of_a_service_are_one_line(tmp_path: Path) -> None:
    """What differs in the process alone is shown as one series: a restarted service goes on."""
    with stored(tmp_path, *_said(10, 20, 30, run="1"), *_said(10, 20, 30, run="2")) as store:
        found = asked(store, metric, last="5m", name="orders")
        one = asked(store, metric, last="5m", name="orders", run="1")

    (series,) = found["series"]
    assert max(_known(series["values"])) == pytest.approx(2 * max(_known(one["series"][0]["values"])))


def test_a_missing_point_leaves_no_hole(tmp_path: Path) -> None:
    """A rate holds for the whole time between two points, also where one of them was lost."""
    with stored(tmp_path, *_said(0, 10, 20, None, 40, 50, 60, 70, 80, 90)) as store:
        found = asked(store, metric, last="100s", name="orders")

    values = found["series"][0]["values"]
    known = [at for at, value in enumerate(values) if value is not None]
    assert None not in values[known[0] : known[-1]]


def test_deltas_are_taken_as_they_are(tmp_path: Path) -> None:
    """A sum that is sent as deltas is divided by the time of a step, and never subtracted."""
    request = ExportMetricsServiceRequest()
    instrument = request.resource_metrics.add().scope_metrics.add().metrics.add(name="orders")
    instrument.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    instrument.sum.is_monotonic = True
    for at in range(30):
        instrument.sum.data_points.add(as_int=20, time_unix_nano=NOW - (30 - at) * 10 * SECOND)
    with stored(tmp_path) as store:
        store.append([request])
        found = asked(store, metric, last="5m", name="orders")

    assert _known(found["series"][0]["values"]) == pytest.approx([2.0] * 30)


def test_gauges_are_their_last_value_and_groups_their_mean(tmp_path: Path) -> None:
    """A gauge is shown as it was; where several are taken together, as their mean."""
    said = [
        metrics("shop", [number("load", value, NOW - SECOND, attributes={"cpu": cpu, "room": "a"})])
        for cpu, value in enumerate((1.0, 3.0))
    ]
    with stored(tmp_path, *said) as store:
        single = asked(store, metric, name="load")
        grouped = asked(store, metric, name="load", group="room")

    assert sorted(_known(each["values"])[0] for each in single["series"]) == [1.0, 3.0]
    assert [(each["attributes"], _known(each["values"])[0]) for each in grouped["series"]] == [([("room", "a")], 2.0)]
    assert {"key": "cpu", "values": 2} in single["attributes"]


def _counted(*counts: tuple[int, int]) -> list[Json]:
    """Return histograms, ten seconds apart, with so many below 5 ms and so many between 50 and 75 ms."""
    said = []
    for at, (fast, slow) in enumerate(counts):
        buckets = [fast, 0, 0, 0, slow, *([0] * 10)]
        when = NOW - (len(counts) - at) * 10 * SECOND
        examples = {GET: [(0.06, when - 1, identified("trace"), identified("span", 8))]}
        said.append(metrics("shop", [histogram("wait", {GET: buckets}, start=START, at=when, exemplars=examples)]))
    return said


def test_a_histogram_has_rates_quantiles_cells_and_examples(tmp_path: Path) -> None:
    """Counts of buckets rise from point to point; quantiles are read off the rise, in each step."""
    with stored(tmp_path, *_counted((0, 0), (90, 10), (180, 20), (270, 30))) as store:
        found = asked(store, metric, last="2m", name="wait")

    cells = [cell for cell in found["heatmap"]["cells"] if any(cell)]
    assert found["heatmap"]["bounds"] == list(BOUNDS)
    assert {len(cell) for cell in found["heatmap"]["cells"]} == {len(BOUNDS) + 1}
    assert [(cell[0], cell[4]) for cell in cells] == [(90, 10)] * 3
    assert _known(found["quantiles"]["p50"]) == pytest.approx([0.005 * 50 / 90] * 3)
    assert _known(found["quantiles"]["p99"]) == pytest.approx([0.05 + 0.025 * 9 / 10] * 3)
    assert max(_known(found["series"][0]["values"])) == pytest.approx(10.0)
    assert found["exemplars"][0]["trace_id"] == identified("trace")
    assert [each["time_us"] for each in found["exemplars"]] == sorted(each["time_us"] for each in found["exemplars"])


def test_other_buckets_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    """Counts between different bounds cannot be added; the ones with most points are shown."""
    odd = metrics("shop", [histogram("wait", {GET: [1] * 15}, start=START, at=NOW - SECOND)])
    odd["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["histogram"]["dataPoints"][0].update(
        {"explicitBounds": [1.0], "bucketCounts": ["1", "0"]}
    )
    with stored(tmp_path, *_counted((1, 0), (2, 0)), odd) as store:
        found = asked(store, metric, name="wait")

    assert found["heatmap"]["bounds"] == list(BOUNDS)
    assert found["truncated"]


def test_only_the_biggest_series_are_shown(tmp_path: Path) -> None:
    """Of many series the twenty biggest are returned, and that there are more is said."""
    said = [metrics("shop", [number("load", cpu, NOW - SECOND, attributes={"cpu": cpu})]) for cpu in range(25)]
    with stored(tmp_path, *said) as store:
        found = asked(store, metric, name="load")

    assert [_known(each["values"])[0] for each in found["series"]] == [float(24 - at) for at in range(20)]
    assert found["truncated"]


def test_exponential_histograms_are_brought_to_common_bounds(tmp_path: Path) -> None:
    """Histograms of different scales are shown over one row of bounds, with nothing lost."""
    request = ExportMetricsServiceRequest()
    instrument = request.resource_metrics.add().scope_metrics.add().metrics.add(name="size", unit="By")
    instrument.exponential_histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    for at, scale in enumerate((3, 1)):
        point = instrument.exponential_histogram.data_points.add(
            scale=scale, count=12, zero_count=2, time_unix_nano=NOW - (at + 1) * 20 * SECOND
        )
        point.positive.offset, point.positive.bucket_counts[:] = 4, [1, 2, 3, 4]
    with stored(tmp_path) as store:
        store.append([request])
        found = asked(store, metric, last="2m", name="size")

    cells = [cell for cell in found["heatmap"]["cells"] if any(cell)]
    bounds = found["heatmap"]["bounds"]
    assert bounds == sorted(bounds)
    assert len(bounds) <= MOST_BUCKETS
    assert [sum(cell) for cell in cells] == [12, 12]
    # Bucket 4 of scale 3 begins at 2 ** (4 / 8), bucket 4 of scale 1 at 4.
    assert _known(found["quantiles"]["p99"])[0] > 4 > _known(found["quantiles"]["p50"])[1] > math.sqrt(2)


def test_a_wide_exponential_histogram_is_made_coarser() -> None:
    """However far its buckets reach, there are no more than can be drawn; negative ones come first."""
    wide = Exponential(20, 1, dict.fromkeys(range(0, 5000, 7), 1), {3: 2})
    bounds, (counts,) = common_bounds([wide])

    assert len(bounds) <= MOST_BUCKETS
    assert sum(counts) == len(range(0, 5000, 7)) + 3
    assert bounds == sorted(bounds)
    assert bounds[0] < 0


def test_a_summary_is_its_quantiles(tmp_path: Path) -> None:
    """Each quantile of a summary is a series, as nothing can be computed from them."""
    request = ExportMetricsServiceRequest()
    point = request.resource_metrics.add().scope_metrics.add().metrics.add(name="old").summary.data_points.add()
    point.time_unix_nano, point.count, point.sum = NOW - SECOND, 4, 10.0
    for share, value in ((0.5, 2.0), (0.99, 5.0)):
        point.quantile_values.add(quantile=share, value=value)
    with stored(tmp_path) as store:
        store.append([request])
        found = asked(store, metric, name="old")

    assert [(each["attributes"], _known(each["values"])) for each in found["series"]] == [
        ([("quantile", 0.99)], [5.0]),
        ([("quantile", 0.5)], [2.0]),
    ]


def test_metrics_are_listed_once_by_name(tmp_path: Path) -> None:
    """A metric of two services is one line, with its services and how many series there are."""
    said = [
        metrics(service, [number("load", 1.0, NOW, attributes={"cpu": cpu}, description="busy")])
        for service in ("shop", "till")
        for cpu in range(2)
    ]
    with stored(tmp_path, *said, *_counted((1, 0))) as store:
        found = asked(store, listed, last="all")["metrics"]

    assert [(each["name"], each["type"], each["temporality"]) for each in found] == [
        ("load", "gauge", ""),
        ("wait", "histogram", "CUMULATIVE"),
    ]
    assert (found[0]["services"], found[0]["series"], found[0]["description"]) == (["shop", "till"], 4, "busy")


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Without a name, and with one that nobody sent, there is one clear line."""
    with stored(tmp_path, *_said(1, 2)) as store:
        with pytest.raises(QueryError, match="name: accepts"):
            asked(store, metric)
        with pytest.raises(NotFoundError, match="no such metric"):
            asked(store, metric, name="nobody")
        empty = asked(store, metric, name="orders", from_us="1000000", to_us="60000000")

    assert empty["series"] == []


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (
            ("http.server.request.duration", "s", "histogram", False),
            "histogram_quantile(0.95, sum by (le, job) (rate(http_server_request_duration_seconds_bucket[5m])))",
        ),
        (("orders", "{order}", "sum", True), "sum by (job) (rate(orders_total[5m]))"),
        (("system.network.io", "By", "sum", True), "sum by (job) (rate(system_network_io_bytes_total[5m]))"),
        (("pool.size", "1", "sum", False), "sum by (job) (pool_size)"),
        (("cpu.load", "1", "gauge", False), "avg by (job) (cpu_load_ratio)"),
        (("disk.speed", "By/s", "gauge", False), "avg by (job) (disk_speed_bytes_per_second)"),
        (
            ("size", "By", "exponential_histogram", False),
            "histogram_quantile(0.95, sum by (job) (rate(size_bytes[5m])))",
        ),
        (("2xx", "", "gauge", False), "avg by (job) (_2xx)"),
    ],
)
def test_a_metric_is_asked_for_as_prometheus_calls_it(about: tuple[str, str, str, bool], expected: str) -> None:
    """Names, units and `_total` are those of OpenTelemetry's translation."""
    name, unit, kind, monotonic = about
    assert promql(name, unit, kind, monotonic=monotonic) == expected


def test_a_service_and_a_group_are_labels() -> None:
    """The service is the label job, quoted; the attribute of a group is a label of its own."""
    found = promql("orders", "", "sum", monotonic=True, job='a/"b"', group="http.route")

    assert found == 'sum by (http_route) (rate(orders_total{job="a/\\"b\\""}[5m]))'


def test_a_quantile_lies_within_its_bucket() -> None:
    """As in Prometheus: a straight line within a bucket, the last bound for what is above it, none without counts."""
    assert quantile([1.0, 2.0], [0, 10, 0], 0.5) == pytest.approx(1.5)
    assert quantile([1.0, 2.0], [0, 0, 3], 0.5) == 2.0
    assert quantile([1.0, 2.0], [0, 0, 0], 0.5) is None
    assert quantile([], [3], 0.5) is None


def test_a_count_that_falls_within_a_step_is_not_lost() -> None:
    """What had been counted before a restart in the middle of a step is added to what came after it."""
    samples = [Sample(0, 5, SECOND, (100.0,), 100.0), Sample(1, 5, 11 * SECOND, (30.0,), 140.0)]
    (first,) = increases(samples, since_ns=10)

    assert first.values == (70.0,)
    assert rates([first], 1) == {1: pytest.approx(7.0)}
