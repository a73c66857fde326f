"""The query string of the page as checked values. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.store.rows import KINDS

__all__ = ["Parameters", "Window", "ids"]

_SPAN = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[smhd])")
_UNITS_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_MOST_NS = 2**63 - 1
_MOST_US = _MOST_NS // 1000 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """A time from `from_us` (included) to `to_us` (excluded), microseconds since the epoch."""

    from_us: int
    to_us: int

    def steps(self, count: int) -> tuple[int, int, int]:
        """Return the first step's start, a step's length, both in microseconds and round, and the number of steps."""
        step = _round_up(max(1, (self.to_us - self.from_us) // count))
        first = self.from_us // step * step
        return first, step, max(1, -(-(self.to_us - first) // step))


def _round_up(length_us: int) -> int:
    for unit in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400):
        if unit * 1_000_000 >= length_us:
            return unit * 1_000_000
    return -(-length_us // 86_400_000_000) * 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """
    What narrows a view down.

    Attributes:
        window: None for everything that is stored.
        attributes: Keys with the value that each must have, None for any.
        before_ns: Only what is older, for paging: `before_ns`, or `before_us` for who has no more than that.
        health: Whether probes are among it.
        others: Whatever a single view understands, by name.
    """

    window: Window | None = None
    service: str = ""
    operation: str = ""
    kind: str = ""
    status: str = ""
    min_ms: float | None = None
    max_ms: float | None = None
    q: str = ""
    attributes: tuple[tuple[str, str | None], ...] = ()
    run: str = ""
    health: bool = False
    limit: int = 50
    before_ns: int | None = None
    others: Mapping[str, str]

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str]], now_us: int, *, last: str = "", limit: int = 50) -> Self:
        """
        Read a query string.

        Args:
            given: The values of each parameter, at least one.
            now_us: Now, which a window like `15m` ends at.
            last: The window where none is given; empty for everything.
            limit: How many rows where that is not given.

        Raises:
            QueryError: One is malformed; the message names it and what it accepts.
        """
        one = {name: values[-1].strip() for name, values in given.items() if values and values[-1].strip()}
        return cls(
            window=_window(one, now_us, last),
            service=one.get("service", ""),
            operation=one.get("operation", ""),
            kind=_among(one, "kind", KINDS),
            status=_among(one, "status", ("error", "ok")),
            min_ms=_number(one, "min_ms"),
            max_ms=_number(one, "max_ms"),
            q=one.get("q", ""),
            attributes=tuple(_attribute(each) for each in given.get("attr", ()) if each.strip()),
            run=one.get("run", ""),
            health=one.get("health", "") in ("1", "true"),
            limit=whole(one, "limit", limit, high=1000),
            before_ns=whole(one, "before_ns", whole(one, "before_us", 0, high=_MOST_US) * 1000, high=_MOST_NS) or None,
            others=one,
        )

    def other(self, name: str, accepted: Sequence[str] = (), default: str = "") -> str:
        """Return a parameter of one view. Raises QueryError where it is none of *accepted*."""
        return _among(self.others, name, accepted) or default if accepted else self.others.get(name, default)

    def number(self, name: str) -> float | None:
        """Return a number of one view. Raises QueryError where it is none."""
        return _number(self.others, name)

    def whole(self, name: str, default: int = 0, *, high: int = _MOST_US) -> int:
        """Return a whole number of one view. Raises QueryError where it is none, or above *high*."""
        return whole(self.others, name, default, high=high)


def whole(given: Mapping[str, str], name: str, default: int, *, high: int) -> int:
    """Return a whole number from 0 to *high*. Raises QueryError."""
    raw = given.get(name)
    if raw is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", raw) or int(raw) > high:
        raise QueryError(f"{name}: accepts a whole number from 0 to {high}")
    return int(raw)


def ids(text: str, digits: int) -> int:
    """Return a trace id (32 hexadecimal digits) or a span id (16) as a number. Raises QueryError."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise QueryError(f"an id: accepts {digits} hexadecimal digits")
    return int(text, 16)


def _window(one: Mapping[str, str], now_us: int, last: str) -> Window | None:
    first, end = whole(one, "from_us", 0, high=_MOST_US), whole(one, "to_us", 0, high=_MOST_US)
    if first or end:
        if first >= (end or now_us + 1):
            raise QueryError("from_us: accepts a time before to_us")
        return Window(first, end or now_us + 1)
    asked = one.get("last", last)
    if asked in ("", "all"):
        return None
    found = _SPAN.fullmatch(asked)
    if not found or not int(found["number"]):
        raise QueryError("last: accepts a number and s, m, h or d, such as 15m")
    # A moment ahead: a span may have ended since now was read.
    return Window(max(0, now_us - int(found["number"]) * _UNITS_US[found["unit"]]), now_us + _UNITS_US["s"])


def _among(one: Mapping[str, str], name: str, accepted: Iterable[str]) -> str:
    value = one.get(name, "")
    if value and value not in (listed := tuple(accepted)):
        raise QueryError(f"{name}: accepts {', '.join(listed)}")
    return value


def _number(one: Mapping[str, str], name: str) -> float | None:
    raw = one.get(name)
    if raw is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", raw):
        raise QueryError(f"{name}: accepts a number from 0 on")
    return float(raw)


def _attribute(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    return key.strip(), value if equals else None
