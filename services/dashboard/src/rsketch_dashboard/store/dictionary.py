"""
What rows of one segment intern: each attribute, resource and header gets a number, and is stored once a segment.

The key of an attribute is its encoded `KeyValue`: to look that up costs less than to read key and value. What is
remembered is bounded, so an attribute may be stored twice with two numbers where a sender never repeats itself; queries
therefore ask for keys and values, never for one number.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from rsketch_dashboard.store.schema import Family
from rsketch_dashboard.store.values import encoded, pairs_as_json

__all__ = ["Dictionary", "Ids", "is_health_check"]

_REMEMBERED = 50_000
_LONGEST_KEY = 1024
"""Bytes of an attribute above which it is not remembered: long values are hardly ever sent twice."""
_IDENTITY: Final = (
    "service.name",
    "service.namespace",
    "service.version",
    "service.instance.id",
    "vcs.ref.head.revision",
)
_HEALTH = re.compile(r"(^|[ /])(healthz?|livez?|readyz?|ping)$|^grpc\.health\.")

Row = tuple[Any, ...]


@dataclass(slots=True)
class Ids:
    """The next free numbers of one family; they only ever rise."""

    attribute: int = 1
    resource: int = 1
    header: int = 1


class Dictionary:
    """
    The dictionary of the segment that is being written.

    Attributes:
        new: Rows that are not stored yet, by table.
        attributes: The number of each attribute by its encoded form; one that is new gets its number when it is asked
            for.
    """

    def __init__(self, family: Family, ids: Ids) -> None:
        self._family = family
        self._ids = ids
        self.attributes: Mapping[bytes, int] = _Numbers(self._attribute)
        self._others: dict[object, int] = {}
        self.new: dict[str, list[Row]] = {family.attributes: [], family.resources: [], family.header: []}

    def drain(self) -> dict[str, list[Row]]:
        """Return what is new, and take it for stored."""
        new, self.new = self.new, {table: [] for table in self.new}
        return new

    def resource(self, raw: bytes, schema_url: str) -> tuple[int, str]:
        """Return the number of an encoded resource and the name of its service."""
        resource = Resource.FromString(raw)
        said = {pair.key: pair.value.string_value for pair in resource.attributes if pair.key in _IDENTITY}
        service = said.get("service.name") or "unknown_service"

        def row(number: int) -> Row:
            others = (said.get(name, "") for name in _IDENTITY[1:])
            return (number, service, *others, pairs_as_json(resource.attributes), raw, schema_url)

        return self._other(self._family.resources, (raw, schema_url), row, "resource"), service

    def header(self, resource: tuple[int, str], raw: bytes, schema_url: str, *further: object) -> int:
        """Return the number of a header: the encoded scope of a resource, and what the family adds to it."""

        def row(number: int) -> Row:
            scope = InstrumentationScope.FromString(raw)
            return (number, *resource, scope.name, scope.version, raw, schema_url, *further)

        key = (resource[0], raw, schema_url, *(tuple(each) if isinstance(each, list) else each for each in further))
        return self._other(self._family.header, key, row, "header")

    def _attribute(self, encoded_pair: bytes) -> int:
        """Take in an attribute that is new; return its number."""
        number = self._ids.attribute
        self._ids.attribute += 1
        pair = KeyValue.FromString(encoded_pair)
        self.new[self._family.attributes].append((number, pair.key, *encoded(pair.value)))
        return number

    def _other(self, table: str, key: object, row: Callable[[int], Row], counter: str) -> int:
        number = self._others.get((table, key))
        if number is None:
            number = getattr(self._ids, counter)
            setattr(self._ids, counter, number + 1)
            self.new[table].append(row(number))
            if len(self._others) >= _REMEMBERED:
                self._others.clear()
            self._others[table, key] = number
        return number


class _Numbers(dict[bytes, int]):
    """What is remembered; *take* gives a number to what is not."""

    def __init__(self, take: Callable[[bytes], int]) -> None:
        super().__init__()
        self._take = take

    def __missing__(self, encoded_pair: bytes) -> int:
        number = self._take(encoded_pair)
        if len(encoded_pair) <= _LONGEST_KEY:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[encoded_pair] = number
        return number


def is_health_check(name: str) -> bool:
    """Return whether an operation of this name is a probe, which the page hides unless asked."""
    return _HEALTH.search(name) is not None
