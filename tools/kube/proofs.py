"""Rendered manifests before the programs that they are for: promtool, the collector, Jaeger and checkov judge them."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from workspace import ROOT, without_constraints

from kube.lint import Unit
from kube.lint.collector_config import Collector, collectors
from kube.lint.environment import UNKNOWN
from kube.lint.files import files
from kube.objects import Container, Object, Pod, mapping, mappings, title
from kube.toolchain import ToolMissing, tool

__all__ = ["checkov", "collector_configs", "outer_environment", "prometheus_configs", "rule_tests"]

_RULES = ROOT / "infra/prometheus/rules"
_CHECKOV = ROOT / "infra/.checkov.yaml"
_SECONDS = 120.0
_LINES = 12
# What a Secret would hold, of a form that the configuration takes.
_STAND_INS = (
    (re.compile(r"HEADERS$"), '{"authorization": "Bearer stand-in"}'),
    (re.compile(r"(ENDPOINT|URL)$"), "https://stand-in.invalid:4318"),
)


def collector_configs(units: Iterable[Unit]) -> Iterator[str]:
    """Yield what the collector and Jaeger say against their configurations, exactly as rendered, each once."""
    different = {_identity(unit, each): (unit, each) for unit in units for each in collectors(unit)}
    for unit, each in different.values():
        yield from _validated(unit, each)


def _identity(unit: Unit, each: Collector) -> str:
    there = files(unit, each.pod, each.container)
    return json.dumps([there, dict(each.env), each.container.words, each.jaeger], sort_keys=True)


def _validated(unit: Unit, each: Collector) -> Iterator[str]:
    name = "jaeger" if each.jaeger else "otelcol"
    program = str(tool(name))
    env = {key: _stand_in(key) if value == UNKNOWN else value for key, value in each.env.items()}
    with _mounted(unit, each.pod, each.container) as root:
        arguments = _arguments(each.container, root)
        done = _run([program, "validate", *arguments], env)
        if done.returncode != 0:
            said = " ".join(_last_lines(done, root).split())
            yield f"{unit.name}: {title(each.pod.owner)}: found {said}, expected a configuration that {name} takes"


def _stand_in(name: str) -> str:
    return next((text for pattern, text in _STAND_INS if pattern.search(name)), "stand-in")


def prometheus_configs(units: Iterable[Unit]) -> Iterator[str]:
    """Yield what promtool says against the configurations of Prometheus and their rules, exactly as rendered."""
    seen = set()
    for unit in units:
        for pod, container, path in _prometheus(unit):
            there = json.dumps(files(unit, pod, container), sort_keys=True)
            if there not in seen:
                seen.add(there)
                with _mounted(unit, pod, container) as root:
                    done = _run([str(tool("promtool")), "check", "config", f"{root}{path}"])
                    if done.returncode != 0:
                        yield f"{unit.name}: {title(pod.owner)}: {_last_lines(done, root)}"
        for thing in unit.kind("PrometheusRule"):
            yield from _checked_rules(unit, thing)


def _prometheus(unit: Unit) -> Iterator[tuple[Pod, Container, str]]:
    for pod in unit.pods:
        for container in pod.containers:
            for word in container.words:
                if word.startswith("--config.file=") and container.repository.endswith("prom/prometheus"):
                    yield pod, container, word.removeprefix("--config.file=")


def _checked_rules(unit: Unit, thing: Object) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "rules.yaml"
        file.write_text(yaml.safe_dump(mapping(thing, "spec")))
        done = _run([str(tool("promtool")), "check", "rules", str(file)])
        if done.returncode != 0:
            yield f"{unit.name}: {title(thing)}: {_last_lines(done, name)}"


def rule_tests(rules: Path = _RULES) -> Iterator[str]:
    """Yield what promtool says about the rules that fail their tests, and the rules that have none."""
    tests = sorted((rules / "tests").glob("*.yaml"))
    done = _run([str(tool("promtool")), "test", "rules", *map(str, tests)])
    if done.returncode != 0:
        yield _last_lines(done, str(ROOT))
    tested = {
        rule for test in tests for rule in re.findall(r"^\s*(?:- )?alertname: (\S+)", test.read_text(), re.MULTILINE)
    }
    for file in sorted(rules.glob("*.yaml")):
        for alert in re.findall(r"^\s*- alert: (\S+)", file.read_text(), re.MULTILINE):
            if alert not in tested:
                yield f"{file.name}: found no test of alert {alert}, expected one in {rules.name}/tests"


def checkov(objects: Sequence[Object]) -> Iterator[str]:
    """Yield what checkov says against objects; infra/.checkov.yaml names what is not asked, and why."""
    with tempfile.TemporaryDirectory() as name:
        for number, thing in enumerate(objects):
            (Path(name) / f"{number:04}.yaml").write_text(yaml.safe_dump(thing))
        done = _run([*_checkov_command(), "--config-file", str(_CHECKOV), "--output", "json", "-d", name], _calm())
    try:
        said = json.loads(done.stdout[done.stdout.index("{") :])
        failed = said["results"]["failed_checks"]
    except (KeyError, ValueError):
        yield f"checkov: found no report: {_last_lines(done, name)}"
        return
    for each in failed:
        yield f"{each['resource']}: {each['check_id']}: {each['check_name']}"


def _checkov_command() -> list[str]:
    found = shutil.which("checkov")
    if found:
        return [found]
    wrapper = ROOT / "hatchw"
    if not wrapper.is_file():
        raise ToolMissing("checkov: not found, and no ./hatchw to bring it")
    return [str(wrapper), "run", "checkov:run"]


def outer_environment() -> dict[str, str]:
    """Return the process environment without what belongs to the hatch environment that this runs in."""
    return {
        name: value for name, value in without_constraints().items() if not name.startswith(("HATCH_ENV", "PYTHON"))
    }


def _calm() -> dict[str, str]:
    """Return the environment for checkov: it asks for no update and talks of errors only."""
    return {**outer_environment(), "CKV_SKIP_PACKAGE_UPDATE_CHECK": "1", "LOG_LEVEL": "ERROR"}


@contextmanager
def _mounted(unit: Unit, pod: Pod, container: Container) -> Iterator[str]:
    """Make a folder with the files that a container sees, at the paths where it sees them."""
    with tempfile.TemporaryDirectory() as root:
        for mount in mappings(container.spec, "volumeMounts"):
            Path(f"{root}{mount.get('mountPath')}").parent.mkdir(parents=True, exist_ok=True)
        for path, text in files(unit, pod, container).items():
            file = Path(f"{root}{path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text or "")
        yield root


def _arguments(container: Container, root: str) -> list[str]:
    """Return a container's arguments with the paths that they have below *root*."""
    return [re.sub(r"^(--config=(?:file:)?)?(?=/)", rf"\g<0>{root}", word) for word in container.words]


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS, env=env, cwd=ROOT)


def _last_lines(done: subprocess.CompletedProcess[str], root: str) -> str:
    said = f"{done.stdout}\n{done.stderr}".replace(root, "").strip().splitlines()
    return "\n".join(said[-_LINES:]) or f"ended with {done.returncode}"
