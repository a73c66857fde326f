"""
Estimates from repeated measurements, with what chance may have done to them. Pure.

Measurements come in launches: what two processes have in common, such as where things lie in memory, makes those of
one launch more alike than those of two. So the intervals resample launches first and measurements in them second.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.figures import quantile

__all__ = ["Estimate", "Launches", "added", "ratio", "slope", "times"]

_RESAMPLES = 1000
_LEAST = 0.1
_LOW, _HIGH = 0.025, 0.975

Pair = tuple[float, float]
"""What two slices of one turn gave: without, and with."""
Launches = Sequence[Sequence[Pair]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def shifted(self, other: "Estimate") -> "Estimate":
        """Return the sum with an independent estimate, its interval widened by both."""
        return Estimate(
            self.value + other.value,
            self.value + other.value - _both(self.value - self.low, other.value - other.low),
            self.value + other.value + _both(self.high - self.value, other.high - other.value),
        )

    @property
    def is_noise(self) -> bool:
        """Whether nothing at all is in the interval."""
        return self.low <= 0 <= self.high


def added(launches: Launches) -> Estimate:
    """Return the middle of what comes on top, pair by pair."""
    return _estimate(launches, _middle)


def ratio(launches: Launches) -> Estimate:
    """Return the middle of what is with as a share of what is without."""
    return _estimate(launches, lambda pairs: median(after / before for before, after in pairs))


def times(ours: Launches, theirs: Launches) -> Estimate:
    """Return how many times what comes on top for one comes on top for the other."""
    choose = random.Random(0)
    values = sorted(_times(_resampled(ours, choose), _resampled(theirs, choose)) for _ in range(_RESAMPLES))
    return Estimate(_times(_flat(ours), _flat(theirs)), quantile(values, _LOW), quantile(values, _HIGH))


def slope(points: Sequence[Pair]) -> Estimate:
    """Return the slope of the line nearest to points (x, y); resampled by blocks, as one depends on those before."""
    size = max(1, len(points) // _BLOCKS)
    blocks = [points[at : at + size] for at in range(0, len(points), size)]
    choose = random.Random(0)
    slopes = sorted(
        _least_squares([point for block in choose.choices(blocks, k=len(blocks)) for point in block])
        for _ in range(_RESAMPLES)
    )
    return Estimate(_least_squares(points), quantile(slopes, _LOW), quantile(slopes, _HIGH))


_BLOCKS = 12


def _estimate(launches: Launches, of: Callable[[Sequence[Pair]], float]) -> Estimate:
    choose = random.Random(0)
    values = sorted(of(_resampled(launches, choose)) for _ in range(_RESAMPLES))
    return Estimate(of(_flat(launches)), quantile(values, _LOW), quantile(values, _HIGH))


def _flat(launches: Launches) -> list[Pair]:
    return [pair for launch in launches for pair in launch]


def _middle(pairs: Sequence[Pair]) -> float:
    return median(after - before for before, after in pairs)


def _times(ours: Sequence[Pair], theirs: Sequence[Pair]) -> float:
    # Anything is any number of times of nothing; so that it stays a number.
    return _middle(theirs) / max(_middle(ours), _LEAST)


def _resampled(launches: Launches, choose: random.Random) -> list[Pair]:
    chosen = choose.choices(launches, k=len(launches))
    return [pair for launch in chosen for pair in choose.choices(launch, k=len(launch))]


def _least_squares(points: Sequence[Pair]) -> float:
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _both(one: float, other: float) -> float:
    return float((one**2 + other**2) ** 0.5)
