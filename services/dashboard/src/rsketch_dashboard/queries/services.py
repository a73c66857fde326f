"""Which services have sent something, and their runs."""

from typing import Any

import duckdb

from rsketch_dashboard.queries.parameters import Parameters

__all__ = ["names", "runs", "services"]

Json = dict[str, Any]


def names(connection: duckdb.DuckDBPyConnection) -> Json:
    """Return the names of all services that have sent anything, and from when to when spans are."""
    rows = connection.execute(
        """
        SELECT service FROM span_resources UNION SELECT service FROM log_resources
        UNION SELECT service FROM point_resources ORDER BY service
        """
    ).fetchall()
    span = connection.execute("SELECT min(start_ns) // 1000, max(start_ns) // 1000 FROM spans").fetchone()
    oldest, newest = span or (None, None)
    return {"services": [name for (name,) in rows], "oldest_us": oldest, "newest_us": newest}


def services(connection: duckdb.DuckDBPyConnection) -> Json:
    """Return every service that has sent spans, with when and how many."""
    rows = connection.execute(
        """
        WITH counted AS (
            SELECT operation, count(*) AS spans, min(start_ns) AS first, max(start_ns) AS last
            FROM spans GROUP BY operation
        )
        SELECT o.service, sum(c.spans)::BIGINT, min(c.first) // 1000, max(c.last) // 1000, count(DISTINCT r.instance)
        FROM counted c JOIN operations o ON o.id = c.operation JOIN span_resources r ON r.id = o.resource
        GROUP BY o.service ORDER BY o.service
        """
    ).fetchall()
    names = ("name", "spans", "first_us", "last_us", "runs")
    return {"services": [dict(zip(names, row, strict=True)) for row in rows]}


def runs(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return each run, which is one start of one process of a service, newest first."""
    rows = connection.execute(
        f"""
        WITH counted AS (
            SELECT operation, count(*) AS spans, count(*) FILTER (status = 2) AS errors,
                   min(start_ns) AS first, max(start_ns) AS last
            FROM spans GROUP BY operation
        )
        SELECT r.instance, r.service, any_value(r.version), nullif(any_value(r.revision), ''),
               min(c.first) // 1000, max(c.last) // 1000, sum(c.spans)::BIGINT, sum(c.errors)::BIGINT
        FROM counted c JOIN operations o ON o.id = c.operation JOIN span_resources r ON r.id = o.resource
        WHERE r.instance <> '' AND (? = '' OR r.service = ?)
        GROUP BY r.instance, r.service ORDER BY min(c.first) DESC LIMIT {asked.limit}
        """,
        [asked.service, asked.service],
    ).fetchall()
    names = ("run", "service", "version", "revision", "first_us", "last_us", "spans", "errors")
    return {"runs": [dict(zip(names, row, strict=True)) for row in rows]}
