"""
What remains of a segment of spans when it goes: roll-ups of rate, errors and duration, and the traces worth keeping.

Both are written in the transaction that drops the segment, so that nothing is counted twice or not at all.
"""

import time

import duckdb

from rsketch_dashboard.store.schema import KEPT

__all__ = ["BUCKET", "forget_old_rollups", "keep_traces", "roll_up", "trim_kept"]

BUCKET = "CAST(floor(20 * log10(greatest(s.duration_ns, 1))) AS SMALLINT)"
"""In which bucket of the roll-ups the duration of a span s is, as SQL."""
_ROLLUP_DAYS = 7
_SLOWEST_PER_OPERATION = 3
_FAILED_PER_OPERATION = 20
_KEPT_TRACES = 400
_ENTRY = "entry AND operation IN (SELECT id FROM operations_{n} WHERE NOT health)"


def roll_up(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Count the entry spans of a segment that are not kept: those are still there to be counted."""
    _roll_up(connection, number, f"trace_id NOT IN (SELECT trace_id FROM spans_{KEPT})")


def _roll_up(connection: duckdb.DuckDBPyConnection, number: int, condition: str) -> None:
    """
    Add the entry spans of a segment to `red`: one row a minute and operation.

    Durations go into buckets whose bounds grow by a twentieth of a decade, so a quantile of them is within 6 %.
    """
    connection.execute(
        f"""
        INSERT INTO red
        WITH spans AS (
            SELECT s.start_ns // 60_000_000_000 AS minute, o.service, o.name, o.kind, s.duration_ns, s.status,
                   {BUCKET} AS bucket
            FROM spans_{number} s JOIN operations_{number} o ON o.id = s.operation
            WHERE s.entry AND s.{condition}
        ), buckets AS (
            SELECT minute, service, name, kind, bucket, count(*) AS count, sum(duration_ns) AS sum_ns,
                   max(duration_ns) AS max_ns, count(*) FILTER (status = 2) AS errors
            FROM spans GROUP BY ALL
        )
        SELECT minute, service, name, kind, sum(count), sum(errors), sum(sum_ns), max(max_ns),
               map(list(bucket ORDER BY bucket), list(count ORDER BY bucket))
        FROM buckets GROUP BY minute, service, name, kind
        """
    )


def forget_old_rollups(connection: duckdb.DuckDBPyConnection) -> None:
    """Delete roll-ups that are older than a week."""
    oldest = time.time_ns() // 60_000_000_000 - _ROLLUP_DAYS * 24 * 60
    connection.execute("DELETE FROM red WHERE minute < ?", [oldest])


def keep_traces(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """
    Copy the failed and the slowest traces of each operation, with what they refer to, into the kept segment.

    So goes what a segment has of traces that were kept before: they may have spans in several.
    """
    entry = _ENTRY.format(n=number)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE kept_now AS
        WITH ranked AS (
            SELECT trace_id, operation, status,
                   row_number() OVER (PARTITION BY operation ORDER BY duration_ns DESC) AS slow,
                   row_number() OVER (PARTITION BY operation, status ORDER BY start_ns DESC) AS late
            FROM spans_{number} WHERE {entry}
        )
        (SELECT trace_id FROM ranked
         WHERE slow <= {_SLOWEST_PER_OPERATION} OR (status = 2 AND late <= {_FAILED_PER_OPERATION})
         GROUP BY trace_id ORDER BY min(least(slow, late)) LIMIT {_KEPT_TRACES})
        UNION SELECT trace_id FROM spans_{KEPT}
        """
    )
    spans = f"SELECT * FROM spans_{number} WHERE trace_id IN (SELECT trace_id FROM kept_now)"
    connection.execute(f"INSERT INTO spans_{KEPT} {spans}")
    for table, used in (
        ("operations", f"SELECT operation FROM ({spans})"),
        ("span_attributes", f"SELECT unnest(attributes) FROM ({spans})"),
    ):
        connection.execute(f"INSERT INTO {table}_{KEPT} SELECT * FROM {table}_{number} WHERE id IN ({used})")
    connection.execute(
        f"""
        INSERT INTO span_resources_{KEPT} SELECT * FROM span_resources_{number}
        WHERE id IN (SELECT resource FROM operations_{KEPT})
        """
    )
    connection.execute("DROP TABLE kept_now")


def trim_kept(connection: duckdb.DuckDBPyConnection, limit: int, most_bytes: int) -> None:
    """
    Delete the oldest traces of the kept segment, and what only they referred to; count them.

    Args:
        limit: How many spans may stay.
        most_bytes: How much text may: where it is more, fewer spans stay in proportion.
    """
    kept = f"spans_{KEPT}"
    found = connection.execute(
        f"""
        SELECT count(*), coalesce(sum(octet_length(rest)), 0)
                         + (SELECT coalesce(sum(strlen(value)), 0) FROM span_attributes_{KEPT})
        FROM {kept}
        """
    ).fetchone()
    count, size = found or (0, 0)
    limit = min(limit, count * most_bytes // size if size > most_bytes else count)
    if count <= limit:
        return
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE kept_before AS SELECT trace_id FROM (
            SELECT trace_id, sum(count(*)) OVER (ORDER BY max(start_ns) DESC, trace_id) AS upto
            FROM {kept} GROUP BY trace_id
        ) WHERE upto > ?
        """,
        [limit],
    )
    gone = "trace_id IN (SELECT trace_id FROM kept_before)"
    _roll_up(connection, KEPT, gone)
    connection.execute(f"DELETE FROM {kept} WHERE {gone}")
    connection.execute("DROP TABLE kept_before")
    for table, used in (
        ("operations", f"SELECT operation FROM {kept}"),
        ("span_attributes", f"SELECT unnest(attributes) FROM {kept}"),
        ("span_resources", f"SELECT resource FROM operations_{KEPT}"),
    ):
        connection.execute(f"DELETE FROM {table}_{KEPT} WHERE id NOT IN ({used})")
