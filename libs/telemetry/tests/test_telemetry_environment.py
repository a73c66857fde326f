import os

import pytest
from rsketch_telemetry.destinations import destination
from rsketch_telemetry.environment import checked, presented
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.signal import Signal

GOOD = {
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "otlp,console",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
    "OTEL_RESOURCE_ATTRIBUTES": "a=b,c=d=e",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0",
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.25",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": "X-Tenant, x-region",
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup,rpc/dup,database",
    "RSKETCH_TELEMETRY_BAGGAGE_KEYS": "tenant,plan",
    "RSKETCH_TELEMETRY_FLUSH_SECONDS": "3s",
    "RSKETCH_TELEMETRY_OPT_IN_METRICS": "http.server.active_requests",
    "RSKETCH_TELEMETRY_PROCESS_METRICS": "false",
    "RSKETCH_TELEMETRY_QUERY_KEYS": "page,size",
    "RSKETCH_TELEMETRY_RESPONSE_HEADERS": "traceresponse,server-timing",
    "RSKETCH_TELEMETRY_RPC_REQUEST_METADATA": "x-tenant",
    "RSKETCH_TELEMETRY_SAMPLING_RULES": "http:GET /users/<id>=0.5,grpc:shop.v1.Till/*=0",
    "RSKETCH_TELEMETRY_WORKER": "1",
}

# Each malformed value, and what is used in its place (None: the variable's default).
BAD = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("many", None),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("-1", None),
    "OTEL_BLRP_MAX_QUEUE_SIZE": ("1e3", None),
    "OTEL_BLRP_SCHEDULE_DELAY": ("1s", None),
    "OTEL_BSP_EXPORT_TIMEOUT": ("never", None),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("0", None),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("abc", None),
    "OTEL_BSP_SCHEDULE_DELAY": ("five", None),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("otel,nosuch", "otel"),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("brotli", None),
    "OTEL_EXPORTER_OTLP_INSECURE": ("maybe", None),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": ("sum", None),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("sometimes", None),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/json", None),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("10000", None),
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": ("ten", None),
    "OTEL_LOGS_EXPORTER": ("nosuch", None),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("some", None),
    "OTEL_METRICS_EXPORTER": ("otlp,oltp", "otlp"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("1m", None),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("999999999999999", None),
    "OTEL_PROPAGATORS": ("tracecontext,nosuch", "tracecontext"),
    "OTEL_PYTHON_CONFIGURATOR": ("nosuch", None),
    "OTEL_PYTHON_DISTRO": ("nosuch", None),
    "OTEL_PYTHON_ID_GENERATOR": ("dice", None),
    "OTEL_PYTHON_METER_PROVIDER": ("nosuch", None),
    "OTEL_PYTHON_TRACER_CONFIGURATOR": ("nosuch", None),
    "OTEL_RESOURCE_ATTRIBUTES": ("a=b,broken", "a=b"),
    "OTEL_SDK_DISABLED": ("yes please", None),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("12.5", None),
    "OTEL_PYTHON_EXCLUDED_URLS": ("/a,(", "/a,("),
    "OTEL_PYTHON_SANIC_EXCLUDED_URLS": ("a{99999999999}", "a{99999999999}"),
    "OTEL_TRACES_EXPORTER": ("jaeger", None),
    "OTEL_TRACES_SAMPLER": ("mostly", None),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": ("x-.*,(", "x-.*,("),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ("x-tenant,x tenant", "x-tenant"),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ("a:b", None),
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": ("log", None),
    "OTEL_SEMCONV_STABILITY_OPT_IN": ("http/dup,htp", "http/dup"),
    "RSKETCH_TELEMETRY_BAGGAGE_KEYS": ("tenant,http.route,password", "tenant"),
    "RSKETCH_TELEMETRY_OPT_IN_METRICS": ("http.server.request.body.size", None),
    "RSKETCH_TELEMETRY_PROCESS_METRICS": ("off", None),
    "RSKETCH_TELEMETRY_RESPONSE_HEADERS": ("traceresponse,traceparent", "traceresponse"),
    "RSKETCH_TELEMETRY_RPC_REQUEST_METADATA": ("x tenant", None),
    "RSKETCH_TELEMETRY_RPC_RESPONSE_METADATA": ("a,b:c", "a"),
    "RSKETCH_TELEMETRY_RPC_RESPONSE_TRAILERS": ("a=b", None),
    "RSKETCH_TELEMETRY_SAMPLING_RULES": ("http:/a=1,http:/b", "http:/a=1"),
}


def test_well_formed_values_pass_unchanged() -> None:
    """What the specification allows is neither changed nor complained of."""
    assert checked(GOOD) == (GOOD, [])


@pytest.mark.parametrize("variable", BAD)
def test_a_malformed_value_is_replaced_and_named(variable: str) -> None:
    """Each malformed value gives one complaint that names the variable, and its default or its good part holds."""
    value, kept = BAD[variable]

    sane, complaints = checked({variable: value})

    assert sane == ({variable: kept} if kept else {})
    assert [complaint.variable for complaint in complaints] == [variable]
    assert str(complaints[0]).startswith(f"{variable}=")
    assert "\n" not in str(complaints[0])


@pytest.mark.parametrize(
    ("variable", "value", "kept"),
    [
        ("OTEL_BSP_SCHEDULE_DELAY", " 200 ", "200"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC", "grpc"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", " Always_On", "always_on"),
        ("OTEL_PROPAGATORS", "tracecontext, baggage,", "tracecontext,baggage"),
        ("OTEL_TRACES_EXPORTER", "OTLP,otlp", "otlp"),
        ("OTEL_TRACES_SAMPLER", "ALWAYS_ON", "always_on"),
    ],
)
def test_case_and_blanks_do_not_matter(variable: str, value: str, kept: str) -> None:
    """A name in capitals or with blanks around it is fine, and is passed on as the SDK knows it."""
    assert checked({variable: value}) == ({variable: kept}, [])


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    """What no exporter could encode, so that nothing at all would arrive, costs the bad bytes and one line."""
    sane, complaints = checked({"OTEL_SERVICE_NAME": "shop\udcff"})

    assert sane == {"OTEL_SERVICE_NAME": "shop?"}
    assert [complaint.variable for complaint in complaints] == ["OTEL_SERVICE_NAME"]


@pytest.mark.parametrize(
    ("own", "common", "good", "default"),
    [
        ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE", "true", "false"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "none"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT", "2.5", "10"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT", "7", "128"),
        ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "9", "no limit"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT", "7", "128"),
    ],
)
def test_a_malformed_special_value_leaves_the_common_one(own: str, common: str, good: str, default: str) -> None:
    """The line names what really holds: the common variable's value where that is good, else the default."""
    sane, complaints = checked({own: "perhaps", common: good})
    nothing, both = checked({own: "perhaps", common: "maybe"})

    assert (sane, [each.used for each in complaints]) == ({common: good}, [good])
    assert (nothing, [each.used for each in both]) == ({}, [default, default])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RSKETCH_TELEMETRY_SAMPLNG_RULES", "is it RSKETCH_TELEMETRY_SAMPLING_RULES?"),
        ("RSKETCH_TELEMETRY_BAGGAGE_KEY", "is it RSKETCH_TELEMETRY_BAGGAGE_KEYS?"),
        ("RSKETCH_TELEMETRY_PROCESS_METRIC", "is it RSKETCH_TELEMETRY_PROCESS_METRICS?"),
        ("RSKETCH_TELEMETRY_ZZZ", "there are RSKETCH_TELEMETRY_BAGGAGE_KEYS, RSKETCH_TELEMETRY_FLUSH_SECONDS,"),
    ],
)
def test_a_misspelt_setting_of_ours_is_named(name: str, said: str) -> None:
    """One line says that it does nothing, and which one is meant, without its value."""
    _, complaints = checked({name: "hunter22"})

    (line,) = map(str, complaints)
    assert line.startswith(f"{name} is no setting and does nothing; {said}")
    assert "hunter22" not in line


def test_each_malformed_sampling_rule_is_a_complaint() -> None:
    """The good ones hold, and each bad one is named by itself, a secret in it masked."""
    name = "RSKETCH_TELEMETRY_SAMPLING_RULES"
    sane, complaints = checked({name: "http:/a=1,http:/b?token=hunter22,grpc:c=1"})
    nothing, both = checked({name: "a,b"})

    assert sane == {name: "http:/a=1"}
    assert [complaint.used for complaint in complaints] == ["the other rules"] * 2
    assert "hunter22" not in "".join(map(str, complaints))
    assert (nothing, [complaint.used for complaint in both]) == ({}, ["no rule"] * 2)


def test_many_malformed_sampling_rules_are_a_few_complaints() -> None:
    """A long list that is all wrong does not flood the log: the first are named, the others counted."""
    name = "RSKETCH_TELEMETRY_SAMPLING_RULES"
    sane, complaints = checked({name: ",".join(f"http:/{number}=two" for number in range(1000))})

    assert sane == {}
    assert [complaint.value for complaint in complaints] == [*(f"http:/{n}=two" for n in range(5)), "995 more"]


def test_a_complaint_is_one_line() -> None:
    """A value with line breaks in it is escaped, and one that is no text and malformed besides has one complaint."""
    _, kept = checked({"OTEL_RESOURCE_ATTRIBUTES": "team=a\nWARNING: all is lost,broken"})
    _, replaced = checked({"OTEL_SERVICE_NAME": "shop\n\udcff"})
    _, number = checked({"OTEL_SPAN_LINK_COUNT_LIMIT": "1\n\udcff"})

    for complaints in (kept, replaced, number):
        (line,) = map(str, complaints)
        assert line.isprintable()
    assert "a whole number" in str(number[0])


@pytest.mark.parametrize("surrogate", [0xDCFF, 0xD800])
def test_bytes_in_a_credential_are_not_rewritten(surrogate: int) -> None:
    """A header that is no text in UTF-8 is refused, with one complaint, and not sent with another value."""
    name = "OTEL_EXPORTER_OTLP_HEADERS"
    sane, complaints = checked({name: f"authorization=Bearer%20hunter22{chr(surrogate)}"})
    with presented(sane):
        at = destination(sane, Signal.TRACES, complaints)

    assert at.held == f"{name} is malformed"
    assert [(complaint.variable, complaint.value) for complaint in complaints] == [(name, "****")]


def test_bytes_in_an_endpoint_are_not_rewritten() -> None:
    """Nor is what is no text in UTF-8 made into the name of another host."""
    sane, complaints = checked({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://shop\udcff:4317"})

    assert destination(sane, Signal.TRACES, complaints).endpoint == "http://localhost:4317"
    assert len(complaints) == 1


def test_a_malformed_expression_is_named_without_its_secret() -> None:
    """It is matched as text, as the line says, and a credential in it is masked."""
    sane, complaints = checked({"OTEL_PYTHON_EXCLUDED_URLS": "token=hunter22,["})

    assert sane == {"OTEL_PYTHON_EXCLUDED_URLS": "token=hunter22,["}
    assert "as the text to be matched" in str(complaints[0])
    assert "hunter22" not in str(complaints[0])


def test_an_expression_that_python_warns_of_is_one() -> None:
    """What may come to mean something else is taken as it is, also where warnings are errors, as in tests."""
    given = {"OTEL_PYTHON_EXCLUDED_URLS": "/[[a]"}

    assert checked(given) == (given, [])
    assert InstrumentorSettings.from_env(given).excludes_url("/[")


def test_a_batch_larger_than_its_queue_is_cut() -> None:
    """The SDK's own processors would raise, even where the queue alone was given and is below the batch's default."""
    small, silent = checked({"OTEL_BSP_MAX_QUEUE_SIZE": "100"})
    both, complaints = checked({"OTEL_BLRP_MAX_QUEUE_SIZE": "100", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "200"})

    assert (small["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], silent) == ("100", [])
    assert both["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"] == "100"
    assert [complaint.variable for complaint in complaints] == ["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"]


@pytest.mark.parametrize("kind", ["tracer", "meter", "logger"])
def test_the_api_loads_no_providers_of_its_own(kind: str) -> None:
    """The SDK's provider, asked for by name, is what this sets up: a second one would take its place."""
    assert checked({f"OTEL_PYTHON_{kind.upper()}_PROVIDER": f"sdk_{kind}_provider"}) == ({}, [])


def test_a_bad_ratio_samples_everything() -> None:
    """A ratio out of range does not switch sampling to nothing."""
    sane, complaints = checked({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"})

    assert sane["OTEL_TRACES_SAMPLER_ARG"] == "1.0"
    assert [complaint.variable for complaint in complaints] == ["OTEL_TRACES_SAMPLER_ARG"]


def test_an_empty_value_counts_as_unset() -> None:
    """Empty is no complaint, as the specification says."""
    assert checked({"OTEL_METRIC_EXPORT_TIMEOUT": "", "OTEL_PROPAGATORS": " "}) == ({}, [])


def test_a_complaint_holds_no_secret() -> None:
    """A credential in a malformed value is masked."""
    _, complaints = checked({"OTEL_RESOURCE_ATTRIBUTES": "broken,api_key=hunter22"})

    assert "hunter22" not in str(complaints[0])


def test_the_process_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the block exactly the given OTEL_ values stand there, afterwards exactly the old ones."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "mostly")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    before = dict(os.environ)

    with presented({"OTEL_SERVICE_NAME": "a", "PATH": "elsewhere"}):
        inside = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
        assert os.environ["PATH"] == before["PATH"]

    assert inside == {"OTEL_SERVICE_NAME": "a"}
    assert dict(os.environ) == before


def test_instrumentor_settings() -> None:
    """Lists replace the defaults, and a pattern that is no regular expression matches as text."""
    settings = InstrumentorSettings.from_env(
        {"OTEL_PYTHON_SANIC_EXCLUDED_URLS": "/private,[", "RSKETCH_TELEMETRY_QUERY_KEYS": "page, size"}
    )

    assert settings.excludes_url("/private/x")
    assert settings.excludes_url("/a[b")
    assert not settings.excludes_url("/health")
    assert settings.allowed_query_keys == {"page", "size"}


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/api/health", "/api/v1/health"])
def test_health_endpoints_are_excluded_by_default(path: str) -> None:
    """Probes come every few seconds and say nothing; what merely begins like one is recorded."""
    assert InstrumentorSettings().excludes_url(path)
    assert not InstrumentorSettings().excludes_url(f"{path}y-food")
