"""The alert rules, tried by promtool, and Prometheus' configuration, tried by the real Prometheus."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from kube.promql import RULES, Alert, alerts, recorded_series
from kube.toolchain import tool
from rsketch_telemetry import semconv
from workspace import ROOT

PROMETHEUS = ROOT / "infra" / "prometheus"
CONFIG = PROMETHEUS / "config" / "prometheus.yaml"
TESTS = sorted((RULES / "tests").glob("*.yaml"))
ALERTS = alerts()

Found = TypeVar("Found")


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _promtool(*arguments: str) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _named(alert: Alert) -> str:
    return alert.name


# --- what is written ---


def test_configuration_and_rules_are_valid() -> None:
    """Promtool accepts the configuration and the rules that it names, without a remark."""
    _promtool("check", "config", "--lint=all", "--lint-fatal", str(CONFIG))
    _promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES.glob("*.yaml")))


def test_the_pod_gets_every_rule_file() -> None:
    """A new rule file is mounted too."""
    generators = _load(PROMETHEUS / "kustomization.yaml")["configMapGenerator"]
    mounted = next(each["files"] for each in generators if each["name"] == "prometheus-rules")

    assert sorted(mounted) == sorted(f"rules/{path.name}" for path in RULES.glob("*.yaml"))


@pytest.mark.parametrize("alert", ALERTS, ids=_named)
def test_an_alert_says_what_a_person_needs(alert: Alert) -> None:
    """Each alert has a severity, a summary, a description and a runbook."""
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.annotations["summary"]
    assert alert.annotations["description"].endswith(".")
    assert alert.annotations["runbook_url"] == f"infra/runbooks/{alert.name}.md"


def test_alerts_read_series_that_are_recorded() -> None:
    """An alert is over recorded series, so that a quiet one can be seen to have data; none of them is misspelt."""
    rules = [rule for path in RULES.glob("*.yaml") for group in _load(path)["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}

    assert {series for rule in rules for series in recorded_series(rule["expr"])} == recorded
    assert [alert.name for alert in ALERTS if not recorded_series(alert.promql)] == []


def test_rules_agree_with_what_the_services_emit() -> None:
    """The statuses that count as failures and the bucket of the objective are those of the telemetry package."""
    statuses = re.findall(r'rpc_status_code=~"([A-Z_|]+)"', (RULES / "requests.yaml").read_text())
    boundaries = re.findall(r'le="([0-9.]+)"', (RULES / "latency.yaml").read_text())

    assert [frozenset(found.split("|")) for found in statuses] == [semconv.RPC_SERVER_ERRORS]
    assert {float(found) for found in boundaries} <= set(semconv.DURATION_BUCKETS)


# --- what the rules do ---


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    """Promtool evaluates the rules over made-up series."""
    _promtool("test", "rules", str(path))


@pytest.mark.parametrize("alert", ALERTS, ids=_named)
def test_an_alert_is_seen_to_fire_and_to_be_quiet(alert: Alert) -> None:
    """The tests above have, for each alert, a moment at which it fires and one at which it does not."""
    moments = [
        bool(moment.get("exp_alerts"))
        for path in TESTS
        for test in _load(path)["tests"]
        for moment in test.get("alert_rule_test", [])
        if moment["alertname"] == alert.name
    ]

    assert set(moments) == {True, False}


# --- the real Prometheus ---


def test_the_first_export_of_a_counter_counts(tmp_path: Path) -> None:
    """With the manifest's flags, rate() sees what came before the first export, under the labels that rules expect."""
    with _prometheus(tmp_path) as (address, log):
        _export(address, requests=30, seconds=20.0)
        series = _eventually(lambda: _query(address, "rate(http_server_request_duration_seconds_count[5m])"))
        info = _query(address, "target_info")
        complaints = [line for line in log.read_text().splitlines() if re.search(r"level=(WARN|ERROR)", line)]

    assert float(series[0]["value"][1]) > 0.03
    assert series[0]["metric"] == {
        "http_response_status_code": "200",
        "instance": "1",
        "job": "shop/web",
        "service_version": "2",
    }
    assert info[0]["metric"]["process_runtime_name"] == "cpython"
    assert complaints == []


@pytest.mark.parametrize(("hours", "status"), [(11, 200), (13, 400)])
def test_what_comes_after_half_a_day_is_taken(tmp_path: Path, hours: int, status: int) -> None:
    """A sample may lie as far behind the newest one as the window says; older ones are refused, with that reason."""
    with _prometheus(tmp_path) as (address, _):
        _export(address, requests=1, seconds=1.0)
        late = _send(address, requests=1, seconds=1.0, instance="late", hours_ago=hours)
        kept = _query(
            address, f'last_over_time(http_server_request_duration_seconds_count{{instance="late"}}[{hours}h1m])'
        )

    assert late.status_code == status, late.text
    assert "too old sample" in late.text or status == 200
    assert len(kept) == (status == 200)


def test_no_more_is_kept_than_the_volume_holds(tmp_path: Path) -> None:
    """The limit is a share of the volume, whatever size an overlay gives it; Prometheus does not start without one."""
    with _prometheus(tmp_path) as (address, _):
        page = httpx.get(f"http://{address}/metrics").raise_for_status().text

    assert re.search(r"^prometheus_tsdb_retention_limit_percentage 80$", page, re.MULTILINE)


@contextmanager
def _prometheus(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run Prometheus with the flags and the configuration of the manifest, but with nothing to scrape."""
    config = _load(CONFIG) | {"scrape_configs": [], "rule_files": [f"{RULES}/*.yaml"]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    own = {
        "--config.file": folder / "prometheus.yaml",
        "--storage.tsdb.path": folder / "data",
        "--web.listen-address": "127.0.0.1:0",
    }
    flags = [word for word in _manifest_flags() if word.partition("=")[0] not in own]
    command: list[str | Path] = [tool("prometheus"), *flags, *(f"{name}={value}" for name, value in own.items())]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield _eventually(lambda: _listening(log)), log
        finally:
            process.terminate()
            process.wait(30)


def _manifest_flags() -> list[str]:
    pod = _load(PROMETHEUS / "statefulset.yaml")["spec"]["template"]["spec"]
    return [str(word) for word in pod["containers"][0]["args"]]


def _listening(log: Path) -> str | None:
    """Return the address that the log names once Prometheus is ready."""
    text = log.read_text()
    found = re.search(r'msg="Listening on" .*address=(\S+)', text)
    return found[1] if found and "Server is ready to receive web requests" in text else None


def _export(address: str, *, requests: int, seconds: float) -> None:
    _send(address, requests=requests, seconds=seconds).raise_for_status()


def _send(
    address: str, *, requests: int, seconds: float, instance: str = "1", hours_ago: float = 0.0
) -> httpx.Response:
    """Send the metrics of a process that started *seconds* before they were taken."""
    now = time.time_ns() - int(hours_ago * 3600e9)
    point = {
        "attributes": [_attribute("http.response.status_code", "200")],
        "startTimeUnixNano": str(now - int(seconds * 1e9)),
        "timeUnixNano": str(now),
        "count": str(requests),
        "sum": 1.0,
        "bucketCounts": [str(requests), "0"],
        "explicitBounds": [0.5],
    }
    histogram = {"aggregationTemporality": 2, "dataPoints": [point]}
    metric = {"name": "http.server.request.duration", "unit": "s", "histogram": histogram}
    resource = {
        "service.namespace": "shop",
        "service.name": "web",
        "service.instance.id": instance,
        "service.version": "2",
        "process.runtime.name": "cpython",
    }
    body = {
        "resourceMetrics": [
            {
                "resource": {"attributes": [_attribute(*each) for each in resource.items()]},
                "scopeMetrics": [{"metrics": [metric]}],
            }
        ]
    }
    return httpx.post(f"http://{address}/api/v1/otlp/v1/metrics", json=body)


def _attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def _query(address: str, promql: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": promql}).raise_for_status()
    return list(answer.json()["data"]["result"])


def _eventually(condition: Callable[[], Found | None], seconds: float = 20.0) -> Found:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {seconds:g} s"
        time.sleep(0.05)
    return found
