"""The overlays for a shared cluster and for production with the real programs: they serve, and admit whom they say."""

import secrets
from collections.abc import Iterator

import httpx
import pytest
from kube.cluster.testing import require_inside
from load import traceparent
from local import INFRA, SERVICES, Platform, eventually, starting_platform

require_inside()

NAMESPACES = {"guest": {"rsketch/otlp": "allowed"}, "stranger": {}}
"""Namespaces of others, by name with their labels."""


@pytest.fixture(scope="module", params=["dev", "prod"])
def overlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Platform]]:
    """Return an overlay's name and its running platform with both services."""
    name = request.param
    with starting_platform(tmp_path_factory.mktemp(name), INFRA / "overlays" / name / "platform") as platform:
        for service in SERVICES:
            platform.deploy(service, name)
        platform.cluster.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": labels}}
                for space, labels in NAMESPACES.items()
            ]
        )
        yield name, platform


def test_a_greeting_is_a_stored_trace(overlay: tuple[str, Platform]) -> None:
    """With as many pods as the overlay says, a call is one trace of three spans that name the environment."""
    name, platform = overlay
    trace = secrets.token_hex(16)
    headers = traceparent(trace)
    answer = httpx.get(f"http://{platform.http_address()}/api/v1/hello?name=ada", headers=headers, timeout=10.0)

    assert answer.json() == {"message": "Hello, ada!"}
    eventually(
        lambda: len({span.span_id for span in platform.jaeger.trace(trace)}) == 3, 30.0, "no trace of three spans"
    )
    assert {span.resource["deployment.environment.name"] for span in platform.jaeger.trace(trace)} == {name}


def test_who_may_send_telemetry(overlay: tuple[str, Platform]) -> None:
    """`dev` takes it from every namespace, `prod` from those that are labelled for it."""
    name, platform = overlay
    admitted = {space for space in NAMESPACES if _reaches_the_collector(platform, space)}

    assert admitted == ({"guest"} if name == "prod" else {"guest", "stranger"})


def _reaches_the_collector(platform: Platform, namespace: str) -> bool:
    script = "import socket; socket.create_connection(('otel-collector.observability', 4317), 5)"
    return platform.cluster.run(namespace, {}, ["python3", "-c", script]).returncode == 0
