"""Figures: a median with its interval over repeats, quantiles, and how they are written. Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Figure", "Goal", "quantile"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that the median must keep: the most there may be, or with `least` the least."""

    bound: float
    least: bool = False

    def met(self, value: float) -> bool:
        """Return whether a value is within it."""
        return value >= self.bound if self.least else value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One row of a table.

    Attributes:
        name: What was measured.
        values: What came out, repeat by repeat; empty where it could not be measured, for the reason in `about`.
        unit: Of the values.
        goal: None where there is none.
        about: What else is to be said.
    """

    name: str
    values: Sequence[float]
    unit: str
    goal: Goal | None = None
    about: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return median(self.values)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the median by resampling; of few values, which that knows least of, the range."""
        if len(self.values) < 5:
            return min(self.values), max(self.values)
        choose = random.Random(0)
        medians = sorted(median(choose.choices(self.values, k=len(self.values))) for _ in range(_RESAMPLES))
        return quantile(medians, 0.025), quantile(medians, 0.975)

    def cells(self) -> tuple[str, str, str, str]:
        """Return name, figure with its interval, goal and verdict, and remark, as a table has them."""
        if not self.values:
            return self.name, "-", self._goal(), self.about
        low, high = self.interval()
        shown = f"**{written(self.median)}** [{written(low)}..{written(high)}] {self.unit}"
        return self.name, shown, self._goal(), self.about

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        bound = f"{'≥' if self.goal.least else '≤'} {written(self.goal.bound)}"
        return bound if not self.values else f"{bound} {'✓' if self.goal.met(self.median) else '✗'}"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them are, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def written(value: float) -> str:
    """Return a number with three digits that count, or all of a whole part that has more."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
