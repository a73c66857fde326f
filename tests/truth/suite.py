"""One protocol's cases, columns and subjects, and how they are run against each other."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from truth.frame import Case, Column, Judgement, Record, Subject, observe_column
from truth.judge import judge
from truth.subjects import BARE

__all__ = ["Suite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """
    What belongs to one protocol.

    Attributes:
        protocol: `http` or `rpc`.
        subjects: By name, `bare` left out.
    """

    protocol: str
    cases: tuple[Case, ...]
    columns: tuple[Column, ...]
    subjects: Mapping[str, Subject]

    def rows(self, subject: str) -> list[tuple[Column, Case]]:
        """Return what there is to judge of *subject*: each of its columns with each case that the column takes."""
        return [
            (column, case)
            for column in self.columns
            if self.subjects[subject].fits(column)
            for case in self.cases
            if column.takes(case)
        ]

    async def judge(
        self, column: Column, subjects: Collection[str] = ("ours",), only: Collection[str] | None = None
    ) -> list[Judgement]:
        """
        Run a column under `bare` and each of *subjects* that it has, side by side, and judge.

        Args:
            only: Names of the cases to run; None for all that the column takes.
        """
        cases = [case for case in self.cases if column.takes(case) and (only is None or case.name in only)]
        chosen = [self.subjects[name] for name in subjects if name in self.subjects]
        chosen = [subject for subject in chosen if subject.fits(column)]
        if not cases or not chosen:
            return []
        bare, *records = await asyncio.gather(*(observe_column(column, each, cases) for each in (BARE, *chosen)))
        return [judgement for each in records for judgement in _judged(bare, each)]


def _judged(bare: Sequence[Record], records: Sequence[Record]) -> list[Judgement]:
    return [judge(without, record) for without, record in zip(bare, records, strict=True)]
