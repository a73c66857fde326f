"""
Where telemetry is kept: one DuckDB file behind `Store`.

Nothing outside this package names a table's segment, begins a transaction or knows how attributes are interned; queries
read views.
"""

from rsketch_dashboard.store.rows import Outcome
from rsketch_dashboard.store.schema import Limits
from rsketch_dashboard.store.store import Contents, Notice, Store

__all__ = ["Contents", "Limits", "Notice", "Outcome", "Store"]
