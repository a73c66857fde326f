import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from rsketch_telemetry.otlp import wire


@pytest.mark.parametrize(
    "value", [0, 1, 127, 128, 2047, 2048, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**32, 2**63 - 1, -1, -(2**63)]
)
def test_numbers_take_as_few_bytes_as_protobufs_own(value: int) -> None:
    """A number is encoded byte for byte as protobuf's own library does it, at the edges of each length."""
    theirs = AnyValue(int_value=value).SerializeToString()

    assert wire.any_value(value) == theirs
    assert wire.attributes(3, {"at": value}) == wire.attribute(3, "at", value)
    assert KeyValue.FromString(wire.key_value("at", value)).value.int_value == value


def test_numbers_beyond_64_bits_are_refused() -> None:
    """What no field can hold is not encoded as another number."""
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="beyond 64 bits"):
            wire.any_value(value)
    with pytest.raises(ValueError, match="beyond 64 bits"):
        wire.varint(2**64)


@pytest.mark.parametrize("size", [0, 1, 120, 123, 124, 127, 128, 500, 505, 511, 512, 513, 2**14, 2**21])
def test_texts_of_any_length(size: int) -> None:
    """A text is encoded byte for byte as protobuf's own library does it, whatever its lengths take."""
    theirs = InstrumentationScope(attributes=[KeyValue(key="said", value=AnyValue(string_value="x" * size))])

    assert wire.attributes(3, {"said": "x" * size}) == theirs.SerializeToString()
    assert wire.attribute(3, "said", "x" * size) == theirs.SerializeToString()


def test_fields_of_fixed_length() -> None:
    """Numbers of 32 and of 64 bits are little-endian; of 32 bits 0 is left out."""
    theirs = LogRecord(time_unix_nano=2**63, flags=0x301).SerializeToString()

    assert wire.fixed64(1, 2**63) + wire.fixed32(8, 0x301) == theirs
    assert wire.fixed32(8, 0) == b""


def test_values_in_each_other_have_an_end() -> None:
    """What parsers refuse, and what holds itself, is refused here: a receiver would refuse the whole request for it."""
    deep: object = "x"
    for _ in range(30):
        deep = {"in": deep}
    endless: list[object] = []
    endless += [endless, endless]

    assert AnyValue.FromString(wire.any_value(deep))
    for value in ([deep], endless):
        with pytest.raises(ValueError, match="stand in each other"):
            wire.any_value(value)


def test_names_without_end_are_not_kept() -> None:
    """The encoded names that are kept are bounded, in number and in length."""
    for number in range(3000):
        wire.key_value(f"name{number}", number)
    wire.key_value("n" * 10_000, 1)

    assert len(wire._KEYS) <= 1024
    assert max(map(len, wire._KEYS)) < 600
