"""Which Python functions a request calls, and how often: where a reader begins who wonders about instructions."""

import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Calls"]


class Calls:
    """Counts the calls of the thread that it is started in."""

    def __init__(self) -> None:
        self._found: Counter[CodeType] = Counter()

    def start(self) -> None:
        """Count from now on."""
        sys.setprofile(self._note)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)

    def by_name(self) -> dict[str, int]:
        """Return the calls by file and function."""
        return {f"{Path(code.co_filename).name}:{code.co_qualname}": count for code, count in self._found.items()}

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._found[frame.f_code] += 1
