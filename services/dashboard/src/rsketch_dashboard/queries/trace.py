"""One trace: its spans as a tree in the order of their start, the critical path through it, and its logs."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rsketch_dashboard.errors import NotFoundError
from rsketch_dashboard.queries import logs
from rsketch_dashboard.queries.attributes import Pair, pairs, values_of
from rsketch_dashboard.queries.parameters import ids
from rsketch_dashboard.queries.spans import span_hex, trace_hex
from rsketch_dashboard.store.rows import KINDS, STATUSES
from rsketch_dashboard.store.values import plain

__all__ = ["trace"]

_MOST_SPANS = 20_000
_MOST_LOGS = 5_000


@dataclass(slots=True)
class _Node:
    """A span in its tree; times in nanoseconds."""

    id: int
    parent: int
    start: int
    duration: int
    shown: dict[str, Any]
    children: list["_Node"] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + max(self.duration, 0)


def trace(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    """
    Return the trace with the id *text*.

    Raises:
        QueryError: It is no trace id.
        NotFoundError: Neither a span nor a log record of it is here.
    """
    number = ids(text, 32)
    nodes, resources, truncated = _nodes(connection, number)
    records = logs.of_trace(connection, number, _MOST_LOGS)
    if not nodes and not records:
        raise NotFoundError("this trace is not here: it may not have arrived yet, or be gone")
    roots = _tree(nodes)
    for root in roots:
        _mark_critical(root)
    ordered = list(_walk(roots))
    start = min([node.start for node in ordered] or [record["time_us"] * 1000 for record in records])
    end = max((node.end for node in ordered), default=start)
    return {
        "trace_id": trace_hex(number),
        "spans": [node.shown for node in ordered],
        "resources": resources,
        "logs": records,
        "services": sorted({node.shown["service"] for node in ordered} | {record["service"] for record in records}),
        "start_us": start // 1000,
        "duration_ns": end - start,
        "complete": not any(node.shown["orphan"] for node in ordered),
        "truncated": truncated,
        "skewed": _skewed(nodes),
    }


def _nodes(connection: duckdb.DuckDBPyConnection, number: int) -> tuple[dict[int, _Node], list[Any], bool]:
    """
    Return the spans of a trace by id, the resources they refer to, and whether there are more.

    Of a span that was sent twice there is the first.
    """
    rows = connection.execute(
        f"""
        SELECT s.span_id, s.parent_id, s.start_ns, s.duration_ns, s.status, s.attributes, s.rest, o.name, o.kind,
               o.service, o.scope, o.scope_version, r.instance, r.attributes
        FROM spans s JOIN operations o ON o.id = s.operation JOIN span_resources r ON r.id = o.resource
        WHERE s.trace_id = ?::UHUGEINT ORDER BY s.start_ns, s.span_id LIMIT {_MOST_SPANS + 1}
        """,
        [number],
    ).fetchall()
    truncated = len(rows) > _MOST_SPANS
    del rows[_MOST_SPANS:]
    values = values_of(connection, "span_attributes", (row[5] for row in rows))
    resources = {text: at for at, text in enumerate(dict.fromkeys(row[-1] for row in rows))}
    nodes: dict[int, _Node] = {}
    for row in rows:
        if row[0] not in nodes:
            nodes[row[0]] = _node(row, values, resources)
    return nodes, [json.loads(text) for text in resources], truncated


def _node(row: Sequence[Any], values: Mapping[int, Pair], resources: Mapping[str, int]) -> _Node:
    span_id, parent, start, duration, status, numbers, rest, name, kind, service, scope, version, run, resource = row
    more = Span.FromString(rest) if rest else Span()
    shown = {
        "span_id": span_hex(span_id),
        "parent_span_id": span_hex(parent),
        "name": name,
        "service": service,
        "run": run,
        "kind": KINDS[kind],
        "start_us": start // 1000,
        "start_ns": str(start),
        "duration_ns": duration,
        "status": STATUSES[status],
        "status_message": more.status.message,
        "attributes": pairs(values, numbers),
        "resource": resources[resource],
        "scope": {"name": scope, "version": version},
        "events": [_event(event) for event in more.events],
        "links": [_link(link) for link in more.links],
        "dropped": more.dropped_attributes_count + more.dropped_events_count + more.dropped_links_count,
        "orphan": False,
        "critical": False,
        "self_ns": max(duration, 0),
        "depth": 0,
    }
    return _Node(span_id, parent, start, duration, shown)


def _event(event: Span.Event) -> dict[str, Any]:
    return {
        "name": event.name,
        "time_us": event.time_unix_nano // 1000,
        "attributes": [(pair.key, plain(pair.value)) for pair in event.attributes],
    }


def _link(link: Span.Link) -> dict[str, Any]:
    return {
        "trace_id": link.trace_id.hex(),
        "span_id": link.span_id.hex(),
        "attributes": [(pair.key, plain(pair.value)) for pair in link.attributes],
    }


def _tree(nodes: Mapping[int, _Node]) -> list[_Node]:
    """Hang each span under its parent; return those that have none here: roots, and orphans, which are marked."""
    roots, cut = [], _cuts(nodes)
    for node in nodes.values():
        parent = nodes.get(node.parent)
        if parent is None or node.id in cut:
            node.shown["orphan"] = node.parent != 0
            roots.append(node)
        else:
            parent.children.append(node)
    for node in nodes.values():
        node.children.sort(key=lambda child: (child.start, child.id))
        node.shown["self_ns"] = _self_time(node)
    return sorted(roots, key=lambda root: (root.shown["orphan"], root.start, root.id))


def _cuts(nodes: Mapping[int, _Node]) -> set[int]:
    """Return the spans, one of each circle of spans that are their own ancestors, at which the circle is cut."""
    cut: set[int] = set()
    seen: set[int] = set()
    for node in nodes.values():
        # Up from here, until where another way has been, or this one: then it is a circle.
        way: dict[int, None] = {}
        above: _Node | None = node
        while above is not None and above.id not in seen and above.id not in way:
            way[above.id] = None
            above = nodes.get(above.parent)
        if above is not None and above.id in way:
            around = list(way)
            cut.add(min(around[around.index(above.id) :]))
        seen.update(way)
    return cut


def _self_time(node: _Node) -> int:
    """Return the time of a span, in nanoseconds, during which none of its children ran."""
    covered, reached = 0, node.start
    for child in node.children:
        begin, end = max(child.start, reached), min(child.end, node.end)
        if end > begin:
            covered += end - begin
            reached = end
    return max(node.end - node.start - covered, 0)


def _walk(roots: Iterable[_Node]) -> Iterator[_Node]:
    """Yield each span before its children, and note how deep it is; a loop, as traces may be deeper than the stack."""
    waiting = [(root, 0) for root in reversed(list(roots))]
    while waiting:
        node, depth = waiting.pop()
        node.shown["depth"] = depth
        yield node
        waiting += [(child, depth + 1) for child in reversed(node.children)]


def _mark_critical(root: _Node) -> None:
    """
    Mark the critical path: from the end of each span back, the child that ended last before, and so on down.

    A child that ends after its parent, as clocks and event loops have it, counts as ending with it.
    """
    waiting = [root]
    while waiting:
        node = waiting.pop()
        node.shown["critical"] = True
        until = node.end
        for child in sorted(node.children, key=lambda child: child.end, reverse=True):
            if child.start < until and min(child.end, node.end) <= until:
                waiting.append(child)
                until = child.start


def _skewed(nodes: Mapping[int, _Node]) -> int:
    """Return how many spans end before they begin, or begin before their parent: their clocks differ."""
    return sum(
        node.duration < 0 or (node.parent in nodes and node.start < nodes[node.parent].start) for node in nodes.values()
    )
