"""
The Grafana dashboards of `infra/grafana/dashboards`, as declarations that are short enough to review.

`python -m kube.generate` writes the JSON files; with `--check` it fails where one is not what would be written. Change
the declarations, never the files.
"""

from kube.dashboards.definitions import DASHBOARDS
from kube.dashboards.model import Dashboard, Panel, Query, Row, Variable, as_json

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "Query", "Row", "Variable", "as_json"]
