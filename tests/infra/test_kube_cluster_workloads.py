"""Workloads, images and volumes, as far as they are values and files: what becomes of a manifest before it runs."""

from pathlib import Path
from typing import Any

import pytest
from kube.cluster.environment import PodValues
from kube.cluster.errors import ObjectError
from kube.cluster.objects import Objects
from kube.cluster.sandbox import Image, command_line, wrap
from kube.cluster.volumes import Identity, Mount, Volumes, mounts
from kube.cluster.workloads import claims, plans
from kube.objects import Object, image_name

IMAGE = Image(entrypoint=("/bin/server", "--default"), arguments=("--image",))


def workload(kind: str = "Deployment", **spec: Any) -> Object:
    """Return a workload in namespace a."""
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
    selector = {"matchLabels": {"app": "web"}}
    return {
        "kind": kind,
        "metadata": {"name": "web", "namespace": "a"},
        "spec": {"selector": selector, "template": template, **spec},
    }


def test_pods_of_a_deployment_have_generated_names() -> None:
    """Names change with the template, not with the replicas; a successor is the same pod under another name."""
    one = plans(workload())
    two = plans(workload(replicas=2))
    other = plans(workload(template={"metadata": {"labels": {"app": "web", "x": "y"}}, "spec": {"containers": []}}))
    successor = one[0].successor(1)

    assert two[0] == one[0]
    assert two[0].name == one[0].name
    assert len({plan.name for plan in (*two, *other, successor)}) == 4
    assert successor == one[0]
    assert one[0].name == f"web-{one[0].labels['pod-template-hash']}-{one[0].name[-5:]}"


def test_pods_of_a_stateful_set_are_numbered() -> None:
    """Each has its own claim in place of a volume of that name, its number as a label, and waits for those before."""
    store = workload(
        "StatefulSet", replicas=2, serviceName="web", volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": {}}]
    )
    found = plans(store)

    assert [plan.name for plan in found] == ["web-0", "web-1"]
    assert found[1].labels["apps.kubernetes.io/pod-index"] == "1"
    assert found[1].spec["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}]
    assert (found[1].host_name, found[1].subdomain, found[1].ordered) == ("web-1", "web", True)
    assert [claim["metadata"]["name"] for claim in claims(store)] == ["data-web-0", "data-web-1"]
    assert found[1].successor(1) == found[1]


def test_a_selector_must_match_the_template() -> None:
    """What an API server refuses is refused, by name."""
    with pytest.raises(ObjectError, match=r"Deployment a/web: its selector .* does not match its template's labels"):
        plans(workload(selector={"matchLabels": {"app": "other"}}))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("prom/prometheus:v3.13.5", "prom/prometheus"),
        ("localhost:5000/web", "localhost:5000/web"),
        ("localhost:5000/web:1@sha256:00", "localhost:5000/web"),
        ("web", "web"),
    ],
)
def test_image_names(reference: str, name: str) -> None:
    """Tag and digest are no part of a name; a registry's port is."""
    assert image_name(reference) == name


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ({}, ["/bin/server", "--default", "--image"]),
        ({"args": ["--own"]}, ["/bin/server", "--default", "--own"]),
        ({"command": ["/bin/other"]}, ["/bin/other"]),
        ({"command": ["/bin/other"], "args": ["--own"]}, ["/bin/other", "--own"]),
    ],
)
def test_command_lines(container: Object, command: list[str]) -> None:
    """`command` replaces the image's entrypoint and arguments, `args` its arguments."""
    assert command_line(container, IMAGE, "here") == command


def test_an_argument_is_a_string() -> None:
    """A number in `args`, which an API server refuses, is refused."""
    with pytest.raises(ObjectError, match="here: 8080 in command or args is no string; quote it"):
        command_line({"args": [8080]}, IMAGE, "here")


def test_outer_mounts_come_first() -> None:
    """A volume at /tmp does not hide a program below it, whatever their order."""
    line = wrap(
        bwrap="bwrap",
        command=["true"],
        who=Identity(user=1, group=1),
        mounts=[
            Mount(source=Path("/v/deep"), target="/tmp/program/deep", read_only=True),
            Mount(source=Path("/v/tmp"), target="/tmp", read_only=False),
        ],
        binds=[Path("/tmp/program")],
        etc={},
        host_name="web",
        working_directory="/",
        writable_tmp=False,
        info_descriptor=3,
    )
    targets = [line[index + 2] for index, word in enumerate(line) if word in ("--bind", "--ro-bind")]

    assert targets[-3:] == ["/tmp", "/tmp/program", "/tmp/program/deep"]


@pytest.mark.parametrize(
    ("who", "mode", "effective"),
    [
        (Identity(user=0, group=0), 0o400, 0o400),
        (Identity(user=1, group=1), 0o644, 0o400),
        (Identity(user=1, group=1), 0o400, 0),
        (Identity(user=1, group=0), 0o640, 0o400),
        (Identity(user=1, group=1, volumes_group=1), 0o640, 0o400),
        (Identity(user=1, group=1), 0o777, 0o700),
    ],
)
def test_modes_are_what_root_s_files_would_allow(who: Identity, mode: int, effective: int) -> None:
    """Only root has the bits of the owner; others those of the group, if they are in it, or of everyone."""
    assert who.effective(mode) == effective


def volumes(tmp_path: Path, *things: Object) -> Volumes:
    """Return the volumes of a pod in the default namespace with some objects."""
    objects = Objects()
    objects.add(things)
    values = dict.fromkeys(("name", "uid", "ip", "host_ip", "node", "service_account"), "x")
    return Volumes(
        objects=objects,
        pod=PodValues(namespace="default", labels={}, annotations={}, **values),
        identity=Identity(user=0, group=0),
        directory=tmp_path / "pod",
        claims=tmp_path / "claims",
        where="here",
    )


SETTINGS = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a.yaml": "a"}}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "x"}}, "here: volume v: ConfigMap x does not exist in default, which has c"),
        (
            {"configMap": {"name": "c", "items": [{"key": "b", "path": "b"}]}},
            "here: volume v: ConfigMap c has no key 'b', only a.yaml",
        ),
        ({"secret": {"secretName": "s"}}, "here: volume v: Secret s does not exist in default, which has none"),
        (
            {"persistentVolumeClaim": {"claimName": "x"}},
            "here: volume v: claim x does not exist in default, which has none",
        ),
        ({"hostPath": {"path": "/"}}, "here: volume v: hostPath, expected configMap, secret, downwardAPI, projected"),
    ],
)
def test_a_volume_of_nothing_is_named(tmp_path: Path, volume: Object, message: str) -> None:
    """A volume whose source is missing says which, and what there is."""
    with pytest.raises(ObjectError) as caught:
        volumes(tmp_path, SETTINGS).create([{"name": "v", **volume}])

    assert str(caught.value).startswith(message)


def test_an_optional_source_may_be_missing(tmp_path: Path) -> None:
    """The volume is then an empty directory."""
    made = volumes(tmp_path).create([{"name": "v", "configMap": {"name": "x", "optional": True}}])

    assert list(made["v"].directory.iterdir()) == []


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"name": "w", "mountPath": "/x"}, "here: mount w: the pod has no such volume, only v"),
        ({"name": "v", "mountPath": "x"}, "here: mount v: mountPath 'x' is not absolute"),
        ({"name": "v", "mountPath": "/x", "subPath": "b"}, "here: mount v: subPath 'b' does not exist, only a.yaml"),
    ],
)
def test_a_mount_of_nothing_is_named(tmp_path: Path, mount: Object, message: str) -> None:
    """A mount that cannot be says why."""
    made = volumes(tmp_path, SETTINGS).create([{"name": "v", "configMap": {"name": "c"}}])
    with pytest.raises(ObjectError) as caught:
        mounts({"volumeMounts": [mount]}, made, "here")

    assert str(caught.value) == message
