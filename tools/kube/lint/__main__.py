"""
Lint manifests: `python -m kube.lint PATH…`.

A path is a kustomization, a folder of plain YAML or a file; all of them together are one deployment. `--beside PATH`
names what is in the cluster already. Without a path all of `infra/` is judged. Ends with 1 if anything was found.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kube.lint import RULES, Unit, lint
from kube.render import RenderError, deployments, load
from kube.toolchain import ToolMissing


def main(arguments: Sequence[str]) -> int:
    """Print a line for each finding, or the list of rules."""
    options = _options(arguments)
    if options.rules:
        print(
            "\n".join(
                f"{each.name:32}{'house  ' if each.house else '       '}{each.summary}" for each in RULES.values()
            )
        )
        return 0
    unknown = sorted(set(options.rule) - set(RULES))
    if unknown:
        print(f"--rule: found {', '.join(unknown)}, expected names that --rules lists", file=sys.stderr)
        return 2
    try:
        units = [_unit(options)] if options.paths else [each.unit() for each in deployments()]
    except (OSError, RenderError, ToolMissing) as error:
        print(error, file=sys.stderr)
        return 2
    findings = [f"{unit.name}: {finding}" for unit in units for finding in lint(unit, options.rule)]
    for line in findings:
        print(line)
    print(f"{sum(len(unit.objects) for unit in units)} objects in {len(units)} units, {len(findings)} findings")
    return int(bool(findings))


def _unit(options: argparse.Namespace) -> Unit:
    objects = [thing for path in options.paths for thing in load(path)]
    beside = [thing for path in options.beside for thing in load(path)]
    name = " ".join(map(str, options.paths))
    return Unit.of(name, objects, beside, house=options.house, production=options.production)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kube.lint", description="Lint Kubernetes manifests.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a kustomization, a folder or a file")
    parser.add_argument("--beside", action="append", default=[], type=Path, metavar="PATH", help="what is there before")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME", help="only this rule; repeatable")
    parser.add_argument("--house", action="store_true", help="apply the customs of this repository too")
    parser.add_argument("--production", action="store_true", help="it must outlive the loss of a node")
    parser.add_argument("--rules", action="store_true", help="list the rules and end")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
