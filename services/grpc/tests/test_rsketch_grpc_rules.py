"""The rules of HelloService, without gRPC."""

import pytest
from rsketch_grpc.errors import InvalidArgumentError
from rsketch_grpc.rules import MAX_INTERVAL_SECONDS, MAX_NAME_CHARACTERS, greeting, stream_count, stream_interval


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ada", "Hello, ada!"), (" ada\n", "Hello, ada!"), ("Ada Lovelace", "Hello, Ada Lovelace!"), ("愛", "Hello, 愛!")],
)
def test_greeting(name: str, expected: str) -> None:
    """A name is greeted as it is, without the blanks around it."""
    assert greeting(name) == expected


def test_longest_name_is_greeted() -> None:
    """The limit counts characters, not bytes, and the name of that length is still accepted."""
    assert greeting("愛" * MAX_NAME_CHARACTERS).count("愛") == MAX_NAME_CHARACTERS


@pytest.mark.parametrize("name", ["", " ", "\t\n\u2003", "a" * (MAX_NAME_CHARACTERS + 1)])
def test_bad_names(name: str) -> None:
    """Empty, blank and over-long names are refused; the message names the field and repeats nothing of the name."""
    with pytest.raises(InvalidArgumentError, match=r"^name: accepts 1 to 256 characters") as refused:
        greeting(name)

    assert refused.value.field == "name"
    assert "aaaa" not in str(refused.value)


@pytest.mark.parametrize("count", [1, 3])
def test_count_up_to_the_limit(count: int) -> None:
    """One and the limit itself are accepted."""
    assert stream_count(count, limit=3) == count


@pytest.mark.parametrize("count", [0, 4, 2**32 - 1])
def test_bad_counts(count: int) -> None:
    """Zero, which is also an absent field, and counts over the limit are refused; the message names field and limit."""
    with pytest.raises(InvalidArgumentError, match=r"^count: accepts a whole number from 1 to 3$"):
        stream_count(count, limit=3)


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"), [(0, 0, 0.0), (1, 500_000_000, 1.5), (MAX_INTERVAL_SECONDS, 0, 60.0)]
)
def test_interval(seconds: int, nanos: int, expected: float) -> None:
    """A Duration becomes seconds, from none to the limit itself."""
    assert stream_interval(seconds, nanos) == expected


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-1, 0), (0, -1), (1, -1), (-1, 999_999_999), (0, 1_000_000_000), (MAX_INTERVAL_SECONDS, 1), (2**63 - 1, 0)],
)
def test_bad_intervals(seconds: int, nanos: int) -> None:
    """Negative, too long and malformed Durations are refused; the message names the field."""
    with pytest.raises(InvalidArgumentError, match=r"^interval: accepts a duration from 0 to 60 s$"):
        stream_interval(seconds, nanos)
