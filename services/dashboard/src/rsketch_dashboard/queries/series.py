"""
From the points of a series to one value a step: increases of what is counted up, resets among them. Pure.

Times of samples are nanoseconds, steps are numbers; a step below 0 is before the window, looked at for its last count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Increase", "Sample", "increases", "latest", "merged", "rates"]

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """
    What a series had counted by the end of a step.

    Attributes:
        start_ns: Since when it counts; 0 where the sender does not say.
        values: A number, or the count of a histogram and the counts of its buckets.
        peak: The highest first value in that step: it is above `values` where the count fell in between.
    """

    step: int
    start_ns: int
    time_ns: int
    values: tuple[float, ...]
    peak: float


@dataclass(frozen=True, slots=True)
class Increase:
    """
    By how much a series rose up to a moment in `step`.

    Attributes:
        seconds: Since the moment before.
        gap: Steps since the one before that had a sample, 1 for the next; 0 where there was none or it is the same.
    """

    step: int
    seconds: float
    values: tuple[float, ...]
    gap: int


def increases(samples: Iterable[Sample], since_ns: int) -> Iterator[Increase]:
    """
    Yield what a cumulative series rose by from one sample to the next; they are in the order of their times.

    Another start, or a count that falls, is a restart: what is counted then has all come since. So has what the first
    sample counts, if it began after *since_ns*, from which on everything is known; else that only starts the counting.
    """
    before: Sample | None = None
    for sample in samples:
        if before is None:
            if sample.start_ns >= max(since_ns, 1):
                yield Increase(sample.step, _seconds(sample.start_ns, sample.time_ns), sample.values, 0)
        else:
            gap = max(sample.step - before.step, 0)
            seconds = _seconds(before.time_ns, sample.time_ns)
            yield Increase(sample.step, seconds, _risen(before, sample), gap)
        before = sample


def _risen(before: Sample, sample: Sample) -> tuple[float, ...]:
    if sample.start_ns != before.start_ns or sample.peak < before.values[0]:
        return sample.values
    if sample.peak > sample.values[0]:
        # It fell within the step. Of a histogram the buckets at its height are not known, only their sum.
        lost = sample.peak - before.values[0] if len(sample.values) == 1 else 0
        return (sample.values[0] + lost, *sample.values[1:])
    if len(before.values) != len(sample.values):
        return sample.values
    return tuple(max(now - then, 0) for then, now in zip(before.values, sample.values, strict=True))


def rates(found: Iterable[Increase], most_gap: int) -> dict[int, float]:
    """
    Return the rise of the first value a second, by step.

    It holds for the whole time between two samples, so also for steps between them, unless there are *most_gap* of
    those or more.
    """
    risen: dict[int, tuple[float, float]] = {}
    for each in found:
        amount, seconds = risen.get(each.step, (0.0, 0.0))
        risen[each.step] = (amount + each.values[0], seconds + each.seconds)
        if 1 < each.gap <= most_gap:
            for step in range(each.step - each.gap + 1, each.step):
                risen.setdefault(step, (each.values[0], each.seconds))
    return {step: amount / seconds for step, (amount, seconds) in risen.items() if step >= 0}


def latest(samples: Iterable[tuple[int, float]], most_gap: int) -> dict[int, float]:
    """Return the last value by step, held over steps without one unless those are more than *most_gap*."""
    values: dict[int, float] = {}
    before: int | None = None
    for step, value in samples:
        if before is not None and step - before <= most_gap:
            for between in range(before + 1, step):
                values[between] = values[before]
        values[step] = value
        before = step
    return {step: value for step, value in values.items() if step >= 0}


def merged(series: Sequence[Mapping[int, float]], count: int, *, mean: bool) -> list[float | None]:
    """Return several series as one: their sum, or their mean, at each of *count* steps; None where none has a value."""
    totals: list[float | None] = [None] * count
    numbers = [0] * count
    for values in series:
        for step, value in values.items():
            if 0 <= step < count:
                totals[step] = (totals[step] or 0.0) + value
                numbers[step] += 1
    if not mean:
        return totals
    return [None if total is None else total / number for total, number in zip(totals, numbers, strict=True)]


def _seconds(start_ns: int, end_ns: int) -> float:
    # Of what was counted for less than a second, no rate can be told that would be one.
    return max((end_ns - start_ns) / _NS, 1.0)
