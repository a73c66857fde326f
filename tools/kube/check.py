"""
Check everything in `infra/`, cheapest first: `python -m kube.check`, one line and one time for each check.

A check that fails does not stop the others. One whose tool is missing is skipped, loudly; where the environment says CI
it has failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workspace import ROOT

from kube import proofs
from kube.cluster.enter import UNAVAILABLE
from kube.lint import RULES, Unit, lint
from kube.objects import Object
from kube.render import RenderError, deployments
from kube.schema import validate
from kube.toolchain import ToolMissing
from kube.versions import VersionsError, kubernetes

__all__ = ["CHECKS", "Check", "Failed", "end_to_end_in", "main", "run", "suite_in"]

_TESTS = ROOT / "tests/infra"
_E2E = _TESTS / "e2e"
_LONGEST = "test_e2e_infra_local.py"
_NOTE = "note: "
"""What a test prints for whoever runs the checks begins with this."""


class Failed(Exception):  # noqa: N818 - a verdict, not a mistake
    """A check found something; its arguments are the lines that say what."""


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that `main` looks at.

    Attributes:
        name: What its line begins with.
        summary: What it asks, in a sentence.
        look: Returns what it looked at, in a few words, or raises `Failed` or `ToolMissing`.
    """

    name: str
    summary: str
    look: Callable[[], str]


def run(checks: Sequence[Check], *, strict: bool) -> bool:
    """Run checks in order, a line for each, and tell whether all passed; *strict* takes a skipped one for failed."""
    # All of them run, so not the short-circuit of a generator.
    verdicts = [_run(check, strict=strict) for check in checks]
    return all(verdicts)


def _run(check: Check, *, strict: bool) -> bool:
    started, details = time.monotonic(), []
    try:
        verdict, passed = f"passed  ({check.look()})", True
    except ToolMissing as missing:
        verdict, passed = f"{'FAILED' if strict else 'SKIPPED'}  ({missing})", not strict
    except (Failed, OSError, RenderError, VersionsError, subprocess.TimeoutExpired) as error:
        details = [str(each) for each in error.args] if isinstance(error, Failed) else [str(error)]
        verdict, passed = f"FAILED  ({len(details)} findings)" if len(details) > 1 else "FAILED", False
    print(f"{check.name:<18}{time.monotonic() - started:6.1f} s  {verdict}", flush=True)
    for line in details:
        print(f"  {line.rstrip()}".replace("\n", "\n  "), flush=True)
    return passed


@cache
def _units() -> Sequence[Unit]:
    return [each.unit() for each in deployments()]


@cache
def _objects() -> Sequence[Object]:
    """Return what all units together bring, each object once."""
    once = {json.dumps(thing, sort_keys=True, default=str): thing for unit in _units() for thing in unit.objects}
    return list(once.values())


def _render() -> str:
    objects = sum(len(unit.objects) for unit in _units())
    return f"{len(_units())} units, {objects} objects, {len(_objects())} different ones"


def _schema() -> str:
    _refuse(validate(_objects()))
    return f"Kubernetes {' and '.join(kubernetes())}, strict"


def _lint() -> str:
    where: dict[str, list[str]] = {}
    for unit in _units():
        for finding in lint(unit):
            where.setdefault(str(finding), []).append(unit.name)
    # Overlays share what they are made of, so one fault is often in several.
    _refuse(f"{finding} (in {', '.join(names)})" for finding, names in where.items())
    return f"{len(RULES)} rules"


def _promtool() -> str:
    _refuse([*proofs.prometheus_configs(_units()), *proofs.rule_tests()])
    return "configuration, rules and their tests"


def _otelcol() -> str:
    _refuse(proofs.collector_configs(_units()))
    return "configurations as rendered"


def _checkov() -> str:
    _refuse(proofs.checkov(_objects()))
    return f"{len(_objects())} objects, skips argued in infra/.checkov.yaml"


def suite_in(folder: Path) -> str:
    """Run the tests in a folder, those end to end left out, in two processes."""
    run = _pytest([sys.executable], str(folder), f"--ignore={_E2E}", "-n2", "--dist=loadfile")
    if run.failed:
        raise Failed(*run.lines)
    return run.lines[-1].strip("= ")


def _e2e() -> str:
    _make_environments()
    return end_to_end_in(_E2E)


def end_to_end_in(folder: Path) -> str:
    """Run each file of a folder in namespaces of its own, two at a time: most of what they do is to wait."""
    files = sorted(folder.glob("test_*.py"), key=lambda file: file.name != _LONGEST)
    with ThreadPoolExecutor(2) as lanes:
        runs = list(lanes.map(_in_namespaces, files))
    if failures := [line for run in runs if run.failed for line in run.lines]:
        raise Failed(*failures)
    notes = [line for run in runs for line in run.lines if line.startswith(_NOTE)]
    return "\n  ".join([f"{len(files)} files: {', '.join(run.lines[-1].strip('= ') for run in runs)}", *notes])


def _make_environments() -> None:
    """Make the environments of the services: inside there is no network to make them with."""
    for service in ("grpc", "http"):
        command = [str(ROOT / "hatchw"), "run", f"{service}:python", "-V"]
        done = subprocess.run(
            command, cwd=ROOT, check=False, capture_output=True, text=True, env=proofs.outer_environment()
        )
        if done.returncode != 0:
            raise Failed(*f"{done.stdout}\n{done.stderr}".strip().splitlines())


@dataclass(frozen=True, slots=True)
class _Run:
    """What pytest said, and whether it had something against the tests."""

    failed: bool
    lines: Sequence[str]


def _in_namespaces(file: Path) -> _Run:
    # -s: the notes of the tests that passed are wanted too.
    return _pytest([sys.executable, "-m", "kube.cluster.enter", "--", sys.executable], "-s", str(file))


def _pytest(python: Sequence[str], *arguments: str) -> _Run:
    command = [*python, "-m", "pytest", "-q", "--no-header", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        raise ToolMissing(done.stderr.strip())
    # The summary is the last line of the standard output.
    return _Run(done.returncode != 0, f"{done.stderr}\n{done.stdout}".strip().splitlines())


def _refuse(found: Iterable[object]) -> None:
    lines = list(found)
    if lines:
        raise Failed(*lines)


CHECKS = (
    Check("render", "every overlay, component and example renders", _render),
    Check("schema", "strict schemas: the oldest and the newest supported Kubernetes, custom resources", _schema),
    Check("lint", "our rules: the objects fit each other and do what they are there for", _lint),
    Check("promtool", "Prometheus takes its configuration and rules, and the rules pass their tests", _promtool),
    Check("otelcol-validate", "the collector and Jaeger take their configurations, as rendered", _otelcol),
    Check("checkov", "a linter of others, with argued skips", _checkov),
    Check("tests", "the tests in tests/infra, end to end left out", lambda: suite_in(_TESTS)),
    Check("e2e", "the local overlay runs: the real components, both services, outages", _e2e),
)


def main(arguments: Sequence[str], checks: Sequence[Check] = CHECKS, environ: Mapping[str, str] = os.environ) -> int:
    """Run those of *checks* that *arguments* name, all without any; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kube.check", description="Check everything in infra/.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[each.name for each in checks], help="only these")
    parser.add_argument("--list", action="store_true", help="list the checks and end")
    options = parser.parse_args(arguments)
    chosen = [each for each in checks if not options.only or each.name in options.only]
    if options.list:
        print("\n".join(f"{each.name:<18}{each.summary}" for each in chosen))
        return 0
    return int(not run(chosen, strict=bool(environ.get("CI"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
