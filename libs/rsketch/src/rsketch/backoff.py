"""How long to wait before a worker that died is replaced. Pure arithmetic; the caller holds the clock."""

from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass(slots=True, kw_only=True)
class Backoff:
    """
    A delay that doubles with each death and falls back to the first one after a healthy life.

    Attributes:
        first_seconds: The first delay.
        longest_seconds: The delay grows no further.
        healthy_seconds: A worker that lived that long counts as healthy.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 10.0
    healthy_seconds: float = 30.0
    _next: float = field(default=0.0, init=False)

    def after(self, lived_seconds: float) -> float:
        """Return the delay, in seconds, after a worker that lived *lived_seconds*."""
        if lived_seconds >= self.healthy_seconds or not self._next:
            self._next = self.first_seconds
        delay = self._next
        self._next = min(delay * 2, self.longest_seconds)
        return delay
