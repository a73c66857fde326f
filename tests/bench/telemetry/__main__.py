"""
What telemetry costs a service: measured, and written as a table and a plot into docs/performance.md.

    python -m bench.telemetry                everything but the others' stacks; about twenty-five minutes
    python -m bench.telemetry --only http    one part again; the rest of the table stays as it was
    python -m bench.telemetry --peers        the others' stacks, in environments of their own, and ours beside them
    python -m bench.telemetry --minutes 10   with as long a look at the memory
    python -m bench.telemetry --quick        everything in a few minutes, printed and not written

Everything runs on this machine, over loopback, in processes that end with it. The machine should do nothing else.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.process import stoppable
from bench.telemetry import document, results
from bench.telemetry.effort import FULL, QUICK, Effort
from bench.telemetry.parts import counted, export, grpc, http, peers, scale, served, shop, starting
from bench.telemetry.progress import say
from bench.telemetry.results import Part
from bench.telemetry.rows import Row

__all__ = ["main"]

_DOCUMENT = Path(__file__).parents[3] / "docs" / "performance.md"
_RESULTS = Path(__file__).with_name("results.json")

_PARTS: Final[Mapping[str, Callable[[Effort], Sequence[Row]]]] = {
    "http": http.measure,
    "grpc": grpc.measure,
    "export": export.measure,
    "counted": counted.measure,
    "served": served.measure,
    "shop": shop.measure,
    "scale": scale.measure,
    "starting": starting.measure,
}
_TITLES: Final[Mapping[str, str]] = {
    "http": "HTTP, in process",
    "grpc": "gRPC, in process",
    "export": "Export",
    "counted": "Instructions",
    "served": "End to end",
    "peers": "Others, end to end, in the same run",
    "shop": "A stranger's app",
    "scale": "Scale",
    "starting": "Start and rest",
}
_EFFORTS: Final[Mapping[str, str]] = {
    "http": "{launches} launches of {pairs} pairs of slices",
    "grpc": "{launches} launches",
    "export": "{launches} launches of {pairs} exports",
    "served": "{launches} launches of {turns} turns of {seconds} s",
    "peers": "at most 3 launches",
    "shop": "{launches} launches of {turns} turns of {seconds} s",
    "scale": "{launches} launches",
    "starting": "{starts} starts",
}
"""How much a part measures."""


def main(argv: Sequence[str]) -> int:
    """Measure what *argv* asks for."""
    parser = argparse.ArgumentParser(prog="bench", description="What does telemetry cost a service?")
    parser.add_argument("--only", choices=sorted(_PARTS), help="measure one part, and keep the rest of the table")
    parser.add_argument("--peers", action="store_true", help="measure the others' stacks, and ours beside them")
    parser.add_argument("--minutes", type=float, help="how long the memory is watched")
    parser.add_argument("--quick", action="store_true", help="measure little, and print it instead of writing it")
    options = parser.parse_args(argv)
    stoppable()
    effort = QUICK if options.quick else FULL
    if options.minutes:
        effort = dataclasses.replace(effort, minutes=options.minutes)
    measured: dict[str, Part] = {} if options.quick else results.read(_RESULTS)
    for name, part in _asked(options).items():
        say(name)
        measured[name] = Part(
            rows=part(effort),
            machine=results.machine(),
            about=_EFFORTS.get(name, "").format_map(dataclasses.asdict(effort)),
        )
        if not options.quick:
            # Part by part: what comes later may fail.
            results.write(_RESULTS, measured)
    if options.quick:
        print(document.generated(measured, _TITLES))
    else:
        document.put(_DOCUMENT, measured, _TITLES)
    return 0


def _asked(options: argparse.Namespace) -> Mapping[str, Callable[[Effort], Sequence[Row]]]:
    if options.peers:
        return {"peers": peers.measure}
    return {options.only: _PARTS[options.only]} if options.only else _PARTS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
