"""
The one place where the suite meets the conformance checker of rsketch-telemetry.

Whoever changes the checker's interface changes this module; the judge only ever asks for sentences.
"""

from collections.abc import Sequence
from functools import cache

from rsketch_telemetry.conformance import Contract, check, load
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span

__all__ = ["violations"]

_OF_THE_PROCESS = frozenset({"resource-attribute"})
"""Rules that say nothing of a call: who sets up the SDK answers for them, and they would be in every case's cell."""


def violations(spans: Sequence[Span], points: Sequence[MetricPoint], logs: Sequence[LogRecord]) -> list[str]:
    """Return a sentence for each violation of the contract by a case's telemetry; advice is left out."""
    found = check(spans, points, logs, contract=_contract())
    said = [f"{each.where}: {each.message}" for each in found if not each.advice and each.rule not in _OF_THE_PROCESS]
    return list(dict.fromkeys(said))


@cache
def _contract() -> Contract:
    return load()
