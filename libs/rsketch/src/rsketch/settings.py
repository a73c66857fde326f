"""
Readers for single settings, shared by the host and the services.

Each takes the environment as a mapping, returns a checked value, and treats an empty value as unset. None of them
reads the process environment: the command passes it in.
"""

import re
import stat
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rsketch.errors import ConfigError

__all__ = ["boolean", "file", "integer", "optional_file", "port", "seconds", "size", "target", "text", "words"]

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_SIZE = re.compile(r"(?P<number>[0-9]+)(?P<unit>B|KiB|MiB)?")
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024, None: 1}
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_HOST_PORT = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})"
_TARGET = re.compile(rf"(?:dns:///)?{_HOST_PORT}|unix:(?://)?/.+")


def text(environ: Mapping[str, str], name: str, default: str) -> str:
    """Return the value as it stands, or *default* where it is unset, empty or blank."""
    return environ.get(name, "").strip() or default


def words(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a comma-separated list without its blanks; empty where it is unset."""
    return tuple(word.strip() for word in environ.get(name, "").split(",") if word.strip())


def _hint(raw: str) -> str:
    # RSKETCH_HTTP_PORT is also what Kubernetes sets, in its old way, for a Service called rsketch-http.
    return " (Kubernetes sets this for a Service; enableServiceLinks: false)" if raw.startswith("tcp://") else ""


def integer(environ: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """
    Return a whole number from *low* to *high*, both included.

    Raises:
        ConfigError: It is not such a number.
    """
    raw = text(environ, name, str(default))
    if not re.fullmatch(r"[0-9]{1,12}", raw) or not low <= int(raw) <= high:
        raise ConfigError(name, f"a whole number from {low} to {high}{_hint(raw)}", raw)
    return int(raw)


def port(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return a TCP port; 0 asks the kernel for a free one. Raises ConfigError when it is out of range."""
    return integer(environ, name, default, low=0, high=65535)


def seconds(environ: Mapping[str, str], name: str, default: float, *, high: float = 86400.0) -> float:
    """
    Return a duration in seconds, written as `2`, `2.5s`, `500ms`, `3m` or `1h`.

    Raises:
        ConfigError: It is malformed or longer than *high* seconds.
    """
    raw = text(environ, name, f"{default}")
    found = _DURATION.fullmatch(raw)
    value = float(found["number"]) * _SECONDS[found["unit"]] if found else -1.0
    if not 0 <= value <= high:
        raise ConfigError(name, f"a duration up to {high:g} s such as 2, 2.5s, 500ms or 3m", raw)
    return value


def size(environ: Mapping[str, str], name: str, default: int, *, high: int = 2**31 - 1) -> int:
    """
    Return a number of bytes, written as `4194304`, `64KiB` or `4MiB`.

    Raises:
        ConfigError: It is malformed, zero, or larger than *high* bytes.
    """
    raw = text(environ, name, str(default))
    found = _SIZE.fullmatch(raw)
    value = int(found["number"]) * _BYTES[found["unit"]] if found else 0
    if not 0 < value <= high:
        raise ConfigError(name, f"a size from 1 to {high} bytes such as 65536, 64KiB or 4MiB", raw)
    return value


def boolean(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a switch. Raises ConfigError for anything but 1/true/yes/on and 0/false/no/off."""
    raw = text(environ, name, str(default))
    try:
        return _BOOLEANS[raw.lower()]
    except KeyError:
        raise ConfigError(name, "1, true, yes or on; or 0, false, no or off", raw) from None


def target(environ: Mapping[str, str], name: str, default: str) -> str:
    """
    Return a gRPC target: `host:port`, `dns:///host:port` or `unix:/path`.

    Raises:
        ConfigError: It is none of these or its port is not from 1 to 65535.
    """
    raw = text(environ, name, default)
    found = _TARGET.fullmatch(raw)
    if not found or (found["port"] and not 1 <= int(found["port"]) <= 65535):
        raise ConfigError(name, "a gRPC target such as 127.0.0.1:50051, dns:///greeter:50051 or unix:/run/g.sock", raw)
    return raw


def file(environ: Mapping[str, str], name: str) -> Path:
    """Return the path of a regular file that can be read. Raises ConfigError where it is unset or no such file."""
    path = Path(text(environ, name, ""))
    try:
        # Asked before it is opened: that would wait at a pipe for a writer.
        regular = stat.S_ISREG(path.stat().st_mode)
        with path.open("rb") if regular else nullcontext():
            reason = None if regular else "not a regular file"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(name, f"the path of a readable file ({reason})", str(path))
    return path


def optional_file(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the path of a readable file, or None where it is unset. Raises ConfigError where it cannot be read."""
    return file(environ, name) if text(environ, name, "") else None
