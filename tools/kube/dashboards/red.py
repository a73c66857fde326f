"""Rate, errors and duration of HTTP and of gRPC: the same questions to both, in the words of each."""

from dataclasses import dataclass, replace
from typing import Final

from kube.dashboards.model import Dashboard, Panel, Query, Row, Variable

__all__ = ["GRPC", "HTTP"]

EXPORT_INTERVAL: Final = "1m"
"""How often a service exports its metrics, unless OTEL_METRIC_EXPORT_INTERVAL says otherwise."""

WINDOW: Final = "[$__rate_interval]"
FAIL_RATIO, WARN_RATIO = 0.05, 0.01
"""The alerts HttpErrorRatio and GrpcErrorRatio fire above the first."""

SLOW_SECONDS, WARN_SECONDS = 0.5, 0.25
"""The objective behind the alerts LatencySloBurnFast and LatencySloBurnSlow: 99 % within the first."""

STREAMS_LEFT_OUT: Final = "Streams are left out: they last as long as somebody asked them to."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """
    One histogram of durations, and how to ask for parts of it.

    Attributes:
        noun: What is counted.
        metric: Name of the histogram without its suffix.
        scope: Matchers of the dashboard's variables.
        steady: Matchers that leave out streams.
        failed: Matchers of what counts as failed, as the alerts have it.
        status: The label of the outcome.
        target: The label of what was called, and its name for people.
        alert: The alert on the ratio of failures; empty where there is none.
        errors: What counts as failed, in words.
        colors: A colour for each outcome.
    """

    noun: str
    metric: str
    scope: str
    steady: str
    failed: str
    status: str
    target: str
    target_noun: str
    alert: str
    errors: str
    colors: dict[str, str]

    def rate(self, by: str = "", matchers: str = "") -> str:
        """Return the calls per second, for each value of the labels *by*."""
        grouping = f" by ({by})" if by else ""
        return f"sum{grouping} (rate({self.metric}_count{{{self._all(matchers)}}}{WINDOW}))"

    def failures(self, by: str = "") -> str:
        """Return the share that failed; 0 and not nothing where none did."""
        total = self.rate(by)
        return f"({self.rate(by, self.failed)} or {total} * 0) / ({total} > 0)"

    def quantile(self, share: float, by: str = "") -> str:
        """Return the duration that the *share* of the calls stays within."""
        labels = f"le, {by}" if by else "le"
        buckets = f"{self.metric}_bucket{{{self._all(self.steady)}}}"
        return f"histogram_quantile({share}, sum by ({labels}) (rate({buckets}{WINDOW})))"

    def cells(self) -> str:
        """Return the number of calls in each bucket of the durations."""
        return f"sum by (le) (increase({self.metric}_bucket{{{self._all(self.steady)}}}{WINDOW}))"

    def pods(self) -> str:
        """Return how many processes have reported."""
        return f"count(count by (instance) ({self.metric}_count{{{self.scope}}}))"

    def _all(self, matchers: str) -> str:
        return f"{self.scope},{matchers}" if matchers else self.scope


_STATUS_CODES = {"^2": "green", "^3": "blue", "^4": "yellow", "^5": "red"}
_OUR_STATUSES = "UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"
_THEIR_STATUSES = (
    "CANCELLED|INVALID_ARGUMENT|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|"
    "ABORTED|OUT_OF_RANGE|UNAUTHENTICATED"
)
_RPC_STATUSES = {"^OK$": "green", f"^({_THEIR_STATUSES})$": "yellow", f"^({_OUR_STATUSES})$": "red"}

_REQUESTS = _Calls(
    noun="requests",
    metric="http_server_request_duration_seconds",
    scope='job=~"$job",http_route=~"$route",k8s_pod_name=~"$pod"',
    steady='http_route!~".*/stream",http_response_status_code!="101"',
    failed='error_type!~"|client_disconnected"',
    status="http_response_status_code",
    target="http_route",
    target_noun="route",
    alert="HttpErrorRatio",
    errors="A request fails with a 5xx, or when its response breaks off other than by its caller.",
    colors=_STATUS_CODES,
)
_SERVED = _Calls(
    noun="calls served",
    metric="rpc_server_call_duration_seconds",
    scope='job=~"$job",rpc_method=~"$method",k8s_pod_name=~"$pod"',
    steady='rpc_method!~".*Stream"',
    failed='error_type!=""',
    status="rpc_status_code",
    target="rpc_method",
    target_noun="method",
    alert="GrpcErrorRatio",
    errors="A call that was served fails with a status that is the server's fault, such as INTERNAL or UNAVAILABLE.",
    colors=_RPC_STATUSES,
)
_MADE = replace(
    _SERVED,
    noun="calls made",
    metric="rpc_client_call_duration_seconds",
    alert="",
    errors="To its caller every status but OK is a failure.",
)


def _glance(calls: _Calls) -> Row:
    return Row(
        title="At a glance",
        panels=[
            Panel(
                kind="stat",
                title=f"{calls.noun.capitalize()} per second",
                description="How much is asked of the chosen services. At 0, or empty: look at the dashboard "
                "Telemetry first, then whether callers reach the service at all.",
                unit="reqps",
                queries=[Query(expression=calls.rate())],
                width=6,
                height=4,
                interval=EXPORT_INTERVAL,
            ),
            Panel(
                kind="stat",
                title="Failed",
                description=f"{calls.errors} Above 5 % the alert {calls.alert} fires; its runbook is "
                f"infra/runbooks/{calls.alert}.md.",
                unit="percentunit",
                queries=[Query(expression=calls.failures())],
                width=6,
                height=4,
                interval=EXPORT_INTERVAL,
                warn=WARN_RATIO,
                fail=FAIL_RATIO,
            ),
            Panel(
                kind="stat",
                title="99 % within",
                description=f"The objective is 500 ms; infra/runbooks/LatencySloBurnFast.md. {STREAMS_LEFT_OUT}",
                unit="s",
                queries=[Query(expression=calls.quantile(0.99))],
                width=6,
                height=4,
                interval=EXPORT_INTERVAL,
                warn=WARN_SECONDS,
                fail=SLOW_SECONDS,
            ),
            Panel(
                kind="stat",
                title="Processes",
                description="That reported in the last five minutes. Fewer than there are pods: some cannot "
                "export; see the dashboard Telemetry.",
                unit="short",
                queries=[Query(expression=calls.pods())],
                width=6,
                height=4,
                interval=EXPORT_INTERVAL,
            ),
        ],
    )


def _red(calls: _Calls, title: str) -> Row:
    return Row(
        title=title,
        panels=[
            Panel(
                title=f"{calls.noun.capitalize()} by status",
                description="A status that was not there before a deployment came with it: compare the versions "
                "on the dashboard Processes.",
                unit="reqps",
                queries=[Query(expression=calls.rate(calls.status), legend=f"{{{{{calls.status}}}}}")],
                width=12,
                interval=EXPORT_INTERVAL,
                stacked=True,
                colors=calls.colors,
            ),
            Panel(
                title=f"Failed {calls.noun}, by service",
                description=f"{calls.errors} Which {calls.target_noun} and which pod it is, the rows below say.",
                unit="percentunit",
                queries=[Query(expression=calls.failures("job"), legend="{{job}}")],
                width=12,
                interval=EXPORT_INTERVAL,
                warn=WARN_RATIO,
                fail=FAIL_RATIO,
            ),
            Panel(
                title=f"Duration of {calls.noun}",
                description=f"Each diamond is a call that was sampled: click it and open its trace. {STREAMS_LEFT_OUT}",
                unit="s",
                queries=[
                    Query(expression=calls.quantile(0.5), legend="50 %", exemplars=True),
                    Query(expression=calls.quantile(0.95), legend="95 %", exemplars=True),
                    Query(expression=calls.quantile(0.99), legend="99 %", exemplars=True),
                ],
                width=12,
                interval=EXPORT_INTERVAL,
                warn=WARN_SECONDS,
                fail=SLOW_SECONDS,
                colors={"^50": "green", "^95": "yellow", "^99": "red"},
            ),
            Panel(
                kind="heatmap",
                title=f"Durations of {calls.noun}, as they are spread",
                description="Two bands are two kinds of calls, such as a cache that is hit and missed, which no "
                f"quantile shows. {STREAMS_LEFT_OUT}",
                unit="s",
                queries=[Query(expression=calls.cells(), legend="{{le}}", exemplars=True)],
                width=12,
                interval=EXPORT_INTERVAL,
            ),
        ],
    )


def _by(calls: _Calls, label: str, noun: str, advice: str) -> Row:
    legend = f"{{{{{label}}}}}"
    return Row(
        title=f"{calls.noun.capitalize()} by {noun}",
        panels=[
            Panel(
                title=f"{calls.noun.capitalize()} by {noun}",
                description=advice,
                unit="reqps",
                queries=[Query(expression=calls.rate(label), legend=legend)],
                interval=EXPORT_INTERVAL,
            ),
            Panel(
                title=f"Failed {calls.noun} by {noun}",
                description=calls.errors,
                unit="percentunit",
                queries=[Query(expression=calls.failures(label), legend=legend)],
                interval=EXPORT_INTERVAL,
                warn=WARN_RATIO,
                fail=FAIL_RATIO,
            ),
            Panel(
                title=f"95 % of {calls.noun} within, by {noun}",
                description=f"Compare with what it called: its trace says where the time went. {STREAMS_LEFT_OUT}",
                unit="s",
                queries=[Query(expression=calls.quantile(0.95, label), legend=legend, exemplars=True)],
                interval=EXPORT_INTERVAL,
                warn=WARN_SECONDS,
                fail=SLOW_SECONDS,
            ),
        ],
    )


def _by_target(calls: _Calls) -> Row:
    advice = f"Only what has a {calls.target_noun} of its own; an unknown one is in no series by name."
    return _by(calls, calls.target, calls.target_noun, advice)


def _by_pod(calls: _Calls) -> Row:
    return _by(
        calls,
        "k8s_pod_name",
        "pod",
        "Even where the load is spread. One pod that has more, or fails more: its logs, then delete the pod.",
    )


def _causes(calls: _Calls) -> Row:
    errors = calls.rate("error_type", 'error_type!=""')
    none = 'label_replace(vector(0), "error_type", "none", "", "")'
    return Row(
        title="Causes",
        panels=[
            Panel(
                title=f"{calls.noun.capitalize()} that failed, by type",
                description="The exception or the status. client_disconnected is the caller who did not wait.",
                unit="reqps",
                queries=[Query(expression=f"{errors} or {none}", legend="{{error_type}}")],
                width=8,
                height=12,
                interval=EXPORT_INTERVAL,
                stacked=True,
            ),
            Panel(
                kind="logs",
                title="Warnings, errors and exceptions",
                description="What the chosen services logged from WARN up. Open a line for its stack trace and "
                "the link to its trace.",
                unit="",
                queries=[Query(store="loki", expression=WARNINGS)],
                width=16,
                height=12,
            ),
        ],
    )


# WARN is 13. The record of an exception has no line of its own, but its type and message beside it.
WARNINGS: Final = (
    '{service_name=~"$service"} | severity_number >= 13 '
    '| line_format "{{if __line__}}{{__line__}}{{else}}{{.exception_type}}: {{.exception_message}}{{end}}"'
)

_HTTP_SERIES = "http_server_request_duration_seconds_count"
_RPC_SERIES = '__name__=~"rpc_(server|client)_call_duration_seconds_count"'


def _service(series: str) -> Variable:
    """Return the names that Loki knows the chosen jobs by: `rsketch/rsketch-http` is rsketch-http there."""
    return Variable(
        name="service",
        label="Service in the logs",
        query=f"label_values({series}, job)",
        every="",
        pattern=r"/(?:.*\/)?(.+)/",
        hidden=True,
    )


HTTP: Final = Dashboard(
    uid="rsketch-http",
    title="HTTP",
    description="Do the HTTP services answer, and how fast?",
    variables=[
        Variable(name="job", label="Service", query=f"label_values({_HTTP_SERIES}, job)"),
        Variable(name="route", label="Route", query=f'label_values({_HTTP_SERIES}{{job=~"$job"}}, http_route)'),
        Variable(name="pod", label="Pod", query=f'label_values({_HTTP_SERIES}{{job=~"$job"}}, k8s_pod_name)'),
        _service(f'{_HTTP_SERIES}{{job=~"$job"}}'),
    ],
    rows=[
        _glance(_REQUESTS),
        _red(_REQUESTS, "Rate, errors, duration"),
        _by_target(_REQUESTS),
        _by_pod(_REQUESTS),
        _causes(_REQUESTS),
    ],
)

GRPC: Final = Dashboard(
    uid="rsketch-grpc",
    title="gRPC",
    description="Do the gRPC services answer, how fast, and what do their callers see?",
    variables=[
        Variable(name="job", label="Service", query=f"label_values({{{_RPC_SERIES}}}, job)"),
        Variable(name="method", label="Method", query=f'label_values({{{_RPC_SERIES},job=~"$job"}}, rpc_method)'),
        Variable(name="pod", label="Pod", query=f'label_values({{{_RPC_SERIES},job=~"$job"}}, k8s_pod_name)'),
        _service(f'{{{_RPC_SERIES},job=~"$job"}}'),
    ],
    rows=[
        _glance(_SERVED),
        _red(_SERVED, "Calls served: rate, errors, duration"),
        _by_target(_SERVED),
        _by_pod(_SERVED),
        _red(_MADE, "Calls made: rate, errors, duration"),
        _by_target(_MADE),
        _causes(_SERVED),
    ],
)
