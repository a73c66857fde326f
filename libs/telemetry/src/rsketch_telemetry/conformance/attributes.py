"""The rules for attributes, wherever they are: names, types, values, sizes, and what must not be seen."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from rsketch_telemetry.conformance.contract import Attribute, Contract, Use
from rsketch_telemetry.conformance.violation import Place, Violation, shown
from rsketch_telemetry.otlp.model import Attributes, Value
from rsketch_telemetry.redaction import names_secret

__all__ = ["Allowances", "holds", "names", "present", "published", "reserved", "values"]

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "double": float,
    "int": int,
    "string": str,
    "string[]": list,
}
# A mask is a word or a row of stars.
_MASKED = re.compile(r"\W*(?:redacted|masked|filtered|\*+|x+)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowances:
    """
    What the operator of a service has allowed on purpose.

    Attributes:
        methods: Known HTTP methods beside those of the contract.
        query_keys: Query parameters whose values may be seen.
    """

    methods: frozenset[str] = frozenset()
    query_keys: frozenset[str] = frozenset()


def names(contract: Contract, place: Place, attributes: Attributes, *, migrating: bool) -> Iterator[Violation]:
    """
    Yield what is wrong with the names.

    Args:
        migrating: Whether the item has its current names too, so that the old ones may be there on purpose.
    """
    if len(attributes) > contract.limits["attributes"]:
        yield place.violates("limits", f"it has {len(attributes)} attributes")
    for name in attributes:
        replacements = deprecated(contract, name)
        if replacements is not None:
            beside = any(_beside(each, attributes) for each in replacements)
            dated = "duplicate-name" if beside or (migrating and name.startswith("net.")) else "deprecated-name"
            yield place.violates(dated, f"{shown(name)} {replaced(replacements)}", link=dated_link(name))
        elif reserved(contract, name) and not published(contract, name):
            yield place.violates("unknown-name", f"{shown(name)} is no published attribute")
        elif not 0 < len(name) <= contract.limits["name"]:
            yield place.violates("limits", f"the name of an attribute has {len(name)} characters")


def deprecated(contract: Contract, name: str) -> tuple[str, ...] | None:
    """Return what replaces an old name; None for a current one."""
    old = contract.registry.deprecated
    if name in old:
        return old[name]
    return next((by for prefix, by in old.items() if prefix.endswith(".") and name.startswith(prefix)), None)


def replaced(replacements: tuple[str, ...]) -> str:
    """Return the end of a sentence about an old name."""
    return f"is now {' or '.join(replacements)}" if replacements else "is gone without replacement"


def dated_link(name: str) -> str | None:
    """Return the guide to the migration of an old name's namespace."""
    guide = {"http": "http", "net": "http", "rpc": "rpc"}.get(name.partition(".")[0])
    return f"https://opentelemetry.io/docs/specs/semconv/non-normative/{guide}-migration/" if guide else None


def reserved(contract: Contract, name: str) -> bool:
    """Return whether a name is in a namespace of the conventions; `url` by itself, as of a log record, is in none."""
    namespace, dot, _ = name.partition(".")
    return bool(dot) and namespace in contract.registry.reserved


def published(contract: Contract, name: str) -> bool:
    """Return whether an attribute of a reserved namespace is in the registry."""
    registry = contract.registry
    return name in registry.attributes or name.startswith(registry.templates)


def _beside(name: str, attributes: Attributes) -> bool:
    if name == "url.full" and "url.path" in attributes:
        # A server's span has the parts in place of the whole.
        return True
    return name in attributes or any(other.startswith(f"{name}.") for other in attributes)


def values(
    contract: Contract, place: Place, attributes: Attributes, allowed: Allowances, *, ours: bool
) -> Iterator[Violation]:
    """Yield what is wrong with the values."""
    for name, value in attributes.items():
        known = contract.attribute(name)
        yield from _sizes(contract, place, name, value, known if ours else None)
        if known is None:
            continue
        if not _of_type(value, known.type):
            yield place.violates("attribute-type", f"{shown(name)} is {_type_of(value)}, not {known.type}")
        elif ours or _speaks_of(name, attributes):
            yield from _content(place, known, value, allowed, ours=ours)
    yield from _redaction(contract, place, attributes, allowed, ours=ours)


def _speaks_of(name: str, attributes: Attributes) -> bool:
    """Return whether what the contract says of a name's values is about such an item: it knows HTTP and gRPC alone."""
    if name.startswith("rpc."):
        return attributes.get("rpc.system.name", "grpc") == "grpc"
    return name != "network.protocol.version" or "http.request.method" in attributes


def _of_type(value: Value, wanted: str) -> bool:
    if wanted == "string[]":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if isinstance(value, bool):
        return wanted == "boolean"
    return isinstance(value, _TYPES[wanted])


def _type_of(value: Value) -> str:
    names = {bool: "boolean", int: "int", float: "double", str: "string", bytes: "bytes", list: "an array"}
    return names.get(type(value), "empty" if value is None else "a map")


def _content(place: Place, known: Attribute, value: Value, allowed: Allowances, *, ours: bool) -> Iterator[Violation]:
    further = allowed.methods if known.name == "http.request.method" else frozenset()
    if known.values and (ours or not known.open) and value not in known.values and value not in further:
        listed = ", ".join(str(each) for each in known.values)
        yield place.violates("attribute-value", f"{known.name} is none of {listed}")
    # Only so much of it: what others send may be long, and a pattern may take time with the square of that.
    if known.pattern and isinstance(value, str) and not known.pattern.fullmatch(value[:1024]):
        yield place.violates("attribute-value", f"{known.name} does not have the form {known.pattern.pattern}")
    if known.range and isinstance(value, int) and not known.range[0] <= value <= known.range[1]:
        yield place.violates("attribute-value", f"{known.name} is not from {known.range[0]} to {known.range[1]}")


def _sizes(contract: Contract, place: Place, name: str, value: Value, known: Attribute | None) -> Iterator[Violation]:
    limit = (known.max or contract.limits["text"]) if known else contract.limits["foreign_text"]
    for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
        if isinstance(text, str) and len(text) > limit:
            yield place.violates("limits", f"{shown(name)} has more than {limit} characters")
        if isinstance(text, str) and not encodable(text):
            yield place.violates("attribute-value", f"{shown(name)} cannot be UTF-8")


def encodable(text: str) -> bool:
    """Return whether a text is one that UTF-8 can hold: one with half a surrogate is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _redaction(
    contract: Contract, place: Place, attributes: Attributes, allowed: Allowances, *, ours: bool
) -> Iterator[Violation]:
    link = contract.redaction_link
    for name, value in attributes.items():
        if name == "url.query" and isinstance(value, str):
            for key in _seen(contract, value, allowed, ours=ours):
                yield place.violates("redaction", f"url.query shows the value of {shown(key)!r}", link=link)
        elif name == "url.full" and isinstance(value, str):
            if _has_password(value):
                yield place.violates("redaction", "url.full shows a user's name or password", link=link)
            for key in _seen(contract, _query(value), allowed, ours=ours):
                yield place.violates("redaction", f"url.full shows the value of {shown(key)!r}", link=link)
        elif ".header." in name or ".trailer." in name:
            shows = isinstance(value, list) and not all(_MASKED.fullmatch(str(each)) for each in value if each)
            header = re.split(r"\.(?:header|trailer)\.", name, maxsplit=1)[1]
            if shows and (header in contract.headers or names_secret(header)):
                yield place.violates("redaction", f"{shown(name)} shows a credential", link=link)


def _seen(contract: Contract, query: str, allowed: Allowances, *, ours: bool) -> Iterator[str]:
    """Yield the keys whose values must not be seen, and are."""
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        hidden = not value or _MASKED.fullmatch(unquote(value))
        if not equals:
            if ours and part and part != contract.redacted:
                yield ""
        elif hidden or key in allowed.query_keys:
            continue
        elif ours or key in contract.query_keys or names_secret(unquote(key)):
            yield key


def _query(url: str) -> str:
    return url.partition("#")[0].partition("?")[2]


def _has_password(url: str) -> bool:
    user = re.match(r"[a-z][a-z0-9+.-]*://([^/?#]*)@", url, re.IGNORECASE)
    return user is not None and not all(_MASKED.fullmatch(part) for part in user[1].split(":") if part)


def present(
    place: Place, uses: Mapping[str, Use], attributes: Attributes, *, ours: bool, status: str | None = None
) -> Iterator[Violation]:
    """
    Yield what is missing, and what is there without reason.

    Args:
        ours: Whether levels hold in which the contract asks for more than the conventions do.
        status: Of a span; a condition may name it.
    """
    for name, use in uses.items():
        # One message for one mistake: error.type is a rule of its own.
        rule = "error-type" if name == "error.type" else "conditional-attribute"
        if use.deviation and not ours:
            continue
        if use.level == "required" and name not in attributes:
            yield place.violates("required-attribute", f"{name} is missing")
        elif use.when and name not in attributes and holds(use.when, attributes, status):
            yield place.violates(rule, f"{name} is missing, though {use.when}")
        elif use.only_when and name in attributes and not holds(use.only_when, attributes, status):
            yield place.violates(rule, f"{name} is there, though not: {use.only_when}")


def holds(condition: str, attributes: Attributes, status: str | None) -> bool:
    """Return whether `name`, `name = value` or `status = ERROR` holds."""
    name, equals, value = condition.partition(" = ")
    if not equals:
        return name in attributes
    found = status if name == "status" else attributes.get(name)
    return found is not None and str(found) == value
