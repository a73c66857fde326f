"""
The process environment as telemetry sees it: every `OTEL_*` value checked once, before the SDK reads any.

So are the values of our own settings, `RSKETCH_TELEMETRY_*`, of which one that does not exist is named as well.

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
from typing import Final

from rsketch_telemetry import baggage, sampling
from rsketch_telemetry.instrumentor_settings import expression
from rsketch_telemetry.redaction import clean, scrub

__all__ = ["READ", "Complaint", "ConfigurationError", "checked", "presented", "process_environ"]

_NUMBER = re.compile(r"\d{1,15}")
_LONGEST_MS = 10**12
"""31 years. The SDK's own processors end with a traceback over a wait that the platform cannot measure."""
_TEXT = "text in UTF-8"
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
_REFUSED = "\x7f"
"""A character that no header, endpoint or path may have, and that every locale can encode."""
_presenting = threading.RLock()

_MOST_COMPLAINTS = 5
"""Of one list; a long one that is all wrong must not flood the log."""
_OURS = "RSKETCH_TELEMETRY_"
READ: Final = ("OTEL_", _OURS)
"""What the names of all settings begin with that telemetry reads."""


class ConfigurationError(Exception):
    """What a setting demands cannot be done with the others; the message says why, and what can."""


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
        used = self.used if self.used.isprintable() else repr(self.used)
        return f"{self.variable}={self.value!r} cannot be used: it accepts {self.reason}; using {used}"


class _Misspelt(Complaint):
    """A setting that does not exist, whose value nobody reads."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.variable} is no setting and does nothing; {self.reason}"


def process_environ() -> dict[str, str]:
    """Return a copy of the process environment."""
    return dict(os.environ)  # noqa: TID251 - the one reader, for configure() without a mapping


@contextmanager
def presented(environ: Mapping[str, str], prefix: str | tuple[str, ...] = "OTEL_") -> Iterator[None]:
    """
    Show the SDK exactly the `OTEL_*` values of *environ* inside the block, then restore what was there.

    With another *prefix*, or several, it is the values whose names begin so; with an empty one all of them.

    The SDK reads the process environment in many constructors and knows no other way to be told; nothing is left
    behind, as a child process would inherit it. Other threads see the values as well while the block lasts: configure
    before they start.
    """
    with _presenting:
        real = os.environ  # noqa: TID251 - the SDK reads nothing else
        before = {name: value for name, value in real.items() if name.startswith(prefix)}
        _replace(before, {name: value for name, value in environ.items() if name.startswith(prefix)})
        try:
            yield
        finally:
            _replace({name: value for name, value in real.items() if name.startswith(prefix)}, before)


def _replace(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    real = os.environ  # noqa: TID251 - the SDK reads nothing else
    for name in old.keys() - new.keys():
        del real[name]
    for name, value in new.items():
        if old.get(name) != value:
            real[name] = value


def checked(environ: Mapping[str, str]) -> tuple[dict[str, str], list[Complaint]]:
    """
    Return *environ* without empty and malformed values of telemetry's, and a complaint for each malformed one.

    A list, such as `OTEL_TRACES_EXPORTER=otlp,oltp`, keeps the parts that are known.
    """
    sane = {name: value for name, value in environ.items() if not name.startswith(READ) or value.strip()}
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
    _check_sampling_rules(sane, complaints)
    complaints += [_misspelt(name) for name in sane if name.startswith(_OURS) and name not in _SETTINGS]
    for name, value in _LOADED_BY_THE_API.items():
        # What this stands for is being set up; the API would set up another one while that happens.
        if sane.get(name) == value:
            del sane[name]
    # Of a value that is malformed in itself as well, that is enough to say.
    malformed = {each.variable for each in complaints if each.reason != _TEXT}
    return sane, [each for each in complaints if each.reason != _TEXT or each.variable not in malformed]


def _check_text(sane: dict[str, str], complaints: list[Complaint]) -> None:
    """Replace what no exporter can encode: bytes that are not UTF-8, which Python keeps as lone surrogates."""
    for name in [name for name in sane if name.startswith(READ)]:
        # A question mark, which every locale can encode: the value is presented as an environment variable again.
        text = _NO_TEXT.sub("?", sane[name])
        if text == sane[name]:
            continue
        if name.endswith(("HEADERS", "CERTIFICATE", "KEY", "ENDPOINT")):
            # What guards secrecy is never rewritten: it is refused, complained of and masked where it is read.
            sane[name] = _NO_TEXT.sub(_REFUSED, sane[name])
            continue
        sane[name] = text
        shown = scrub(text, 80)
        complaints.append(Complaint(variable=name, value=shown, reason=_TEXT, used=shown))


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


def _check_sampling_rules(sane: dict[str, str], complaints: list[Complaint]) -> None:
    """Keep the rules that are well-formed, and complain of each other one by itself, or of the first few of many."""
    written = sampling.split(sane.get(sampling.VARIABLE, ""))
    good = [rule.text for rule in sampling.rules(",".join(written))]
    kept = set(good)
    bad = list(dict.fromkeys(each for each in written if each not in kept))
    used = "the other rules" if good else "no rule"
    for each in bad[:_MOST_COMPLAINTS]:
        reason, value = sampling.ACCEPTS, scrub(each, 80)
        complaints.append(Complaint(variable=sampling.VARIABLE, value=value, reason=reason, used=used))
    if more := bad[_MOST_COMPLAINTS:]:
        reason, value = sampling.ACCEPTS, f"{len(more)} more"
        complaints.append(Complaint(variable=sampling.VARIABLE, value=value, reason=reason, used=used))
    if good != written:
        sane[sampling.VARIABLE] = ",".join(good)
    if not good:
        sane.pop(sampling.VARIABLE, None)


def _misspelt(name: str) -> Complaint:
    import difflib

    # Without what all have in common, by which any name is close to all of them.
    known = {each.removeprefix(_OURS): each for each in sorted(_SETTINGS - _INTERNAL)}
    close = [known[each] for each in difflib.get_close_matches(name.removeprefix(_OURS), known, n=2)]
    reason = f"is it {' or '.join(close)}?" if close else f"there are {', '.join(known.values())}"
    return _Misspelt(variable=clean(name, 80), value="", reason=reason, used="nothing")


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


def _number(low: int, default: str, high: int | None = None) -> _Rule:
    def check(value: str) -> Checked:
        fine = bool(_NUMBER.fullmatch(value)) and int(value) >= low and (high is None or int(value) <= high)
        return (value if fine else None), fine

    return _Rule(check, f"a whole number from {low}" + (f" to {high}" if high else ""), default)


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


def _expressions(default: str = "the health endpoints") -> _Rule:
    def check(value: str) -> Checked:
        return value, all(expression(part.strip()) is not None for part in value.split(","))

    accepts = "regular expressions separated by commas"
    return _Rule(check, accepts, default, used="one that is malformed as the text to be matched")


def _words(accepts: str, known: Callable[[str], bool], default: str) -> _Rule:
    """Words separated by commas, of which a list keeps the known ones."""

    def check(value: str) -> Checked:
        words = [word.strip() for word in value.split(",") if word.strip()]
        good = [word for word in words if known(word)]
        if good == words:
            return value, True
        return (",".join(good) or None), False

    return _Rule(check, accepts, default)


def _choice(*choices: str, others: tuple[str, ...] = ()) -> _Rule:
    """Of some words none, one or more; *others* mean something to others alone."""
    known = {*choices, *others}
    return _words(f"{' and '.join(choices)}, separated by commas", lambda word: word.lower() in known, "none of them")


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
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADERS = _words("names of headers separated by commas", lambda word: bool(_HEADER.fullmatch(word)), "no headers")
_METADATA = _words(
    "keys of metadata separated by commas",
    lambda word: bool(re.fullmatch(r"[A-Za-z0-9_.-]+", word)),
    "no metadata",
)
_CAPTURE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS"
_OTHER_STABILITY = tuple(
    f"{name}{duplicate}"
    for name in ("http", "rpc", "database", "messaging", "code", "k8s", "gen_ai_latest_experimental")
    for duplicate in ("", "/dup")
)
_OUR_RULES: dict[str, _Rule] = {
    baggage.VARIABLE: _words(baggage.ACCEPTS, baggage.acceptable, "no keys"),
    f"{_OURS}OPT_IN_METRICS": _choice("http.server.active_requests"),
    f"{_OURS}PROCESS_METRICS": _one_of("true", "false", default="true"),
    f"{_OURS}RECORDER": _one_of("auto", "lean", "sdk", default="auto"),
    f"{_OURS}RESPONSE_HEADERS": _choice("traceresponse", "server-timing"),
    f"{_OURS}RPC_REQUEST_METADATA": _METADATA,
    f"{_OURS}RPC_RESPONSE_METADATA": _METADATA,
    f"{_OURS}RPC_RESPONSE_TRAILERS": _METADATA,
}
# Of these the host puts the first there, and reads the second.
_INTERNAL = frozenset({f"{_OURS}WORKER"})
_SETTINGS = frozenset({*_OUR_RULES, *_INTERNAL, f"{_OURS}FLUSH_SECONDS", f"{_OURS}QUERY_KEYS", sampling.VARIABLE})
"""All settings that begin so: any other is a mistake."""
_RULES: dict[str, _Rule] = {
    **_OUR_RULES,
    **{name: _number(0, default) for name, default in _LIMITS.items()},
    **{
        name: _number(1, default, None if name.endswith("SIZE") else _LONGEST_MS)
        for name, default in _INTERVALS.items()
    },
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
    f"{_CAPTURE}_SERVER_REQUEST": _HEADERS,
    f"{_CAPTURE}_SERVER_RESPONSE": _HEADERS,
    f"{_CAPTURE}_SANITIZE_FIELDS": _expressions("no names but those of credentials"),
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
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": _choice("logs", "logs/dup"),
    "OTEL_SEMCONV_STABILITY_OPT_IN": _choice("http/dup", "rpc/dup", others=_OTHER_STABILITY),
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
