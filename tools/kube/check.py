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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from workspace import ROOT

from kube import proofs
from kube.lint import RULES, Unit, lint
from kube.objects import Object
from kube.render import RenderError, deployments
from kube.schema import validate
from kube.toolchain import ToolMissing
from kube.versions import VersionsError, kubernetes

__all__ = ["CHECKS", "Check", "Failed", "main", "run"]

_TESTS = ROOT / "tests/infra"
_E2E = _TESTS / "e2e"


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


def _tests() -> str:
    return _pytest([sys.executable], str(_TESTS), f"--ignore={_E2E}")


def _e2e() -> str:
    return _pytest([sys.executable, "-m", "kube.cluster.enter", "--", sys.executable], str(_E2E))


def _pytest(python: Sequence[str], *arguments: str) -> str:
    """Run pytest and return its last line."""
    command = [*python, "-m", "pytest", "-q", "--no-header", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()
    if done.returncode != 0:
        raise Failed(*lines)
    return lines[-1].strip("= ")


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
    Check("tests", "the tests in tests/infra, end to end left out", _tests),
    Check("e2e", "the local overlay runs: the real components, both services, outages", _e2e),
)


def main(arguments: Sequence[str]) -> int:
    """Run the checks that *arguments* name, all without any."""
    parser = argparse.ArgumentParser(prog="python -m kube.check", description="Check everything in infra/.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[each.name for each in CHECKS], help="only these")
    parser.add_argument("--list", action="store_true", help="list the checks and end")
    options = parser.parse_args(arguments)
    chosen = [each for each in CHECKS if not options.only or each.name in options.only]
    if options.list:
        print("\n".join(f"{each.name:<18}{each.summary}" for each in chosen))
        return 0
    return int(not run(chosen, strict=bool(os.environ.get("CI"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
