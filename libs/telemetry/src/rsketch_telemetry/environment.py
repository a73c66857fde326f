"""
The process environment as telemetry sees it: every `OTEL_*` value checked once, before the SDK reads any.

The stock SDK answers a malformed value with a traceback and no telemetry at all. Here a malformed value is dropped, so
that its default holds, and described in one complaint. Values that guard secrecy are never replaced by something
weaker: they are left as they are, complained of, and hold their signal back (see `rsketch_telemetry.destinations`).

This module and `rsketch_telemetry.selectors` are the library's only readers of `os.environ`.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points

from rsketch_telemetry.instrumentor_settings import expression
from rsketch_telemetry.redaction import clean, scrub

__all__ = ["Complaint", "checked", "presented", "process_environ"]

_NUMBER = re.compile(r"\d{1,15}")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
_REFUSED = "\x7f"
"""A character that no header, endpoint or path may have, and that every locale can encode."""
_presenting = threading.RLock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """
    One malformed value.

    Attributes:
        variable: Its name.
        value: The value, masked where it may be a secret.
        reason: What the variable accepts.
        used: What is used instead.
    """

    variable: str
    value: str
    reason: str
    used: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} cannot be used: it accepts {self.reason}; using {self.used}"


def process_environ() -> dict[str, str]:
    """Return a copy of the process environment."""
    return dict(os.environ)  # noqa: TID251 - the one reader, for configure() without a mapping


@contextmanager
def presented(environ: Mapping[str, str]) -> Iterator[None]:
    """
    Show the SDK exactly the `OTEL_*` values of *environ* inside the block, then restore what was there.

    The SDK reads the process environment in many constructors and knows no other way to be told; nothing is left
    behind, as a child process would inherit it. Other threads see the values as well while the block lasts: configure
    before they start.
    """
    with _presenting:
        real = os.environ  # noqa: TID251 - the SDK reads nothing else
        before = {name: real[name] for name in real if name.startswith("OTEL_")}
        _replace(before, {name: value for name, value in environ.items() if name.startswith("OTEL_")})
        try:
            yield
        finally:
            _replace({name: value for name, value in real.items() if name.startswith("OTEL_")}, before)


def _replace(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    real = os.environ  # noqa: TID251 - the SDK reads nothing else
    for name in old.keys() - new.keys():
        del real[name]
    for name, value in new.items():
        if old.get(name) != value:
            real[name] = value


def checked(environ: Mapping[str, str]) -> tuple[dict[str, str], list[Complaint]]:
    """
    Return *environ* without empty and malformed `OTEL_*` values, and a complaint for each malformed one.

    A list, such as `OTEL_TRACES_EXPORTER=otlp,oltp`, keeps the parts that are known.
    """
    sane = {name: value for name, value in environ.items() if not name.startswith("OTEL_") or value.strip()}
    complaints: list[Complaint] = []
    _check_text(sane, complaints)
    # First the common ones: what they turn out to say holds where a signal's own is malformed.
    for name in sorted((name for name in sane if name in _RULES), key=lambda name: name in _COMMON):
        rule = _RULES[name]
        kept, fine = rule.check(sane[name].strip())
        if not fine:
            default = sane.get(_COMMON.get(name, ""), rule.default)
            used = rule.used or scrub(kept if kept is not None else default, 80)
            complaints.append(Complaint(variable=name, value=scrub(sane[name], 80), reason=rule.accepts, used=used))
        if kept is None:
            del sane[name]
        else:
            sane[name] = kept
    _check_sampler_argument(sane, complaints)
    _check_batch_sizes(sane, complaints)
    for name, value in _LOADED_BY_THE_API.items():
        # What this stands for is being set up; the API would set up another one while that happens.
        if sane.get(name) == value:
            del sane[name]
    return sane, complaints


def _check_text(sane: dict[str, str], complaints: list[Complaint]) -> None:
    """Replace what no exporter can encode: bytes that are not UTF-8, which Python keeps as lone surrogates."""
    for name in [name for name in sane if name.startswith("OTEL_")]:
        text = clean(sane[name], len(sane[name]))
        if text == sane[name]:
            continue
        if name.endswith(("HEADERS", "CERTIFICATE", "KEY", "ENDPOINT")):
            # What guards secrecy is never rewritten: it is refused, complained of and masked where it is read.
            sane[name] = _NO_TEXT.sub(_REFUSED, sane[name])
            continue
        sane[name] = text
        shown = scrub(text, 80)
        complaints.append(Complaint(variable=name, value=shown, reason="text in UTF-8", used=shown))


def _check_batch_sizes(sane: dict[str, str], complaints: list[Complaint]) -> None:
    """Keep a batch within its queue: the SDK's own processors raise otherwise, also over their defaults."""
    for prefix in ("OTEL_BSP", "OTEL_BLRP"):
        queue, batch = f"{prefix}_MAX_QUEUE_SIZE", f"{prefix}_MAX_EXPORT_BATCH_SIZE"
        size = sane.get(queue, _INTERVALS[queue])
        if int(sane.get(batch, _INTERVALS[batch])) <= int(size):
            continue
        if batch in sane:
            complaints.append(Complaint(variable=batch, value=sane[batch], reason=f"at most {queue}", used=size))
        sane[batch] = size


def _check_sampler_argument(sane: dict[str, str], complaints: list[Complaint]) -> None:
    """Check the one value whose meaning another variable decides."""
    argument = sane.get("OTEL_TRACES_SAMPLER_ARG")
    if argument is None or sane.get("OTEL_TRACES_SAMPLER", "") not in _RATIO_SAMPLERS:
        return
    try:
        fine = 0.0 <= float(argument) <= 1.0
    except ValueError:
        fine = False
    if not fine:
        name = "OTEL_TRACES_SAMPLER_ARG"
        value = scrub(argument, 80)
        complaints.append(Complaint(variable=name, value=value, reason="a ratio from 0 to 1", used="1.0"))
        sane[name] = "1.0"


Checked = tuple[str | None, bool]
"""What is kept of a value (None: nothing), and whether the value was fine as it stood."""


@dataclass(frozen=True, slots=True)
class _Rule:
    check: Callable[[str], Checked]
    accepts: str
    default: str
    used: str = ""
    """How a malformed value is used all the same, where it is kept as it stands."""


def _number(low: int, default: str) -> _Rule:
    def check(value: str) -> Checked:
        fine = bool(_NUMBER.fullmatch(value)) and int(value) >= low
        return (value if fine else None), fine

    return _Rule(check, f"a whole number from {low}", default)


def _one_of(*choices: str, default: str) -> _Rule:
    def check(value: str) -> Checked:
        fine = value.lower() in choices
        return (value.lower() if fine else None), fine

    return _Rule(check, " or ".join(choices), default)


def _seconds() -> _Rule:
    def check(value: str) -> Checked:
        try:
            fine = 0 < float(value) <= _LONGEST_TIMEOUT
        except ValueError:
            fine = False
        return (value if fine else None), fine

    return _Rule(check, f"a number of seconds up to {_LONGEST_TIMEOUT} (not milliseconds)", "10")


def _plugins(group: str, default: str, *, extra: tuple[str, ...] = (), many: bool = True) -> _Rule:
    """Names of installed entry points, of which a list keeps the known ones; the case of the names does not matter."""

    def find(name: str) -> str | None:
        spellings = (name, name.lower())
        return next((each for each in spellings if each in extra or entry_points(group=group, name=each)), None)

    def check(value: str) -> Checked:
        names = [name.strip() for name in value.split(",") if name.strip()] if many else [value]
        known = [found for found in map(find, names) if found]
        return (",".join(dict.fromkeys(known)) or None), len(known) == len(names)

    kind = "names" if many else "a name"
    also = f", or {' or '.join(extra)}" if extra else ""
    return _Rule(check, f"{kind} that an installed package publishes in {group}{also}", default)


def _pairs() -> _Rule:
    def check(value: str) -> Checked:
        parts = [part for part in value.split(",") if part.strip()]
        good = [part for part in parts if part.partition("=")[0].strip() and "=" in part]
        return (",".join(good) or None), good == parts

    return _Rule(check, "key=value pairs separated by commas", "no attributes")


def _expressions() -> _Rule:
    def check(value: str) -> Checked:
        return value, all(expression(part.strip()) is not None for part in value.split(","))

    accepts = "regular expressions separated by commas"
    return _Rule(check, accepts, "the health endpoints", used="one that is malformed as the text to be matched")


_LONGEST_TIMEOUT = 300
_RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
_LIMITS = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "no limit",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "no limit",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "no limit",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "128",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "128",
}
_INTERVALS = {
    "OTEL_BLRP_EXPORT_TIMEOUT": "30000",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "512",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "2048",
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",
    "OTEL_BSP_EXPORT_TIMEOUT": "30000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512",
    "OTEL_BSP_MAX_QUEUE_SIZE": "2048",
    "OTEL_BSP_SCHEDULE_DELAY": "5000",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
    "OTEL_METRIC_EXPORT_TIMEOUT": "30000",
}
_LOADED_BY_THE_API = {
    f"OTEL_PYTHON_{kind.upper()}_PROVIDER": f"sdk_{kind}_provider" for kind in ("tracer", "meter", "logger")
}
_OTLP_NAMES = ("otlp", "otlp_proto_grpc", "otlp_proto_http", "none")
_SIGNALS = ("", "TRACES_", "METRICS_", "LOGS_")
_COMMON = {
    **{
        f"OTEL_EXPORTER_OTLP_{signal}{name}": f"OTEL_EXPORTER_OTLP_{name}"
        for signal in _SIGNALS
        for name in ("TIMEOUT", "PROTOCOL", "COMPRESSION", "INSECURE")
        if signal
    },
    **{
        f"OTEL_{kind}_ATTRIBUTE_{limit}": f"OTEL_ATTRIBUTE_{limit}"
        for kind in ("SPAN", "EVENT", "LINK", "LOGRECORD")
        for limit in ("COUNT_LIMIT", "VALUE_LENGTH_LIMIT")
    },
}
"""The variable that holds where a more special one says nothing, by the special one."""
_RULES: dict[str, _Rule] = {
    **{name: _number(0, default) for name, default in _LIMITS.items()},
    **{name: _number(1, default) for name, default in _INTERVALS.items()},
    **{f"OTEL_EXPORTER_OTLP_{signal}TIMEOUT": _seconds() for signal in _SIGNALS},
    **{f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL": _one_of("grpc", "http/protobuf", default="grpc") for signal in _SIGNALS},
    **{
        f"OTEL_EXPORTER_OTLP_{signal}COMPRESSION": _one_of("gzip", "deflate", "none", default="none")
        for signal in _SIGNALS
    },
    **{f"OTEL_EXPORTER_OTLP_{signal}INSECURE": _one_of("true", "false", default="false") for signal in _SIGNALS},
    **{
        f"OTEL_{signal.upper()}_EXPORTER": _plugins(f"opentelemetry_{signal}_exporter", "otlp", extra=_OTLP_NAMES)
        for signal in ("traces", "metrics", "logs")
    },
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _plugins("opentelemetry_resource_detector", "otel", extra=("*",)),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _one_of(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram", default="explicit_bucket_histogram"
    ),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _one_of(
        "cumulative", "delta", "lowmemory", default="cumulative"
    ),
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of("trace_based", "always_on", "always_off", default="trace_based"),
    "OTEL_PYTHON_EXCLUDED_URLS": _expressions(),
    "OTEL_PYTHON_SANIC_EXCLUDED_URLS": _expressions(),
    "OTEL_PROPAGATORS": _plugins("opentelemetry_propagator", "tracecontext,baggage", extra=("none",)),
    "OTEL_PYTHON_CONFIGURATOR": _plugins("opentelemetry_configurator", "rsketch", many=False),
    "OTEL_PYTHON_DISTRO": _plugins("opentelemetry_distro", "rsketch", many=False),
    "OTEL_PYTHON_ID_GENERATOR": _plugins("opentelemetry_id_generator", "random", many=False),
    **{
        f"OTEL_PYTHON_{kind.upper()}_CONFIGURATOR": _plugins(f"_opentelemetry_{kind}_configurator", "none", many=False)
        for kind in ("tracer", "meter", "logger")
    },
    **{
        f"OTEL_PYTHON_{kind.upper()}_PROVIDER": _plugins(f"opentelemetry_{kind}_provider", "the SDK's", many=False)
        for kind in ("tracer", "meter", "logger")
    },
    "OTEL_RESOURCE_ATTRIBUTES": _pairs(),
    "OTEL_SDK_DISABLED": _one_of("true", "false", default="false"),
    "OTEL_TRACES_SAMPLER": _plugins(
        "opentelemetry_traces_sampler",
        "parentbased_always_on",
        extra=(
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ),
        many=False,
    ),
}
