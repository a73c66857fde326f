"""How a process ended, in words for a log line. Pure text."""

import signal

__all__ = ["fate"]


def fate(status: int) -> str:
    """Return what a process came to whose exit status is *status*, minus the signal that ended it."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status} ({signal.strsignal(-status) or 'unknown'})"
