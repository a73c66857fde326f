"""What is worth saying about telemetry itself, but not with every call it happens to."""

import logging

__all__ = ["Once"]

_log = logging.getLogger("rsketch_telemetry")


class Once:
    """
    Logs a line when it is first called, and never again.

    Args:
        message: The line.
        level: Its level.
        traceback: Whether the exception being handled goes with it: it is a defect, whose place must be known.
    """

    def __init__(self, message: str, *, level: int = logging.ERROR, traceback: bool = True) -> None:
        self._message = message
        self._level = level
        self._traceback = traceback
        self._said = False

    def __call__(self) -> None:
        if not self._said:
            self._said = True
            _log.log(self._level, "%s", self._message, exc_info=self._traceback, stacklevel=2)
