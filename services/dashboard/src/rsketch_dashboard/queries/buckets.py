"""Buckets of histograms: quantiles of them, and exponential ones brought to common bounds. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint

__all__ = ["MOST_BUCKETS", "Exponential", "common_bounds", "quantile"]

MOST_BUCKETS = 160
"""What one can draw, and an SDK's own limit."""


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """
    Return a quantile as Prometheus does, by a straight line within its bucket; None where there are no counts.

    Args:
        bounds: Upper bounds; the last bucket has none, and what falls into it is taken for the last bound.
        counts: One more than *bounds*.
    """
    total = sum(counts)
    if total <= 0 or not bounds:
        return None
    wanted, below = share * total, 0.0
    for at, count in enumerate(counts):
        if count > 0 and below + count >= wanted:
            if at == len(bounds):
                break
            upper = bounds[at]
            lower = bounds[at - 1] if at else min(0.0, upper)
            return lower + (upper - lower) * (wanted - below) / count
        below += count
    return bounds[-1]


@dataclass(frozen=True, slots=True)
class Exponential:
    """
    One exponential histogram.

    Attributes:
        scale: The base is 2 to the power of 2**-scale; bucket i goes from base**i (excluded) to base**(i+1).
        zero: How many values are taken for zero.
        positive: Counts by their index; `negative` likewise, of absolute values.
    """

    scale: int
    zero: int
    positive: Mapping[int, int]
    negative: Mapping[int, int]

    @classmethod
    def decoded(cls, rest: bytes) -> "Exponential":
        """Return what is in the column `rest` of a point."""
        point = ExponentialHistogramDataPoint.FromString(rest)
        sides = (point.positive, point.negative)
        positive, negative = (
            {side.offset + at: count for at, count in enumerate(side.bucket_counts) if count} for side in sides
        )
        return cls(point.scale, point.zero_count, positive, negative)

    def downscaled(self, scale: int) -> "Exponential":
        """Return it at a lower scale, whose buckets are whole numbers of these: nothing is lost but resolution."""
        shift = self.scale - scale
        if shift <= 0:
            return self

        def merged(side: Mapping[int, int]) -> dict[int, int]:
            found: dict[int, int] = {}
            for index, count in side.items():
                found[index >> shift] = found.get(index >> shift, 0) + count
            return found

        return Exponential(scale, self.zero, merged(self.positive), merged(self.negative))


def common_bounds(histograms: Sequence[Exponential]) -> tuple[list[float], list[list[int]]]:
    """
    Return bounds that suit all of the histograms, at most `MOST_BUCKETS`, and the counts of each between them.

    The bucket around zero ends where the first positive one begins. The last bucket, above all bounds, is always empty.
    """
    if not histograms:
        return [], []
    scale = min(each.scale for each in histograms)
    while True:
        scaled = [each.downscaled(scale) for each in histograms]
        low, high = _reach(index for each in scaled for index in each.positive)
        lowest, highest = _reach(index for each in scaled for index in each.negative)
        if (high - low) + (highest - lowest) < MOST_BUCKETS:
            break
        scale -= 1
    power = 2.0**-scale
    # Largest absolute value first; the bucket around zero goes up to where the first positive one begins.
    bounds = [-_power(index, power) for index in range(highest - 1, lowest - 1, -1)]
    bounds += [_power(low, power) if high > low else 0.0]
    bounds += [_power(index + 1, power) for index in range(low, high)]
    counts = [
        [
            *(each.negative.get(index, 0) for index in range(highest - 1, lowest - 1, -1)),
            each.zero,
            *(each.positive.get(index, 0) for index in range(low, high)),
            0,
        ]
        for each in scaled
    ]
    return bounds, counts


def _reach(indexes: Iterable[int]) -> tuple[int, int]:
    """Return the first index and the one after the last; twice 0 where there is none."""
    found = set(indexes)
    return (min(found), max(found) + 1) if found else (0, 0)


def _power(index: int, power: float) -> float:
    """Return the base to the power of *index*; a scale may be so low that this is no double any more."""
    exponent = max(-1074.0, min(1023.999, index * power))
    return float(2.0**exponent)
