"""What programs set as attributes: values and keys that the API takes, cleans, warns of or refuses."""

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, Final

from opentelemetry.trace import StatusCode

__all__ = ["KEYS", "OURS", "VALUES"]


class _Number(IntEnum):
    SEVEN = 7


class _Text(StrEnum):
    SEVEN = "seven"


class _Plain(Enum):
    SEVEN = "seven"


class _Word(str):
    __slots__ = ()


VALUES: Final[Mapping[str, Any]] = {
    "text": "x",
    "empty": "",
    "unicode": "ä€😀",
    "nul": "a\0b",
    "surrogate": "\udc80",
    "long": "x" * 5000,
    "zero": 0,
    "negative": -1,
    "largest": 2**63 - 1,
    "least": -(2**63),
    "too-large": 2**63,
    "huge": 2**70,
    "true": True,
    "false": False,
    "float": 1.5,
    "whole-float": 1.0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "minus-zero": -0.0,
    "bytes": b"\xff\xfe",
    "readable-bytes": b"abc",
    "texts": ["a", "b"],
    "tuple": ("a", "b"),
    "integers": [1, 2, -3],
    "booleans": [True, False],
    "floats": [1.0, 2.5],
    "mixed": [1, "a"],
    "integers-and-floats": [1, 2.5],
    "integers-and-booleans": [1, True],
    "with-none": ["a", None],
    "only-none": [None],
    "no-items": [],
    "nested": [["a"]],
    "huge-within": [1, 2**70],
    "bytes-within": [b"a"],
    "surrogate-within": ["\udc80"],
    "none": None,
    "dict": {"a": 1, "b": [1, "x"]},
    "set": {1},
    "range": range(3),
    "decimal": Decimal("1.5"),
    "int-enum": _Number.SEVEN,
    "str-enum": _Text.SEVEN,
    "enum": _Plain.SEVEN,
    "status": StatusCode.OK,
    "str-subclass": _Word("word"),
    "exception": ValueError("x"),
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "memory": memoryview(b"abc"),
}
"""Set as `shop.value`, by a name that can be in a path."""

KEYS: Final[Mapping[str, Any]] = {
    "plain": "shop",
    "dots": "a.b.c",
    "empty": "",
    "blank": " ",
    "long": "k" * 300,
    "unicode": "ключ",
    "surrogate": "\udc80",
    "none": None,
    "number": 7,
    "bytes": b"key",
    "str-enum": _Text.SEVEN,
    "str-subclass": _Word("word"),
    "namespace": "http",
    "like-ours": "httpx.thing",
    "old": "http.method",
    "exception": "exception.message",
    "service": "service.name",
}
"""Set to a text."""

OURS: Final[Mapping[str, Any]] = {
    "http.route": "/mine",
    "http.request.method": "MINE",
    "http.response.status_code": 299,
    "error.type": "mine",
    "url.path": "/mine",
    "url.query": "mine=1",
    "url.scheme": "mine",
    "server.address": "mine",
    "server.port": 1,
    "client.address": "mine",
    "network.peer.address": "mine",
    "network.peer.port": 1,
    "network.protocol.version": "9",
    "user_agent.original": "mine",
    "http.response.header.x-shop": ["mine"],
}
"""Attributes that our spans have, and what a program puts in their place."""
