"""Overlays in the mini cluster: which program stands behind which image, and the backends' addresses."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from backends import Jaeger, Loki, Prometheus
from kube.cluster import Cluster, Image
from kube.images import entrypoint, environment
from kube.render import Object, render
from kube.toolchain import tool
from workspace import ROOT

__all__ = [
    "INFRA",
    "OVERRIDES",
    "READY_SECONDS",
    "SERVICES",
    "Platform",
    "eventually",
    "images",
    "platform_objects",
    "starting_platform",
]

INFRA = ROOT / "infra"
SERVICES = ("rsketch-grpc", "rsketch-http")
OVERRIDES: Mapping[str, Mapping[str, str]] = {"otel-collector": {"K8S_ATTRIBUTES_PASSTHROUGH": "true"}}
"""What has to differ where there is no API server."""
READY_SECONDS = 60.0
_WORKLOADS = ("Deployment", "StatefulSet")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A running cluster and how to ask its backends."""

    cluster: Cluster
    jaeger: Jaeger
    prometheus: Prometheus
    loki: Loki

    def deploy(self, service: str, overlay: str = "local") -> None:
        """Apply an overlay of `rsketch-http` or `rsketch-grpc` alone, and wait until it is ready."""
        self.cluster.apply(render(INFRA / "overlays" / overlay / service.removeprefix("rsketch-")))
        self.cluster.wait_ready(READY_SECONDS)

    def http_address(self) -> str:
        """Return `host:port` of the Service of rsketch-http."""
        return f"{self.cluster.service_ip('rsketch', 'rsketch-http')}:80"


@contextmanager
def starting_platform(
    workdir: Path, folder: Path = INFRA / "overlays" / "local" / "platform", beside: Sequence[Object] = ()
) -> Iterator[Platform]:
    """Run the namespaces and the platform of an overlay, ready, *beside* other objects; stop them at the end."""
    objects = [*platform_objects(folder), *beside]
    with Cluster(objects, images(), workdir, environment_overrides=OVERRIDES) as cluster:
        cluster.wait_ready(READY_SECONDS)
        with (
            closing(Jaeger(f"{cluster.service_ip('observability', 'jaeger')}:16686")) as jaeger,
            closing(Prometheus(f"{cluster.service_ip('observability', 'prometheus')}:9090")) as prometheus,
            closing(Loki(f"{cluster.service_ip('observability', 'loki')}:3100")) as loki,
        ):
            yield Platform(cluster=cluster, jaeger=jaeger, prometheus=prometheus, loki=loki)


def platform_objects(folder: Path, *without: str) -> list[Object]:
    """Return the namespaces and what a folder renders to, but for Grafana and the workloads of the names given."""
    # The one program that cannot be built from pinned sources here; its dashboards are asked of the backends instead.
    left_out = {"grafana", *without}
    objects = (*render(INFRA / "namespaces"), *render(folder))
    return [each for each in objects if each["kind"] not in _WORKLOADS or each["metadata"]["name"] not in left_out]


@cache
def images() -> Mapping[str, Image]:
    """Return the program behind each image, by the image's name without its tag."""
    return {
        "otel/opentelemetry-collector-k8s": Image(entrypoint=(str(tool("otelcol")),)),
        "jaegertracing/jaeger": Image(entrypoint=(str(tool("jaeger")),)),
        "prom/prometheus": Image(entrypoint=(str(tool("prometheus")),)),
        "grafana/loki": Image(entrypoint=(str(tool("loki")),)),
        **{service: _service(service) for service in SERVICES},
    }


def _service(service: str) -> Image:
    """Return the image of a service: the environment made from the lock that the image is made from."""
    name = service.removeprefix("rsketch-")
    script = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))"
    command = ["./hatchw", "run", f"{name}:python", "-c", script]
    # In here there is no network: the environment has to be there, as `kube.check` sees to.
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"no environment {name}: ./hatchw run {name}:python -V makes it\n{ran.stderr}"
    prefix, base = json.loads(ran.stdout.splitlines()[-1])
    program, *arguments = entrypoint()
    return Image(
        entrypoint=(f"{prefix}/bin/{Path(program).name}", *arguments),
        environment={**environment(name), "PATH": f"{prefix}/bin:/usr/bin:/bin"},
        binds=(ROOT, Path(base)),
    )


def eventually(ask: Callable[[], Value], seconds: float, what: str) -> Value:
    """Return the first true answer of *ask*; fail with *what* and the last answer once the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: {answer!r} after {seconds:g} s"
        time.sleep(0.25)
