"""A local dashboard: receives OTLP, keeps it in a file, shows traces, metrics and logs on a page of its own."""

from rsketch_dashboard.config import DashboardConfig
from rsketch_dashboard.errors import DashboardError
from rsketch_dashboard.server import Dashboard, serve

__all__ = ["Dashboard", "DashboardConfig", "DashboardError", "serve"]
