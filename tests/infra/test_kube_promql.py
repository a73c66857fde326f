"""The collection of PromQL expressions that the end-to-end test asks a real Prometheus."""

import json
from pathlib import Path

import pytest
from kube.promql import DASHBOARDS, RULES, dashboard_expressions, recorded_series, rule_expressions, substitute

RULE_FILE = """\
groups:
  - name: shop
    rules:
      - record: job:orders:rate5m
        expr: sum by (job) (rate(orders_total[5m]))
      - record: shop:queue:ratio
        expr: queue_size / queue_capacity
      - alert: NoOrders
        expr: job:orders:rate5m < 1
      - alert: QueueFull
        expr: shop:queue:ratio > 0.8
        annotations:
          empty_because: not every shop has a queue
"""


def test_an_alert_may_be_empty_and_what_it_reads_may_not(tmp_path: Path) -> None:
    """A recorded series must have data, unless an alert that reads it says why not."""
    (tmp_path / "shop.yaml").write_text(RULE_FILE)
    found = {each.where.rpartition(": ")[2]: each.reason for each in rule_expressions(tmp_path)}

    assert found == {
        "job:orders:rate5m": "",
        "shop:queue:ratio": "not every shop has a queue",
        "NoOrders": "an alert is empty while nothing is wrong",
        "NoOrders, which reads job:orders:rate5m": "",
        "QueueFull": "an alert is empty while nothing is wrong",
        "QueueFull, which reads shop:queue:ratio": "not every shop has a queue",
    }


def test_panels_and_variables_of_a_dashboard_are_found(tmp_path: Path) -> None:
    """Panels in folded rows too; only what Prometheus is asked; a description may say why there is no data."""
    prometheus, loki = {"type": "prometheus", "uid": "prometheus"}, {"type": "loki", "uid": "loki"}
    inner = {
        "title": "Failures",
        "description": "What failed. Empty until something fails. Look there.",
        "datasource": prometheus,
        "targets": [{"refId": "A", "expr": 'rate(failures_total{job="$job"}[$__rate_interval])'}],
    }
    lines = {"title": "Lines", "datasource": loki, "targets": [{"refId": "A", "expr": '{service_name=~".+"}'}]}
    mixed = {
        "title": "Mixed",
        "targets": [
            {"refId": "A", "expr": "up", "datasource": prometheus},
            {"refId": "B", "expr": "{}", "datasource": loki},
        ],
    }
    variable = {
        "name": "job",
        "type": "query",
        "datasource": prometheus,
        "query": {"query": 'label_values(target_info{env=~"$env"}, job)'},
    }
    dashboard = {
        "panels": [{"type": "row", "panels": [inner]}, lines, mixed],
        "templating": {"list": [variable, {"name": "env", "type": "custom", "query": "a,b"}]},
    }
    (tmp_path / "shop.json").write_text(json.dumps(dashboard))
    found = [(each.promql, each.may_be_empty, each.reason) for each in dashboard_expressions(tmp_path)]

    assert found == [
        ('rate(failures_total{job=~".*"}[5m])', True, "Empty until something fails."),
        ("up", False, ""),
        ('target_info{env=~".*"}', False, ""),
    ]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("rate(a[$__rate_interval])", "rate(a[5m])"),
        ("rate(a[${__rate_interval}])", "rate(a[5m])"),
        ("increase(a[$__range])", "increase(a[1h])"),
        ('a{b=~"$b"}', 'a{b=~".*"}'),
        ('a{b=~"${b:regex}"}', 'a{b=~".*"}'),
        ('a{b="$b"}', 'a{b=~".*"}'),
        ('a{b!="$b"}', 'a{b!=".*"}'),
        ('a{b="[[b]]",c="d"}', 'a{b=~".*",c="d"}'),
    ],
)
def test_variables_of_grafana_are_replaced(written: str, asked: str) -> None:
    """Prometheus can be asked what Grafana would ask it with everything chosen."""
    assert substitute(written) == asked


def test_recorded_series_are_told_from_strings() -> None:
    """Names with colons count, what looks like one inside quotes does not, and each counts once."""
    assert recorded_series('a:b:c{d="e:f"} / on (g) h:i + a:b:c > j') == ["a:b:c", "h:i"]


def test_the_rules_and_dashboards_of_the_repository_are_found() -> None:
    """The defaults point at files that exist."""
    assert len(rule_expressions(RULES)) > 30
    assert DASHBOARDS.parent.is_dir()
