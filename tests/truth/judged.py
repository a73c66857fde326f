"""What the two modules of tests share: a column is run once, however many tests ask for its rows."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from truth.frame import Judgement
from truth.suite import Suite

__all__ = ["Chosen", "Judged", "judged_by"]

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

    All of *chosen* is run at the first call: a program once for each column, two columns at a time.
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

    async def judge(column: str, subject: str, cases: set[str]) -> dict[str, Judgement]:
        async with at_once:
            judgements = await suite.judge(columns[column], (subject,), cases)
        return {judgement.case: judgement for judgement in judgements}

    judging = [judge(*which, cases) for which, cases in chosen.items()]
    return dict(zip(chosen, await asyncio.gather(*judging, return_exceptions=True), strict=True))
