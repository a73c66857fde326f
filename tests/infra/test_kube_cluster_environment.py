"""The environment of a container: pure, so it is tested with values."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from kube.cluster.environment import PodValues, expand, quantity, resource, variables
from kube.cluster.errors import ObjectError
from kube.cluster.objects import Objects
from kube.objects import Object

POD = PodValues(
    name="web-0",
    namespace="default",
    uid="u-1",
    labels={"app": "web", "app.kubernetes.io/name": "web"},
    annotations={"note": "hi"},
    ip="10.244.0.9",
    host_ip="10.244.0.1",
    node="node-0",
    service_account="web",
)


def of(
    env: Sequence[Object] = (), *things: Object, links: Mapping[str, str] | None = None, **fields: Any
) -> dict[str, str]:
    """Return the variables of a container in a namespace with some objects."""
    objects = Objects()
    objects.add(things)
    return variables({"env": list(env), **fields}, pod=POD, objects=objects, links=links or {}, where="here")


def field(name: str, path: str) -> Object:
    """Return an entry with a fieldRef."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ],
)
def test_expansion_is_that_of_kubernetes(text: str, expanded: str) -> None:
    """Known names are replaced, unknown ones stay, and two dollar signs are one."""
    assert expand(text, {"A": "1"}) == expanded


def test_a_value_sees_earlier_entries_only() -> None:
    """An entry may use what stands before it, and what a Service link says, but not what follows."""
    entries = [
        {"name": "FIRST", "value": "$(SECOND)-$(WEB_PORT)"},
        {"name": "SECOND", "value": "2"},
        {"name": "THIRD", "value": "$(FIRST)/$(SECOND)"},
    ]
    found = of(entries, links={"WEB_PORT": "80"})

    assert found == {"WEB_PORT": "80", "FIRST": "$(SECOND)-80", "SECOND": "2", "THIRD": "$(SECOND)-80/2"}


def test_env_replaces_links_and_env_from() -> None:
    """What the manifest lists wins over a ConfigMap's entries, and both over what the cluster injects."""
    colours = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"A": "map", "B": "map"}}
    found = of(
        [{"name": "A", "value": "own"}],
        colours,
        links={"A": "link", "B": "link", "C": "link"},
        envFrom=[{"configMapRef": {"name": "c"}}, {"prefix": "P_", "configMapRef": {"name": "c"}}],
    )

    assert found == {"A": "own", "B": "map", "C": "link", "P_A": "map", "P_B": "map"}


def test_the_downward_api_tells_about_the_pod() -> None:
    """Every field that Kubernetes offers is there."""
    paths = {
        "metadata.name": "web-0",
        "metadata.namespace": "default",
        "metadata.uid": "u-1",
        "metadata.labels['app.kubernetes.io/name']": "web",
        "metadata.annotations['note']": "hi",
        "metadata.annotations['none']": "",
        "spec.nodeName": "node-0",
        "spec.serviceAccountName": "web",
        "status.podIP": "10.244.0.9",
        "status.hostIP": "10.244.0.1",
    }

    assert list(of([field(f"V{number}", path) for number, path in enumerate(paths)]).values()) == list(paths.values())


def test_entries_of_maps_and_secrets() -> None:
    """A key of a ConfigMap or Secret becomes a value; an optional one that is missing becomes nothing."""
    settings = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "plain"}}
    keys = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}
    entries = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x", "optional": True}}},
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "x", "optional": True}}},
    ]

    assert of(entries, settings, keys) == {"A": "plain", "B": "secret"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "x"}}},
            "here: env A: ConfigMap c has no key 'x', only k",
        ),
        (
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}},
            "here: env A: Secret s does not exist in default, which has none",
        ),
        (field("A", "status.phase"), "here: env A: fieldPath 'status.phase', expected metadata.labels"),
        ({"name": "A", "value": 1}, "here: env A: value 1 is no string; quote it"),
        (
            {"name": "A", "valueFrom": {"fileKeyRef": {}}},
            "here: env A: valueFrom fileKeyRef, expected fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef",
        ),
    ],
)
def test_what_is_wrong_is_named(entry: Object, message: str) -> None:
    """A reference to nothing says where it stands and what there is."""
    settings = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "plain"}}
    with pytest.raises(ObjectError) as caught:
        of([entry], settings)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("250m", "0.25"),
        ("1.5", "1.5"),
        ("1k", 1000),
        ("512Mi", 512 * 2**20),
        ("2G", 2 * 10**9),
        ("1e3", 1000),
    ],
)
def test_quantities(text: str, number: str | int) -> None:
    """Decimal and binary suffixes, thousandths and exponents are read."""
    assert quantity(text, "here") == Decimal(number)


def test_resources_are_divided_and_rounded_up() -> None:
    """A limit is given in units of the divisor; one that is not set is an error."""
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}}}

    assert resource({"resource": "limits.cpu"}, container, "here") == 2
    assert resource({"resource": "limits.cpu", "divisor": "1m"}, container, "here") == 1500
    assert resource({"resource": "limits.memory", "divisor": "1Mi"}, container, "here") == 100
    with pytest.raises(ObjectError, match=r"here: the container has no resources\.requests\.cpu"):
        resource({"resource": "requests.cpu"}, container, "here")
    with pytest.raises(ObjectError, match="here: '1 GB' is no quantity such as 512Mi or 250m"):
        quantity("1 GB", "here")
