"""
Every PromQL expression of the alert rules and of the dashboards, so that tests can ask a real Prometheus each of them.

A healthy system answers all of them but two kinds, which are marked as such where they are written:

- An alert is empty while nothing is wrong. The recorded series that it compares are expressions of their own, so a
  quiet alert is known to have data. Where even these may be empty, the alert's annotation `empty_because` says why.
- A panel of a dashboard whose description has a sentence that begins with "Empty ".
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from workspace import ROOT

__all__ = [
    "Alert",
    "Expression",
    "alerts",
    "dashboard_expressions",
    "expressions",
    "recorded_series",
    "rule_expressions",
    "substitute",
]

RULES: Final = ROOT / "infra" / "prometheus" / "rules"
DASHBOARDS: Final = ROOT / "infra" / "grafana" / "dashboards"

QUIET: Final = "an alert is empty while nothing is wrong"
EMPTY_BECAUSE: Final = "empty_because"

# Recorded series are called level:metric:operation, and nothing else has a colon in its name.
_RECORDED = re.compile(r"(?<![\w:])[a-zA-Z_]\w*(?::\w+)+")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_EMPTY_SENTENCE = re.compile(r"(?:^|(?<=[.;:] )|(?<=\n))Empty [^.]*\.?")

# What Grafana puts in place of its own variables, for a panel of one hour.
_GRAFANA = {"__rate_interval": "5m", "__interval": "1m", "__range": "1h", "__range_s": "3600", "__interval_ms": "60000"}
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::\w+)?\}|(?P<bare>\w+))|\[\[(?P<old>\w+)\]\]")
_EXACT_MATCH = re.compile(r'(?<![!=<>~])=\s*(?="(?:\$|\[\[))')
_LABEL_VALUES = re.compile(r"^\s*label_values\(\s*(?P<series>.+),\s*\w+\s*\)\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """
    One PromQL expression.

    Attributes:
        where: File, relative to the root, and the rule or panel in it.
        promql: What a Prometheus can be asked as it is.
        may_be_empty: Whether a healthy system may have no answer.
        reason: Why it may; empty where it may not.
    """

    where: str
    promql: str
    may_be_empty: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """
    One alert rule.

    Attributes:
        path: The file of the rule.
    """

    name: str
    path: Path
    promql: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def expressions(rules: Path = RULES, dashboards: Path = DASHBOARDS) -> list[Expression]:
    """Return the expressions of all alert rules, recording rules and dashboards."""
    return [*rule_expressions(rules), *dashboard_expressions(dashboards)]


# --- rules ---


def alerts(folder: Path = RULES) -> list[Alert]:
    """Return the alert rules of the files in *folder*."""
    return [
        Alert(
            name=rule["alert"],
            path=path,
            promql=rule["expr"],
            labels=rule.get("labels", {}),
            annotations=rule.get("annotations", {}),
        )
        for path, rule in _rules(folder)
        if "alert" in rule
    ]


def recorded_series(promql: str) -> list[str]:
    """Return the names of the recorded series that an expression reads, each once."""
    return list(dict.fromkeys(_RECORDED.findall(_QUOTED.sub('""', promql))))


def rule_expressions(folder: Path = RULES) -> list[Expression]:
    """Return what the rules in *folder* compute, and which recorded series their alerts read."""
    excuses = _excuses(alerts(folder))
    recorded = [
        _expression(path, rule["record"], rule["expr"], excuses.get(rule["record"], ""))
        for path, rule in _rules(folder)
        if "record" in rule
    ]
    return [*recorded, *_alert_expressions(alerts(folder), excuses)]


def _alert_expressions(found: Sequence[Alert], excuses: Mapping[str, str]) -> Iterator[Expression]:
    for alert in found:
        yield _expression(alert.path, alert.name, alert.promql, QUIET)
        for series in recorded_series(alert.promql):
            yield _expression(alert.path, f"{alert.name}, which reads {series}", series, excuses.get(series, ""))


def _excuses(found: Sequence[Alert]) -> dict[str, str]:
    """Return why a recorded series may be empty, for those that an alert excuses."""
    return {
        series: alert.annotations[EMPTY_BECAUSE]
        for alert in found
        if EMPTY_BECAUSE in alert.annotations
        for series in recorded_series(alert.promql)
    }


def _rules(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                yield path, rule


# --- dashboards ---


def dashboard_expressions(folder: Path = DASHBOARDS) -> list[Expression]:
    """Return what the panels and the variables of the dashboards in *folder* ask Prometheus, variables replaced."""
    return [each for path in sorted(folder.glob("*.json")) for each in _dashboard(path)]


def substitute(promql: str) -> str:
    """
    Replace Grafana's variables: windows by five minutes, choices by the pattern that "All" stands for.

    A choice that is compared with `=` is compared as a pattern instead, as otherwise nothing would be found.
    """
    return _VARIABLE.sub(_value, _EXACT_MATCH.sub("=~", promql))


def _value(variable: re.Match[str]) -> str:
    name = variable["braced"] or variable["bare"] or variable["old"]
    return _GRAFANA.get(name, ".*")


def _dashboard(path: Path) -> Iterator[Expression]:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    for panel in _panels(dashboard.get("panels", [])):
        sentence = _EMPTY_SENTENCE.search(panel.get("description", ""))
        for target in panel.get("targets", []):
            if _asks_prometheus(target.get("datasource") or panel.get("datasource")) and target.get("expr"):
                where = f"{panel.get('title')}, {target.get('refId')}"
                yield _expression(path, where, substitute(target["expr"]), sentence[0] if sentence else "")
    for variable in dashboard.get("templating", {}).get("list", []):
        if found := _LABEL_VALUES.match(_variable_query(variable)):
            yield _expression(path, f"variable {variable.get('name')}", substitute(found["series"]))


def _panels(panels: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield panels and, where a row is folded, those in it."""
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


def _asks_prometheus(source: Any) -> bool:
    return isinstance(source, dict) and source.get("type") == "prometheus"


def _variable_query(variable: Mapping[str, Any]) -> str:
    if variable.get("type") != "query" or not _asks_prometheus(variable.get("datasource")):
        return ""
    query = variable.get("query", "")
    return str(query.get("query", "") if isinstance(query, dict) else query)


def _expression(path: Path, what: str, promql: str, reason: str = "") -> Expression:
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return Expression(where=f"{place}: {what}", promql=promql, may_be_empty=bool(reason), reason=reason)
