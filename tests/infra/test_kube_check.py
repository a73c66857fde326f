"""The runner of the checks, and the checks that hand rendered manifests to the programs they are for."""

import copy

import pytest
import yaml
from kube import proofs
from kube.check import CHECKS, Check, Failed, main, run
from kube.lint import Unit
from kube.objects import Object
from kube.render import INFRA, deployments
from kube.toolchain import ToolMissing, tool


def passing() -> str:
    """Pass."""
    return "two things"


def failing() -> str:
    """Fail with two findings."""
    raise Failed("one", "other")


def missing() -> str:
    """Miss a tool."""
    raise ToolMissing("promtool is missing")


def test_a_check_is_one_line_with_its_time_and_a_failed_one_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """What failed is told below its line, and those behind it run."""
    assert not run([Check("a", "", failing), Check("b", "", passing)], strict=False)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "0.0", "s", "FAILED", "(2", "findings)"]
    assert lines[1:3] == ["  one", "  other"]
    assert lines[3].split() == ["b", "0.0", "s", "passed", "(two", "things)"]


def test_a_missing_tool_is_a_loud_skip_on_a_laptop_and_a_failure_in_ci(capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the tool either way."""
    assert run([Check("a", "", missing)], strict=False)
    assert not run([Check("a", "", missing)], strict=True)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=3)[3] for line in lines] == [
        "SKIPPED  (promtool is missing)",
        "FAILED  (promtool is missing)",
    ]


def test_the_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Cheapest first, each with what it asks."""
    assert main(["--list"]) == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [each.name for each in CHECKS]


def test_every_skip_of_checkov_is_argued() -> None:
    """A comment of at least a sentence stands before each."""
    lines = (INFRA / ".checkov.yaml").read_text().splitlines()
    skips = [number for number, line in enumerate(lines) if line.strip().startswith("- CKV")]

    assert len(skips) == len(yaml.safe_load("\n".join(lines))["skip-check"])
    assert all(lines[number - 1].strip().startswith("# ") for number in skips)


# --- what the real programs say ---


def platform() -> Unit:
    """Return a copy of the local platform, to be broken."""
    try:
        for name in ("kustomize", "otelcol", "jaeger", "promtool"):
            tool(name)
    except ToolMissing as absent:
        pytest.skip(str(absent))
    unit = next(each for each in deployments() if each.name == "overlays/local/platform").unit()
    return Unit(unit.name, copy.deepcopy(list(unit.objects)), unit.neighbours)


def config_map(unit: Unit, key: str) -> Object:
    """Return the ConfigMap that has a key."""
    return next(thing for thing in unit.objects if key in (thing.get("data") or {}))


def test_sound_configurations_are_taken_by_their_programs() -> None:
    """As rendered: the collector's, Jaeger's, Prometheus'."""
    unit = platform()

    assert list(proofs.collector_configs([unit])) == []
    assert list(proofs.prometheus_configs([unit])) == []


@pytest.mark.parametrize(
    ("key", "old", "new", "said"),
    [
        ("collector.yaml", "check_interval:", "check_intervall:", "check_intervall"),
        ("collector.yaml", "max_recv_msg_size_mib: 16", "max_recv_msg_size_mib: sixteen", "max_recv_msg_size_mib"),
        ("jaeger.yaml", "trace_storage:", "trace_store:", "trace_store"),
    ],
)
def test_a_key_that_the_collector_does_not_know_is_named(key: str, old: str, new: str, said: str) -> None:
    """By the collector itself, with the object that runs it."""
    unit = platform()
    data = config_map(unit, key)["data"]
    assert old in data[key]
    data[key] = data[key].replace(old, new)

    (finding,) = proofs.collector_configs([unit])

    assert finding.startswith("overlays/local/platform: ")
    assert said in finding


def test_a_configuration_that_prometheus_does_not_take_is_named() -> None:
    """By promtool, with the object that runs it."""
    unit = platform()
    data = config_map(unit, "prometheus.yaml")["data"]
    data["prometheus.yaml"] = data["prometheus.yaml"].replace("scrape_interval:", "scrape_intervall:")

    (finding,) = proofs.prometheus_configs([unit])

    assert finding.startswith("overlays/local/platform: StatefulSet observability/prometheus: ")
    assert "scrape_intervall" in finding
