"""Many violations as few: each distinct one once, with how often it was seen, as text or as JSON."""

import json
from collections import Counter
from collections.abc import Iterable

from rsketch_telemetry.conformance.violation import RULES, Violation

__all__ = ["Report", "line"]


class Report:
    """
    Distinct violations and their counts.

    Args:
        distinct: How many different ones are kept; of a service that puts what callers send into names there is no end.

    Attributes:
        items: How many spans, points and log records were looked at, by what they are called.
        left_out: Violations beyond *distinct*.
    """

    def __init__(self, distinct: int = 500) -> None:
        self._distinct = distinct
        self._counts: Counter[Violation] = Counter()
        self.items: Counter[str] = Counter()
        self.left_out = 0
        self._left_out_wrong = False

    def add(self, found: Iterable[Violation]) -> list[Violation]:
        """Count violations, and return those that are seen for the first time."""
        new = []
        for violation in found:
            if violation not in self._counts and len(self._counts) >= self._distinct:
                self.left_out += 1
                self._left_out_wrong |= not violation.advice
                continue
            if violation not in self._counts:
                new.append(violation)
            self._counts[violation] += 1
        return new

    def failed(self, *, strict: bool = False) -> bool:
        """Return whether anything is wrong; advice counts only with *strict*."""
        wrong = any(not violation.advice for violation in self._counts) or self._left_out_wrong
        return wrong or (strict and bool(self._counts))

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self.items.total()

    def summary(self) -> str:
        """Return what was looked at and what was found: the most frequent rule first, with its count and its sense."""
        looked = ", ".join(f"{self.items[kind]} {kind}" for kind in ("spans", "metric points", "log records"))
        by_rule: Counter[str] = Counter()
        for violation, count in self._counts.items():
            by_rule[violation.rule] += count
        lines = [f"{count:>7} x {rule}: {RULES[rule].summary}" for rule, count in by_rule.most_common()]
        if self.left_out:
            lines.append(f"{self.left_out:>7} x further ones that differ in their names alone")
        return "\n".join([f"checked {looked}: {self._verdict()}", *lines])

    def _verdict(self) -> str:
        wrong = sum(not violation.advice for violation in self._counts)
        advice = len(self._counts) - wrong
        said = [f"{wrong} distinct violations"] if wrong else ["no violation"]
        return ", ".join(said + ([f"{advice} pieces of advice"] if advice else []))

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        violations = [
            {
                "rule": violation.rule,
                "where": violation.where,
                "scope": violation.scope,
                "message": violation.message,
                "link": violation.link,
                "advice": violation.advice,
                "count": count,
            }
            for violation, count in self._counts.most_common()
        ]
        looked = {kind.replace(" ", "_"): self.items[kind] for kind in ("spans", "metric points", "log records")}
        return json.dumps({"checked": looked, "violations": violations, "left_out": self.left_out}, indent=1)


def line(violation: Violation) -> str:
    """Return a violation as two lines for people."""
    scope = f" [{violation.scope}]" if violation.scope else ""
    kind = "advice" if violation.advice else "violation"
    return f"{kind}: {violation.rule}: {violation.where}{scope}: {violation.message}\n    {violation.link}"
