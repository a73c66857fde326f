"""Each alert has a runbook, each runbook an alert, and what a runbook tells people to paste can be pasted."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from kube.promql import alerts, expressions, recorded_series
from kube.runbooks import LANGUAGES, RUNBOOKS, Runbook, runbooks
from kube.toolchain import tool
from workspace import ROOT

PAGES = runbooks()
INDEX = (RUNBOOKS / "README.md").read_text(encoding="utf-8")

each_runbook = pytest.mark.parametrize("runbook", PAGES, ids=lambda runbook: runbook.name)


def test_alerts_and_runbooks_are_the_same() -> None:
    """None is missing and none is left over; the index names each with its severity."""
    severities = {alert.name: alert.labels["severity"] for alert in alerts()}
    indexed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", INDEX, re.MULTILINE)

    assert {runbook.name for runbook in PAGES} == set(severities)
    assert {(name, page, severity) for name, page, severity in indexed} == {
        (name, name, severity) for name, severity in severities.items()
    }


@each_runbook
def test_a_runbook_has_its_sections(runbook: Runbook) -> None:
    """Meaning, the first three queries, remedy; nothing is empty."""
    assert list(runbook.sections) == [runbook.name, "Meaning", "First three queries", "Remedy"]
    assert all(runbook.sections[heading] for heading in list(runbook.sections)[1:])


@each_runbook
def test_the_first_three_queries_are_three(runbook: Runbook) -> None:
    """Each of the three steps says what it finds out and has a query in a language that is known."""
    _, *steps = re.split(r"^\d\. ", runbook.sections["First three queries"], flags=re.MULTILINE)
    languages = [re.findall(r"```(\w+)\n", step) for step in steps]

    assert len(steps) == 3
    assert all(found and set(found) <= set(LANGUAGES) for found in languages), languages


def test_promql_can_be_pasted(tmp_path: Path) -> None:
    """Promtool can parse every query, and reads it as a rule of its own."""
    queries = [query.text for runbook in PAGES for query in runbook.queries if query.language == "promql"]
    rules = [{"record": f"pasted:query{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    done = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(queries)} rules found" in done.stdout


@each_runbook
def test_promql_reads_series_that_are_recorded(runbook: Runbook) -> None:
    """A recorded series that a query reads, or a sentence names, is recorded."""
    recorded = {series for each in expressions() for series in recorded_series(each.promql)}
    named = {series for code in re.findall(r"`([^`]+)`", runbook.text) for series in recorded_series(code)}
    read = {series for query in runbook.queries if query.language == "promql" for series in recorded_series(query.text)}

    assert (named | read) - recorded == set()


@each_runbook
def test_a_jaeger_search_can_be_pasted(runbook: Runbook) -> None:
    """A search is the path of Jaeger's page with parameters that it knows; tags are a JSON object of texts."""
    for query in runbook.queries:
        if query.language == "jaeger":
            address = urlsplit(query.text)
            parameters = {name: values[0] for name, values in parse_qs(address.query, strict_parsing=True).items()}
            tags = json.loads(parameters.pop("tags", "{}"))

            assert address.path == "/search"
            assert {"service", "lookback", "limit"} <= set(parameters)
            assert set(parameters) <= {"service", "operation", "minDuration", "maxDuration", "lookback", "limit"}
            assert all(isinstance(value, str) for value in tags.values())


@each_runbook
def test_files_pages_and_objects_that_are_named_exist(runbook: Runbook) -> None:
    """Paths in the repository, links to other runbooks, and what kubectl is told to look at."""
    paths = re.findall(r"`(infra/[\w./-]+)`", runbook.text)
    links = re.findall(r"\]\((\w+\.md)\)", runbook.text)
    objects = set(re.findall(r"\b((?:deployment|statefulset|service)/[\w-]+)", runbook.text))
    pods = set(re.findall(r"kubectl [^`]*?\b([a-z]+-0)\b", runbook.text))

    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if not (RUNBOOKS / link).exists()] == []
    assert objects | {f"statefulset/{pod.removesuffix('-0')}" for pod in pods} <= _objects()


def _objects() -> set[str]:
    """Return `kind/name` of everything that the bases define."""
    found = set()
    for path in (ROOT / "infra").glob("**/*.yaml"):
        if path.parent.name in {"collector", "jaeger", "prometheus", "loki", "grafana", "http", "grpc"}:
            for thing in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                if isinstance(thing, dict) and "kind" in thing and "name" in thing.get("metadata", {}):
                    found.add(f"{thing['kind'].lower()}/{thing['metadata']['name']}")
    return found
