"""Logging of a process that the host runs: everything to stderr, as text or JSON, at one level."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from rsketch import settings
from rsketch.errors import ConfigError

__all__ = ["LogConfig", "configure"]

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
T = TypeVar("T", bound=str)

_FORMATS: Sequence[Format] = ("text", "json")
_LEVELS: Sequence[Level] = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """
    What log lines look like and which are written.

    Attributes:
        format: `text` or `json`.
        level: `debug`, `info`, `warning` or `error`; records below it are dropped.
    """

    format: Format = "text"
    level: Level = "info"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read `RSKETCH_LOG_FORMAT` and `RSKETCH_LOG_LEVEL`; upper and lower case are the same.

        Raises:
            ConfigError: A value is none of those above.
        """
        return cls(
            format=_one_of(environ, "RSKETCH_LOG_FORMAT", cls().format, _FORMATS),
            level=_one_of(environ, "RSKETCH_LOG_LEVEL", cls().level, _LEVELS),
        )


def configure(config: LogConfig, formatter: logging.Formatter) -> logging.Handler:
    """
    Send the records of the whole process to stderr.

    Handlers of the root logger that print are replaced; others, such as the one that exports records, stay.

    Returns:
        What writes them, for a formatter that knows more later.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Only this very class: what a library's basicConfig() left behind would print each line twice.
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    return handler


def _one_of(environ: Mapping[str, str], name: str, default: T, accepted: Sequence[T]) -> T:
    raw = settings.text(environ, name, default)
    for value in accepted:
        if raw.lower() == value:
            return value
    raise ConfigError(name, ", ".join(accepted[:-1]) + " or " + accepted[-1], raw)
