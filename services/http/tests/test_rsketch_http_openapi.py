"""The OpenAPI document, its page, and CORS."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openapi_spec_validator import validate
from rsketch_http import problems
from sanic import Sanic

if TYPE_CHECKING:
    from services.http.tests.conftest import OpenClient, Upstream

SERVED = ["/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json"]
ORIGIN = "https://app.example"


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    """Return the document."""
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_the_document_is_valid(client: httpx.AsyncClient) -> None:
    """It is OpenAPI 3 by the schema of the specification, references included."""
    found = await document(client)

    validate(found)
    assert found["openapi"].startswith("3.")
    assert found["info"]["title"] == "rsketch"


async def test_every_route_is_in_the_document(client: httpx.AsyncClient) -> None:
    """Each route and method but the document itself and the parts of its page; and nothing that does not exist."""
    app: Any = Sanic.get_app("rsketch_http")
    hidden = {"/openapi.json", "/docs/docs.js", "/docs/docs.css"}
    routes = {(f"/{route.path}", method) for route in app.router.routes for method in route.methods - {"HEAD"}}
    found = await document(client)
    documented = {(path, method.upper()) for path, item in found["paths"].items() for method in item}

    assert documented == {(path, method) for path, method in routes if path not in hidden}


async def test_every_operation_documents_its_problems(client: httpx.AsyncClient) -> None:
    """Each has a 200 with a schema and its problems as problem documents; those that ask upstream have all of its."""
    found = await document(client)
    names = set()
    for path, item in found["paths"].items():
        for operation in item.values():
            names.add(operation["operationId"])
            refusals = {int(status): answer for status, answer in operation["responses"].items() if status != "200"}
            assert all(media["schema"] for media in operation["responses"]["200"]["content"].values())
            assert {400, 408, 413, 500, 503} <= set(refusals)
            assert all(problems.CONTENT_TYPE in answer["content"] for answer in refusals.values())
            if path.startswith("/api/v1/hello"):
                assert set(problems.GRPC_STATUSES.values()) <= set(refusals)

    assert len(names) == sum(len(item) for item in found["paths"].values())


async def test_inputs_are_documented(client: httpx.AsyncClient) -> None:
    """Parameters with their place and whether they are required; the body with its shape."""
    paths = (await document(client))["paths"]
    stream = {parameter["name"]: parameter for parameter in paths["/api/v1/hello/stream"]["get"]["parameters"]}
    body = paths["/api/v1/hello"]["post"]["requestBody"]

    assert {name: parameter["required"] for name, parameter in stream.items()} == {
        "name": True,
        "count": False,
        "interval": False,
    }
    assert {parameter["in"] for parameter in stream.values()} == {"query"}
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/HelloBody"}
    assert set(paths["/api/v1/hello"]["post"]["responses"]) >= {"415", "422"}


async def test_a_health_answer_is_as_documented(client: httpx.AsyncClient) -> None:
    """The members that are documented as required are there, and no other ones."""
    schema = (await document(client))["components"]["schemas"]["Health"]
    body = (await client.get("/api/health")).json()

    assert set(schema["required"]) <= set(body) <= set(schema["properties"])


@pytest.mark.parametrize("path", SERVED)
async def test_nothing_served_names_another_host(client: httpx.AsyncClient, path: str) -> None:
    """No absolute or scheme-relative URL is in the page, its parts or the document."""
    text = (await client.get(path)).text

    assert not re.search(r"https?:|[\"'(=]\s*//|@import|cdn", text)


@pytest.mark.parametrize(
    ("path", "media"), [("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")]
)
async def test_the_page_is_served_under_a_strict_policy(client: httpx.AsyncClient, path: str, media: str) -> None:
    """Only what this server serves may be loaded, by the browser's own check too."""
    response = await client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media)
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_page_needs_nothing_that_its_policy_forbids(client: httpx.AsyncClient) -> None:
    """No inline script or style, and each file it names is there."""
    page = (await client.get("/docs")).text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\bsrc=)", page)
    assert set(named) == {"/docs/docs.css", "/docs/docs.js", "/openapi.json"}
    assert [(await client.get(path)).status_code for path in named] == [200] * len(named)


def test_the_page_is_for_light_and_dark() -> None:
    """The style sheet has both, and the page says so to the browser."""
    pages = files("rsketch_http") / "pages"

    assert "prefers-color-scheme: dark" in (pages / "docs.css").read_text()
    assert '<meta name="color-scheme" content="light dark">' in (pages / "docs.html").read_text()


async def test_without_origins_there_is_no_cors(client: httpx.AsyncClient) -> None:
    """By default no other origin may read anything, and preflights are refused."""
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
    answer = await client.get("/api/v1/hello?name=ada", headers=headers)
    preflight = await client.options("/api/v1/hello", headers=headers)

    assert preflight.status_code == 405
    assert not [name for name in [*answer.headers, *preflight.headers] if name.startswith("access-control")]


async def test_a_listed_origin_may_read_and_preflight(upstream: Upstream, open_client: OpenClient) -> None:
    """Answers, problems and streams carry the origin; the preflight allows the method and the headers asked for."""
    headers = {"origin": ORIGIN}
    asks = {**headers, "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-no"}
    async with open_client(upstream.port, {"RSKETCH_HTTP_CORS_ORIGINS": f"{ORIGIN},https://b.example"}) as client:
        paths = ["/api/v1/hello?name=ada", "/nowhere", "/api/v1/hello/stream?name=ada&interval=0"]
        answers = [await client.get(path, headers=headers) for path in paths]
        preflight = await client.options("/api/v1/hello", headers=asks)

    assert [answer.status_code for answer in answers] == [200, 404, 200]
    for answer in [*answers, preflight]:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers
    assert preflight.status_code == 204
    assert set(preflight.headers["access-control-allow-methods"].split(",")) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert preflight.headers["access-control-allow-headers"] == "content-type"


@pytest.mark.parametrize("origin", ["https://other.example", f"{ORIGIN}.evil.example", "null", "http://app.example"])
async def test_another_origin_may_not(upstream: Upstream, open_client: OpenClient, origin: str) -> None:
    """An origin must be listed as a whole; caches are told that the answer depends on it."""
    headers = {"origin": origin, "access-control-request-method": "POST"}
    async with open_client(upstream.port, {"RSKETCH_HTTP_CORS_ORIGINS": ORIGIN}) as client:
        answer = await client.get("/api/v1/hello?name=ada", headers=headers)
        preflight = await client.options("/api/v1/hello", headers=headers)

    assert not [name for name in [*answer.headers, *preflight.headers] if name.startswith("access-control")]
    assert answer.headers["vary"] == "origin"


async def test_all_origins_may_be_allowed(upstream: Upstream, open_client: OpenClient) -> None:
    """An asterisk alone lets any origin read."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_CORS_ORIGINS": "*"}) as client:
        answer = await client.get("/health", headers={"origin": "https://anybody.example"})

    assert answer.headers["access-control-allow-origin"] in ("*", "https://anybody.example")


async def test_the_document_is_the_same_with_cors(upstream: Upstream, open_client: OpenClient) -> None:
    """Preflight routes are not part of the interface."""
    async with open_client(upstream.port) as client:
        without = await document(client)
    async with open_client(upstream.port, {"RSKETCH_HTTP_CORS_ORIGINS": "*"}) as client:
        found = await document(client)

    assert found["paths"].keys() == without["paths"].keys()
    assert all("options" not in item for item in found["paths"].values())
