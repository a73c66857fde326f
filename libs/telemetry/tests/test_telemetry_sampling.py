import time
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import Attributes
from programs import ANY_PORT, own_points, run
from rsketch_telemetry.facts import HttpOutcome, RpcCall, http_request
from rsketch_telemetry.otlp.receiver import receive
from rsketch_telemetry.otlp.store import TelemetryStore
from rsketch_telemetry.rule_sampler import by_rules
from rsketch_telemetry.sampling import Rule, rules, split
from rsketch_telemetry.sdk_recorder import SdkRecorder


def _http(path: str, method: str = "GET") -> dict[str, str]:
    return {"http.request.method": method, "url.path": path}


def _rpc(method: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method}


@pytest.mark.parametrize(
    ("text", "attributes", "matches"),
    [
        ("http:/health=0", _http("/health"), True),
        ("http:/health=0", _http("/health/"), True),
        ("http:/health=0", _http("/healthy"), False),
        ("http:/health=0", _http("/api/health"), False),
        ("http:/=1", _http("/"), True),
        ("http:/=1", _http("/x"), False),
        ("http:*=1", _http("/any/thing"), True),
        ("http:GET /users/<id>=0.5", _http("/users/7"), True),
        ("http:get /users/<id:int>=0.5", _http("/users/7"), True),
        ("http:GET /users/<id>=0.5", _http("/users/7", "POST"), False),
        ("http:/users/<id>=0.5", _http("/users/7", "POST"), True),
        ("http:/users/<id>=0.5", _http("/users/7/orders"), False),
        ("http:/users/<id>=0.5", _http("/users/"), False),
        ("http:/users/<id>/orders=0.5", _http("/users/7/orders"), True),
        ("http:/files/<name:path>=0", _http("/files/a/b.txt"), True),
        ("http:/codes/<code:[a-z]{1,3}>=0", _http("/codes/abc"), True),
        ("http:/static/*=0", _http("/static/a/b"), True),
        ("http:/static/*=0", _http("/static"), False),
        ("http:/a.b=1", _http("/axb"), False),
        ("http:/a=b=1", _http("/a=b"), True),
        ("http:/health=0", _rpc("shop.v1.Till/Pay"), False),
        ("grpc:shop.v1.Till/Pay=0.1", _rpc("shop.v1.Till/Pay"), True),
        ("grpc:/shop.v1.Till/Pay=0.1", _rpc("shop.v1.Till/Pay"), True),
        ("grpc:shop.v1.Till/Pay=0.1", _rpc("shop.v1.Till/PayBack"), False),
        ("grpc:shop.v1.Till/Pay=0.1", _rpc("shopxv1.Till/Pay"), False),
        ("grpc:shop.v1.Till/*=0.1", _rpc("shop.v1.Till/Pay"), True),
        ("grpc:shop.v1.Till/*=0.1", _rpc("shop.v1.Tills/Pay"), False),
        ("grpc:shop.*=0.1", _rpc("shop.v1.Till/Pay"), True),
        ("grpc:*=0.1", _rpc("_OTHER"), True),
        ("grpc:*=0.1", _http("/shop.v1.Till/Pay"), False),
    ],
)
def test_what_a_rule_is_for(text: str, attributes: dict[str, str], matches: bool) -> None:
    """A template stands for whole paths or methods, a placeholder for one segment, a star for anything after it."""
    rule = Rule.parse(text)

    assert rule is not None
    assert rule.matches(attributes) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/health=0",
        "htp:/health=0",
        "http:health=0",
        "http:/health",
        "http:/health=",
        "http:/health=2",
        "http:/health=-0.1",
        "http:/health=nan",
        "http:/health=1.2.3",
        "http:/a/*/b=1",
        "http:/a/<b=1",
        "http:/a/<>=1",
        "http:GET=1",
        "grpc:Pay=1",
        "grpc:shop.v1.Till/=1",
        "grpc:GET shop.v1.Till/Pay=1",
        "grpc:shop.v1.Till/P*y=1",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    """A rule without its protocol, its template or a ratio from 0 to 1 is none."""
    assert Rule.parse(text) is None


def test_a_list_of_rules() -> None:
    """Commas separate rules, but not within a placeholder, and blanks do not matter."""
    text = " http:/a/<b:[a-z]{1,3}>=1 ,, grpc:shop.v1.Till/Pay = 0.25,nonsense"

    assert split(text) == ["http:/a/<b:[a-z]{1,3}>=1", "grpc:shop.v1.Till/Pay = 0.25", "nonsense"]
    assert [(rule.protocol, rule.ratio) for rule in rules(text)] == [("http", 1.0), ("grpc", 0.25)]


def test_a_long_list_is_read_at_once() -> None:
    """As long as a variable may be, whatever is in it: in a time that does not grow with its square."""
    started = time.perf_counter()
    for text in ("," * 100_000, "<" * 100_000, "http:/a=1," * 10_000, "a=" * 50_000):
        rules(text)

    assert time.perf_counter() - started < 2


def _sampled(
    sampler: Sampler, attributes: Attributes, parent: Context | None = None, kind: SpanKind = SpanKind.SERVER
) -> bool:
    result = sampler.should_sample(parent or Context(), 2**127, "name", kind, attributes)
    return result.decision is Decision.RECORD_AND_SAMPLE


def _parent(*, sampled: bool, remote: bool) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    context = SpanContext(1, 1, is_remote=remote, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def test_the_first_rule_that_matches_counts() -> None:
    """What no rule is for goes to the other sampler."""
    first_off = by_rules(rules("http:/a=0,http:*=1"), ALWAYS_OFF)

    assert not _sampled(first_off, _http("/a"))
    assert _sampled(first_off, _http("/b"))
    assert not _sampled(first_off, _rpc("shop.v1.Till/Pay"))
    assert _sampled(by_rules(rules("http:/a=0"), ALWAYS_ON), _rpc("shop.v1.Till/Pay"))


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_parent_decides(sampled: bool, remote: bool) -> None:
    """Neither a rule nor the other sampler cuts a trace that has begun, or begins one in its middle."""
    parent = _parent(sampled=sampled, remote=remote)

    for sampler in (by_rules(rules("http:/a=0"), ALWAYS_OFF), by_rules(rules("http:/a=1"), ALWAYS_ON)):
        assert _sampled(sampler, _http("/a"), parent) is sampled
        assert _sampled(sampler, {}, parent, SpanKind.INTERNAL) is sampled


@pytest.mark.parametrize("kind", [SpanKind.CLIENT, SpanKind.INTERNAL])
def test_rules_are_for_servers(kind: SpanKind) -> None:
    """A call that is made without a trace is for the other sampler, whatever its method."""
    assert _sampled(by_rules(rules("grpc:*=0"), ALWAYS_ON), _rpc("shop.v1.Till/Pay"), kind=kind)


def test_a_ratio_is_kept_to() -> None:
    """Of many traces about the share is kept that the rule says."""
    sampler = by_rules(rules("http:/a=0.25"), ALWAYS_ON)
    ids = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 4001)]
    results = [sampler.should_sample(Context(), each, "a", SpanKind.SERVER, _http("/a")) for each in ids]
    kept = [result.decision is Decision.RECORD_AND_SAMPLE for result in results]

    assert 0.22 < sum(kept) / len(ids) < 0.28


def test_what_the_instrumentors_record_is_sampled_by_rules() -> None:
    """Their spans start with what rules ask about; a request whose span is left out is measured all the same."""
    reader = InMemoryMetricReader()
    meters, loggers = MeterProvider([reader], shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    tracers = TracerProvider(
        sampler=by_rules(rules("http:POST /users/<id>=0,grpc:shop.v1.Till/Pay=0"), ALWAYS_ON), shutdown_on_exit=False
    )
    recorder = SdkRecorder("test", tracer_provider=tracers, meter_provider=meters, logger_provider=loggers)
    requests = [
        recorder.http_server(http_request(method=method, scheme="http", path="/users/7"), Context())
        for method in ("POST", "GET")
    ]
    calls = [recorder.rpc_server(RpcCall(method=f"shop.v1.Till/{method}"), Context()) for method in ("Pay", "Open")]
    for request in requests:
        request.finish(HttpOutcome(status_code=200))
    data = reader.get_metrics_data()
    meters.shutdown()

    contexts = [*(request.inner for request in requests), *(call.inner for call in calls)]
    flags = [trace.get_current_span(context).get_span_context().trace_flags for context in contexts]
    assert [flag.sampled for flag in flags] == [False, True, False, True]
    assert data is not None
    points = {metric.name: metric.data.data_points for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert len(points["http.server.request.duration"]) == 2


PROGRAM = """
telemetry = rsketch_telemetry.configure()
tracer = trace.get_tracer("test")
requests = metrics.get_meter("test").create_counter("requests")
for path in ("/health", "/users/7", "/other"):
    attributes = {"http.request.method": "GET", "url.path": path}
    with tracer.start_as_current_span(f"GET {path}", kind=trace.SpanKind.SERVER, attributes=attributes):
        tracer.start_span("inner").end()
        requests.add(1)
say(sampler=telemetry.summary.sampler)
"""


async def test_rules_from_the_environment(tmp_path: Path) -> None:
    """They stand before `OTEL_TRACES_SAMPLER`, also in the summary; a malformed one costs a line; metrics count all."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(
            PROGRAM,
            at,
            tmp_path,
            {
                "OTEL_TRACES_SAMPLER": "always_off",
                "RSKETCH_TELEMETRY_SAMPLING_RULES": "http:/health=0,http:/x=7,http:GET /users/<id>=1,grpc:*",
            },
        )

    assert [span.name for span in store.spans] == ["inner", "GET /users/7"]
    assert [point.value for point in own_points(store)] == [3]
    assert ended.said == {"sampler": "http:/health=0, http:GET /users/<id>=1, else always_off"}
    lines = ended.stderr.splitlines()
    assert [line.partition(" cannot")[0] for line in lines] == [
        "telemetry: RSKETCH_TELEMETRY_SAMPLING_RULES='http:/x=7'",
        "telemetry: RSKETCH_TELEMETRY_SAMPLING_RULES='grpc:*'",
    ]
    assert all("using the other rules" in line for line in lines)
