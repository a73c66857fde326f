"""Tests of the readers for single settings."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rsketch import ConfigError, settings

Reader = Callable[[dict[str, str]], object]


def test_empty_and_blank_mean_unset() -> None:
    """A variable that is set to nothing behaves as one that is not set."""
    environ = {"A": "", "B": "  "}

    assert settings.text(environ, "A", "x") == "x"
    assert settings.text(environ, "B", "x") == "x"
    assert settings.integer(environ, "A", 7, low=1, high=9) == 7
    assert settings.seconds(environ, "A", 2.5) == 2.5
    assert settings.size(environ, "B", 10) == 10
    assert settings.boolean(environ, "A", default=True)
    assert settings.words(environ, "A") == ()
    assert settings.optional_file(environ, "B") is None


def test_words_are_separated_by_commas() -> None:
    """Blanks around words and empty words are dropped."""
    assert settings.words({"A": " x, y,,z z ,"}, "A") == ("x", "y", "z z")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("2", 2.0), ("2.5s", 2.5), ("500ms", 0.5), ("3m", 180.0), ("1h", 3600.0), ("0", 0.0), (" 1s ", 1.0)],
)
def test_seconds_reads_durations(raw: str, expected: float) -> None:
    """A duration is a number with an optional unit, seconds by default."""
    assert settings.seconds({"A": raw}, "A", 9.0) == pytest.approx(expected)


@pytest.mark.parametrize(("raw", "expected"), [("1", 1), ("10B", 10), ("64KiB", 65536), ("4MiB", 4194304)])
def test_size_reads_bytes(raw: str, expected: int) -> None:
    """A size is a whole number with an optional binary unit, bytes by default."""
    assert settings.size({"A": raw}, "A", 1) == expected


@pytest.mark.parametrize(("raw", "expected"), [("1", True), ("TRUE", True), ("on", True), ("No", False), ("0", False)])
def test_boolean_reads_the_usual_words(raw: str, expected: bool) -> None:
    """Upper and lower case are the same."""
    assert settings.boolean({"A": raw}, "A", default=not expected) is expected


@pytest.mark.parametrize("raw", ["a:1", "127.0.0.1:50051", "[::1]:65535", "dns:///greeter.default:50051", "unix:/r/s"])
def test_target_takes_what_grpc_connects_to(raw: str) -> None:
    """Hosts with a port, the dns scheme and socket paths pass unchanged."""
    assert settings.target({"A": raw}, "A", "x:1") == raw


BAD: list[tuple[Reader, str]] = [
    *((lambda e: settings.integer(e, "A", 1, low=1, high=9), raw) for raw in ("0", "10", "1.5", "-1", "x", "9" * 40)),
    *((lambda e: settings.port(e, "A", 1), raw) for raw in ("65536", "-1", "http", "3000 4000", "\u0663")),
    *((lambda e: settings.seconds(e, "A", 1.0, high=60.0), raw) for raw in ("2m", "-1s", "1 s", "1d", "nan", "inf")),
    *((lambda e: settings.size(e, "A", 1, high=2048), raw) for raw in ("0", "3KiB", "1.5KiB", "1GB", "-1", "many")),
    *((lambda e: settings.boolean(e, "A", default=True), raw) for raw in ("2", "yep", "tru e")),
    *((lambda e: settings.target(e, "A", "x:1"), raw) for raw in ("x", "x:0", "x:99999", "http://x:1", "x:1/y", ":1")),
    *((lambda e: settings.file(e, "A"), raw) for raw in ("/nowhere/at/all", "/")),
    *((lambda e: settings.optional_file(e, "A"), raw) for raw in ("/nowhere/at/all",)),
]


@pytest.mark.parametrize(("read", "raw"), BAD)
def test_malformed_values_are_refused_in_one_line(read: Reader, raw: str) -> None:
    """The message names the variable, what it accepts, and what was given."""
    with pytest.raises(ConfigError, match=r"^A: accepts [^\n]+$") as caught:
        read({"A": raw})

    assert caught.value.setting == "A"
    assert repr(raw)[:80] in str(caught.value)


def test_a_long_or_broken_value_does_not_flood_the_line() -> None:
    """What is repeated is cut, and line breaks are escaped."""
    with pytest.raises(ConfigError) as caught:
        settings.port({"A": "1\n2" + "x" * 1000}, "A", 1)

    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_file_returns_the_path_of_a_readable_file(tmp_path: Path) -> None:
    """A file that can be opened is accepted; unset is refused where it is required."""
    file = tmp_path / "key.pem"
    file.write_text("x")

    assert settings.file({"A": str(file)}, "A") == file
    assert settings.optional_file({"A": str(file)}, "A") == file
    with pytest.raises(ConfigError, match=re.escape("A: accepts the path of a readable file")):
        settings.file({}, "A")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """It is refused without being opened, which would wait for a writer and keep a start from being stopped."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(ConfigError, match="not a regular file"):
        settings.file({"A": str(pipe)}, "A")


def test_a_port_set_by_kubernetes_is_explained() -> None:
    """A Service called as the setting begins makes Kubernetes set it; the message says what keeps it away."""
    with pytest.raises(ConfigError, match=r"65535 \(Kubernetes sets this for a Service; enableServiceLinks: false\)"):
        settings.port({"A_PORT": "tcp://10.96.0.25:80"}, "A_PORT", 1)
