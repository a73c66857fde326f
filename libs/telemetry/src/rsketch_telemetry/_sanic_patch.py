"""Attributes of Sanic's classes, replaced and restored."""

from collections.abc import Callable
from typing import Any

__all__ = ["Patch"]


class Patch:
    """A replaced attribute of a class; *wrap* makes the replacement from what it replaces."""

    def __init__(self, owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._wrap = wrap
        self._original: Any = None
        self._replacement: Any = None

    def apply(self) -> None:
        """Put the replacement on; nothing where it is on."""
        current = vars(self._owner)[self._name]
        if current is not self._replacement:
            self._original = current
            self._replacement = self._wrap(current)
            setattr(self._owner, self._name, self._replacement)

    def undo(self) -> None:
        """Restore the original, unless somebody else has put theirs on top."""
        if self._replacement is not None and vars(self._owner)[self._name] is self._replacement:
            setattr(self._owner, self._name, self._original)
            self._replacement = None
