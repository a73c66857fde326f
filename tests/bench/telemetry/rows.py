"""Rows of the table: a figure with its interval, the goal, and what can be said of it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.figures import written
from bench.telemetry.estimate import Estimate

__all__ = ["HEAD", "Goal", "Row"]

HEAD = ("what", "goal", "measured", "95 % interval", "")


@dataclass(frozen=True, slots=True)
class Goal:
    """The most there may be; with `least`, the least."""

    bound: float
    least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One figure.

    Attributes:
        name: How the plot, and whoever measures a part again, calls it.
        about: In words.
        estimate: None where it could not be measured, for the reason in `remark`.
        unit: Of the estimate; empty for a number, "%" for a share of 1.
        goal: In the same unit; None where there is none.
        noise: Whether the interval holds what doing nothing gives, so that the figure says nothing.
        remark: What else is to be said.
    """

    name: str
    about: str
    estimate: Estimate | None
    unit: str = "µs"
    goal: Goal | None = None
    noise: bool = False
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return what the table has of it, as `HEAD` says."""
        if self.estimate is None:
            return self.about, self._goal(), "-", "-", f"**not measured**: {self.remark}"
        value, low, high = (self._shown(each) for each in (self.estimate.value, self.estimate.low, self.estimate.high))
        said = "; ".join(part for part in (self.verdict(), self.remark) if part)
        return self.about, self._goal(), f"**{value}** {self._unit()}".strip(), f"{low} .. {high}", said

    def verdict(self) -> str:
        """Return whether the goal is met, as far as the interval allows to say."""
        if self.noise:
            return "**cannot be told from noise**"
        if self.goal is None or self.estimate is None:
            return ""
        sign = -1.0 if self.goal.least else 1.0
        worst, best = (self.estimate.low, self.estimate.high)[:: int(-sign)]
        bound = sign * self.goal.bound
        if sign * worst <= bound:
            return "✓ met"
        if sign * best > bound:
            return "✗ not met"
        nearer = "met" if sign * self.estimate.value <= bound else "not met"
        return f"? {nearer}, but the interval holds the goal"

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Row":
        """Return the row that `as_json` was of."""
        estimate, goal = given["estimate"], given["goal"]
        made = {"estimate": Estimate(**estimate) if estimate else None, "goal": Goal(**goal) if goal else None}
        return cls(**{**given, **made})

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        return f"{'≥' if self.goal.least else '≤'} {self._shown(self.goal.bound)} {self._unit()}".strip()

    def _shown(self, value: float) -> str:
        return f"{value:.1%}".replace("%", " %") if self.unit == "%" else written(value)

    def _unit(self) -> str:
        return "" if self.unit == "%" else self.unit
