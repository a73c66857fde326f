"""
OTLP/HTTP bodies: from bytes to a message and back, in both encodings, with limits.

Pure. OTLP's JSON is protobuf's JSON mapping with one exception: trace and span ids are hexadecimal, not base64
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

import base64
import json
import zlib
from collections.abc import Mapping

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from rsketch_telemetry.otlp.handler import Request, create_request
from rsketch_telemetry.signal import Signal

__all__ = [
    "JSON",
    "PROTOBUF",
    "MalformedBodyError",
    "OversizedBodyError",
    "UnsupportedBodyError",
    "decode",
    "encode",
    "media_type",
]

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})
_GZIP = zlib.MAX_WBITS | 16


class MalformedBodyError(ValueError):
    """The body is not what its headers say."""


class OversizedBodyError(ValueError):
    """The body is larger than the receiver takes, as sent or once decompressed."""


class UnsupportedBodyError(ValueError):
    """The content type or the content encoding is none that OTLP/HTTP knows."""


def media_type(content_type: str) -> str:
    """
    Return `JSON` or `PROTOBUF` for a Content-Type header, whose parameters are ignored.

    Raises:
        UnsupportedBodyError: It names neither.
    """
    found = content_type.partition(";")[0].strip().lower()
    if found not in (JSON, PROTOBUF):
        raise UnsupportedBodyError(f"content type: accepts {PROTOBUF} and {JSON}")
    return found


def decode(signal: Signal, media: str, content_encoding: str, body: bytes, *, limit_bytes: int) -> Request:
    """
    Return the request in a body.

    Args:
        signal: What the path says that the body is.
        media: `JSON` or `PROTOBUF`.
        content_encoding: The Content-Encoding header; empty where there is none.
        body: As it was sent.
        limit_bytes: The most that the body may hold once decompressed. No more than this is ever decompressed.

    Raises:
        MalformedBodyError: It cannot be decompressed or parsed.
        OversizedBodyError: It holds more than *limit_bytes*.
        UnsupportedBodyError: The content encoding is neither gzip nor identity.
    """
    plain = _decompress(content_encoding.strip().lower(), body, limit_bytes)
    request = create_request(signal)
    if media == JSON:
        _parse_json(plain, request)
    else:
        _parse_protobuf(plain, request)
    return request


def encode(media: str, message: Message) -> bytes:
    """Return a message in the given encoding. Only for messages that hold no ids, such as responses and statuses."""
    if media == JSON:
        return json_format.MessageToJson(message, indent=None, use_integers_for_enums=True).encode()
    return message.SerializeToString()


def _decompress(encoding: str, body: bytes, limit_bytes: int) -> bytes:
    if encoding == "gzip":
        return _gunzip(body, limit_bytes)
    if encoding not in ("", "identity"):
        raise UnsupportedBodyError("content encoding: accepts gzip and identity")
    if len(body) > limit_bytes:
        raise OversizedBodyError(f"the body holds more than {limit_bytes} bytes")
    return body


def _gunzip(body: bytes, limit_bytes: int) -> bytes:
    """Return what a gzip body holds; at most one byte over the limit is ever made of it."""
    member = zlib.decompressobj(_GZIP)
    try:
        plain = member.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise MalformedBodyError("the body is not gzip") from None
    if len(plain) > limit_bytes:
        raise OversizedBodyError(f"the body holds more than {limit_bytes} bytes once decompressed")
    # More than one gzip member is refused: a body of a million empty ones would take minutes to walk through.
    if not member.eof or member.unused_data:
        raise MalformedBodyError("the body is not one whole gzip member")
    return plain


def _parse_protobuf(plain: bytes, request: Request) -> None:
    try:
        request.ParseFromString(plain)
    except DecodeError:
        raise MalformedBodyError("the body is not a protobuf message of this signal") from None


def _parse_json(plain: bytes, request: Request) -> None:
    try:
        fields = _ids_as_base64(json.loads(plain))
        if not isinstance(fields, dict):
            raise TypeError("not an object")  # noqa: TRY301 - one answer for all that is malformed
        # OTLP asks receivers to ignore fields that they do not know.
        json_format.ParseDict(fields, request, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # The parser's own words would repeat parts of the body, which may hold what must not be shown.
        raise MalformedBodyError(f"the body is not a JSON message of this signal ({type(error).__name__})") from None


def _ids_as_base64(node: object) -> object:
    """Return decoded JSON with every hexadecimal id as base64, which is what protobuf's parser reads."""
    if isinstance(node, Mapping):
        return {key: _base64(value) if key in _IDS else _ids_as_base64(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_ids_as_base64(one) for one in node]
    return node


def _base64(value: object) -> object:
    """Return a hexadecimal id as base64. Raises ValueError where it is a string of anything else."""
    return base64.b64encode(bytes.fromhex(value)).decode() if isinstance(value, str) else value
