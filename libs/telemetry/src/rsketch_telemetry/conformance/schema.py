"""The rule for schema URLs: a scope names the version of the conventions whose names it uses."""

import re
from collections.abc import Iterator

from rsketch_telemetry.conformance.contract import Contract
from rsketch_telemetry.conformance.violation import Place, Violation, shown

__all__ = ["schema_url"]


def schema_url(contract: Contract, place: Place, found: str, since: str | None, *, ours: bool) -> Iterator[Violation]:
    """
    Yield what is wrong with a scope's schema URL.

    Args:
        since: The first version that has the names in use; None for names of nobody's conventions.
    """
    if ours and found != contract.schema_url:
        yield place.violates("schema-url", f"the scope's schema URL is not {contract.schema_url}")
    elif not ours and since and (0,) < _version(found) < _version(since):
        yield place.violates("schema-url", f"the scope names {shown(found)}, but its names are those of {since} on")


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)\.(\d+)$", text)
    return tuple(int(part) for part in found.groups()) if found else (0,)
