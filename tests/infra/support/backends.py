"""Questions to the real Jaeger, Prometheus and Loki, by their public HTTP APIs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["Jaeger", "LogLine", "Loki", "Prometheus", "StoredSpan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpan:
    """A span as Jaeger returns it; *tags* and *resource* hold its attributes and those of its process."""

    name: str
    span_id: str
    parent_id: str | None
    service: str
    tags: Mapping[str, Any]
    resource: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind, such as `server`."""
        return str(self.tags.get("span.kind", "internal"))


class _Backend:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


class Jaeger(_Backend):
    """The query API of Jaeger v2."""

    def __init__(self, address: str) -> None:
        super().__init__(f"http://{address}")

    def trace(self, trace_id: str) -> list[StoredSpan]:
        """Return the spans of a trace, an empty list where it is not stored."""
        answer = self._client.get(f"/api/traces/{trace_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        answer.raise_for_status()
        return [span for trace in answer.json()["data"] for span in _spans(trace)]

    def services(self) -> list[str]:
        """Return the names of the services that have sent spans."""
        answer = self._client.get("/api/services").raise_for_status()
        return sorted(answer.json()["data"] or [])


def _spans(trace: Mapping[str, Any]) -> list[StoredSpan]:
    processes = trace["processes"]
    return [
        StoredSpan(
            name=span["operationName"],
            span_id=span["spanID"],
            parent_id=next((each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"), None),
            service=processes[span["processID"]]["serviceName"],
            tags={tag["key"]: tag["value"] for tag in span["tags"]},
            resource={tag["key"]: tag["value"] for tag in processes[span["processID"]].get("tags", [])},
        )
        for span in trace["spans"]
    ]


class Prometheus(_Backend):
    """The query API of Prometheus."""

    def __init__(self, address: str) -> None:
        super().__init__(f"http://{address}/api/v1")

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        return list(self._get("/query", query=promql)["result"])

    def total(self, promql: str) -> float:
        """Return the sum of the values of an instant query, 0 where it has none."""
        return sum(float(series["value"][1]) for series in self.query(promql))

    def exemplars(self, promql: str) -> list[dict[str, Any]]:
        """Return the exemplars of the last ten minutes."""
        now = time.time()
        found = self._get("/query_exemplars", query=promql, start=str(now - 600), end=str(now + 60))
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A log record as Loki returns it; *labels* hold the stream's labels and the record's structured metadata."""

    text: str
    labels: Mapping[str, str]


class Loki(_Backend):
    """The query API of Loki."""

    def __init__(self, address: str) -> None:
        super().__init__(f"http://{address}/loki/api/v1")

    def lines(self, logql: str, *, seconds: float = 3600.0) -> list[LogLine]:
        """Return at most 5,000 records of the last hour, or of so many seconds."""
        streams = self.ask(logql, seconds=seconds)
        return [LogLine(text=value[1], labels=stream["stream"]) for stream in streams for value in stream["values"]]

    def ask(self, logql: str, *, seconds: float = 3600.0) -> Sequence[Mapping[str, Any]]:
        """Return the streams, or the series, of a query over the last hour or so many seconds."""
        now = time.time_ns()
        window = {"start": str(now - int(seconds * 1e9)), "end": str(now + 60 * 10**9), "limit": "5000"}
        answer = self._client.get("/query_range", params={"query": logql, **window})
        assert answer.is_success, f"{logql}: {answer.text}"
        found: Sequence[Mapping[str, Any]] = answer.json()["data"]["result"]
        return found
