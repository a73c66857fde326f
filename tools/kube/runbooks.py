"""The pages in `infra/runbooks`: one for each alert, and the queries in it, so that tests can try them."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workspace import ROOT

__all__ = ["LANGUAGES", "RUNBOOKS", "Query", "Runbook", "runbooks"]

RUNBOOKS: Final = ROOT / "infra" / "runbooks"
LANGUAGES: Final = ("promql", "logql", "jaeger")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    One query to be pasted.

    Attributes:
        language: `promql`, `logql`, or `jaeger` for the path and query of a search on Jaeger's page.
    """

    language: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbook:
    """
    One page.

    Attributes:
        name: The alert that it belongs to.
        sections: Text by heading, in order.
    """

    name: str
    text: str
    sections: dict[str, str]

    @property
    def queries(self) -> list[Query]:
        """The queries in its fenced blocks."""
        return [
            Query(language=found["language"], text=textwrap.dedent(found["text"]).strip())
            for found in _FENCE.finditer(self.text)
            if found["language"] in LANGUAGES
        ]


def runbooks(folder: Path = RUNBOOKS) -> list[Runbook]:
    """Return the pages in *folder*, without its README."""
    return [_runbook(path) for path in sorted(folder.glob("*.md")) if path.stem != "README"]


def _runbook(path: Path) -> Runbook:
    text = path.read_text(encoding="utf-8")
    _, *parts = _HEADING.split(text)
    return Runbook(name=path.stem, text=text, sections=dict(zip(parts[1::3], map(str.strip, parts[2::3]), strict=True)))
