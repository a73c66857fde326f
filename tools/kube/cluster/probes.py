"""
Probes and lifecycle hooks: what the kubelet does to a container from the node.

`attempt` does one, and never raises: what goes wrong is the outcome.
"""

import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2

from kube.cluster.errors import ObjectError
from kube.objects import Object

__all__ = ["Outcome", "Target", "Timing", "attempt"]

_HANDLERS = ("httpGet", "tcpSocket", "grpc", "exec", "sleep")
# What the kubelet reads of an answer, and more than anyone wants to see.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it succeeded, and what was seen."""

    succeeded: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What a probe is sent to.

    Attributes:
        ports: Named ports of the container.
        execute: Runs a command in it, for so many seconds at most.
        where: Workload and container, for messages.
    """

    ip: str
    ports: Mapping[str, int]
    execute: Callable[[Sequence[str], float], subprocess.CompletedProcess[str]]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a probe is sent, and how many results in a row count; times in seconds."""

    delay: float
    period: float
    timeout: float
    failures: int
    successes: int

    @classmethod
    def of(cls, probe: Object, pace: float) -> "Timing":
        """Read a probe's; *pace* scales delay and period, so that tests need not wait for them."""
        return cls(
            delay=float(probe.get("initialDelaySeconds") or 0) * pace,
            period=float(probe.get("periodSeconds") or 10) * pace,
            timeout=float(probe.get("timeoutSeconds") or 1),
            failures=int(probe.get("failureThreshold") or 3),
            successes=int(probe.get("successThreshold") or 1),
        )


def attempt(handler: Object, target: Target, timeout: float) -> Outcome:
    """
    Send a probe, or run a hook, once.

    Raises:
        ObjectError: It names a port that the container does not have, or is of no known kind.
    """
    kind = next((each for each in _HANDLERS if each in handler), None)
    if kind is None:
        raise ObjectError(f"{target.where}: {', '.join(handler) or 'nothing'}, expected one of {', '.join(_HANDLERS)}")
    how = {"httpGet": _http, "tcpSocket": _tcp, "grpc": _grpc, "exec": _exec, "sleep": _sleep}[kind]
    return how(handler[kind] or {}, target, timeout)


def _port(value: str | int, target: Target) -> int:
    if isinstance(value, int):
        return value
    if value not in target.ports:
        raise ObjectError(
            f"{target.where}: probe of port {value!r}, the container has {', '.join(target.ports) or 'none'}"
        )
    return target.ports[value]


def _http(options: Object, target: Target, timeout: float) -> Outcome:
    host, port = options.get("host") or target.ip, _port(options["port"], target)
    path = options.get("path") or "/"
    headers = {"User-Agent": "kube-probe/1.32", "Accept": "*/*", "Connection": "close"}
    headers |= {header["name"]: header["value"] for header in options.get("httpHeaders") or []}
    connection: http.client.HTTPConnection
    if (options.get("scheme") or "HTTP").upper() == "HTTPS":
        # The kubelet does not verify certificates either.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=unverified)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    asked = f"GET {path} at {host}:{port}"
    try:
        connection.request("GET", path if path.startswith("/") else f"/{path}", headers=headers)
        response = connection.getresponse()
        body = response.read(_SHOWN).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return Outcome(succeeded=False, detail=f"{asked}: {error or type(error).__name__}")
    finally:
        connection.close()
    return Outcome(succeeded=200 <= response.status < 400, detail=f"{asked}: {response.status} {body}".rstrip())


def _tcp(options: Object, target: Target, timeout: float) -> Outcome:
    host, port = options.get("host") or target.ip, _port(options["port"], target)
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        return Outcome(succeeded=False, detail=f"connect to {host}:{port}: {error}")
    return Outcome(succeeded=True, detail=f"connect to {host}:{port}")


def _grpc(options: Object, target: Target, timeout: float) -> Outcome:
    service = options.get("service") or ""
    asked = f"health of {service or 'the server'} at {target.ip}:{options['port']}"
    request = health_pb2.HealthCheckRequest(service=service)
    # Not the global pool of channels: one that has failed would be kept, with its back-off.
    with grpc.insecure_channel(
        f"{target.ip}:{options['port']}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    ) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(request, timeout=timeout)
        except grpc.RpcError as error:
            # Its first line says that it is an error, the next ones which.
            said = " ".join(line.strip() for line in str(error).splitlines()[1:3])
            return Outcome(succeeded=False, detail=f"{asked}: {said}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Outcome(succeeded=status == "SERVING", detail=f"{asked}: {status}")


def _exec(options: Object, target: Target, timeout: float) -> Outcome:
    command = options["command"]
    try:
        done = target.execute(command, timeout)
    except subprocess.TimeoutExpired:
        return Outcome(succeeded=False, detail=f"{command[0]}: took longer than {timeout:g} s")
    said = (done.stdout + done.stderr).strip()[:_SHOWN]
    return Outcome(succeeded=done.returncode == 0, detail=f"{command[0]}: exit code {done.returncode} {said}".rstrip())


def _sleep(options: Object, _: Target, timeout: float) -> Outcome:
    seconds = float(options["seconds"])
    time.sleep(min(seconds, timeout))
    return Outcome(succeeded=seconds <= timeout, detail=f"slept {min(seconds, timeout):g} s")
