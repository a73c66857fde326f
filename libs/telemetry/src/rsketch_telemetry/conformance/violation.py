"""What the checker says: rules by their ids, and the violations of them."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["RULES", "Place", "Rule", "Violation"]

_SPEC = "https://opentelemetry.io/docs/specs"
_API = f"{_SPEC}/otel/trace/api/#span"
_ATTRIBUTES = f"{_SPEC}/otel/common/#attribute"
_ERRORS = f"{_SPEC}/semconv/general/recording-errors/"
_CARDINALITY = f"{_SPEC}/otel/metrics/sdk/#cardinality-limits"
_EXCEPTIONS = f"{_SPEC}/semconv/exceptions/exceptions-logs/"
_EXEMPLARS = f"{_SPEC}/otel/metrics/data-model/#exemplars"
_LEVELS = f"{_SPEC}/semconv/general/attribute-requirement-level/"
_METRICS = f"{_SPEC}/semconv/general/metrics/"
_NAMING = f"{_SPEC}/semconv/general/naming/"
_REGISTRY = f"{_SPEC}/semconv/registry/attributes/"


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One thing that telemetry must be.

    Attributes:
        summary: What it asks for.
        link: Where that is written, unless what is looked at has a section of its own.
        advice: Whether a violation is only worth knowing.
    """

    summary: str
    link: str
    advice: bool = False


RULES: Final = MappingProxyType(
    {
        "attribute-type": Rule("an attribute has the type that is published", _REGISTRY),
        "attribute-value": Rule("an attribute has one of its values, or their form", _REGISTRY),
        "conditional-attribute": Rule("an attribute is there when, and only when, its condition holds", _LEVELS),
        "deprecated-name": Rule("no name is one that has been replaced", _NAMING),
        "duplicate-name": Rule("an old name is beside the new one only for a while", _NAMING, advice=True),
        "error-type": Rule("error.type is there on a failure, and only there; metrics say the same", _ERRORS),
        "exception-duplicate": Rule("an exception is one log record", _EXCEPTIONS),
        "exception-span-event": Rule("an exception is a log record, no event of a span", _EXCEPTIONS, advice=True),
        "exemplar": Rule("an exemplar points to a span that is there", _EXEMPLARS),
        "exemplar-missing": Rule("a duration leads to a trace that took so long", _EXEMPLARS, advice=True),
        "limits": Rule("an item and its values are bounded", f"{_SPEC}/otel/common/#attribute-limits"),
        "log-attribute": Rule("an access line says no more of a call than the metric", _NAMING),
        "log-context": Rule("a record of a call is in the context of the call's span", _EXCEPTIONS),
        "log-severity": Rule("an exception has the severity that is published", _EXCEPTIONS),
        "metric-attribute": Rule("a metric has only its own attributes: others make series without end", _METRICS),
        "metric-attribute-values": Rule("an attribute of a metric has few values", _CARDINALITY, advice=True),
        "metric-buckets": Rule("a histogram has the buckets that are published", _METRICS),
        "metric-cardinality": Rule("the attributes of a metric have few values", _CARDINALITY),
        "metric-instrument": Rule("a metric has the instrument that is published", _METRICS),
        "metric-unit": Rule("a metric has the unit that is published", f"{_METRICS}#units"),
        "metric-value": Rule("a point agrees with itself", f"{_SPEC}/otel/metrics/data-model/"),
        "redaction": Rule("no credential is in a query or a header", f"{_SPEC}/semconv/registry/attributes/url/"),
        "required-attribute": Rule("what is required is there", _LEVELS),
        "resource-attribute": Rule("the resource says what it must", f"{_SPEC}/semconv/resource/"),
        "schema-url": Rule("the scope names the conventions that it keeps to", f"{_SPEC}/otel/schemas/"),
        "service-name": Rule("a service says its name", f"{_SPEC}/semconv/resource/#service", advice=True),
        "span-metric-agree": Rule("span and metric say the same of a call", _ERRORS),
        "span-metric-duration": Rule("a call's duration is the same on span and metric", _METRICS),
        "span-context": Rule("a span has the ids of its trace and of itself", f"{_API}context"),
        "span-name": Rule("a span has the name that its kind gives it, and never the path", _API),
        "span-name-values": Rule("the names of spans are few: values belong into attributes", _API),
        "span-parent": Rule("the parent of a span arrives too", f"{_SPEC}/otel/overview/#traces", advice=True),
        "span-status": Rule("a span's status follows from how the call ended", _ERRORS),
        "span-time": Rule("a span ends after it starts", _API),
        "unknown-item": Rule("rsketch-telemetry emits nothing beside its contract", _NAMING),
        "unknown-name": Rule("a name in a namespace of the conventions is a published one", _NAMING),
    }
)  # fmt: skip
"""Every rule by its id. An id is never given a new meaning: people silence and search for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """
    One thing that is wrong.

    Attributes:
        rule: Its id, a key of `RULES`.
        where: The kind and name of the item. It holds no value but a span's name.
        message: What is wrong with it, and what would be right; without what a caller sent.
        link: The section of the specification.
        scope: The instrumentation scope; of a resource the distribution's name.
        advice: Whether it is only worth knowing.
    """

    rule: str
    where: str
    message: str
    link: str
    scope: str
    advice: bool = False

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.message} ({self.link})"


@dataclass(frozen=True, slots=True)
class Place:
    """The item that is being looked at."""

    where: str
    scope: str
    link: str | None = None

    def violates(self, rule: str, message: str, *, link: str | None = None) -> Violation:
        """Return the violation of a rule by this item."""
        return Violation(
            rule=rule,
            where=self.where,
            message=message,
            link=link or self.link or RULES[rule].link,
            scope=shown(self.scope),
            advice=RULES[rule].advice,
        )


def shown(text: str, limit: int = 80) -> str:
    """Return what others wrote as part of one line: cut, with control characters escaped."""
    cut = text[:limit]
    return cut if cut.isprintable() else cut.encode("unicode_escape", "replace").decode("ascii")
