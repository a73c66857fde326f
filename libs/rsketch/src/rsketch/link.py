"""
The line between a supervisor and one worker: a socket pair, in the worker on standard input until it has taken it.

The worker says once whether it serves. Its end of file tells it to stop, and comes as well when the supervisor is
killed, so no worker outlives its supervisor.
"""

import os
import socket
import threading
from contextlib import suppress

from rsketch.errors import UsageError
from rsketch.stop import Stop

__all__ = ["READY", "REFUSED", "WorkerLink"]

READY = "ready"
REFUSED = "refused "
_LONGEST = 4000


class WorkerLink:
    """
    The worker's end of the line.

    Args:
        stop: Requested when the supervisor wants the worker to end or is gone.

    Raises:
        UsageError: Standard input is no socket: no supervisor started this process.
    """

    def __init__(self, stop: Stop) -> None:
        self._socket = _from_stdin()
        # A thread, so that a loop that hangs or does not run yet cannot hide that the supervisor is gone.
        threading.Thread(target=self._watch, args=(stop,), name="rsketch-link", daemon=True).start()

    def ready(self) -> None:
        """Say that all services listen."""
        self._say(READY)

    def refused(self, message: str) -> None:
        """Say that this configuration can never work, so that the supervisor ends everything with this message."""
        self._say(REFUSED + " ".join(message.split())[:_LONGEST])

    def _say(self, words: str) -> None:
        # Where nobody is left to hear it, the end of file has already asked for the stop.
        with suppress(OSError):
            self._socket.sendall(f"{words}\n".encode(errors="replace"))

    def _watch(self, stop: Stop) -> None:
        with suppress(OSError):
            while self._socket.recv(64):
                pass
        stop.request("the supervisor")


def _from_stdin() -> socket.socket:
    """Take the socket from standard input, so that neither the services nor what they start can read from it."""
    try:
        link = socket.socket(fileno=os.dup(0))
    except OSError:
        raise UsageError("--worker: accepts nothing from you; the supervisor of --workers passes it on") from None
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return link
