"""
Client requests to valgrind without a compiler: their few instructions, in a page that may be executed.

Outside valgrind the instructions do nothing. See valgrind.h, `VALGRIND_DO_CLIENT_REQUEST_EXPR`, and callgrind.h.
"""

import ctypes
import mmap
import platform
from collections.abc import Callable
from typing import Final

__all__ = ["ARCHITECTURES", "Requests"]

_CALLGRIND: Final = ord("C") << 24 | ord("T") << 16
_START: Final = _CALLGRIND + 4
_STOP: Final = _CALLGRIND + 5
_RUNNING: Final = 0x1001

# A function of two arguments, as C has them: where the request and its five arguments are, and what to return where
# there is no valgrind. Both move to the registers that valgrind looks at; four rotations that add up to none and an
# exchange of a register with itself are its sign.
_CODE: Final = {
    "x86_64": bytes.fromhex(
        "4889f8"  # mov rax, rdi
        "4889f2"  # mov rdx, rsi
        "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol rdi, 3, 13, 61 and 51
        "4887db"  # xchg rbx, rbx
        "4889d0"  # mov rax, rdx
        "c3"  # ret
    ),
    "aarch64": b"".join(
        word.to_bytes(4, "little")
        for word in (
            0xAA0003E4,  # mov x4, x0
            0xAA0103E3,  # mov x3, x1
            *(0x93CC0D8C, 0x93CC358C, 0x93CCCD8C, 0x93CCF58C),  # ror x12, x12, 3, 13, 51 and 61
            0xAA0A014A,  # orr x10, x10, x10
            0xAA0303E0,  # mov x0, x3
            0xD65F03C0,  # ret
        )
    ),
}
ARCHITECTURES: Final = frozenset(_CODE)
"""Machines whose instructions are known here."""


class Requests:
    """
    What callgrind is asked for.

    Raises:
        KeyError: The machine is none of `ARCHITECTURES`.
    """

    def __init__(self) -> None:
        code = _CODE[platform.machine()]
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(code)
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._ask: Callable[[object, int], int] = ctypes.CFUNCTYPE(
            ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64), ctypes.c_uint64
        )(at)

    @property
    def heard(self) -> bool:
        """Whether this process runs under valgrind."""
        return self._request(_RUNNING) > 0

    def start(self) -> None:
        """Count instructions from now on."""
        self._request(_START)

    def stop(self) -> None:
        """Count no more of them."""
        self._request(_STOP)

    def _request(self, number: int) -> int:
        return self._ask((ctypes.c_uint64 * 6)(number), 0)
