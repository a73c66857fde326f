"""What the two modules of tests share: a column is run once, however many tests ask for its rows."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Protocol

from truth.frame import Judgement
from truth.suite import Suite

__all__ = ["OURS", "Chosen", "Judged", "judged_by"]

OURS = ("ours", "sdk")
"""What we offer, under each of our recorders."""

Chosen = Mapping[tuple[str, str], set[str]]
"""The cases that the chosen tests look at, by column and subject."""

_COLUMNS_AT_ONCE = 2

_Found = dict[tuple[str, str], dict[str, Judgement] | BaseException]


class Judged(Protocol):
    """What `judged_by` gives a test."""

    def __call__(self, column: str, subject: str = "ours") -> dict[str, Judgement]:
        """Return the judgements of a column, by case."""


def judged_by(suite: Suite, chosen: Chosen) -> Judged:
    """
    Return what gives the judgements of a column by case, ours unless another subject is named.

    All of *chosen* is run at the first call: a program once for each column and subject, two columns at a time.
    """
    found: _Found = {}

    def judged(column: str, subject: str = "ours") -> dict[str, Judgement]:
        if not found:
            found.update(asyncio.run(_judge_all(suite, chosen)))
        judgements = found[column, subject]
        if isinstance(judgements, BaseException):
            raise judgements
        return judgements

    return judged


async def _judge_all(suite: Suite, chosen: Chosen) -> _Found:
    at_once = asyncio.Semaphore(_COLUMNS_AT_ONCE)
    columns = {column.name: column for column in suite.columns}
    # Subjects of the same cases run beside one bare program.
    together: dict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    for (column, subject), cases in chosen.items():
        together[column, frozenset(cases)].append(subject)

    async def judge(column: str, subjects: Collection[str], cases: Collection[str]) -> list[Judgement]:
        async with at_once:
            return await suite.judge(columns[column], subjects, cases)

    judging = [judge(column, subjects, cases) for (column, cases), subjects in together.items()]
    found: _Found = {}
    for (column, _), subjects, judgements in zip(
        together, together.values(), await asyncio.gather(*judging, return_exceptions=True), strict=True
    ):
        found |= {(column, subject): _of(subject, judgements) for subject in subjects}
    return found


def _of(subject: str, judgements: list[Judgement] | BaseException) -> dict[str, Judgement] | BaseException:
    if isinstance(judgements, BaseException):
        return judgements
    return {judgement.case: judgement for judgement in judgements if judgement.subject == subject}
