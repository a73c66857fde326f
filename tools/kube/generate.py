"""
Write what is made of something else, so that there is one place to change.

The declarations in `kube.dashboards` become Grafana's JSON, the alert rules a PrometheusRule, and the collector's
configuration with its Deployment an OpenTelemetryCollector. A test runs `--check`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from workspace import ROOT

from kube.dashboards import DASHBOARDS, as_json

__all__ = ["generated", "main"]

RULES = Path("infra/prometheus/rules")
COLLECTOR = Path("infra/collector")
RULE_FILE = Path("infra/components/prometheus-operator/prometheusrule.yaml")
COLLECTOR_FILE = Path("infra/components/otel-operator/opentelemetrycollector.yaml")
DASHBOARD_FOLDER = Path("infra/grafana/dashboards")

# The operator's names for what a container and a pod template have under another or the same one.
CONTAINER_FIELDS = {
    "image": "image",
    "imagePullPolicy": "imagePullPolicy",
    "env": "env",
    "resources": "resources",
    "lifecycle": "lifecycle",
    "securityContext": "securityContext",
}
POD_FIELDS = {
    "serviceAccountName": "serviceAccount",
    "terminationGracePeriodSeconds": "terminationGracePeriodSeconds",
    "securityContext": "podSecurityContext",
}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what has changed; with `--check` write nothing and return 1 if something would."""
    parser = argparse.ArgumentParser(prog="python -m kube.generate", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="say what is out of date, and leave it so")
    check = parser.parse_args(arguments).check
    stale = {path: text for path, text in generated(ROOT).items() if not _equals(ROOT / path, text)}
    for path, text in stale.items():
        print(f"{path}: out of date, run python -m kube.generate" if check else f"{path}: written")
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)
    if not stale:
        print("generate: every file is true")
    return int(check and bool(stale))


def generated(root: Path) -> dict[Path, str]:
    """Return the files that are made from others, and what each has to say; paths are relative to *root*."""
    return {
        **{DASHBOARD_FOLDER / f"{name}.json": as_json(dashboard) for name, dashboard in DASHBOARDS.items()},
        RULE_FILE: _document(_prometheus_rules(root), made_of=f"{RULES}/*.yaml"),
        COLLECTOR_FILE: _document([_collector(root)], made_of=f"{COLLECTOR}/config/collector.yaml and deployment.yaml"),
    }


def _prometheus_rules(root: Path) -> list[Mapping[str, Any]]:
    """Return one PrometheusRule for each file of rules; its groups are the file's."""
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": _metadata(
                f"rsketch-{path.stem}",
                {"app.kubernetes.io/name": f"rsketch-{path.stem}", "app.kubernetes.io/part-of": "rsketch"},
            ),
            "spec": {"groups": yaml.safe_load(path.read_text())["groups"]},
        }
        for path in sorted((root / RULES).glob("*.yaml"))
    ]


def _collector(root: Path) -> Mapping[str, Any]:
    """
    Return the collector as the operator takes it.

    The operator adds `-collector` to the name, so the Service is called as the one that it replaces. It finds ports and
    probes in the configuration.
    """
    workload = yaml.safe_load((root / COLLECTOR / "deployment.yaml").read_text())
    template = workload["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    name = workload["metadata"]["name"]
    return {
        "apiVersion": "opentelemetry.io/v1beta1",
        "kind": "OpenTelemetryCollector",
        # The labels reach the pods, which Services and NetworkPolicies find by them.
        "metadata": _metadata(name.removesuffix("-collector"), template["metadata"]["labels"]),
        "spec": {
            "mode": "deployment",
            # The image is pinned beside the configuration that fits it; the operator is to touch neither.
            "upgradeStrategy": "none",
            **{theirs: container[ours] for ours, theirs in CONTAINER_FIELDS.items()},
            **{theirs: pod[ours] for ours, theirs in POD_FIELDS.items()},
            "deploymentUpdateStrategy": workload["spec"]["strategy"],
            **{probe: _timing(container[probe]) for probe in PROBES},
            "config": yaml.safe_load((root / COLLECTOR / "config" / "collector.yaml").read_text()),
        },
    }


def _metadata(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "namespace": "observability", "labels": dict(labels)}


def _timing(probe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a probe without what it asks, which the operator knows from the configuration."""
    return {key: value for key, value in probe.items() if key not in {"httpGet", "grpc", "tcpSocket", "exec"}}


def _document(objects: Sequence[Mapping[str, Any]], *, made_of: str) -> str:
    head = f"# Made by `python -m kube.generate` of {made_of}: change those.\n"
    return head + "---\n".join(yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=110) for each in objects)


def _equals(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


class _Dumper(yaml.SafeDumper):
    """YAML as it is written by hand: lists indented, expressions of several lines in blocks, no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002 - PyYAML's
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    sys.exit(main())
