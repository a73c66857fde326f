"""The minimal example as it is written; the end-to-end tests start it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube.lint import Unit, lint
from kube.render import load
from kube.toolchain import tool
from kube.versions import images
from workspace import ROOT

FOLDER = ROOT / "infra" / "examples" / "minimal"
README = (FOLDER / "README.md").read_text()


def found(kind: str, name: str) -> dict[str, Any]:
    """Return an object of the example."""
    [thing] = [each for each in load(FOLDER) if each["kind"] == kind and each["metadata"]["name"] == name]
    return thing


def container(name: str) -> dict[str, Any]:
    """Return the container of a Deployment of the example."""
    [only] = found("Deployment", name)["spec"]["template"]["spec"]["containers"]
    container: dict[str, Any] = only
    return container


def configuration() -> dict[str, Any]:
    """Return the collector's configuration."""
    [text] = found("ConfigMap", "otel-collector-config")["data"].values()
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def test_the_lint_finds_none_of_the_faults() -> None:
    """What the lint reports of the example that is found everywhere is gone."""
    assert lint(Unit("minimal", load(FOLDER))) == []


def test_each_correction_has_one_comment() -> None:
    """The file of the collector says at nine places what was there."""
    comments = re.findall(r"# Was (.+)", (FOLDER / "collector.yaml").read_text())

    assert len(comments) == len(set(comments)) == 9


def test_the_shape_is_that_of_the_example() -> None:
    """A ConfigMap and a Deployment, OTLP in over gRPC and HTTP, traces to Jaeger, and every signal has a pipeline."""
    config = configuration()
    pipelines = config["service"]["pipelines"]

    assert found("Deployment", "otel-collector")
    assert set(config["receivers"]["otlp"]["protocols"]) == {"grpc", "http"}
    assert pipelines["traces"]["exporters"] == ["otlp_grpc/jaeger"]
    assert set(pipelines) == {"traces", "metrics", "logs"}


def test_traces_go_to_the_jaeger_beside_it() -> None:
    """The exporter's endpoint is the Service of jaeger.yaml, in whichever namespace both are."""
    name, _, port = configuration()["exporters"]["otlp_grpc/jaeger"]["endpoint"].partition(":")

    assert int(port) in [each["port"] for each in found("Service", name)["spec"]["ports"]]


def test_the_collector_keeps_nothing_that_it_has_acknowledged() -> None:
    """No processor and no queue stands between a sender and Jaeger."""
    config = configuration()

    assert config["exporters"]["otlp_grpc/jaeger"]["sending_queue"] == {"enabled": False}
    assert {step for each in config["service"]["pipelines"].values() for step in each["processors"]} == {
        "memory_limiter"
    }


@pytest.mark.parametrize("name", ["otel-collector", "jaeger"])
def test_it_runs_what_was_tried(name: str) -> None:
    """Both images are those of `infra/versions.toml`."""
    assert container(name)["image"] in images()


def test_the_collector_accepts_its_configuration(tmp_path: Path) -> None:
    """The real collector of that version finds no fault in it."""
    config = tmp_path / "collector.yaml"
    config.write_text(yaml.safe_dump(configuration()))
    command = [str(tool("otelcol")), "validate", f"--config={config}"]
    ran = subprocess.run(command, env={"POD_IP": "127.0.0.1"}, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr


def test_its_page_names_what_there_is() -> None:
    """The endpoint and the commands of the README are about objects and ports of the example."""
    service = found("Service", "otel-collector")
    query = {each["port"] for each in found("Service", "jaeger")["spec"]["ports"]}

    assert "http://otel-collector.default:4317" in README
    assert 4317 in [each["port"] for each in service["spec"]["ports"]]
    assert "service/jaeger 16686:16686" in README
    assert 16686 in query
    assert {name for _, name in re.findall(r"(deployment|service)/([a-z-]+)", README)} == {"otel-collector", "jaeger"}
    assert all((FOLDER / target).exists() for target in re.findall(r"\]\(([^)]+)\)", README))
