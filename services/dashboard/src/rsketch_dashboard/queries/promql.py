"""
A metric's question as PromQL, for whoever has Prometheus elsewhere. Pure.

Names are those that OTLP gets on its way there
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#otlp-metric-points-to-prometheus):
letters, digits and underscores, then the unit in words, then `total` on what only rises. `service.name` is the label
`job`, with the namespace and a slash before it where there is one.
"""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["label", "metric_name", "promql"]

_UNITS: Final[Mapping[str, str]] = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}
_PER: Final[Mapping[str, str]] = {
    "s": "second",
    "m": "minute",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}
_RANGE = "[5m]"


def promql(name: str, unit: str, kind: str, *, monotonic: bool, job: str = "", group: str = "") -> str:
    """
    Return what one would ask Prometheus: of a histogram the 95th percentile, of a counter the rate, else the value.

    Args:
        kind: `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
        job: The only service that is asked for, with its namespace; empty for all.
        group: The attribute by which it is split, empty for the service.
    """
    called = metric_name(name, unit, kind, monotonic=monotonic)
    chosen = "{" + f'job="{_escaped(job)}"' + "}" if job else ""
    by = label(group) if group else "job"
    match kind:
        case "histogram":
            return f"histogram_quantile(0.95, sum by (le, {by}) (rate({called}_bucket{chosen}{_RANGE})))"
        case "exponential_histogram":
            return f"histogram_quantile(0.95, sum by ({by}) (rate({called}{chosen}{_RANGE})))"
        case "sum" if monotonic:
            return f"sum by ({by}) (rate({called}{chosen}{_RANGE}))"
        case "sum":
            return f"sum by ({by}) ({called}{chosen})"
        case "summary":
            return f"max by (quantile, {by}) ({called}{chosen})"
        case _:
            return f"avg by ({by}) ({called}{chosen})"


def metric_name(name: str, unit: str, kind: str, *, monotonic: bool) -> str:
    """Return the name that a metric has in Prometheus, without `_bucket` and the like."""
    words = [word for word in re.split(r"[^a-zA-Z0-9:]+", name) if word]
    for suffix in _suffixes(unit, kind):
        if suffix not in words:
            words.append(suffix)
    if kind == "sum" and monotonic:
        words = [*(word for word in words if word != "total"), "total"]
    joined = "_".join(words)
    return f"_{joined}" if joined[:1].isdigit() else joined


def label(key: str) -> str:
    """Return the label that an attribute becomes."""
    if key == "service.name":
        return "job"
    if key == "service.instance.id":
        return "instance"
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", key)
    return f"key_{plain}" if plain[:1].isdigit() else plain


def _suffixes(unit: str, kind: str) -> list[str]:
    # What is in braces is a remark, such as {request}.
    bare = re.sub(r"\{[^}]*\}", "", unit).strip()
    if bare == "1":
        return ["ratio"] if kind == "gauge" else []
    what, slash, per = bare.partition("/")
    found = [_UNITS.get(what, re.sub(r"[^a-zA-Z0-9]", "_", what).strip("_"))] if what and what != "1" else []
    if slash and per:
        found.append(f"per_{_PER.get(per, per)}")
    return [each for each in found if each]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
