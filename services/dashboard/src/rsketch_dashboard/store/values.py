"""OTLP values as text for a column, and back. Pure."""

import base64
import json
from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

__all__ = ["Json", "decoded", "encoded", "from_text", "pairs_as_json", "plain"]

Json = str | bool | int | float | list["Json"] | dict[str, "Json"] | None
"""What a value is on the page."""
_EXACT = 2**53
"""Above it not every integer is a double, which is what numbers are in a browser."""


def plain(value: AnyValue) -> Json:
    """Return a value as JSON has it: bytes in base64, numbers that a browser's JSON cannot hold as text."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return _integer(value.int_value)
        case "double_value":
            return _number(value.double_value)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "array_value":
            return [plain(each) for each in value.array_value.values]
        case "kvlist_value":
            return {each.key: plain(each.value) for each in value.kvlist_value.values}
        case _:
            return None


def encoded(value: AnyValue) -> tuple[str, str, bytes | None]:
    """Return a value as text, the letter of its type and, where the text does not say all, the message itself."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value, "s", None
        case "int_value":
            return str(value.int_value), "i", None
        case "bool_value":
            return "true" if value.bool_value else "false", "b", None
        case "double_value":
            return _text_of(value.double_value), "d", None
        case _:
            return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")), "j", value.SerializeToString()


def decoded(text: str, kind: str, raw: bytes | None) -> AnyValue:
    """Return the value that `encoded` was given."""
    match kind:
        case "s":
            return AnyValue(string_value=text)
        case "i":
            return AnyValue(int_value=int(text))
        case "b":
            return AnyValue(bool_value=text == "true")
        case "d":
            return AnyValue(double_value=float(text))
        case _:
            return AnyValue.FromString(raw or b"")


def from_text(text: str, kind: str) -> Json:
    """Return the JSON value of what is in the columns `value` and `type`."""
    match kind:
        case "s":
            return text
        case "i":
            return _integer(int(text))
        case "b":
            return text == "true"
        case "d":
            return _number(float(text))
        case _:
            found: Json = json.loads(text)
            return found


def pairs_as_json(pairs: Iterable[KeyValue]) -> str:
    """Return attributes as the JSON text of a list of pairs: a key may be there twice."""
    return json.dumps([[pair.key, plain(pair.value)] for pair in pairs], ensure_ascii=False)


def _integer(value: int) -> Json:
    return value if abs(value) <= _EXACT else str(value)


def _text_of(value: float) -> str:
    """Return a double as the page writes it, so that it is found again by that: 1.0 is `1` there."""
    return str(int(value)) if value.is_integer() and 0 < abs(value) < _EXACT else repr(value)


def _number(value: float) -> Json:
    finite = value - value == 0.0
    return value if finite else str(value)
