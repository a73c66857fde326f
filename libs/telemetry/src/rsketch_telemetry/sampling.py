"""
Sampling rules: what share of the requests of a route, or of the calls of a method, begins a trace.

    grpc:shop.v1.Till/Pay=0.1,http:/static/*=0,http:GET /users/<id>=0.5

A rule is a protocol, for HTTP an optional method, a route or path template (for gRPC `package.Service/Method`) and a
ratio from 0 to 1. `<…>` stands for one segment of a path, `<…:path>` for several, as in a route; `*` at the end for
anything. The first rule that matches counts. Pure: the SDK's part of it is in `rsketch_telemetry.rule_sampler`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from rsketch_telemetry import semconv

__all__ = ["ACCEPTS", "VARIABLE", "Rule", "rules", "split"]

VARIABLE: Final = "RSKETCH_TELEMETRY_SAMPLING_RULES"
ACCEPTS: Final = "rules such as http:GET /users/<id>=0.5 or grpc:package.Service/Method=0.1, with a ratio from 0 to 1"

# A comma within a placeholder ends no rule: a route may have a regular expression there.
_LISTED = re.compile(r"(?:<[^<>]*>|[^,])+")
_RULE = re.compile(r"(http|grpc):(?:([A-Za-z]+)\s+)?(\S+)\s*=\s*([0-9.eE+-]+)")
_PATH = re.compile(r"(?:/(?:[^<>*]|<[^<>]+>)*)?\*?")
_METHOD = re.compile(r"[\w.]*\*|[\w.]+/(?:\w+|\*)")
_PLACEHOLDER = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One rule.

    Attributes:
        text: As it was written.
        protocol: `http` or `grpc`.
        method: Of HTTP, in capitals; None for any.
        pattern: What the whole path, or the whole gRPC method, must match.
        ratio: Of the traces that are kept.
    """

    text: str
    protocol: str
    method: str | None
    pattern: re.Pattern[str]
    ratio: float

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the rule that *text* is, or None where it is none."""
        found = _RULE.fullmatch(text.strip())
        if found is None:
            return None
        protocol, method, template, number = found.groups()
        pattern = _path(template) if protocol == "http" else _rpc(template, method)
        ratio = _ratio(number)
        if pattern is None or ratio is None:
            return None
        return cls(
            text=text.strip(),
            protocol=protocol,
            method=method.upper() if method else None,
            pattern=pattern,
            ratio=ratio,
        )

    def matches(self, attributes: Mapping[str, object]) -> bool:
        """Return whether this rule is for a server span that begins with *attributes*."""
        if self.protocol == "grpc":
            return self._matches_text(attributes.get(semconv.RPC_METHOD))
        if self.method is not None and attributes.get(semconv.HTTP_REQUEST_METHOD) != self.method:
            return False
        return self._matches_text(attributes.get(semconv.URL_PATH))

    def _matches_text(self, value: object) -> bool:
        return isinstance(value, str) and self.pattern.fullmatch(value) is not None


def split(text: str) -> list[str]:
    """Return the rules of a list, as they were written."""
    return [part.strip() for part in _LISTED.findall(text) if part.strip()]


def rules(text: str) -> tuple[Rule, ...]:
    """Return the well-formed rules of a list, in its order."""
    return tuple(rule for part in split(text) if (rule := Rule.parse(part)) is not None)


def _ratio(number: str) -> float | None:
    try:
        ratio = float(number)
    except ValueError:
        return None
    return ratio if 0.0 <= ratio <= 1.0 else None


def _path(template: str) -> re.Pattern[str] | None:
    """Return what a path template matches: a slash at its end is optional, as routers have it by default."""
    if not _PATH.fullmatch(template):
        return None
    # Literals and the names of placeholders take turns.
    parts = _PLACEHOLDER.split(template.removesuffix("*"))
    body = "".join(_segment(part) if place % 2 else re.escape(part) for place, part in enumerate(parts))
    return re.compile(body + (".*" if template.endswith("*") else "/?"), re.DOTALL)


def _segment(placeholder: str) -> str:
    return ".+" if placeholder.endswith(":path") else "[^/]+"


def _rpc(template: str, method: str | None) -> re.Pattern[str] | None:
    template = template.removeprefix("/")
    if method is not None or not _METHOD.fullmatch(template):
        return None
    return re.compile(re.escape(template.removesuffix("*")) + (".*" if template.endswith("*") else ""), re.DOTALL)
