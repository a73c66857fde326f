"""
The mini cluster with small programs of our own: what it promises, in real namespaces.

Run inside: `python -m kube.cluster.enter -- python -m pytest tests/infra/e2e/test_e2e_cluster.py`.
"""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from kube.cluster import Cluster, ClusterError, Image, Object, ObjectError, Pod, interpreter_binds
from kube.cluster.testing import require_inside

require_inside(os.environ)

FIXTURES = Path(__file__).parents[1] / "cluster_fixtures"
IMAGES = {
    name: Image(
        entrypoint=(sys.executable, str(FIXTURES / f"{name}.py")),
        environment={"FROM_IMAGE": "yes"},
        binds=(*interpreter_binds(), FIXTURES),
    )
    for name in ("server", "health")
}
# Probes of a manifest are seconds apart; here they shall not make the tests slow.
PACE = 0.1
HTTP = {"name": "http", "containerPort": 8080}
PROBE = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}


def container(**fields: Any) -> Object:
    """Return a container of the fixture's server, ready when /healthz says so."""
    return {
        "name": "server",
        "image": "server:1.0",
        "args": ["8080"],
        "ports": [HTTP],
        "readinessProbe": PROBE,
        "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 10001, "runAsGroup": 10001},
        **fields,
    }


def workload(
    name: str, *containers: Object, kind: str = "Deployment", replicas: int = 1, pod: Object | None = None, **spec: Any
) -> Object:
    """Return a workload whose pods are labelled `app: <name>`."""
    pod_spec = {"terminationGracePeriodSeconds": 3, "containers": list(containers or [container()]), **(pod or {})}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}, "annotations": {"note": "hi"}}, "spec": pod_spec},
            **spec,
        },
    }


def service(name: str, *, port: Object | None = None, **spec: Any) -> Object:
    """Return a Service of the pods labelled `app: <name>`, port 80 to the named port http."""
    ports = [port or {"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def config_map(name: str, data: Mapping[str, str]) -> Object:
    """Return a ConfigMap."""
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": dict(data)}


def get(pod: Pod, path: str) -> str:
    """Return what a pod's server answers to the node; its words too where it could not."""
    return fetch(f"http://{pod.ip}:8080{path}")


def fetch(url: str) -> str:
    """Return a body, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def call(cluster: Cluster, url: str, labels: Mapping[str, str] | None = None, namespace: str = "default") -> str:
    """Return what a pod of its own gets from a URL, or how that failed."""
    script = (
        "import sys, urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode(), end='')\n"
        "except urllib.error.URLError as error: print(type(error.reason).__name__, error.reason, end='')"
    )
    return cluster.run(namespace, labels or {}, [sys.executable, "-c", script, url]).stdout


def cluster_of(tmp_path: Path, *objects: Object, overrides: Mapping[str, Mapping[str, str]] | None = None) -> Cluster:
    """Return a cluster of the fixture's images."""
    return Cluster(objects, IMAGES, tmp_path, environment_overrides=overrides, pace=PACE)


def test_a_service_spreads_over_ready_pods(tmp_path: Path) -> None:
    """Its address and its names lead to all ready pods and to no other, from the node and from pods."""
    with cluster_of(tmp_path, workload("web", replicas=2), service("web")) as cluster:
        cluster.wait_ready(20)
        address = f"http://{cluster.service_ip('default', 'web')}"
        first, second = cluster.pods("web")
        both = {fetch(f"{address}/who") for _ in range(30)}
        get(first, "/status?503")
        cluster.wait_until(lambda: not first.ready, 10)
        one = {fetch(f"{address}/who") for _ in range(10)}
        named = [
            call(cluster, f"http://{name}/who") for name in ("web", "web.default", "web.default.svc.cluster.local")
        ]

        assert both == {first.name, second.name}
        assert one == {second.name}
        assert named == [second.name] * 3


def test_a_service_without_ready_pods_refuses(tmp_path: Path) -> None:
    """A connection is refused at once, from the node and from pods; so is a port that the Service does not have."""
    with cluster_of(tmp_path, workload("web"), service("web")) as cluster:
        cluster.wait_ready(20)
        wrong_port = call(cluster, "http://web:81/")
        get(cluster.pod("web"), "/status?503")
        cluster.wait_until(lambda: not cluster.pod("web").ready, 10)
        began = time.monotonic()

        assert wrong_port == "ConnectionRefusedError [Errno 111] Connection refused"
        assert call(cluster, "http://web/") == "ConnectionRefusedError [Errno 111] Connection refused"
        with pytest.raises(urllib.error.URLError, match="refused"):
            fetch(f"http://{cluster.service_ip('default', 'web')}/")
        assert time.monotonic() - began < 3


def test_a_pod_reaches_itself_through_its_service(tmp_path: Path) -> None:
    """The address of a Service works for the very pod behind it, although a policy isolates that."""
    with cluster_of(tmp_path, workload("web"), service("web"), policy("closed", "web", ["Ingress"])) as cluster:
        cluster.wait_ready(20)
        script = "import urllib.request; print(urllib.request.urlopen('http://%s/who', timeout=5).read().decode())"
        address = cluster.service_ip("default", "web")
        done = cluster.execute(cluster.pod("web"), [sys.executable, "-c", script % address])

        assert done.stdout.strip() == cluster.pod("web").name, done.stderr


def test_a_stateful_set_has_names_and_claims(tmp_path: Path) -> None:
    """Its pods have stable names, one after the other, found below the headless Service; claims outlive them."""
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    mounted = container(volumeMounts=[{"name": "data", "mountPath": "/var/lib/data"}])
    store = workload(
        "store",
        mounted,
        kind="StatefulSet",
        replicas=2,
        pod={"securityContext": {"fsGroup": 10001}},
        serviceName="store",
        volumeClaimTemplates=[claim],
    )
    with cluster_of(tmp_path, store, service("store", clusterIP="None")) as cluster:
        cluster.wait_ready(20)
        first, second = cluster.pods("store")
        resolved = json.loads(get(first, "/resolve?store-1.store.default.svc.cluster.local"))
        everyone = json.loads(get(first, "/resolve?store"))
        said = call(cluster, "http://store-0.store:8080/write?/var/lib/data/notes")
        report = cluster.delete(first)
        cluster.wait_ready(20)
        again = cluster.pod("store-0")

        assert (first.name, second.name) == ("store-0", "store-1")
        assert resolved == [second.ip]
        assert everyone == sorted([first.ip, second.ip])
        assert said == "written"
        assert report.exit_code == 0
        assert again is not first
        assert get(again, "/read?/var/lib/data/notes") == "written\n"


def test_unknown_names_fail_at_once(tmp_path: Path) -> None:
    """A name outside of the cluster, or of no Service, is denied without waiting."""
    with cluster_of(tmp_path) as cluster:
        began = time.monotonic()
        answers = [
            call(cluster, f"http://{name}/") for name in ("nowhere", "example.com", "x.default.svc.cluster.local")
        ]

        assert all(answer.startswith("gaierror") for answer in answers), answers
        assert time.monotonic() - began < 5


def test_files_are_mounted_as_the_manifest_says(tmp_path: Path) -> None:
    """ConfigMap, Secret and downward API files stand at their paths, read-only; an emptyDir can be written to."""
    volumes: list[Object] = [
        {"name": "whole", "configMap": {"name": "settings"}},
        {"name": "picked", "configMap": {"name": "settings", "items": [{"key": "b.yaml", "path": "sub/c.yaml"}]}},
        {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "scratch", "emptyDir": {}},
        {
            "name": "mixed",
            "projected": {
                "sources": [
                    {"configMap": {"name": "settings", "items": [{"key": "a.yaml", "path": "a"}]}},
                    {
                        "downwardAPI": {
                            "items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]
                        }
                    },
                ]
            },
        },
    ]
    mounted = container(
        volumeMounts=[
            {"name": "whole", "mountPath": "/etc/program"},
            {"name": "picked", "mountPath": "/opt/program"},
            {"name": "whole", "mountPath": "/srv/one/b.yaml", "subPath": "b.yaml"},
            {"name": "secret", "mountPath": "/var/run/keys"},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "mixed", "mountPath": "/mixed"},
        ]
    )
    objects = [
        config_map("settings", {"a.yaml": "a: 1", "b.yaml": "b: 2"}),
        {"kind": "Secret", "metadata": {"name": "keys"}, "data": {"key": "c2VjcmV0"}, "stringData": {"other": "plain"}},
        workload("web", mounted, pod={"volumes": volumes}),
    ]
    with cluster_of(tmp_path, *objects) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")
        read = {
            path: get(pod, f"/read?{path}")
            for path in ("/etc/program/a.yaml", "/opt/program/sub/c.yaml", "/srv/one/b.yaml", "/mixed/a", "/mixed/n")
        }

        assert list(read.values()) == ["a: 1", "b: 2", "b: 2", "a: 1", "hi"]
        # Root's alone, and the pod has no fsGroup: unreadable, as it would be in a real cluster.
        assert get(pod, "/read?/var/run/keys/key").startswith("PermissionError")
        assert get(pod, "/write?/tmp/x") == "written"
        for path in ("/etc/program/a.yaml", "/etc/x", "/x", "/var/x"):
            assert get(pod, f"/write?{path}").startswith(("OSError: [Errno 30]", "PermissionError")), path
        assert "nameserver 10.96.0.10" in get(pod, "/read?/etc/resolv.conf")
        assert f"{pod.ip}\t{pod.name}" in get(pod, "/read?/etc/hosts")


def test_a_group_for_volumes_makes_them_readable(tmp_path: Path) -> None:
    """With fsGroup a secret that only root may read is readable, and a claim can be written to; without it is not."""
    volumes = [
        {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    mounted = container(volumeMounts=[{"name": "secret", "mountPath": "/keys"}, {"name": "data", "mountPath": "/data"}])
    objects = [
        {"kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"key": "secret"}},
        {"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {}},
    ]
    allowed = workload("web", mounted, pod={"volumes": volumes, "securityContext": {"fsGroup": 10001}})
    forbidden = workload("web", mounted, pod={"volumes": volumes})
    with cluster_of(tmp_path, *objects, allowed) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")
        with_group = (get(pod, "/read?/keys/key"), get(pod, "/write?/data/x"))
        cluster.apply([forbidden])
        pod = cluster.pod("web")
        without = (get(pod, "/read?/keys/key"), get(pod, "/write?/data/y"))

        assert with_group == ("secret", "written")
        assert all(answer.startswith("PermissionError") for answer in without), without


def test_the_environment_is_that_of_a_container(tmp_path: Path) -> None:
    """Image, ConfigMap, downward API, service links, expansion and overrides arrive, and nothing of the host."""
    entries: list[Object] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "BOTH", "value": "$(POD)/$(POD_IP)/$(COLOUR)/$(LATER)/$$(POD)"},
        {"name": "LATER", "value": "x"},
        {"name": "SWITCH", "value": "false"},
    ]
    settings = container(
        env=entries,
        envFrom=[{"configMapRef": {"name": "colours"}}],
        resources={"limits": {"memory": "64Mi"}},
        args=["8080", "$(COLOUR)"],
        command=[sys.executable, str(FIXTURES / "server.py")],
    )
    settings["args"] = ["8080"]
    objects = [config_map("colours", {"COLOUR": "blue"}), service("web-shop"), workload("web", settings)]
    with cluster_of(tmp_path, *objects, overrides={"web": {"SWITCH": "true"}}) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")
        found = json.loads(get(pod, "/env"))

        assert found["BOTH"] == f"{pod.name}/{pod.ip}/blue/$(LATER)/$(POD)"
        assert found["LIMIT"] == "64"
        assert found["SWITCH"] == "true"
        assert found["FROM_IMAGE"] == "yes"
        assert found["HOME"] == "/"
        assert found["HOSTNAME"] == pod.name
        assert found["WEB_SHOP_PORT"] == f"tcp://{cluster.service_ip('default', 'web-shop')}:80"
        assert "PYTEST_CURRENT_TEST" not in found


def test_command_and_args_replace_as_in_kubernetes(tmp_path: Path) -> None:
    """`args` follow the image's entrypoint; `command` replaces it, and one that does not exist is said."""
    missing = workload("missing", container(command=["--config=/etc/x.yaml"]))
    with cluster_of(tmp_path, workload("web", container(args=["8080", "9090"])), missing) as cluster:
        web, broken = cluster.pod("web"), cluster.pod("missing")
        cluster.wait_ready(20, [web])
        cluster.wait_until(lambda: broken.restarts > 0, 10)

        assert json.loads(get(web, "/argv")) == ["8080", "9090"]
        assert "--config=/etc/x.yaml: No such file or directory" in cluster.logs(broken)


def policy(name: str, app: str, types: Sequence[str], **rules: Any) -> Object:
    """Return a NetworkPolicy for the pods labelled `app: <app>`; for all with an empty one."""
    selector = {"matchLabels": {"app": app}} if app else {}
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": selector, "policyTypes": list(types), **rules},
    }


DNS_PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
DENIED = "OSError [Errno 113] No route to host"


def test_both_sides_of_a_connection_must_be_allowed(tmp_path: Path) -> None:
    """With default-deny nothing passes until egress, ingress and DNS are allowed; a denial is immediate and listed."""
    deny = policy("deny", "", ["Ingress", "Egress"])
    dns = policy("dns", "", ["Egress"], egress=[{"to": [DNS_PEER], "ports": [{"port": 53, "protocol": "UDP"}]}])
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    out = policy("out", "client", ["Egress"], egress=[{"to": [peer], "ports": [{"port": "http"}]}])
    caller = {"podSelector": {"matchLabels": {"app": "client"}}}
    into = policy("into", "web", ["Ingress"], ingress=[{"from": [caller], "ports": [{"port": 8080}]}])
    client = {"app": "client"}
    with cluster_of(tmp_path, workload("web", container(args=["8080", "8081"])), service("web"), deny) as cluster:
        # Probes come from the node, which no policy stops.
        cluster.wait_ready(20)
        began = time.monotonic()
        without_names = call(cluster, "http://web/who", client)
        cluster.apply([dns])
        without_egress = call(cluster, "http://web/who", client)
        cluster.apply([out])
        without_ingress = call(cluster, "http://web/who", client)
        cluster.apply([into])
        allowed = call(cluster, "http://web/who", client)
        other_label = call(cluster, "http://web/who", {"app": "other"})
        other_port = call(cluster, f"http://{cluster.pod('web').ip}:8081/who", client)
        seconds = time.monotonic() - began

        assert without_names.startswith("gaierror"), without_names
        assert (without_egress, without_ingress) == (DENIED, DENIED)
        assert allowed == cluster.pod("web").name
        assert (other_label, other_port) == (DENIED, DENIED)
        assert seconds < 20
        assert any(each.endswith(f"default/{allowed} TCP 8080") for each in cluster.denials()), cluster.denials()


def test_policies_select_namespaces_and_networks(tmp_path: Path) -> None:
    """A namespaceSelector admits by the namespace's labels, and an ipBlock but for its exceptions."""
    tenant = {"kind": "Namespace", "metadata": {"name": "tenant", "labels": {"telemetry": "allowed"}}}
    peers = [
        {"namespaceSelector": {"matchExpressions": [{"key": "telemetry", "operator": "In", "values": ["allowed"]}]}},
        {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/32"]}},
    ]
    rule = {"from": peers, "ports": [{"port": 8000, "endPort": 8090}]}
    script = "import socket, sys; socket.create_connection((sys.argv[1], 8080), 3)"
    with cluster_of(tmp_path, tenant, workload("web"), policy("into", "web", ["Ingress"], ingress=[rule])) as cluster:
        cluster.wait_ready(20)
        ip = cluster.pod("web").ip
        url = f"http://{ip}:8080/who"
        by_namespace = [call(cluster, url, namespace=namespace) for namespace in ("tenant", "default")]
        by_address = []
        for address in ("203.0.113.7", "203.0.113.8"):
            with cluster.running("default", {}, [sys.executable, "-c", script, ip], address=address) as pod:
                by_address.append(pod.containers["command"].wait(10))

        assert by_namespace == [cluster.pod("web").name, DENIED]
        assert by_address == [0, 1]


def test_a_host_outside_is_found_by_its_name(tmp_path: Path) -> None:
    """A program can stand for a backend outside of the cluster, with a name and an address of its own."""
    server = [sys.executable, str(FIXTURES / "server.py"), "8080"]
    with (
        cluster_of(tmp_path) as cluster,
        cluster.running(
            "default", {}, server, binds=[FIXTURES], host="otlp.example.com", address="203.0.113.9"
        ) as host,
    ):
        cluster.wait_until(lambda: "started" in cluster.logs(host))
        cluster.wait_until(lambda: call(cluster, "http://otlp.example.com:8080/who") == host.name, 10)

        assert json.loads(call(cluster, "http://otlp.example.com:8080/resolve?otlp.example.com")) == ["203.0.113.9"]


def test_liveness_restarts_a_container(tmp_path: Path) -> None:
    """A container whose liveness probe fails is ended and started again, in the same pod."""
    live = container(startupProbe={**PROBE, "failureThreshold": 300}, livenessProbe={**PROBE, "failureThreshold": 2})
    with cluster_of(tmp_path, workload("web", live)) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")
        get(pod, "/status?500")
        cluster.wait_until(lambda: pod.restarts == 1 and pod.ready, 15)

        assert cluster.pod("web") is pod
        assert cluster.logs(pod).count("started as") == 2
        assert "SIGTERM" in cluster.logs(pod)


def test_a_crash_is_restarted_and_reported(tmp_path: Path) -> None:
    """A container that ends is started again; one that never gets ready is named with its last words."""
    startup = {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 300}
    slow = container(startupProbe=startup, env=[{"name": "SLOW_SECONDS", "value": "600"}])
    with cluster_of(tmp_path, workload("web"), workload("slow", slow)) as cluster:
        web = cluster.pod("web")
        cluster.wait_ready(20, [web])
        with pytest.raises(http.client.RemoteDisconnected):
            get(web, "/exit?3")
        cluster.wait_until(lambda: web.restarts == 1 and web.ready, 15)
        with pytest.raises(ClusterError) as caught:
            cluster.wait_ready(0.5)

        message = str(caught.value)
        assert "not ready after 0.5 s:\n" in message
        assert f"default/{cluster.pod('slow').name}:" in message
        assert "startup probe: connect to" in message
        assert "| started as slow-" in message


def test_a_startup_probe_that_fails_ends_the_container(tmp_path: Path) -> None:
    """The container is ended after the threshold, and its exit code kept."""
    slow = container(startupProbe={**PROBE, "failureThreshold": 3}, env=[{"name": "SLOW_SECONDS", "value": "600"}])
    with cluster_of(tmp_path, workload("slow", slow)) as cluster:
        pod = cluster.pod("slow")
        cluster.wait_until(lambda: pod.restarts >= 1, 15)

        assert pod.containers["server"].exit_code == 0
        assert cluster.logs(pod).count("SIGTERM") >= 1


def test_each_kind_of_probe_is_executed(tmp_path: Path) -> None:
    """Probes by command, TCP, HTTP with headers and gRPC health decide; a service that is not SERVING is not ready."""
    by_exec = container(
        readinessProbe={"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 5},
        volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],
    )
    grpc = {"name": "server", "image": "health", "args": ["50051"], "ports": [{"containerPort": 50051}]}
    serving = {"grpc": {"port": 50051, "service": "ready"}, "periodSeconds": 1}
    broken = {"grpc": {"port": 50051, "service": "broken"}, "periodSeconds": 1}
    objects = [
        workload("exec", by_exec, pod={"volumes": [{"name": "tmp", "emptyDir": {}}]}),
        workload("tcp", container(readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1})),
        workload("grpc", {**grpc, "readinessProbe": serving}),
        workload("broken", {**grpc, "readinessProbe": broken}),
    ]
    with cluster_of(tmp_path, *objects) as cluster:
        waiting, unhealthy = cluster.pod("exec"), cluster.pod("broken")
        cluster.wait_ready(20, [cluster.pod("tcp"), cluster.pod("grpc")])
        cluster.wait_until(lambda: "exit code 1" in waiting.explain(), 10)
        cluster.wait_until(lambda: "NOT_SERVING" in unhealthy.explain(), 10)
        cluster.execute(waiting, ["touch", "/tmp/ready"])
        cluster.wait_ready(10, [waiting])

        assert not unhealthy.ready


def test_init_containers_come_first(tmp_path: Path) -> None:
    """They run to their end, in order, and leave in a volume what the container then reads; a sidecar stays."""
    mounted = [{"name": "shared", "mountPath": "/shared"}]
    first = {
        "name": "first",
        "image": "server",
        "command": ["sh", "-c", "echo one > /shared/x"],
        "volumeMounts": mounted,
    }
    second = {**first, "name": "second", "command": ["sh", "-c", "echo two >> /shared/x"]}
    sidecar = {"name": "sidecar", "image": "server", "args": ["9000"], "restartPolicy": "Always"}
    objects = workload(
        "web",
        container(volumeMounts=mounted),
        pod={"initContainers": [first, sidecar, second], "volumes": [{"name": "shared", "emptyDir": {}}]},
    )
    with cluster_of(tmp_path, objects) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")

        assert get(pod, "/read?/shared/x") == "one\ntwo\n"
        cluster.wait_until(lambda: "['9000']" in cluster.logs(pod), 5)


def test_a_pod_ends_as_its_manifest_says(tmp_path: Path) -> None:
    """The preStop hook comes before SIGTERM, endpoints go first, and the report tells the status and the time."""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /tmp/order; sleep 0.5"]}}}
    ends = container(
        lifecycle=hook,
        env=[{"name": "SLEEPS_ON_TERM", "value": "0.5"}],
        volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],
    )
    objects = [workload("web", ends, pod={"volumes": [{"name": "tmp", "emptyDir": {}}]}), service("web")]
    with cluster_of(tmp_path, *objects) as cluster:
        cluster.wait_ready(20)
        report = cluster.delete(cluster.pod("web"), replace=False)

        assert (report.exit_code, report.killed) == (0, False)
        assert 1.0 <= report.seconds < 2.5
        assert cluster.pods("web") == []
        with pytest.raises(urllib.error.URLError, match="refused"):
            fetch(f"http://{cluster.service_ip('default', 'web')}/")


def test_a_pod_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the grace period SIGKILL ends it, and the report says so; a shell as process 1 ignores SIGTERM."""
    stubborn = workload("web", container(env=[{"name": "SLEEPS_ON_TERM", "value": "600"}]))
    shell = {"name": "server", "image": "server", "command": ["sh", "-c", "while :; do sleep 1; done"]}
    with cluster_of(tmp_path, stubborn, workload("shell", shell)) as cluster:
        cluster.wait_ready(20)
        reports = [cluster.delete(cluster.pod(name), grace_seconds=1, replace=False) for name in ("web", "shell")]

        assert [(report.exit_code, report.killed) for report in reports] == [(137, True)] * 2
        assert all(1.0 <= report.seconds < 2.0 for report in reports)


def test_a_deleted_pod_is_replaced(tmp_path: Path) -> None:
    """A Deployment has a new pod under a new name while the old one still ends; applying it again changes nothing."""
    web = workload("web", container(env=[{"name": "SLEEPS_ON_TERM", "value": "1"}]))
    with cluster_of(tmp_path, web) as cluster:
        cluster.wait_ready(20)
        before = cluster.pod("web")
        cluster.delete(before)
        cluster.wait_ready(20)
        after = cluster.pod("web")
        cluster.apply([web])

        assert after.name != before.name
        assert cluster.pods("web") == [after]


def test_a_killed_pod_stays_down_until_revived(tmp_path: Path) -> None:
    """It has no endpoints meanwhile, and comes back under its address with what its volumes held."""
    mounted = container(volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}])
    web = workload("web", mounted, pod={"volumes": [{"name": "tmp", "emptyDir": {}}]})
    with cluster_of(tmp_path, web, service("web")) as cluster:
        cluster.wait_ready(20)
        pod = cluster.pod("web")
        get(pod, "/write?/tmp/x")
        cluster.kill(pod)
        cluster.wait_until(lambda: not pod.ready, 5)
        time.sleep(1)
        away = call(cluster, "http://web/who")
        cluster.revive(pod)
        cluster.wait_ready(10)
        kept = get(pod, "/read?/tmp/x")
        cluster.kill(pod, seconds=0.5)
        cluster.wait_until(lambda: pod.restarts == 2 and pod.ready, 10)

        assert away == "ConnectionRefusedError [Errno 111] Connection refused"
        assert kept == "written\n"
        assert "SIGTERM" not in cluster.logs(pod)


def test_a_changed_workload_is_rolled(tmp_path: Path) -> None:
    """The new pod is ready before the old one ends, so that no request fails; scaling leaves the others alone."""

    def version(number: str, replicas: int = 1) -> Object:
        return workload("web", container(env=[{"name": "VERSION", "value": number}]), replicas=replicas)

    with cluster_of(tmp_path, version("1"), service("web")) as cluster:
        cluster.wait_ready(20)
        before = cluster.pod("web")
        cluster.apply([version("2")])
        after = cluster.pod("web")
        cluster.apply([version("2", replicas=2)])

        assert before is not after
        assert after.ready
        assert json.loads(get(after, "/env"))["VERSION"] == "2"
        assert cluster.pods("web")[0] is after
        assert len(cluster.pods("web")) == 2


def test_a_job_runs_to_its_end(tmp_path: Path) -> None:
    """A Job counts as ready when it has succeeded."""
    job = workload("once", {"name": "once", "image": "server", "command": ["echo", "done"]}, kind="Job")
    job["spec"].pop("selector")
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    with cluster_of(tmp_path, job) as cluster:
        cluster.wait_ready(10)

        assert cluster.pod("once").succeeded
        assert cluster.logs(cluster.pod("once")) == "done\n"


def test_a_command_runs_as_a_pod(tmp_path: Path) -> None:
    """`run` returns outputs and status of a command; it runs as the unprivileged user, without capabilities."""
    script = "import os, sys; print(os.getuid()); sys.stderr.write('oops'); sys.exit(7)"
    with cluster_of(tmp_path) as cluster:
        done = cluster.run("default", {}, [sys.executable, "-c", script])
        status = cluster.run("default", {}, ["grep", "CapEff", "/proc/self/status"])
        with pytest.raises(subprocess.TimeoutExpired):
            cluster.run("default", {}, ["sleep", "60"], timeout=0.5)

    assert (done.returncode, done.stdout, done.stderr) == (7, "10001\n", "oops")
    assert status.stdout.split() == ["CapEff:", "0000000000000000"]


def test_what_cannot_run_is_one_clear_line(tmp_path: Path) -> None:
    """A missing key, image, port name or namespace is named with what there is instead."""
    no_key = {"name": "v", "configMap": {"name": "settings", "items": [{"key": "x.yaml", "path": "x"}]}}
    cases: list[tuple[Object, str]] = [
        (
            workload("web", pod={"volumes": [no_key]}),
            "Deployment default/web: volume v: ConfigMap settings has no key 'x.yaml', only a.yaml",
        ),
        (
            workload("web", container(image="other:2")),
            "Deployment default/web: container server: image other is not known, only server, health",
        ),
        (
            workload("web", container(readinessProbe={"tcpSocket": {"port": "grpc"}})),
            "Deployment default/web: container server: readinessProbe of port 'grpc', the container has http",
        ),
        (
            workload("web", container(securityContext={"runAsNonRoot": True, "runAsUser": 0})),
            "Deployment default/web: container server: runAsNonRoot is set, but it runs as user 0",
        ),
        (
            {"kind": "Service", "metadata": {"name": "s", "namespace": "nowhere"}, "spec": {}},
            "Service nowhere/s: namespace nowhere does not exist, only default, kube-system",
        ),
    ]
    with cluster_of(tmp_path, config_map("settings", {"a.yaml": ""})) as cluster:
        for thing, message in cases:
            with pytest.raises(ObjectError) as caught:
                cluster.apply([thing])
            assert str(caught.value) == message
        assert cluster.pods() == []


def test_what_means_nothing_here_is_listed(tmp_path: Path) -> None:
    """Objects that need an API server are ignored, by name."""
    account = {"kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "default"}}
    role = {"kind": "ClusterRole", "metadata": {"name": "web"}}
    with cluster_of(tmp_path, account, role) as cluster:
        assert cluster.ignored == ["ServiceAccount default/web", "ClusterRole web"]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """After the cluster no process, mount, interface or rule of it exists, even if it could not be entered."""
    with cluster_of(tmp_path, workload("web", replicas=2)) as cluster:
        cluster.wait_ready(20)
    with pytest.raises(ObjectError):
        cluster_of(tmp_path, workload("web"), workload("x", container(image="none"))).__enter__()
    processes = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"server.py" in path.read_bytes()]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    assert processes == []
    assert [line.split()[0] for line in links.splitlines()] == ["lo"]
    assert rules == ""
    assert "/run/netns/" not in Path("/proc/self/mounts").read_text()
    assert list(Path("/run/netns").iterdir()) == []
