"""How many bytecodes each Python function takes: where a reader begins who wonders about instructions."""

import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Bytecodes"]


class Bytecodes:
    """Counts the bytecodes of the thread that it is started in."""

    def __init__(self) -> None:
        self._found: Counter[CodeType] = Counter()

    def start(self) -> None:
        """Count from now on."""
        sys.settrace(self._enter)

    def stop(self) -> None:
        """Count no more."""
        sys.settrace(None)

    def by_name(self) -> dict[str, int]:
        """Return the bytecodes by file and function."""
        return {f"{Path(code.co_filename).name}:{code.co_qualname}": count for code, count in self._found.items()}

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._note

    def _note(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self._found[frame.f_code] += 1
        return self._note
