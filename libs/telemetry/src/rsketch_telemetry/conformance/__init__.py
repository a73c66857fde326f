"""Whether telemetry is what the contract, and the published semantic conventions behind it, say that it must be."""

from rsketch_telemetry.conformance.attributes import Allowances
from rsketch_telemetry.conformance.checker import Checker, check
from rsketch_telemetry.conformance.contract import Contract, load
from rsketch_telemetry.conformance.habits import Habits, habits, orphans
from rsketch_telemetry.conformance.violation import RULES, Rule, Violation

__all__ = [
    "RULES",
    "Allowances",
    "Checker",
    "Contract",
    "Habits",
    "Rule",
    "Violation",
    "check",
    "habits",
    "load",
    "orphans",
]
