"""The doctor: the rules of `check` on what is stored, with where to look."""

from pathlib import Path

import httpx
from otlp_json import histogram, identified, metrics, number, send, span, traces
from rsketch_dashboard import DashboardConfig, serve
from rsketch_dashboard.queries.doctor import doctor
from stored import NOW, Json, asked, stored

MINUTE = 60 * 10**9
LATER_US = (NOW + 10 * MINUTE) // 1000


def _findings(folder: Path, *said: Json) -> dict[str, Json]:
    """Return what is found, by rule."""
    with stored(folder, *said) as store:
        found = asked(store, lambda connection, parameters: doctor(connection, parameters, LATER_US), last="all")
    return {finding["rule"]: finding for finding in found["findings"]}


def _spans(*names: str, **about: object) -> Json:
    return traces("shop", [span(name, trace=identified(name), at=NOW, ms=1, **about) for name in names])  # type: ignore[arg-type]  # what a test says of them


def test_a_failure_that_does_not_say_so_is_a_problem(tmp_path: Path) -> None:
    """A response of 500 whose span has no error status is found, with its trace and the convention's section."""
    attributes = {"http.request.method": "GET", "http.response.status_code": 500, "url.path": "/", "url.scheme": "http"}
    found = _findings(tmp_path, _spans("GET", attributes=attributes))

    assert found["span-status"]["severity"] == "problem"
    assert found["span-status"]["examples"] == [identified("GET")]
    assert found["span-status"]["link"].startswith("https://opentelemetry.io/")
    assert found["span-status"]["count"] == 1
    assert found["span-status"]["title"] == "Span status"


def test_values_in_names_are_a_problem(tmp_path: Path) -> None:
    """Many names that differ in a number alone are found; a few may be templates."""
    found = _findings(tmp_path, _spans(*(f"GET /users/{number}" for number in range(8)), "GET /errors/404"))

    assert found["span-name-values"]["where"] == "SERVER span 'GET /users/…'"
    assert found["span-name-values"]["count"] == 4


def test_lost_parents_are_told_by_their_share(tmp_path: Path) -> None:
    """Where many parents in the same process never arrived, that is said; a remote one is nobody's fault."""
    lost = _spans(*(f"query {letter}" for letter in "abcdefghijkl"), kind="CLIENT", parent=identified("lost", 8))
    remote = _spans(*(f"GET {letter}" for letter in "abcdefghijkl"), parent=identified("remote", 8))
    found = _findings(tmp_path, lost, remote)

    assert found["span-parent"]["severity"] == "advice"
    assert found["span-parent"]["message"].startswith("100 % of those")


def test_parents_that_are_under_way_are_not_lost(tmp_path: Path) -> None:
    """Within a minute of a span's end its parent may still come."""
    lost = _spans(*(f"query {letter}" for letter in "abcdefghijkl"), kind="CLIENT", parent=identified("lost", 8))
    with stored(tmp_path, lost) as store:
        found = asked(store, lambda connection, parameters: doctor(connection, parameters, NOW // 1000), last="all")

    assert "span-parent" not in {finding["rule"] for finding in found["findings"]}
    assert found["checked"] == {"spans": 12, "logs": 0, "points": 0}


def test_an_attribute_without_bounds_is_told(tmp_path: Path) -> None:
    """A metric that grows by an attribute such as a user's number is found."""
    said = [metrics("shop", [number("orders", 1.0, NOW, attributes={"user": user})]) for user in range(150)]

    assert "user has 150 values" in _findings(tmp_path, *said)["metric-attribute-values"]["message"]


def test_durations_without_exemplars_are_told(tmp_path: Path) -> None:
    """Where spans are recorded and durations measured, but none leads to the other, that is said."""
    counts = [
        metrics("shop", [histogram("wait", {(): [seen, *([0] * 14)]}, start=NOW, at=NOW + seen * 10**9)])
        for seen in (1, 30)
    ]
    found = _findings(tmp_path, _spans("GET"), *counts)

    assert found["exemplar-missing"]["severity"] == "advice"
    assert found["exemplar-missing"]["where"] == "metric wait"


def test_problems_come_before_advice(tmp_path: Path) -> None:
    """The worst is first, however often advice is found."""
    lost = _spans(*(f"query {letter}" for letter in "abcdefghijkl"), kind="CLIENT", parent=identified("lost", 8))
    with stored(tmp_path, lost, _spans(*(f"GET /a/{number}" for number in range(6)))) as store:
        found = asked(store, lambda connection, parameters: doctor(connection, parameters, LATER_US), last="all")

    assert [each["severity"] for each in found["findings"]][-2:] == ["problem", "advice"]
    assert found["findings"][-1]["count"] >= 1


async def test_a_service_without_a_name_is_told(tmp_path: Path) -> None:
    """What SDKs call a service that has no name is found in what was sent over HTTP."""
    config = DashboardConfig(grpc_port=0, http_port=0, file=tmp_path / "a.duckdb", idle_seconds=0)
    async with (
        serve(config) as dashboard,
        httpx.AsyncClient(base_url=dashboard.url, trust_env=False, timeout=30) as client,
    ):
        await send(dashboard.url, traces("unknown_service:node", [span("a", trace=identified("a"), at=NOW, ms=1)]))
        found = (await client.get("/api/doctor")).json()["findings"]

    assert [each["message"] for each in found if each["rule"] == "service-name"] == [
        "service.name is unknown_service: OTEL_SERVICE_NAME is not set"
    ]
