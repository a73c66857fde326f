"""What is printed once everything listens: where it serves and where its telemetry goes. Pure text."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from rsketch_telemetry import Summary

from rsketch.logs import LogConfig
from rsketch.service import Address

__all__ = ["facts", "line", "page"]


def facts(
    addresses: Mapping[str, Address],
    summary: Summary,
    logs: LogConfig,
    *,
    workers: int,
    console: bool,
    dashboard: str | None = None,
) -> list[tuple[str, str]]:
    """Return what is worth knowing as pairs of a label and a value; the summary has masked its secrets already."""
    pairs = [(name, str(address)) for name, address in addresses.items()]
    if dashboard is not None:
        pairs.append(("dashboard", dashboard))
    pairs += _telemetry(summary)
    if console:
        pairs.append(("spans", "shown on stdout"))
    pairs.append(("logs", f"{logs.format}, {logs.level} and above, on stderr"))
    pairs.append(("workers", str(workers)))
    return pairs


def page(pairs: Sequence[tuple[str, str]]) -> str:
    """Return the facts as an aligned block of lines under the host's name and version."""
    width = max(len(label) for label, _ in pairs)
    return "\n".join([_title(), *(f"  {label:<{width}}  {value}" for label, value in pairs)])


def line(pairs: Sequence[tuple[str, str]]) -> str:
    """Return the facts as one line, for logs that a machine reads."""
    return "; ".join([_title(), *(f"{label} {value}" for label, value in pairs)])


def _title() -> str:
    return f"rsketch {version('rsketch')}"


def _telemetry(summary: Summary) -> list[tuple[str, str]]:
    if summary.disabled:
        return [("telemetry", "off (OTEL_SDK_DISABLED)")]
    signals: dict[str, list[str]] = {}
    for destination in summary.destinations:
        signals.setdefault(f"{destination.endpoint} ({destination.protocol})", []).append(destination.signal)
    ways = [("telemetry", f"{', '.join(names)} to {where}") for where, names in signals.items()]
    ways += [("telemetry", exporter) for exporter in summary.foreign]
    return [
        *(ways or [("telemetry", "exported nowhere")]),
        ("service", summary.service_name),
        ("sampler", summary.sampler),
        ("recorder", summary.recorder),
    ]
