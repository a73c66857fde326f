"""Schemas: unknown fields are refused, everywhere, and what has no schema has not passed."""

import copy
from typing import Any

import pytest
from kube.schema import validate
from kube.versions import VersionsError, kubernetes

CONTAINER = {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [CONTAINER]}},
    },
}
MONITOR = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "ServiceMonitor",
    "metadata": {"name": "web"},
    "spec": {"selector": {"matchLabels": {"app": "web"}}, "endpoints": [{"port": "web"}]},
}


def changed(thing: dict[str, Any], *path: str | int, to: object) -> dict[str, Any]:
    """Return a copy of which one part is another."""
    other = copy.deepcopy(thing)
    holder: Any = other
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = to
    return other


@pytest.mark.parametrize("thing", [DEPLOYMENT, MONITOR], ids=lambda thing: thing["kind"])
def test_a_sound_object_passes(thing: dict[str, Any]) -> None:
    """For the oldest and the newest supported Kubernetes."""
    assert validate([thing]) == []


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (changed(DEPLOYMENT, "spec", "replica", to=2), "Deployment default/web: spec: found replica, expected one of "),
        (changed(DEPLOYMENT, "spec", "replicas", to="2"), "spec.replicas: found '2' is not of type "),
        (
            changed(DEPLOYMENT, "spec", "template", "spec", "containers", 0, "port", to=[]),
            "spec.template.spec.containers.0: found port, expected one of args, ",
        ),
        (
            changed(DEPLOYMENT, "apiVersion", to="apps/v2"),
            "apiVersion: found apps/v2, expected a kind that has a schema",
        ),
        (changed(MONITOR, "spec", "endpoints", 0, "prot", to="web"), "spec.endpoints.0: found prot, expected one of "),
        (changed(MONITOR, "kind", to="ServiceMonitors"), "expected a kind that has a schema"),
        (changed(MONITOR, "spec", "endpoints", to=None), "spec.endpoints: found None is not of type 'array'"),
    ],
)
def test_what_a_schema_does_not_accept_is_one_line(thing: dict[str, Any], said: str) -> None:
    """With the object, the place, what was found and what is accepted."""
    lines = [str(each) for each in validate([thing])]

    assert lines
    assert all(said in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_both_ends_of_the_supported_versions_are_asked() -> None:
    """A fault is reported for each."""
    lines = [str(each) for each in validate([changed(DEPLOYMENT, "spec", "replica", to=2)])]

    assert [line.rpartition("(")[2] for line in lines] == [f"Kubernetes {version})" for version in kubernetes()]


def test_a_version_without_schemas_names_those_that_have() -> None:
    """Such as one that the package does not know yet."""
    with pytest.raises(VersionsError, match=r"found 9\.99, expected one that has schemas: .*v1\.3"):
        validate([DEPLOYMENT], ["9.99"])
