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
    "fixed64",
    "key_value",
    "tag",
    "text",
    "uint64",
    "varint",
]

_DOUBLE = Struct("<d").pack
_LENGTH_DELIMITED = 2
_MASK = (1 << 64) - 1


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
    if not -(1 << 63) <= value <= _MASK:
        raise ValueError(f"{value} is beyond 64 bits")
    return _encoded_varint(value & _MASK)


def tag(number: int, kind: int = _LENGTH_DELIMITED) -> bytes:
    """Return what a field begins with; *kind* is 0 for a varint, 1 for 64 bits, 2 for what has a length."""
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


def fixed64(field_number: int, value: int) -> bytes:
    """Return an unsigned field of 64 bits."""
    return tag(field_number, 1) + value.to_bytes(8, "little")


def double(field_number: int, value: float) -> bytes:
    """Return a double field."""
    return tag(field_number, 1) + _DOUBLE(value)


def attributes(field_number: int, values: Mapping[str, object]) -> bytes:
    """Return one `KeyValue` field for each attribute."""
    return b"".join([attribute(field_number, key, value) for key, value in values.items()])


def attribute(field_number: int, key: str, value: object) -> bytes:
    """Return a `KeyValue` field."""
    return field(field_number, key_value(key, value))


def key_value(key: str, value: object) -> bytes:
    """Return a `KeyValue` message. Raises as `any_value` does."""
    return _key(key) + field(2, any_value(value))


# Names are few; where a program invents them without end, the cache is none the larger.
@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    return text(1, key)


def any_value(value: object) -> bytes:
    """
    Return an `AnyValue` message; of None an empty one.

    Raises:
        TypeError: OTLP has no such type.
        ValueError: An integer beyond 64 bits, or text that is no Unicode (UnicodeEncodeError).
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
    return _compound(value)


def _integer(value: int) -> bytes:
    if value > _MASK >> 1:
        raise ValueError(f"{value} is beyond 64 bits")
    return b"\x18" + varint(value)


def _compound(value: object) -> bytes:
    if isinstance(value, bytes):
        return field(7, value)
    if isinstance(value, Sequence):
        return field(5, b"".join([field(1, any_value(each)) for each in value]))
    if isinstance(value, Mapping):
        return field(6, b"".join([field(1, key_value(str(key), each)) for key, each in value.items()]))
    raise TypeError(f"OTLP has no value of type {type(value).__name__}")
