"""What is behind the services: the processes themselves, and the way that telemetry takes."""

from typing import Final

from kube.dashboards.model import Dashboard, Panel, Query, Row, Variable
from kube.dashboards.red import EXPORT_INTERVAL, WINDOW

__all__ = ["RUNTIME", "TELEMETRY"]

_CHOSEN = 'job=~"$job",instance=~"$instance"'
_COLLECTOR = 'job="otel-collector",instance=~"$instance"'
_OTLP = 'handler="/api/v1/otlp/v1/metrics"'
_SIGNALS = {"spans": "spans", "metric points": "metric_points", "log records": "log_records"}
_SIGNAL_COLORS = {"spans": "blue", "metric points": "purple", "log records": "orange"}
STORES: Final = "otel-collector|jaeger|loki|prometheus"


def _each_signal(metric: str, matchers: str) -> list[Query]:
    """Return one query for each signal: *metric* has its name where the braces are."""
    return [
        Query(expression=f"sum(rate({metric.format(name)}{{{matchers}}}{WINDOW}))", legend=signal)
        for signal, name in _SIGNALS.items()
    ]


def _not_sent(name: str, matchers: str) -> str:
    """Return what exporters could not send: before the first failure they say nothing, which is 0 if they sent any."""
    failed, sent = (
        f"sum(rate(otelcol_exporter_{what}_{name}{{{matchers}}}{WINDOW}))" for what in ("send_failed", "sent")
    )
    return f"{failed} or {sent} * 0"


def _each_process(prometheus: str, collector: str) -> str:
    """Return a sum for each process: Prometheus and Loki name what they use other than collectors, such as Jaeger."""
    return f"sum by (job, instance) ({prometheus}) or sum by (job, instance) ({collector})"


_AGE = Panel(
    title="Age of the newest metrics, by service",
    description="How long a service has not exported. A service exports each minute; above three it cannot, or "
    "it has ended. Its own log says which, then infra/runbooks/CollectorDown.md.",
    unit="s",
    queries=[
        Query(
            expression=f'time() - max by (job) (timestamp(target_info{{job!~"{STORES}"}}))',
            legend="{{job}}",
        )
    ],
    interval=EXPORT_INTERVAL,
    warn=120,
    fail=180,
)

_SERVICES = Row(
    title="What runs",
    panels=[
        Panel(
            kind="table",
            title="Versions",
            description="Each process that reported in the last five minutes. Two versions of a service are a "
            "rollout that is under way, or that is stuck: kubectl rollout status.",
            unit="",
            queries=[
                Query(
                    expression="group by (job, service_version, k8s_pod_name, k8s_node_name, telemetry_distro_version, "
                    f"telemetry_sdk_version) (target_info{{{_CHOSEN}}})",
                    instant=True,
                )
            ],
            width=24,
            columns={
                "job": "Service",
                "service_version": "Version",
                "k8s_pod_name": "Pod",
                "k8s_node_name": "Node",
                "telemetry_distro_version": "rsketch-telemetry",
                "telemetry_sdk_version": "OpenTelemetry SDK",
            },
        ),
        Panel(
            title="Processes by service",
            description="For five minutes a process that has ended is still counted.",
            unit="short",
            queries=[Query(expression=f"count by (job) (target_info{{{_CHOSEN}}})", legend="{{job}}")],
            interval=EXPORT_INTERVAL,
        ),
        Panel(
            title="Processes that are new in the last hour",
            description="More than a rollout or the autoscaler explains are restarts: kubectl get pods, and the "
            "last lines of the container before.",
            unit="short",
            queries=[
                Query(
                    expression=f"count by (job) (target_info{{{_CHOSEN}}} unless on (job, instance) "
                    f"target_info{{{_CHOSEN}}} offset 1h) or count by (job) (target_info{{{_CHOSEN}}}) * 0",
                    legend="{{job}}",
                )
            ],
            interval=EXPORT_INTERVAL,
        ),
        _AGE,
    ],
)

_PROCESSES = Row(
    title="Processes of the platform",
    panels=[
        Panel(
            title="CPU",
            description="Cores in use. A collector near the cores that it may use: more pods; the prod overlay "
            "adds them.",
            unit="short",
            queries=[
                Query(
                    expression=_each_process(
                        f"rate(process_cpu_seconds_total{{{_CHOSEN}}}{WINDOW})",
                        f"rate(otelcol_process_cpu_seconds{{{_CHOSEN}}}{WINDOW})",
                    ),
                    legend="{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="Memory",
            description="What the kernel counts against the limit of the container, but for its page cache. Near "
            "the limit the container is killed: raise it, and GOMEMLIMIT with it to 80 % of it.",
            unit="bytes",
            queries=[
                Query(
                    expression=_each_process(
                        f"process_resident_memory_bytes{{{_CHOSEN}}}", f"otelcol_process_memory_rss{{{_CHOSEN}}}"
                    ),
                    legend="{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="Heap",
            description="What Go has allocated. It rises and falls with garbage collection; a floor that rises "
            "is a leak.",
            unit="bytes",
            queries=[
                Query(
                    expression=_each_process(
                        f"go_memstats_heap_alloc_bytes{{{_CHOSEN}}}",
                        f"otelcol_process_runtime_heap_alloc_bytes{{{_CHOSEN}}}",
                    ),
                    legend="{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="Uptime",
            description="A drop is a restart: kubectl describe pod says why the container before ended.",
            unit="s",
            queries=[
                Query(
                    expression=_each_process(
                        f"time() - process_start_time_seconds{{{_CHOSEN}}}",
                        f"otelcol_process_uptime{{{_CHOSEN}}}",
                    ),
                    legend="{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="Goroutines of Prometheus and Loki",
            description="Follows the queries and pushes that are under way. A steady rise is a leak, or a disk "
            "that hangs.",
            unit="short",
            queries=[
                Query(expression=f"sum by (job, instance) (go_goroutines{{{_CHOSEN}}})", legend="{{job}} {{instance}}")
            ],
        ),
        Panel(
            title="File descriptors of Prometheus and Loki",
            description="Of those that the process may open. At 100 % it can neither be reached nor write.",
            unit="percentunit",
            queries=[
                Query(
                    expression=f"max by (job, instance) (process_open_fds{{{_CHOSEN}}} / process_max_fds{{{_CHOSEN}}})",
                    legend="{{job}} {{instance}}",
                )
            ],
            warn=0.7,
            fail=0.9,
        ),
    ],
)

_DISKS = Row(
    title="Volumes",
    panels=[
        Panel(
            title="Prometheus: stored",
            description="Blocks, write-ahead log, the head's chunks. Blocks go at 80 % of the volume or after 15 days.",
            unit="bytes",
            queries=[
                Query(expression="sum(prometheus_tsdb_storage_blocks_bytes)", legend="blocks"),
                Query(expression="sum(prometheus_tsdb_wal_storage_size_bytes)", legend="write-ahead log"),
                Query(expression="sum(prometheus_tsdb_head_chunks_storage_size_bytes)", legend="head"),
            ],
            stacked=True,
        ),
        Panel(
            title="Jaeger: written",
            description="Bytes per second into Badger, which deletes spans after three days. The sizes of its files "
            "say little, as it makes them 2 GiB large at once. When the volume is full, no span is taken: "
            "infra/runbooks/JaegerDown.md.",
            unit="Bps",
            queries=[Query(expression=f"sum(rate(jaeger_storage_badger_write_bytes_user{WINDOW}))", legend="written")],
        ),
        Panel(
            title="Loki: use of the volume",
            description="At 90 % Loki refuses lines until there is room: a larger volume, or fewer days in loki.yaml.",
            unit="percentunit",
            queries=[Query(expression="max(loki_ingester_wal_disk_usage_percent)", legend="used")],
            maximum=1,
            warn=0.8,
            fail=0.9,
        ),
    ],
)

RUNTIME: Final = Dashboard(
    uid="rsketch-runtime",
    title="Processes",
    description="What runs, in which version, and what does it use?",
    variables=[
        Variable(name="job", label="Service", query='label_values({__name__=~"target_info|up"}, job)'),
        Variable(
            name="instance", label="Instance", query='label_values({__name__=~"target_info|up",job=~"$job"}, instance)'
        ),
    ],
    rows=[_SERVICES, _PROCESSES, _DISKS],
)

_HEALTH = Row(
    title="At a glance",
    panels=[
        Panel(
            kind="stat",
            title="Answering",
            description="Share of the pods that answer Prometheus. Runbooks: CollectorDown, JaegerDown and "
            "LokiDown in infra/runbooks.",
            unit="percentunit",
            queries=[Query(expression=f'avg by (job) (up{{job=~"{STORES}"}})', legend="{{job}}")],
            width=12,
            height=4,
            whole=1,
        ),
        Panel(
            kind="stat",
            title="Refused per second",
            description="Items that the collector turned away. Services keep them and try again until their own "
            "memory is full: infra/runbooks/CollectorRefusesData.md.",
            unit="short",
            queries=_each_signal("otelcol_receiver_refused_{}", _COLLECTOR),
            width=6,
            height=4,
            fail=0.001,
        ),
        Panel(
            kind="stat",
            title="Alerts that fire",
            description="Which ones: Alerting, Alert rules, in the menu; each names its runbook in infra/runbooks.",
            unit="short",
            queries=[Query(expression='count(ALERTS{alertstate="firing"}) or vector(0)')],
            width=6,
            height=4,
            fail=1,
        ),
    ],
)

_THROUGH = Row(
    title="Through the collector",
    panels=[
        Panel(
            title="Accepted",
            description="Items per second that services delivered. At 0: do the services run, and does the "
            "NetworkPolicy otel-collector let their namespace in?",
            unit="short",
            queries=_each_signal("otelcol_receiver_accepted_{}", _COLLECTOR),
            colors=_SIGNAL_COLORS,
        ),
        Panel(
            title="Refused",
            description="Turned away, for its memory or because the backend did not take it; the senders try "
            "again. infra/runbooks/CollectorRefusesData.md.",
            unit="short",
            queries=_each_signal("otelcol_receiver_refused_{}", _COLLECTOR),
            colors=_SIGNAL_COLORS,
            fail=0.001,
        ),
        Panel(
            title="Accepted, by pod",
            description="Spread evenly over the pods. A new pod gets its share as senders connect again, each five "
            "minutes.",
            unit="short",
            queries=[
                Query(
                    expression=f"sum by (instance) (rate(otelcol_receiver_accepted_{name}{{{_COLLECTOR}}}{WINDOW}))",
                    legend=f"{{{{instance}}}} {signal}",
                )
                for signal, name in _SIGNALS.items()
            ],
        ),
        Panel(
            title="Sent to the stores",
            description="As much as was accepted, since nothing is kept on the way.",
            unit="short",
            queries=_each_signal("otelcol_exporter_sent_{}", _COLLECTOR),
            colors=_SIGNAL_COLORS,
        ),
        Panel(
            title="Failed to send",
            description="The store did not take it. infra/runbooks/CollectorExportFailures.md.",
            unit="short",
            queries=[Query(expression=_not_sent(name, _COLLECTOR), legend=signal) for signal, name in _SIGNALS.items()],
            colors=_SIGNAL_COLORS,
            fail=0.001,
        ),
        Panel(
            title="Queues",
            description="How full the exporters' queues are. Only the components spool-persistent and "
            "tail-sampling have any. infra/runbooks/CollectorQueueNearlyFull.md.",
            unit="percentunit",
            queries=[
                Query(
                    expression=f"max by (exporter) (otelcol_exporter_queue_size{{{_COLLECTOR}}} / "
                    f"otelcol_exporter_queue_capacity{{{_COLLECTOR}}}) "
                    'or label_replace(vector(0), "exporter", "no queue", "", "")',
                    legend="{{exporter}}",
                )
            ],
            maximum=1,
            warn=0.6,
            fail=0.8,
        ),
        Panel(
            title="Memory of the collector",
            description="The memory limiter refuses from 60 % of the container's limit on, before the pod is killed.",
            unit="bytes",
            queries=[
                Query(
                    expression=f"sum by (instance) (otelcol_process_memory_rss{{{_COLLECTOR}}})",
                    legend="{{instance}}",
                )
            ],
            width=12,
        ),
        Panel(
            title="CPU of the collector",
            description="Cores in use; infra/README.md says how many spans per second one core takes.",
            unit="short",
            queries=[
                Query(
                    expression=f"sum by (instance) (rate(otelcol_process_cpu_seconds{{{_COLLECTOR}}}{WINDOW}))",
                    legend="{{instance}}",
                )
            ],
            width=12,
        ),
    ],
)

_JAEGER = Row(
    title="Jaeger",
    panels=[
        Panel(
            title="Spans",
            description="What arrives is written before it is acknowledged, so the lines lie on each other. "
            "infra/runbooks/JaegerDown.md.",
            unit="short",
            queries=[
                Query(
                    expression=f'sum(rate(otelcol_receiver_accepted_spans{{job="jaeger"}}{WINDOW}))',
                    legend="accepted",
                ),
                Query(expression=f'sum(rate(otelcol_exporter_sent_spans{{job="jaeger"}}{WINDOW}))', legend="written"),
            ],
            width=12,
        ),
        Panel(
            title="Spans refused or not written",
            description="The collector passes the refusal on and the services try again. A full volume is the "
            "usual cause: kubectl describe pvc.",
            unit="short",
            queries=[
                Query(
                    expression=f'sum(rate(otelcol_receiver_refused_spans{{job="jaeger"}}{WINDOW}))',
                    legend="refused",
                ),
                Query(expression=_not_sent("spans", 'job="jaeger"'), legend="not written"),
            ],
            width=12,
            fail=0.001,
        ),
    ],
)

_PROMETHEUS = Row(
    title="Prometheus",
    panels=[
        Panel(
            title="OTLP requests by status",
            description="Above 299 is a refusal; a 400 is for good, its reason is in Prometheus' log. "
            "infra/runbooks/PrometheusRejectsOtlp.md.",
            unit="reqps",
            queries=[
                Query(
                    expression=f"sum by (code) (rate(prometheus_http_requests_total{{{_OTLP}}}{WINDOW}))",
                    legend="{{code}}",
                )
            ],
            stacked=True,
            colors={"^2": "green", "^4": "yellow", "^5": "red"},
        ),
        Panel(
            title="OTLP requests: 99 % within",
            description="The collector waits five seconds. Slow writes are a slow volume, or too little CPU.",
            unit="s",
            queries=[
                Query(
                    expression="histogram_quantile(0.99, sum by (le) "
                    f"(rate(prometheus_http_request_duration_seconds_bucket{{{_OTLP}}}{WINDOW})))",
                    legend="99 %",
                )
            ],
            warn=1,
            fail=5,
        ),
        Panel(
            title="Series",
            description="In memory. A steep rise is a label that has a value for each request or user: topk(10, "
            "count by (__name__, job) ({__name__=~'.+'})) in Explore.",
            unit="short",
            queries=[Query(expression="sum(prometheus_tsdb_head_series)", legend="series")],
        ),
        Panel(
            title="Samples",
            description="Written per second, from OTLP and from scrapes.",
            unit="short",
            queries=[
                Query(expression=f"sum(rate(prometheus_tsdb_head_samples_appended_total{WINDOW}))", legend="samples")
            ],
        ),
        Panel(
            title="Samples that came too late",
            description="More than 30 minutes behind: a sender that was cut off for longer. They are lost.",
            unit="short",
            queries=[
                Query(expression=f"sum(rate(prometheus_tsdb_too_old_samples_total{WINDOW}))", legend="too old"),
                Query(
                    expression=f"sum(rate(prometheus_tsdb_out_of_order_samples_total{WINDOW}))", legend="out of order"
                ),
            ],
            fail=0.001,
        ),
        Panel(
            title="Exemplars",
            description="Written per second; without any the graphs of durations have no diamonds. Is the "
            "feature exemplar-storage on, and do the services sample traces?",
            unit="short",
            queries=[
                Query(
                    expression=f"sum(rate(prometheus_tsdb_exemplar_exemplars_appended_total{WINDOW}))",
                    legend="exemplars",
                )
            ],
        ),
    ],
)

_LOKI = Row(
    title="Loki",
    panels=[
        Panel(
            title="OTLP requests by status",
            description="400 is for good: limits in loki.yaml, the reason is in Loki's log. 429 is tried again.",
            unit="reqps",
            queries=[
                Query(
                    expression="sum by (status_code) "
                    f'(rate(loki_request_duration_seconds_count{{route="otlp_v1_logs"}}{WINDOW}))',
                    legend="{{status_code}}",
                )
            ],
            stacked=True,
            colors={"^2": "green", "^4": "yellow", "^5": "red"},
        ),
        Panel(
            title="Lines",
            description="Received per second. Suddenly many: a service logs in a loop; the dashboard HTTP shows "
            "its lines.",
            unit="short",
            queries=[Query(expression=f"sum(rate(loki_distributor_lines_received_total{WINDOW}))", legend="lines")],
        ),
        Panel(
            title="Lines discarded, by reason",
            description="Lost. Each reason is the name of a limit: limits_config in loki.yaml.",
            unit="short",
            queries=[
                Query(
                    expression=f"sum by (reason) (rate(loki_discarded_samples_total{WINDOW})) "
                    'or label_replace(vector(0), "reason", "none", "", "")',
                    legend="{{reason}}",
                )
            ],
            fail=0.001,
        ),
        Panel(
            title="Bytes",
            description="Received per second, with what is beside the lines.",
            unit="Bps",
            queries=[Query(expression=f"sum(rate(loki_distributor_bytes_received_total{WINDOW}))", legend="bytes")],
        ),
        Panel(
            title="Streams",
            description="One for each service, namespace and environment. Thousands: a label in loki.yaml that "
            "should not be one.",
            unit="short",
            queries=[Query(expression="sum(loki_ingester_memory_streams)", legend="streams")],
        ),
        Panel(
            title="Writes to a full disk",
            description="Lines that were acknowledged without room for them on the volume. It must stay 0.",
            unit="short",
            queries=[
                Query(expression=f"sum(rate(loki_ingester_wal_disk_full_failures_total{WINDOW}))", legend="failures")
            ],
            fail=0.001,
        ),
    ],
)

_SENDERS = Row(
    title="Services",
    panels=[
        _AGE,
        Panel(
            title="Series by service",
            description="Of calls. Thousands for one service: a route or a method that is not bounded.",
            unit="short",
            queries=[
                Query(
                    expression='count by (job) ({__name__=~"http_server_request_.+|rpc_(server|client)_call_.+"})',
                    legend="{{job}}",
                )
            ],
            interval=EXPORT_INTERVAL,
            width=16,
        ),
    ],
)

TELEMETRY: Final = Dashboard(
    uid="rsketch-telemetry",
    title="Telemetry",
    description="Does telemetry arrive, and is any of it lost?",
    variables=[
        Variable(name="instance", label="Collector", query='label_values(up{job="otel-collector"}, instance)'),
    ],
    rows=[_HEALTH, _THROUGH, _JAEGER, _PROMETHEUS, _LOKI, _SENDERS],
)
