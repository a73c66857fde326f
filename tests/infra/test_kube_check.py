"""The runner of the checks, and the checks that hand rendered manifests to the programs they are for."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from kube import proofs
from kube.check import CHECKS, Check, Failed, end_to_end_in, main, run, suite_in
from kube.lint import Unit
from kube.objects import Object
from kube.render import INFRA, deployments
from kube.toolchain import ToolMissing


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


@pytest.mark.parametrize(
    ("look", "environ", "code"),
    [(passing, {}, 0), (failing, {}, 1), (missing, {}, 0), (missing, {"CI": ""}, 0), (missing, {"CI": "true"}, 1)],
)
def test_the_exit_code_tells_whether_all_passed(look: Callable[[], str], environ: Mapping[str, str], code: int) -> None:
    """With CI set a skip is a failure."""
    assert main(["--only", "a"], [Check("a", "", look), Check("b", "", failing)], environ) == code


@pytest.mark.parametrize("run_in", [suite_in, end_to_end_in])
def test_a_test_that_fails_is_told(run_in: Callable[[Path], str], tmp_path: Path) -> None:
    """The check fails with what pytest said; without it the line tells how many passed."""
    file = tmp_path / "test_it.py"
    file.write_text("def test_it():\n    print('note: seen')\n    assert True\n")
    passed = run_in(tmp_path)
    file.write_text("def test_it():\n    assert 'this' == 'that'\n")
    with pytest.raises(Failed) as told:
        run_in(tmp_path)

    assert "1 passed" in passed
    assert [line for line in told.value.args if "assert 'this' == 'that'" in line]


def test_a_machine_without_namespaces_misses_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the mini cluster cannot run, end to end is skipped as it is without a collector."""
    (tmp_path / "test_it.py").touch()
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolMissing, match=r"^mini cluster unavailable: not found: ip, nft, bwrap, nsenter; install"):
        end_to_end_in(tmp_path)


def test_every_skip_of_checkov_is_argued() -> None:
    """A comment of at least a sentence stands before each."""
    lines = (INFRA / ".checkov.yaml").read_text().splitlines()
    skips = [number for number, line in enumerate(lines) if line.strip().startswith("- CKV")]

    assert len(skips) == len(yaml.safe_load("\n".join(lines))["skip-check"])
    assert all(lines[number - 1].strip().startswith("# ") for number in skips)


# --- what the real programs say ---


def platform() -> Unit:
    """Return a copy of the local platform, to be broken."""
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
    """By the collector itself, in one line with the object that runs it and what would have been right."""
    unit = platform()
    data = config_map(unit, key)["data"]
    assert old in data[key]
    data[key] = data[key].replace(old, new)

    (finding,) = proofs.collector_configs([unit])

    where, found, expected = re.fullmatch(r"(.+?): found (.+), expected (.+)", finding).groups()  # type: ignore[union-attr]
    assert re.fullmatch(
        r"overlays/local/platform: (Deployment|StatefulSet) observability/(otel-collector|jaeger)", where
    )
    assert said in found
    assert re.fullmatch(r"a configuration that (otelcol|jaeger) takes", expected)


def test_a_configuration_that_prometheus_does_not_take_is_named() -> None:
    """By promtool, with the object that runs it."""
    unit = platform()
    data = config_map(unit, "prometheus.yaml")["data"]
    data["prometheus.yaml"] = data["prometheus.yaml"].replace("scrape_interval:", "scrape_intervall:")

    (finding,) = proofs.prometheus_configs([unit])

    assert finding.startswith("overlays/local/platform: StatefulSet observability/prometheus: ")
    assert "scrape_intervall" in finding


def test_a_rule_of_a_custom_resource_that_prometheus_does_not_take_is_named() -> None:
    """By promtool, as what the operator would hand on."""
    groups = [{"name": "a", "rules": [{"alert": "A", "expr": "up =="}]}]
    rule = {"kind": "PrometheusRule", "metadata": {"name": "a", "namespace": "b"}, "spec": {"groups": groups}}

    (finding,) = proofs.prometheus_configs([Unit.of("unit", [rule], [])])

    assert finding.startswith("unit: PrometheusRule b/a: ")
    assert "parse error" in finding


def test_an_alert_without_a_test_is_named(tmp_path: Path) -> None:
    """Promtool has nothing against it."""
    groups = [{"name": "a", "rules": [{"alert": "Tested", "expr": "up"}, {"alert": "Untested", "expr": "up"}]}]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / "tests").mkdir()
    told = [{"eval_time": "1m", "alertname": "Tested", "exp_alerts": []}]
    test = {"rule_files": ["../a.yaml"], "tests": [{"interval": "1m", "alert_rule_test": told}]}
    (tmp_path / "tests" / "a.yaml").write_text(yaml.safe_dump(test, sort_keys=False))

    (finding,) = proofs.rule_tests(tmp_path)

    assert finding.startswith("a.yaml: found no test of alert Untested, expected one in ")


def test_what_checkov_finds_is_told() -> None:
    """With the object, the number of its check and what that asks for."""
    spec = {"containers": [{"name": "a", "image": "a:1", "securityContext": {"privileged": True}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}, "spec": spec}

    assert "Pod.b.a: CKV_K8S_16: Container should not be privileged" in proofs.checkov([pod])
