"""
The telemetry contract as values: what `contract.toml` says, and the published names that the checker needs beside it.

It only reads the two files of this package. What the contract means for a span, a point or a record is for the rules.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Attribute", "Contract", "Event", "Lines", "Metric", "Registry", "ResourceGroup", "SpanGroup", "Use", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """
    One attribute, wherever it is used.

    Attributes:
        name: Its name; of a template the part before the key, such as `http.request.header.`.
        type: `string`, `int`, `double`, `boolean` or `string[]`.
        stability: `stable` or `development`, as published.
        values: All values that it may have; empty where there is no end to them.
        open: Whether other services may use further values.
        pattern: What its text must match as a whole.
        range: Least and greatest number.
        max: Characters of its text; None for the contract's general bound.
        distinct: Values that a metric may see; None for an attribute that no metric has.
        deviation: Why it differs from the published conventions; None where it does not.
    """

    name: str
    type: str
    stability: str
    brief: str
    template: bool = False
    values: tuple[str | int, ...] = ()
    open: bool = False
    pattern: re.Pattern[str] | None = None
    range: tuple[int, int] | None = None
    max: int | None = None
    distinct: int | None = None
    deviation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """
    One attribute in one group.

    Attributes:
        level: `required`, `conditional`, `recommended` or `opt-in`.
        when: The condition that makes it obligatory.
        only_when: The condition without which it must not be there.
        note: A condition that telemetry alone does not show.
        setting: The variable that switches it on.
    """

    level: str
    when: str | None = None
    only_when: str | None = None
    note: str | None = None
    setting: str | None = None
    deviation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanGroup:
    """
    One kind of span.

    Attributes:
        kind: `SERVER` or `CLIENT`.
        since: The first version of the conventions that has its names.
        marks: Attributes of which any one tells that a span of that kind is one of these.
        name: The rule for its name; *name_text* says it to people. Likewise *status*.
    """

    id: str
    title: str
    kind: str
    since: str
    marks: tuple[str, ...]
    name: str
    name_text: str
    status: str
    status_text: str
    link: str
    attributes: Mapping[str, Use]
    deviation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """
    One metric; no attribute may be on it but those that are listed.

    Attributes:
        instrument: `histogram`, `counter`, `updowncounter` or `gauge`.
        buckets: Upper bounds of a histogram's buckets, in *unit*.
        opt_in: Whether it is off unless asked for, by the variable *setting*.
        span: The group of spans whose durations it measures; None for any other metric.
        also_published: Attributes that the conventions allow, and that ours never has.
    """

    name: str
    instrument: str
    unit: str
    stability: str
    brief: str
    attributes: Mapping[str, Use]
    buckets: tuple[float, ...] = ()
    opt_in: bool = False
    setting: str | None = None
    since: str | None = None
    span: str | None = None
    also_published: tuple[str, ...] = ()
    link: str | None = None
    deviation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A log record with an event name; *severity* is what its number begins with."""

    name: str
    severity: str
    stability: str
    brief: str
    attributes: Mapping[str, Use]
    since: str | None = None
    link: str | None = None
    deviation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Log records without an event name, told by their scope; `*` is any that has no entry of its own."""

    scope: str
    stability: str
    brief: str
    deviation: str
    attributes: Mapping[str, Use]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceGroup:
    """What the resource says."""

    brief: str
    link: str
    attributes: Mapping[str, Use]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """
    The published names in the reserved namespaces.

    Attributes:
        reserved: Namespaces in which a name that is not published is a mistake.
        deprecated: Old names, and those in their place.
    """

    reserved: frozenset[str]
    attributes: frozenset[str]
    templates: tuple[str, ...]
    metrics: frozenset[str]
    events: frozenset[str]
    deprecated: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Everything that rsketch-telemetry emits, and how; see `contract.toml`."""

    version: str
    schema_url: str
    scopes: str
    limits: Mapping[str, int]
    redacted: str
    redaction_link: str
    query_keys: frozenset[str]
    headers: frozenset[str]
    attributes: Mapping[str, Attribute]
    spans: Mapping[str, SpanGroup]
    metrics: Mapping[str, Metric]
    events: Mapping[str, Event]
    lines: Mapping[str, Lines]
    resource: ResourceGroup
    registry: Registry
    templates: tuple[Attribute, ...] = field(default=())

    def attribute(self, name: str) -> Attribute | None:
        """Return what the contract says of an attribute, also of one that a template stands for."""
        found = self.attributes.get(name)
        return found or next((each for each in self.templates if name.startswith(each.name)), None)


@cache
def load() -> Contract:
    """Return the contract of this release."""
    folder = resources.files(__package__)
    return parse(
        tomllib.loads((folder / "contract.toml").read_text("utf-8")),
        json.loads((folder / "registry.json").read_text("utf-8")),
    )


def parse(said: Mapping[str, Any], published: Mapping[str, Any]) -> Contract:
    """Return the contract that the two files' contents are."""
    attributes = {name: _attribute(name, each) for name, each in said["attribute"].items()}
    redaction = said["redaction"]
    return Contract(
        version=said["version"],
        schema_url=said["schema_url"],
        scopes=said["scopes"],
        limits=said["limits"],
        redacted=redaction["text"],
        redaction_link=redaction["link"],
        query_keys=frozenset(redaction["query_keys"]),
        headers=frozenset(redaction["headers"]),
        attributes=attributes,
        templates=tuple(each for each in attributes.values() if each.template),
        spans={name: _span(name, each) for name, each in said["span"].items()},
        metrics={name: _metric(name, each) for name, each in said["metric"].items()},
        events={name: Event(name=name, **_uses(each)) for name, each in said["event"].items()},
        lines={scope: Lines(scope=scope, **_uses(each)) for scope, each in said["lines"].items()},
        resource=ResourceGroup(**_uses(said["resource"])),
        registry=_registry(published, said["retired"]),
    )


def _attribute(name: str, said: Mapping[str, Any]) -> Attribute:
    converted: dict[str, Any] = dict(said)
    if "values" in converted:
        converted["values"] = tuple(converted["values"])
    if "range" in converted:
        converted["range"] = tuple(converted["range"])
    if "pattern" in converted:
        converted["pattern"] = re.compile(converted["pattern"])
    return Attribute(name=name, **converted)


def _uses(said: Mapping[str, Any]) -> dict[str, Any]:
    return {**said, "attributes": {name: Use(**use) for name, use in said["attributes"].items()}}


def _span(name: str, said: Mapping[str, Any]) -> SpanGroup:
    return SpanGroup(id=name, **{**_uses(said), "marks": tuple(said["marks"])})


def _metric(name: str, said: Mapping[str, Any]) -> Metric:
    tuples = {
        "also_published": tuple(said.get("also_published", ())),
        "buckets": tuple(float(each) for each in said.get("buckets", ())),
    }
    return Metric(name=name, **{**_uses(said), **tuples})


def _registry(published: Mapping[str, Any], retired: Mapping[str, list[str]]) -> Registry:
    deprecated = {name: tuple(by) for name, by in {**published["deprecated"], **retired}.items()}
    return Registry(
        reserved=frozenset(published["reserved"]),
        attributes=frozenset(published["attribute"]),
        templates=tuple(published["template"]),
        metrics=frozenset(published["metric"]),
        events=frozenset(published["event"]),
        deprecated=deprecated,
    )
