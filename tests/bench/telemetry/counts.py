"""
Instructions a request, as they were counted and as they were last accepted, and the verdict on them.

An accepted count holds for one interpreter: another release, compiler or machine, or another Sanic, takes others. Two
builds of the same release do, too; they are told by what the app takes without telemetry.
"""

import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

__all__ = ["TOLERATED", "Count", "Verdict", "accept", "accepted", "disagreement", "interpreter", "judge"]

TOLERATED = 0.02
"""Of what telemetry adds, and of what the app takes without."""


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions a request: of the app alone, and what telemetry adds."""

    bare: int
    added: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line, and whether it is a failure."""

    text: str
    failed: bool = False


def interpreter() -> str:
    """Return the name of what the counts of this process are true for."""
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("sanic", "uvloop", "grpcio"))
    return f"{python}, {platform.machine()}, {packages}"


def judge(name: str, counted: Count, before: Count | None, tolerated: float = TOLERATED) -> Verdict:
    """
    Compare a count with the accepted one, None where there is none for this interpreter.

    Args:
        tolerated: How much more may be added, as a share of what was.
    """
    said = f"{name}: {counted.added:,} instructions a request added to {counted.bare:,}"
    if before is None:
        return Verdict(f"{said}; NO ACCEPTED COUNT for {interpreter()}: nothing was compared")
    if abs(counted.bare - before.bare) > TOLERATED * before.bare:
        other = f"the app alone took {before.bare:,} when the count was accepted"
        return Verdict(f"{said}; NOTHING WAS COMPARED: another build of the interpreter, {other}")
    change = counted.added / before.added - 1
    against = f"{change:+.2%} on the accepted {before.added:,}"
    if counted.added > before.added * (1 + tolerated):
        return Verdict(f"{said}; {against}, at most {tolerated:+.0%}", failed=True)
    hint = "; accept it, so that it stays so" if change < -tolerated else ""
    return Verdict(f"{said}; {against}{hint}")


def disagreement(totals: Sequence[int]) -> float:
    """Return how far the middle of some totals, of an odd number, is from the one next to it, as a share."""
    middle = median(totals)
    others = sorted(abs(total - middle) for total in totals)
    # The first is the middle itself.
    return others[1] / middle


def accepted(file: Path) -> dict[str, Count]:
    """Return the accepted counts of this interpreter, by variant."""
    table = tomllib.loads(file.read_text()) if file.exists() else {}
    return {name: Count(**count) for name, count in table.get(interpreter(), {}).items()}


def accept(file: Path, counted: Mapping[str, Count]) -> None:
    """Write counts of this interpreter into the file; those of others, and variants not counted now, stay."""
    table = tomllib.loads(file.read_text()) if file.exists() else {}
    own = table.setdefault(interpreter(), {})
    own |= {name: {"bare": count.bare, "added": count.added} for name, count in counted.items()}
    lines = ["# Instructions a request, written by `hatch run bench:gate --accept`.", ""]
    for key, counts in table.items():
        lines.append(f'["{key}"]')
        lines += [f"{name} = {{ bare = {each['bare']}, added = {each['added']} }}" for name, each in counts.items()]
        lines.append("")
    file.write_text("\n".join(lines[:-1]) + "\n")
