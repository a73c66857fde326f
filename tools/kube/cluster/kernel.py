"""
The few system calls that Python 3.11 has no function for.

Nothing here decides anything: each function is one call that raises `OSError` where the kernel refuses.
"""

import ctypes
import os
import signal
from pathlib import Path

__all__ = ["NEW_NETWORK", "NEW_SPACES", "die_with_parent", "join_network", "make_private", "mount", "unshare"]

NEW_MOUNTS = 0x00020000
NEW_PROCESSES = 0x20000000
NEW_USERS = 0x10000000
NEW_NETWORK = 0x40000000
NEW_SPACES = NEW_USERS | NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK

_PRIVATE = 1 << 18
_RECURSIVE = 1 << 14
_DEATH_SIGNAL = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process (processes: its children) into new namespaces; only while it has a single thread."""
    _succeed(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(kind: str, target: str) -> None:
    """Mount a file system that needs no device, such as proc or tmpfs."""
    _succeed(_libc.mount(kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(0), None), f"mount {kind}")


def make_private() -> None:
    """Keep the mounts that follow to this mount namespace."""
    flags = ctypes.c_ulong(_PRIVATE | _RECURSIVE)
    _succeed(_libc.mount(None, b"/", None, flags, None), "mount --make-rprivate /")


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends, however it ends."""
    _succeed(_libc.prctl(_DEATH_SIGNAL, ctypes.c_ulong(signal.SIGKILL)), "prctl")


def join_network(namespace: Path) -> None:
    """Move the calling thread, and no other, into the network namespace that is bound to a file."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _succeed(_libc.setns(descriptor, NEW_NETWORK), f"setns {namespace}")
    finally:
        os.close(descriptor)


def _succeed(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
