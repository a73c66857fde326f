"""NetworkPolicies and the rules that they become: pure, so they are tested with values."""

from collections.abc import Mapping
from typing import Any

import pytest
from kube.cluster.facts import PodFacts, Port
from kube.cluster.netfilter import ruleset
from kube.cluster.policy import Allowance, Isolation, isolations
from kube.cluster.services import Endpoint, Frontend
from kube.objects import Object, matches

WEB = PodFacts(
    name="web",
    namespace="a",
    ip="10.244.0.10",
    labels={"app": "web"},
    ports=(Port("http", 8080), Port("dns", 53, "UDP")),
)
CLIENT = PodFacts(name="client", namespace="a", ip="10.244.0.11", labels={"app": "client"})
STRANGER = PodFacts(
    name="stranger", namespace="b", ip="10.244.0.12", labels={"app": "client"}, ports=(Port("http", 80),)
)
NAMESPACES = {"a": {"team": "one"}, "b": {"team": "two"}}


def of(**spec: Any) -> list[Isolation]:
    """Return what one policy in namespace a means for the three pods."""
    policy: Object = {"metadata": {"name": "p", "namespace": "a"}, "spec": {"podSelector": {}, **spec}}
    return isolations([policy], [WEB, CLIENT, STRANGER], NAMESPACES)


def allowed(direction: str, **rule: Any) -> tuple[Allowance, ...]:
    """Return what one rule allows the web pod."""
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": [direction.title()], direction: [rule]}
    (isolation,) = of(**spec)
    return isolation.allowances


def test_a_policy_isolates_the_pods_of_its_namespace() -> None:
    """An empty selector selects all pods of the policy's namespace and none of another."""
    found = of(policyTypes=["Ingress", "Egress"])

    assert [(each.ip, each.direction) for each in found] == [
        (WEB.ip, "ingress"),
        (WEB.ip, "egress"),
        (CLIENT.ip, "ingress"),
        (CLIENT.ip, "egress"),
    ]
    assert all(each.allowances == () for each in found)


def test_types_are_derived_where_they_are_not_given() -> None:
    """Without policyTypes a policy is for ingress, and for egress if it has rules for that."""
    assert {each.direction for each in of()} == {"ingress"}
    assert {each.direction for each in of(egress=[{}])} == {"ingress", "egress"}


def test_peers_are_pods_by_label_and_namespace() -> None:
    """A podSelector stays within the namespace, a namespaceSelector leaves it, both together are an and."""
    client = {"matchLabels": {"app": "client"}}
    two = {"matchLabels": {"team": "two"}}

    assert [each.peers for each in allowed("ingress", **{"from": [{"podSelector": client}]})] == [(CLIENT.ip,)]
    assert [each.peers for each in allowed("ingress", **{"from": [{"namespaceSelector": two}]})] == [(STRANGER.ip,)]
    assert [
        each.peers for each in allowed("ingress", **{"from": [{"namespaceSelector": {}, "podSelector": client}]})
    ] == [(CLIENT.ip, STRANGER.ip)]
    assert allowed("ingress") == (Allowance(),)


def test_networks_keep_their_exceptions() -> None:
    """An ipBlock is an address range without what it excepts."""
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}

    assert allowed("egress", to=[{"ipBlock": block}]) == (Allowance(peers=("0.0.0.0/0",), exceptions=("10.0.0.0/8",)),)


def test_a_network_of_ipv6_has_no_pods() -> None:
    """A policy for both families is one for the family that there is."""
    both = [{"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}]

    assert allowed("ingress", **{"from": both}) == (Allowance(peers=()), Allowance(peers=("0.0.0.0/0",)))


def test_ports_are_numbers_ranges_or_names() -> None:
    """A name is a port of the pod that is connected to: the selected one, or for egress each peer."""
    ports = [{"port": 80}, {"port": 8000, "endPort": 8010}, {"protocol": "UDP"}, {"port": "http"}, {"port": "none"}]
    into = allowed("ingress", ports=ports)
    out = allowed("egress", to=[{"namespaceSelector": {}}], ports=[{"port": "http"}])

    assert [(each.protocol, each.ports) for each in into] == [
        ("TCP", ("80",)),
        ("TCP", ("8000-8010",)),
        ("UDP", ()),
        ("TCP", ("8080",)),
    ]
    assert out == (
        Allowance(peers=(WEB.ip,), protocol="TCP", ports=("8080",)),
        Allowance(peers=(STRANGER.ip,), protocol="TCP", ports=("80",)),
    )


def test_rules_are_written_for_the_filter() -> None:
    """Each allowance is one condition, and what none of them names is denied and recorded."""
    isolation = Isolation(
        ip="10.244.0.10",
        direction="egress",
        allowances=(
            Allowance(peers=("10.244.0.11",), protocol="TCP", ports=("80", "8000-8010")),
            Allowance(peers=("0.0.0.0/0",), exceptions=("10.0.0.0/8",), protocol="UDP"),
            Allowance(peers=()),
        ),
    )
    frontend = Frontend(
        ip="10.96.0.20",
        protocol="TCP",
        port=80,
        endpoints=(Endpoint("10.244.0.10", 8080), Endpoint("10.244.0.11", 8080)),
    )
    text = ruleset(
        frontends=[frontend], isolations=[isolation], pods=["10.244.0.10"], service_network="10.96.0.0/16"
    ).splitlines()
    start = text.index("chain egress_10_244_0_10 {")

    assert text[start + 1 : start + 5] == [
        "ip daddr { 10.244.0.11 } tcp dport { 80, 8000-8010 } return;",
        "ip daddr { 0.0.0.0/0 } ip daddr != { 10.0.0.0/8 } meta l4proto udp return;",
        "add @denied { ip saddr . ip daddr . meta l4proto . th dport };",
        "reject with icmp type admin-prohibited;",
    ]
    assert "ip saddr vmap { 10.244.0.10 : jump egress_10_244_0_10 };" in text
    assert (
        "ip daddr 10.96.0.20 tcp dport 80 "
        "dnat to numgen random mod 2 map { 0 : 10.244.0.10 . 8080, 1 : 10.244.0.11 . 8080 };"
    ) in text


@pytest.mark.parametrize(
    ("selector", "labels", "matched"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1", "c": "3"}}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {"a": "1"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ],
)
def test_selectors(selector: Mapping[str, Any], labels: Mapping[str, str], matched: bool) -> None:
    """Labels and expressions must all hold."""
    assert matches(selector, labels) is matched


def test_an_unknown_operator_is_named() -> None:
    """A selector that Kubernetes would refuse is refused, with the operators that exist."""
    with pytest.raises(ValueError, match="operator 'Is', expected In, NotIn, Exists or DoesNotExist"):
        matches({"matchExpressions": [{"key": "a", "operator": "Is"}]}, {})
