"""
Whether Grafana could show what is provisioned to it: Grafana itself does not run here.

That each expression has data is asked of the real Prometheus by the end-to-end tests.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube.dashboards import DASHBOARDS, Dashboard, Panel, Query, Row, as_json
from kube.promql import alerts, dashboard_expressions
from workspace import ROOT

Json = dict[str, Any]

GRAFANA = ROOT / "infra" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
RUNBOOK = re.compile(r"infra/runbooks/(\w+)\.md")
UNITLESS = {"row", "table", "logs"}
LARGEST_APPLIED = 262_144 - 1024
"""Bytes of an object as JSON: `kubectl apply` puts it into an annotation, and this is what annotations may have."""

METRICS = {
    # By rsketch-telemetry, through OTLP.
    "http_server_request_duration_seconds_bucket",
    "http_server_request_duration_seconds_count",
    "rpc_client_call_duration_seconds_bucket",
    "rpc_client_call_duration_seconds_count",
    "rpc_server_call_duration_seconds_bucket",
    "rpc_server_call_duration_seconds_count",
    "target_info",
    # By every collector, and so by Jaeger.
    *(
        f"otelcol_{what}_{signal}"
        for what in ("receiver_accepted", "receiver_refused", "exporter_sent", "exporter_send_failed")
        for signal in ("spans", "metric_points", "log_records")
    ),
    "otelcol_exporter_queue_capacity",
    "otelcol_exporter_queue_size",
    "otelcol_process_cpu_seconds",
    "otelcol_process_memory_rss",
    "otelcol_process_runtime_heap_alloc_bytes",
    "otelcol_process_uptime",
    "jaeger_storage_badger_write_bytes_user",
    # By Prometheus' Go client, in Prometheus and Loki.
    "go_goroutines",
    "go_memstats_heap_alloc_bytes",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "prometheus_http_request_duration_seconds_bucket",
    "prometheus_http_requests_total",
    "prometheus_tsdb_exemplar_exemplars_appended_total",
    "prometheus_tsdb_head_chunks_storage_size_bytes",
    "prometheus_tsdb_head_samples_appended_total",
    "prometheus_tsdb_head_series",
    "prometheus_tsdb_out_of_order_samples_total",
    "prometheus_tsdb_storage_blocks_bytes",
    "prometheus_tsdb_too_old_samples_total",
    "prometheus_tsdb_wal_storage_size_bytes",
    "loki_discarded_samples_total",
    "loki_distributor_bytes_received_total",
    "loki_distributor_lines_received_total",
    "loki_ingester_memory_streams",
    "loki_ingester_wal_disk_full_failures_total",
    "loki_ingester_wal_disk_usage_percent",
    "loki_request_duration_seconds_count",
    # By Prometheus itself, of what it scrapes and evaluates.
    "ALERTS",
    "up",
}
"""What the programs emit. A name that is wrong behind `or vector(0)` would pass the end-to-end tests."""

# Neither a function (a parenthesis follows), nor within quotes or a list of labels.
NOT_A_METRIC = re.compile(r'"(?:[^"\\]|\\.)*"|\b(?:by|on)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]|\b(?:or|unless|offset \w+)\b')
NAME = re.compile(r"[A-Za-z_]\w*\b(?!\s*\()")


def load(path: Path) -> Json:
    """Return a dashboard as Grafana reads it."""
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def datasources() -> dict[str, Json]:
    """Return the provisioned data sources by their uids."""
    text = (GRAFANA / "config" / "datasources.yaml").read_text(encoding="utf-8")
    return {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}


def references(value: Any) -> Iterator[str]:
    """Yield each uid of a data source that *value* names, however deep."""
    if isinstance(value, dict):
        yield from (value[key] for key in ("datasourceUid",) if key in value)
        if isinstance(value.get("datasource"), dict):
            yield value["datasource"]["uid"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two rectangles of the grid share a cell."""
    sides = (("x", "w"), ("y", "h"))
    return all(one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in sides)


def metrics(promql: str) -> set[str]:
    """Return the names of the series that an expression reads."""
    return set(NAME.findall(NOT_A_METRIC.sub(" ", promql)))


def test_committed_files_are_what_is_declared() -> None:
    """Each file equals what its declaration makes, and there is no other."""
    done = subprocess.run(
        [sys.executable, "-m", "kube.generate", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": "tools"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in FILES} == set(DASHBOARDS)


def test_every_file_is_in_a_config_map_of_its_own() -> None:
    """The kustomization lists every dashboard, the pod mounts each, and `kubectl apply` takes every ConfigMap."""
    kustomization = yaml.safe_load((GRAFANA / "kustomization.yaml").read_text(encoding="utf-8"))
    listed = {each["name"]: each["files"] for each in kustomization["configMapGenerator"]}
    deployment = yaml.safe_load((GRAFANA / "deployment.yaml").read_text(encoding="utf-8"))
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    mounted = [source["configMap"]["name"] for source in volumes["dashboards"]["projected"]["sources"]]

    assert {name: files for name, files in listed.items() if name != "grafana"} == {
        f"grafana-dashboards-{path.stem}": [f"dashboards/{path.name}"] for path in FILES
    }
    assert mounted == [f"grafana-dashboards-{path.stem}" for path in FILES]
    assert [path.name for path in FILES if len(json.dumps(path.read_text(encoding="utf-8"))) > LARGEST_APPLIED] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_fill_the_grid_without_overlaps(path: Path) -> None:
    """Panels have ids of their own and places of their own in Grafana's 24 columns."""
    panels = load(path)["panels"]
    ids = Counter(panel["id"] for panel in panels)
    places = [panel["gridPos"] for panel in panels]

    assert [each for each, times in ids.items() if times > 1] == []
    assert [place for place in places if place["x"] + place["w"] > 24] == []
    assert [pair for pair in combinations(places, 2) if overlap(*pair)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_say_what_they_show(path: Path) -> None:
    """Every panel has a title of its own in its row, a description and, where it shows numbers, a unit."""
    panels = [panel for panel in load(path)["panels"] if panel["type"] != "row"]

    assert [panel["title"] for panel in panels if not panel["description"]] == []
    assert [
        panel["title"]
        for panel in panels
        if panel["type"] not in UNITLESS and not panel["fieldConfig"]["defaults"].get("unit")
    ] == []
    assert [panel["title"] for panel in panels if not panel["targets"]] == []


def test_names_in_addresses_are_unique() -> None:
    """No two dashboards have the same uid or title, and none brings an id of another Grafana."""
    dashboards = [load(path) for path in FILES]

    assert len({each["uid"] for each in dashboards}) == len(dashboards)
    assert len({each["title"] for each in dashboards}) == len(dashboards)
    assert {each["id"] for each in dashboards} == {None}


def test_data_sources_exist() -> None:
    """Each data source that a dashboard or a link between data sources names is provisioned, under its type."""
    provisioned = datasources()
    named = [uid for path in FILES for uid in references(load(path))]
    linked = list(references(list(provisioned.values())))

    assert set(named) == {"prometheus", "loki"}
    assert set(linked) == {"prometheus", "jaeger", "loki"}
    assert {uid: source["type"] for uid, source in provisioned.items()} == {uid: uid for uid in provisioned}


def test_only_variables_that_exist_are_used() -> None:
    """Every `$name` in an expression is a variable of its dashboard or Grafana's own, and every variable is used."""
    for path in FILES:
        dashboard = load(path)
        variables = {variable["name"] for variable in dashboard["templating"]["list"]}
        texts = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        used = set(re.findall(r"\$(\w+)", " ".join(texts)))
        assert used - {"__rate_interval"} == variables, path.name


def test_only_known_metrics_are_asked_for() -> None:
    """Each series that a panel reads is one that the programs emit."""
    unknown = {each.where: metrics(each.promql) - METRICS for each in dashboard_expressions()}

    assert {where: names for where, names in unknown.items() if names} == {}


def test_runbooks_that_are_named_exist() -> None:
    """A panel refers to runbooks by the names of alerts that there are."""
    named = {name for path in FILES for name in RUNBOOK.findall(path.read_text(encoding="utf-8"))}

    assert named - {alert.name for alert in alerts()} == set()
    assert "HttpErrorRatio" in named


def test_links_keep_their_dollars() -> None:
    """A dollar meant for Grafana's links is written twice: a single one would be an environment variable."""
    text = (GRAFANA / "config" / "datasources.yaml").read_text(encoding="utf-8")

    assert "$" not in text.replace("$$", "")
    assert "$${__trace.traceId}" in text
    assert "$${__value.raw}" in text


def test_lines_break_where_the_grid_ends() -> None:
    """Panels that do not fit beside each other go below the tallest of those before."""
    panels = [
        Panel(
            title=f"{width}x{height}",
            description="d",
            unit="s",
            queries=[Query(expression="up")],
            width=width,
            height=height,
        )
        for width, height in ((16, 4), (8, 10), (12, 8))
    ]
    dashboard = Dashboard(uid="u", title="t", description="d", variables=[], rows=[Row(title="r", panels=panels)])
    places = [panel["gridPos"] for panel in json.loads(as_json(dashboard))["panels"]]

    assert [(place["x"], place["y"]) for place in places] == [(0, 0), (0, 1), (16, 1), (0, 11)]
