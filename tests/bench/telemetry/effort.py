"""How much is measured: enough for the document, or just enough to see that everything works."""

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Effort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """
    How much is measured.

    Attributes:
        launches: Processes that measure the same.
        pairs: Slices without and with telemetry in each, in process.
        turns: The same, end to end.
        seconds: Of a slice under load.
        minutes: Of full load while the memory is watched.
        starts: Starts of a server.
    """

    launches: int
    pairs: int
    turns: int
    seconds: int
    minutes: float
    starts: int


FULL = Effort(launches=5, pairs=40, turns=12, seconds=1, minutes=2.0, starts=10)
QUICK = Effort(launches=2, pairs=6, turns=2, seconds=1, minutes=0.2, starts=2)
