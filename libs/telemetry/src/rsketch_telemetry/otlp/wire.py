"""
Protobuf's wire format, as far as OTLP needs it: pure functions from values to bytes.

Written by hand because building message objects takes fifty times as long as serializing them, and a finished span is
encoded before its `end()` returns. See https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct

__all__ = [
    "any_value",
    "attribute",
    "attributes",
    "double",
    "field",
    "fixed32",
    "fixed64",
    "key_value",
    "tag",
    "text",
    "uint64",
    "varint",
]

_DOUBLE = Struct("<d").pack
_FIXED32 = Struct("<I").pack
_LENGTH_DELIMITED = 2
_MASK = (1 << 64) - 1
_SHORT = 512
_MAX_KEYS = 1024
_DEEPEST = 30
"""Parsers stop at 100 messages in each other: a mapping takes three, and what it stands in up to seven."""


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL = tuple(_encoded_varint(value) for value in range(2048))
"""Most varints are lengths of what is small."""


def varint(value: int) -> bytes:
    """Return a whole number from 0 to 2**64 - 1; a negative one from -2**63 on as its two's complement."""
    if 0 <= value < len(_SMALL):
        return _SMALL[value]
    if 0x4000 <= value < 0x200000:
        # Ports, for one.
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if not -(1 << 63) <= value <= _MASK:
        raise ValueError(f"{value} is beyond 64 bits")
    return _encoded_varint(value & _MASK)


def tag(number: int, kind: int = _LENGTH_DELIMITED) -> bytes:
    """Return what a field begins with; *kind*: 0 is a varint, 1 are 64 bits, 2 is what has a length, 5 are 32 bits."""
    return varint(number << 3 | kind)


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field: text, bytes or a message."""
    return tag(number) + varint(len(content)) + content


def text(number: int, value: str) -> bytes:
    """Return a string field, which is absent where it is empty. Raises UnicodeEncodeError for lone surrogates."""
    return field(number, value.encode()) if value else b""


def uint64(field_number: int, value: int) -> bytes:
    """Return a varint field of a whole number, which is absent where it is 0."""
    return tag(field_number, 0) + varint(value) if value else b""


def fixed32(field_number: int, value: int) -> bytes:
    """Return an unsigned field of 32 bits, which is absent where it is 0."""
    return tag(field_number, 5) + _FIXED32(value) if value else b""


def fixed64(field_number: int, value: int) -> bytes:
    """Return an unsigned field of 64 bits."""
    return tag(field_number, 1) + value.to_bytes(8, "little")


def double(field_number: int, value: float) -> bytes:
    """Return a double field."""
    return tag(field_number, 1) + _DOUBLE(value)


def attributes(field_number: int, values: Mapping[str, object]) -> bytes:
    """Return one `KeyValue` field for each attribute. Raises as `any_value` does."""
    heads = _heads(field_number)
    parts: list[bytes] = []
    for key, value in values.items():
        # Most values are short texts and small numbers: those take a look into a table instead of four calls.
        if type(value) is str and len(encoded := value.encode()) < _SHORT:
            pair = _KEYS[key] + _TEXTS[len(encoded)] + encoded
        elif type(value) is int and 0 <= value < 0x200000:
            encoded = varint(value)
            pair = _KEYS[key] + _NUMBERS[len(encoded)] + encoded
        else:
            pair = key_value(key, value)
        size = len(pair)
        parts += (heads[size] if size < _SHORT else tag(field_number) + varint(size), pair)
    return b"".join(parts)


@lru_cache
def _heads(field_number: int) -> tuple[bytes, ...]:
    """Return what a length-delimited field begins with, by the number of bytes that follow."""
    return tuple(tag(field_number) + varint(size) for size in range(_SHORT))


_TEXTS = tuple(tag(2) + varint(len(tag(1) + varint(size)) + size) + tag(1) + varint(size) for size in range(_SHORT))
"""What the value of a pair begins with that is a text, by its number of bytes."""
_NUMBERS = tuple(tag(2) + varint(1 + size) + tag(3, 0) for size in range(4))
"""The same of a number."""


def attribute(field_number: int, key: str, value: object) -> bytes:
    """Return a `KeyValue` field."""
    return field(field_number, key_value(key, value))


def key_value(key: str, value: object) -> bytes:
    """Return a `KeyValue` message. Raises as `any_value` does."""
    return _KEYS[key] + field(2, any_value(value))


class _Keys(dict[str, bytes]):
    """
    The encoded names of attributes.

    Names are few and short; where a program invents them without end, all are forgotten now and then.
    """

    def __missing__(self, key: str) -> bytes:
        encoded = text(1, key)
        if len(encoded) < _SHORT:
            if len(self) >= _MAX_KEYS:
                self.clear()
            self[key] = encoded
        return encoded


_KEYS = _Keys()


def any_value(value: object, room: int = _DEEPEST) -> bytes:
    """
    Return an `AnyValue` message; of None an empty one.

    Args:
        room: How many sequences and mappings may stand in each other.

    Raises:
        TypeError: OTLP has no such type.
        ValueError: An integer beyond 64 bits, text that is no Unicode (UnicodeEncodeError), or too many values in each
            other.
    """
    if value is None:
        return b""
    # Before int, of which it is a kind.
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        # Not `text`: of several kinds of value the one that is set is set also where it is empty.
        return field(1, value.encode())
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return double(4, value)
    return _compound(value, room)


def _integer(value: int) -> bytes:
    if value > _MASK >> 1:
        raise ValueError(f"{value} is beyond 64 bits")
    return b"\x18" + varint(value)


def _compound(value: object, room: int) -> bytes:
    if isinstance(value, bytes):
        return field(7, value)
    if not room:
        raise ValueError(f"more than {_DEEPEST} values stand in each other")
    if isinstance(value, Sequence):
        return field(5, b"".join([field(1, any_value(each, room - 1)) for each in value]))
    if isinstance(value, Mapping):
        pairs = [_KEYS[str(key)] + field(2, any_value(each, room - 1)) for key, each in value.items()]
        return field(6, b"".join([field(1, pair) for pair in pairs]))
    raise TypeError(f"OTLP has no value of type {type(value).__name__}")
