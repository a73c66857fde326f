"""
What a dashboard is made of, and how Grafana writes that down.

Grafana's JSON repeats forty lines for each panel. Here a panel is what a person decides about it: what it shows, in
which unit, what it means and what to do about it. See
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["Dashboard", "Panel", "Query", "Row", "Variable", "as_json"]

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap", "table", "logs"]
Store = Literal["prometheus", "loki"]

COLUMNS: Final = 24
"""The width of Grafana's grid."""

SCHEMA_VERSION: Final = 42
"""Of Grafana 12; a newer Grafana migrates it when it loads the file."""

TAG: Final = "rsketch"
"""What the dashboards have in common; each links to the others by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    One expression of a panel.

    Attributes:
        expression: PromQL, or LogQL where the store is Loki.
        legend: Name of each series, `{{label}}` for a label's value.
        exemplars: Also ask for the traces behind the numbers.
        instant: Only the newest value: for tables.
        store: Who is asked; the uid of a data source in `infra/grafana/config/datasources.yaml`.
    """

    expression: str
    legend: str = ""
    exemplars: bool = False
    instant: bool = False
    store: Store = "prometheus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """
    One rectangle.

    Attributes:
        title: What it shows.
        description: What it means and what to do about it.
        unit: Grafana's id of the unit; empty for tables and logs, which have none.
        queries: What it asks for.
        kind: How it is drawn.
        width: Columns of 24.
        height: Rows of the grid.
        interval: How often its data comes; rates are taken over at least four times that.
        minimum, maximum: Of the axis; None leaves it to Grafana.
        stacked: Areas on top of each other, where the sum means something.
        warn, fail: From where it is yellow and red; a line shows `fail` in a graph.
        whole: From where it is green; red below.
        colors: Colour for each series whose name the pattern matches.
        columns: For a table, the labels in their order and the heading of each.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    interval: str = ""
    minimum: float | None = 0
    maximum: float | None = None
    stacked: bool = False
    warn: float | None = None
    fail: float | None = None
    whole: float | None = None
    colors: Mapping[str, str] | None = None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading and the panels under it, from left to right and on into the next line."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """
    A choice at the top of a dashboard.

    Attributes:
        name: What `$name` stands for in expressions, always matched as a pattern.
        label: What people see.
        query: `label_values(series, label)`.
        every: The pattern of "All": `.*` also matches series without the label. Empty joins all the values.
        pattern: What part of a value is taken; empty for all of it.
        hidden: Computed from the others, so that nobody needs to see it.
    """

    name: str
    label: str
    query: str
    every: str = ".*"
    pattern: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """
    One page.

    Attributes:
        uid: Its name in addresses; never changes.
        title: What people see.
        description: What question it answers.
        variables: The choices at its top.
        rows: Its content.
    """

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]


def as_json(dashboard: Dashboard) -> str:
    """Return the file that Grafana reads, with a line break at its end."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> Json:
    return {
        "uid": dashboard.uid,
        # Grafana gives it one.
        "id": None,
        "title": dashboard.title,
        "description": f"{dashboard.description} Written by tools/kube/dashboards; change it there.",
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "timezone": "",
        "weekStart": "",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "links": [_links()],
        "annotations": {"list": []},
        "templating": {"list": [_variable(variable) for variable in dashboard.variables]},
        "panels": list(_panels(dashboard.rows)),
    }


def _links() -> Json:
    return {
        "type": "dashboards",
        "title": "",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _store("prometheus"),
        "definition": variable.query,
        "query": {"qryType": 1, "query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "regex": variable.pattern,
        # 2: again whenever the time range changes. 1: by name.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        **({"allValue": variable.every} if variable.every else {}),
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        # 2: neither its name nor its value.
        "hide": 2 if variable.hidden else 0,
        "skipUrlSync": variable.hidden,
    }


def _panels(rows: Sequence[Row]) -> Iterator[Json]:
    number = top = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        for line in _lines(row.panels):
            left = 0
            for panel in line:
                number += 1
                position = {"x": left, "y": top, "w": panel.width, "h": panel.height}
                yield {"id": number, "gridPos": position, **_panel(panel)}
                left += panel.width
            top += max(panel.height for panel in line)


def _lines(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    line: list[Panel] = []
    for panel in panels:
        if line and sum(each.width for each in [*line, panel]) > COLUMNS:
            yield line
            line = []
        line.append(panel)
    if line:
        yield line


def _panel(panel: Panel) -> Json:
    store = panel.queries[0].store
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _store(store),
        **({"interval": panel.interval} if panel.interval else {}),
        "targets": [
            _target(panel.kind, query, letter) for query, letter in zip(panel.queries, "ABCDEFGH", strict=False)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": list(_overrides(panel))},
        "options": _options(panel),
        **({"transformations": [_organize(panel.columns)]} if panel.columns else {}),
    }


def _store(store: Store) -> Json:
    return {"type": store, "uid": store}


def _target(kind: Kind, query: Query, letter: str) -> Json:
    target: Json = {"refId": letter, "datasource": _store(query.store), "expr": query.expression, "editorMode": "code"}
    if query.store == "loki":
        return target | {"queryType": "range"}
    formats = {"heatmap": "heatmap", "table": "table"}
    return target | {
        "legendFormat": query.legend or "__auto",
        "format": formats.get(kind, "time_series"),
        "range": not query.instant,
        "instant": query.instant,
        "exemplar": query.exemplars,
    }


def _field(panel: Panel) -> Json:
    field: Json = {"mappings": [], "thresholds": {"mode": "absolute", "steps": _steps(panel)}}
    if panel.unit:
        # A heatmap's cells hold numbers of requests; the panel's unit is that of its axis.
        field["unit"] = "short" if panel.kind == "heatmap" else panel.unit
    if panel.kind in ("timeseries", "stat"):
        field |= {name: value for name, value in (("min", panel.minimum), ("max", panel.maximum)) if value is not None}
        field["color"] = {"mode": "thresholds" if panel.kind == "stat" else "palette-classic-by-name"}
    if panel.kind == "timeseries":
        field["custom"] = _lines_style(panel)
    if panel.kind == "heatmap":
        field["custom"] = {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    return field


def _steps(panel: Panel) -> list[Json]:
    if panel.whole is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.whole}]
    steps: list[Json] = [{"color": "green", "value": None}]
    for color, value in (("yellow", panel.warn), ("red", panel.fail)):
        if value is not None:
            steps.append({"color": color, "value": value})
    return steps


def _lines_style(panel: Panel) -> Json:
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if panel.stacked else 8,
        "showPoints": "auto",
        "pointSize": 4,
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if panel.fail is not None else "off"},
        "axisPlacement": "auto",
        "axisSoftMin": 0,
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }


def _overrides(panel: Panel) -> Iterator[Json]:
    for pattern, color in (panel.colors or {}).items():
        yield {
            "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "stat":
            reduce: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            look = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": "auto"}
            change = {"percentChangeColorMode": "standard", "showPercentChange": False, "wideLayout": True}
            return {"reduceOptions": reduce, "orientation": "auto", **look, **change}
        case "heatmap":
            return _heatmap_options(panel)
        case "table":
            return {"showHeader": True, "cellHeight": "sm", "frameIndex": 0, "showTypeIcons": False}
        case "logs":
            return {
                "showTime": True,
                "wrapLogMessage": True,
                "enableLogDetails": True,
                "showLabels": False,
                "showCommonLabels": False,
                "prettifyLogMessage": False,
                "showLogContextToggle": True,
                "dedupStrategy": "none",
                "sortOrder": "Descending",
            }
        case _:
            return {
                "legend": {
                    "displayMode": "table",
                    "placement": "bottom",
                    "showLegend": True,
                    "calcs": ["lastNotNull", "max"],
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _heatmap_options(panel: Panel) -> Json:
    scheme = {
        "mode": "scheme",
        "scheme": "Oranges",
        "fill": "dark-orange",
        "exponent": 0.5,
        "steps": 64,
        "reverse": False,
    }
    return {
        # Prometheus' buckets are the cells already.
        "calculate": False,
        "cellGap": 1,
        "color": scheme,
        "exemplars": {"color": "rgba(31, 120, 193, 0.9)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
    }


def _organize(columns: Mapping[str, str]) -> Json:
    return {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, "Value": True},
            "indexByName": {label: index for index, label in enumerate(columns)},
            "renameByName": dict(columns),
        },
    }
