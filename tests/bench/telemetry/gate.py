"""
The gate of CI: telemetry must not add more instructions to a request than when they were last accepted, but for 2 %.

    python -m bench.telemetry.gate
    python -m bench.telemetry.gate --accept

Instructions do not depend on what else the machine does, and those of the same work are the same each time: callgrind
counts them in processes that do nothing but serve, with telemetry and without. What is left of chance is where things
lie in memory, so each is counted in three layouts: the middle one holds, and another must agree with it. gRPC's own
threads leave more to chance.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.telemetry import callgrind, children, variants
from bench.telemetry.counts import TOLERATED, Count, Verdict, accept, accepted, disagreement, interpreter, judge

__all__ = ["SUBJECTS", "Found", "Run", "Subject", "count", "main"]

_FILE = Path(__file__).with_name("counts.toml")
_LAYOUTS = 3
_SHOWN = 12
_HTTP = "bench.telemetry.http_counted"
_GRPC = "bench.telemetry.grpc_counted"


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """A module of ours, its arguments, and the settings of telemetry that it runs with."""

    module: str
    arguments: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()

    def environ(self) -> dict[str, str]:
        """Return what its environment has of telemetry."""
        return {**children.SETTLED, **dict(self.settings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """
    Something of which the instructions are counted.

    Attributes:
        off: What serves without telemetry.
        on: What serves with it.
        requests: How many are counted.
        repeatable: How far two runs that agree may be apart, as a share of the whole.
        tolerated: How much more may be added than accepted, as a share of what was.
    """

    off: Run
    on: Run
    requests: int
    repeatable: float = 0.002
    tolerated: float = TOLERATED


def _http(name: str) -> Subject:
    settings = tuple(variants.HTTP[name].environ.items())
    # Without telemetry nothing is sampled in any way.
    bare = "users" if name == "unsampled" else name
    return Subject(off=Run(_HTTP, (bare, "off")), on=Run(_HTTP, (name, "on"), settings), requests=200)


def _grpc(side: str) -> Subject:
    on = Run(_GRPC, (side,), tuple(variants.LEAN.items()))
    return Subject(off=Run(_GRPC, ("none",)), on=on, requests=400, repeatable=0.005, tolerated=0.05)


SUBJECTS: Final[Mapping[str, Subject]] = {
    **{name: _http(name) for name in ("users", "traced", "record", "unsampled")},
    **{f"grpc-{side}": _grpc(side) for side in ("server", "client")},
}


@dataclass(frozen=True, slots=True)
class Found:
    """
    What was counted of one subject.

    Attributes:
        added: Instructions a request by function of the interpreter, the most first.
        apart: How far the runs are apart that agree best, as a share.
    """

    count: Count
    added: Sequence[tuple[str, int]]
    apart: float


def main(argv: Sequence[str]) -> int:
    """Count, say the figures, and return 1 where one is too high."""
    parser = argparse.ArgumentParser(prog="gate", description="Does telemetry take more instructions than before?")
    parser.add_argument("--accept", action="store_true", help="write the counts as the accepted ones")
    parser.add_argument("--only", choices=SUBJECTS, help="count one of them")
    parser.add_argument("--why", action="store_true", help="say where the instructions go, also of what passes")
    options = parser.parse_args(argv)
    if not callgrind.available():
        return _missing()
    found = count([options.only] if options.only else list(SUBJECTS))
    if options.accept:
        accept(_FILE, {name: each.count for name, each in found.items()})
    before = accepted(_FILE)
    print(f"telemetry: instructions counted for {interpreter()}")
    verdicts = [_said(name, each, before.get(name), why=options.why) for name, each in found.items()]
    return 1 if any(verdicts) else 0


def count(names: Sequence[str]) -> dict[str, Found]:
    """Count subjects, as many processes at a time as there are cores."""
    subjects = {name: SUBJECTS[name] for name in names}
    # What several have in common is counted once.
    runs = {run for subject in subjects.values() for run in (subject.off, subject.on)}
    jobs = [(run, layout) for run in sorted(runs) for layout in range(_LAYOUTS)]
    counted: dict[Run, list[Counter[str]]] = {run: [] for run in runs}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (run, _), functions in zip(jobs, pool.map(_counted, jobs), strict=True):
            counted[run].append(functions)
    return {name: _found(subject, counted[subject.off], counted[subject.on]) for name, subject in subjects.items()}


def _counted(job: tuple[Run, int]) -> Counter[str]:
    run, layout = job
    # What the environment holds comes first in memory and moves the rest.
    settings = {**run.environ(), "LAYOUT": "x" * (57 * layout)}
    return callgrind.counted(run.module, run.arguments, settings)


def _found(subject: Subject, off: Sequence[Counter[str]], on: Sequence[Counter[str]]) -> Found:
    bare, whole = (median(run.total() for run in runs) / subject.requests for runs in (off, on))
    apart = max(disagreement([run.total() for run in runs]) for runs in (off, on))
    added = Counter(on[0])
    added.subtract(off[0])
    most = [(name, round(instructions / subject.requests)) for name, instructions in added.most_common(_SHOWN)]
    return Found(Count(round(bare), round(whole - bare)), most, apart)


def _said(name: str, found: Found, before: Count | None, *, why: bool) -> bool:
    """Say the verdict on a subject and, where it failed, where the instructions went; return whether it failed."""
    subject = SUBJECTS[name]
    verdict = judge(name, found.count, before, subject.tolerated)
    print(verdict.text)
    if found.apart > subject.repeatable:
        # Then the figure is none.
        text = f"{name}: its runs are {found.apart:.2%} apart, at most {subject.repeatable:.1%}"
        verdict = Verdict(text, failed=True)
        print(verdict.text)
    if verdict.failed or why:
        print("\n".join(_where(subject, found.added)))
    return verdict.failed


def _where(subject: Subject, added: Sequence[tuple[str, int]]) -> Iterator[str]:
    yield "    instructions added, by function of the interpreter:"
    yield from (f"    {instructions:>9,}  {function}" for function, instructions in added)
    more = _bytecodes_added(subject)
    yield f"    {sum(more.values()):,.0f} bytecodes added, by function of Python:"
    for function, bytecodes in sorted(more.items(), key=lambda each: -each[1])[: 3 * _SHOWN]:
        yield f"    {bytecodes:>9.1f}  {function}"


def _bytecodes_added(subject: Subject) -> Mapping[str, float]:
    off, on = (
        children.said(run.module, (*run.arguments, "--bytecodes"), run.environ()) for run in (subject.off, subject.on)
    )
    added = {function: bytecodes - off.get(function, 0.0) for function, bytecodes in on.items()}
    return {function: bytecodes for function, bytecodes in added.items() if abs(bytecodes) > 0.1}


def _missing() -> int:
    # What a laptop may go without is a failure where merges are decided.
    failed = os.environ.get("CI") == "true"  # noqa: TID251 - the gate's own switch
    print(f"telemetry: {'FAILED' if failed else 'NOT COUNTED'}: there is no valgrind (apt-get install valgrind)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
