"""What HelloService accepts and what it answers. Values in, values out: knows neither gRPC nor protobuf."""

from rsketch_grpc.errors import InvalidArgumentError

__all__ = ["MAX_INTERVAL_SECONDS", "MAX_NAME_CHARACTERS", "greeting", "stream_count", "stream_interval"]

MAX_NAME_CHARACTERS = 256
MAX_INTERVAL_SECONDS = 60

_NANOS = 1_000_000_000


def greeting(name: str) -> str:
    """
    Return the greeting for *name*; blanks around it are not part of it.

    Raises:
        InvalidArgumentError: The name is empty, blank, or longer than MAX_NAME_CHARACTERS.
    """
    bare = name.strip()
    if not 1 <= len(bare) <= MAX_NAME_CHARACTERS:
        raise InvalidArgumentError("name", f"1 to {MAX_NAME_CHARACTERS} characters, not all of them blank")
    return f"Hello, {bare}!"


def stream_count(count: int, *, limit: int) -> int:
    """
    Return the number of greetings in a stream.

    Raises:
        InvalidArgumentError: It is 0, which is also what a client that forgot the field sends, or over *limit*.
    """
    if not 1 <= count <= limit:
        raise InvalidArgumentError("count", f"a whole number from 1 to {limit}")
    return count


def stream_interval(seconds: int, nanos: int) -> float:
    """
    Return the pause between two greetings in seconds; both arguments are those of a protobuf Duration.

    Raises:
        InvalidArgumentError: It is negative, longer than MAX_INTERVAL_SECONDS, or no valid Duration.
    """
    total = seconds * _NANOS + nanos
    if seconds < 0 or not 0 <= nanos < _NANOS or total > MAX_INTERVAL_SECONDS * _NANOS:
        raise InvalidArgumentError("interval", f"a duration from 0 to {MAX_INTERVAL_SECONDS} s")
    return total / _NANOS
