"""Configuration files of Prometheus and Grafana: what they name is there."""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from kube.lint.documents import DocumentError, parse
from kube.lint.files import files, listed
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Pod, dig, mappings


@rule("prometheus-rule-files")
def prometheus_rule_files(unit: Unit) -> Iterator[Fault]:
    """Each of Prometheus' rule_files finds a mounted file: one that finds nothing is silently no rule."""
    for pod, there, path, document in _documents(unit):
        for pattern in dig(document, "rule_files") or []:
            absolute = normpath(PurePosixPath(path).parent / str(pattern))
            if not any(fnmatch(file, absolute) for file in there):
                yield Fault(pod.owner, f"{path}: rule_files", str(pattern), f"mounted files: {listed(there)}")


@rule("grafana-source")
def grafana_source(unit: Unit) -> Iterator[Fault]:
    """A data source that another one or a dashboard names by its uid is provisioned."""
    for pod in unit.pods:
        mine = [(path, document) for other, _, path, document in _documents(unit) if other is pod]
        known = {each.get("uid") for _, document in mine for each in mappings(document, "datasources")}
        for path, document in mine if known else ():
            for uid in sorted(set(_uids(document)) - known - {"-- Grafana --", "grafana", "-- Mixed --"}):
                if not uid.startswith("$"):
                    yield Fault(pod.owner, path, f"data source {uid}", f"one of {listed(known)}")


@rule("grafana-folder")
def grafana_folder(unit: Unit) -> Iterator[Fault]:
    """A folder that Grafana takes dashboards from has some."""
    for pod, there, path, document in _documents(unit):
        for provider in mappings(document, "providers"):
            folder = str(dig(provider, "options", "path"))
            if not any(PurePosixPath(file).is_relative_to(folder) for file in there if file.endswith(".json")):
                yield Fault(pod.owner, f"{path}: providers", folder, f"a folder of dashboards: {listed(there)}")


def _uids(document: Any) -> Iterator[str]:
    """Yield the uids by which a dashboard or a data source refers to data sources."""
    if isinstance(document, list):
        for each in document:
            yield from _uids(each)
    elif isinstance(document, dict):
        for key, value in document.items():
            if key == "datasourceUid" and isinstance(value, str):
                yield value
            elif key == "datasource" and isinstance(dig(value, "uid"), str):
                yield value["uid"]
            else:
                yield from _uids(value)


def _documents(unit: Unit) -> Iterator[tuple[Pod, dict[str, str | None], str, Any]]:
    for pod in unit.pods:
        for container in pod.containers:
            there = files(unit, pod, container)
            for path, text in there.items():
                if text and path.endswith((".json", ".yaml", ".yml")):
                    try:
                        yield pod, there, path, parse(text, path)
                    except DocumentError:
                        continue
