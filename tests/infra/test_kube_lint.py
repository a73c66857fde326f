"""The lint on manifests of its own: the well-known faulty ones, bad input, and what the rules are made of."""

from pathlib import Path
from typing import Any

import pytest
from kube.lint import RULES, Unit, lint
from kube.lint.__main__ import main
from kube.lint.collector_config import expand, merge
from kube.lint.documents import DocumentError, parse
from kube.lint.endpoints import address
from kube.lint.policies import admits, lets_out, lets_out_of_cluster
from kube.lint.registry import Rule
from kube.objects import Object, byte_quantity, matches, pod_of
from kube.render import INFRA, load

UNCORRECTED = Path(__file__).parent / "uncorrected.yaml"
EXAMPLE = INFRA / "examples/minimal"

# The faults of the manifests that are copied from place to place, as the table of them counts, and the rules for each.
FAULTS = [
    ("arguments as command", {"command-is-argument"}),
    ("a key without .yaml", {"config-file-exists"}),
    ("an exporter that was removed", {"collector-component-removed"}),
    ("receivers on localhost", {"collector-loopback"}),
    ("traces only", {"collector-signals"}),
    ("no Service", {"collector-service"}),
    ("an image that lacks components, of no release", {"image-version", "image-tag"}),
    ("a batch processor alone", {"collector-memory-limiter", "collector-keeps-nothing"}),
    (
        "no probes, resources, security context, policies",
        {"probes-set", "resources-set", "pod-security-non-root", "read-only-root", "network-policy-missing"},
    ),
]


def uncorrected() -> Unit:
    """Return the faulty manifests, judged by all rules."""
    return Unit.of("uncorrected", load(UNCORRECTED), [], house=True)


@pytest.mark.parametrize(("fault", "rules"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_each_fault_of_the_uncorrected_manifests_is_reported_by_name(fault: str, rules: set[str]) -> None:
    """Schemas accept all nine; the lint names each."""
    assert rules <= {finding.rule for finding in lint(uncorrected())}, fault


def test_a_finding_is_one_line_that_names_object_rule_place_found_and_expected() -> None:
    """It can be read without the manifest beside it."""
    (finding,) = lint(uncorrected(), ["config-file-exists"])

    assert str(finding) == (
        "Deployment default/otel-collector: config-file-exists: spec.template.spec.containers[otel-collector].args: "
        "found --config=/conf/otel-collector-config.yaml, expected a mounted file: /conf/otel-collector-config"
    )


def test_other_peoples_manifests_are_not_held_to_the_customs_of_this_house() -> None:
    """Without `house` labels, namespaces and versions are their own business."""
    stranger = Unit.of("theirs", load(UNCORRECTED), [])

    assert not {finding.rule for finding in lint(stranger)} & {each.name for each in RULES.values() if each.house}


# --- the command ---


def test_the_command_prints_a_line_for_each_finding_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A file of plain YAML is enough to be judged."""
    assert main([str(UNCORRECTED), "--rule", "image-tag"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert "Deployment default/otel-collector: image-tag: " in lines[0]
    assert lines[-1] == "2 objects in 1 units, 1 findings"


def test_the_command_lists_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """Every rule says in a sentence what it asks for."""
    assert main(["--rules"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RULES)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}"], "found no YAML, expected a kustomization, a file or a folder of manifests"),
        (["{folder}/absent.yaml"], "found no YAML"),
        (["{folder}/list.yaml"], "found \"['a', 'b']\", expected an object with apiVersion, kind and metadata.name"),
        (["{folder}/nameless.yaml"], "expected an object with apiVersion, kind and metadata.name"),
        (["{folder}/items.yaml"], "expected an object with apiVersion, kind and metadata.name"),
        (["{folder}/broken.yaml"], "broken.yaml: "),
        (["{folder}/twice.yaml"], "key data twice"),
        (["{folder}/latin.yaml"], "latin.yaml: found a byte that is no UTF-8 at 2, expected text"),
        ([str(UNCORRECTED), "--rule", "no-such"], "found no-such, expected names that --rules lists"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read is named, with what was found there and what is accepted."""
    folder = tmp_path
    if "{folder}" not in arguments:
        (tmp_path / "list.yaml").write_text("[a, b]")
        (tmp_path / "nameless.yaml").write_text("{apiVersion: v1, kind: Service, metadata: web}")
        (tmp_path / "items.yaml").write_text("{apiVersion: v1, kind: List, items: 5}")
        (tmp_path / "broken.yaml").write_text("a: [")
        (tmp_path / "twice.yaml").write_text(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {}, data: {}}"
        )
        (tmp_path / "latin.yaml").write_bytes(b"a: \xe9"[:2] + b"\xe9")

    assert main([each.format(folder=folder) for each in arguments]) == 2

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("kind", "path", "value", "rule"),
    [
        ("Deployment", "template", {"spec": {"containers": [{"args": 5}]}}, "argument-variable"),
        ("Service", "ports", [{"name": ["a"]}], "port-unique"),
    ],
)
def test_a_value_of_another_type_is_a_finding_about_its_object(kind: str, path: str, value: object, rule: str) -> None:
    """Whatever stands where a rule looks, the lint does not end."""
    things = load(EXAMPLE)
    next(thing for thing in things if thing["kind"] == kind)["spec"][path] = value

    (finding,) = lint(Unit.of("example", things, []), [rule])

    assert finding.object.startswith(f"{kind} default/")
    assert finding.found.startswith("what cannot be read (TypeError: ")


@pytest.mark.parametrize("text", ["", "receivers: {otlp: {protocols: {grpc: }}}", "[a]"])
def test_a_collector_without_a_configuration_is_one_all_the_same(text: str) -> None:
    """Its image says so; otherwise no rule would look at it."""
    things = load(EXAMPLE)
    config = next(thing for thing in things if thing["kind"] == "ConfigMap")
    config["data"] = dict.fromkeys(config["data"], text)

    assert "collector-signals" in {finding.rule for finding in lint(Unit.of("example", things, []))}


def test_a_configuration_that_is_no_text_is_named() -> None:
    """The | before it was forgotten."""
    things = load(EXAMPLE)
    config = next(thing for thing in things if thing["kind"] == "ConfigMap")
    config["data"] = {key: {"receivers": {}} for key in config["data"]}

    (finding,) = lint(Unit.of("example", things, []), ["config-parses"])

    assert "found {'receivers': {}}, expected text: a | before it" in str(finding)


def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    """Merge keys merge, dates are texts, and a key that stands twice is refused."""
    assert parse("a: &a {b: 1}\nc: {<<: *a, d: 2020-01-01}", "x.yaml")["c"] == {"b": 1, "d": "2020-01-01"}
    with pytest.raises(DocumentError, match=r"^key a twice in line 2$"):
        parse("a: 1\na: 2", "x.yaml")


# --- waivers ---


def waiving(**waivers: str) -> Unit:
    """Return the faulty manifests with waivers on the Deployment; _ stands for - in the names of rules."""
    unit = uncorrected()
    annotations = {f"lint.rsketch/{name.replace('_', '-')}": reason for name, reason in waivers.items()}
    unit.objects[1]["metadata"]["annotations"] = annotations
    return unit


def test_a_waiver_silences_its_rule_for_its_object() -> None:
    """The reason stands at the object, where the next reader sees it."""
    rules = {finding.rule for finding in lint(waiving(image_tag="latest, as this is a test bed"))}

    assert "image-tag" not in rules
    assert "image-version" in rules
    assert "waiver" not in rules


@pytest.mark.parametrize(
    "waivers",
    [{"image_tags": "a typo"}, {"image_tag": ""}, {"image_tag": "of another image"}, {"env_order": "nothing found"}],
)
def test_a_waiver_that_silences_nothing_is_a_finding(waivers: dict[str, str]) -> None:
    """A misspelt one, one without a reason, one whose reason is about something else, and one that is left over."""
    findings = lint(waiving(**waivers))

    assert len([finding for finding in findings if finding.rule == "waiver"]) == 1
    assert "image-tag" in {finding.rule for finding in findings}


# --- what rules are made of ---


def test_a_rule_without_findings_costs_its_neighbours_nothing() -> None:
    """An empty unit is clean, by every rule."""
    assert all(isinstance(each, Rule) for each in RULES.values())
    assert lint(Unit.of("nothing", [], [], house=True, production=True)) == []


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ({}, True),
        (None, False),
        ({"matchLabels": {"app": "a"}}, True),
        ({"matchLabels": {"app": "b"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_label_selectors_select_as_in_kubernetes(selector: Any, found: bool) -> None:
    """An empty selector finds everything, a missing one nothing."""
    assert matches(selector, {"app": "a"}) is found


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 2**29), ("410MiB", 410 * 2**20), ("1G", 10**9), ("1.5Gi", 1.5 * 2**30), ("100", 100), ("x", None)],
)
def test_sizes_are_read_as_kubernetes_and_go_write_them(text: str, size: float | None) -> None:
    """Both ends of GOMEMLIMIT's comparison are bytes."""
    assert byte_quantity(text) == size


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://a.b:4317/x", ("a.b", 4317, "/x")),
        ("https://a.b", ("a.b", 443, "")),
        ("a:1", ("a", 1, "")),
        ("dns:///a.b:50051", ("a.b", 50051, "")),
        ("dns://9.9.9.9/a.b:50051", ("a.b", 50051, "")),
        ("dns:a.b:50051", ("a.b", 50051, "")),
        ("a", None),
        ("http://a:99999", None),
        ("http//a:1", None),
        (":1", None),
    ],
)
def test_addresses_are_read_as_their_clients_read_them(text: str, parts: tuple[str, int, str] | None) -> None:
    """URLs, targets of gRPC and plain host:port."""
    assert address(text) == parts


def test_collector_files_merge_maps_and_replace_lists() -> None:
    """As the collector does it with several --config."""
    one = {"a": {"b": 1, "c": [1]}, "d": {"e": 1}}
    other = {"a": {"c": [2], "f": 3}, "d": None}

    assert merge(one, other) == {"a": {"b": 1, "c": [2], "f": 3}, "d": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:HOST}:4317", "192.0.2.1:4317"),
        ("${HOST}:4317", "192.0.2.1:4317"),
        ("${env:ABSENT:-false}", False),
        ("${env:ABSENT}", None),
        ("${env:ABSENT}:4317", ":4317"),
        ("$${env:HOST}", "${env:HOST}"),
        ("plain", "plain"),
    ],
)
def test_collector_variables_expand_as_in_the_collector(text: str, value: object) -> None:
    """A value that is one reference takes the type of what it refers to."""
    assert expand({"key": [text]}, {"HOST": "192.0.2.1"}) == {"key": [value]}


CALLER = """
apiVersion: v1
kind: Pod
metadata: {name: caller}
spec: {containers: [{name: caller, image: "caller:1", env: [{name: %s, value: "%s"}]}]}
"""


@pytest.mark.parametrize(
    ("name", "value", "rules"),
    [
        # Whether a stranger's SDK sends gRPC or HTTP where nothing is said is not known.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector:4318", set()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://otel-collector:4318/v1/traces", set()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector:4319", {"endpoint-port"}),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel-collector:4318", {"otlp-plaintext"}),
        # Nor what its variables mean.
        ("BIND_ADDR", "0.0.0.0", set()),
        ("AGENT_ADDR", "agent:80", {"endpoint-service"}),
    ],
)
def test_the_endpoints_of_a_strangers_program(name: str, value: str, rules: set[str], tmp_path: Path) -> None:
    """What is certain is told, and nothing else."""
    file = tmp_path / "caller.yaml"
    file.write_text(CALLER % (name, value))
    asked = [each for each in RULES if each.startswith(("endpoint-", "otlp-"))]

    assert {finding.rule for finding in lint(Unit.of("caller", load(file), load(EXAMPLE)), asked)} == rules


@pytest.mark.parametrize(
    ("path", "rules"), [("/api/v1/otlp/v1/metrics", set()), ("/api/v1/otlp/v1/traces", {"otlp-path"})]
)
def test_an_endpoint_of_one_signal_is_the_whole_url(path: str, rules: set[str]) -> None:
    """The collector adds nothing to it, as it does to the one of all signals."""
    things = load(EXAMPLE)
    config = next(thing for thing in things if thing["kind"] == "ConfigMap")
    key, text = next(iter(config["data"].items()))
    store = f"{{metrics_endpoint: http://prometheus:9090{path}, sending_queue: {{enabled: false}}}}"
    config["data"][key] = text.replace("debug:\n", f"otlp_http/prometheus: {store}\n  debug:\n", 1).replace(
        "exporters: [debug]", "exporters: [otlp_http/prometheus]", 1
    )
    container = {"name": "a", "image": "prom/prometheus:v3", "ports": [{"containerPort": 9090}]}
    pod = {"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "p"}}, "spec": {"containers": [container]}}
    service = {
        "kind": "Service",
        "metadata": {"name": "prometheus"},
        "spec": {"selector": {"a": "p"}, "ports": [{"port": 9090}]},
    }

    findings = lint(Unit.of("example", [*things, pod, service], []), ["endpoint-service", "otlp-path"])

    assert {finding.rule for finding in findings} == rules


# --- network policies ---


def pod(name: str, space: str = "shop") -> Object:
    """Return a Deployment whose pods listen on 8080 by the name web."""
    container = {"name": name, "image": f"{name}:1", "ports": [{"name": "web", "containerPort": 8080}]}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    return {"kind": "Deployment", "metadata": {"name": name, "namespace": space}, "spec": {"template": template}}


def policy(spec: Object, space: str = "shop") -> Object:
    """Return a policy for the pods called server."""
    selected = {"podSelector": {"matchLabels": {"app": "server"}}, **spec}
    return {"kind": "NetworkPolicy", "metadata": {"name": "policy", "namespace": space}, "spec": selected}


CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}


@pytest.mark.parametrize(
    ("spec", "admitted"),
    [
        ({"policyTypes": ["Egress"]}, True),
        ({"policyTypes": ["Ingress"]}, False),
        ({}, False),
        ({"ingress": [{}]}, True),
        ({"ingress": [{"from": [CLIENT]}]}, True),
        ({"ingress": [{"from": [CLIENT], "ports": [{"port": "web"}]}]}, True),
        ({"ingress": [{"from": [CLIENT], "ports": [{"port": 8080}]}]}, True),
        ({"ingress": [{"from": [CLIENT], "ports": [{"port": 8000, "endPort": 8100}]}]}, True),
        ({"ingress": [{"from": [CLIENT], "ports": [{"port": 80}]}]}, False),
        ({"ingress": [{"from": [CLIENT], "ports": [{"port": 8080, "protocol": "UDP"}]}]}, False),
        ({"ingress": [{"from": [{"namespaceSelector": {}}]}]}, True),
        ({"ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "x"}}}]}]}, False),
        ({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}]}, False),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, False),
    ],
)
def test_ingress_is_admitted_as_a_network_plugin_does_it(spec: Object, admitted: bool) -> None:
    """Selected pods admit what a rule names; peers and ports of one rule must both fit."""
    unit = Unit.of("shop", [pod("server"), pod("client"), policy(spec)], [])
    server, client = unit.pods

    assert admits(unit, server, client, 8080) is admitted


def test_a_peer_without_namespace_selector_is_of_the_policys_own_namespace() -> None:
    """Pods of the same labels elsewhere are not meant."""
    unit = Unit.of("shop", [pod("server"), pod("client", "other"), policy({"ingress": [{"from": [CLIENT]}]})], [])
    server, client = unit.pods

    assert not admits(unit, server, client, 8080)


def test_egress_is_let_out_by_the_port_of_the_pod_and_not_of_the_service() -> None:
    """Policies see connections after the Service's port was translated."""
    rule = {"to": [CLIENT], "ports": [{"port": 80}]}
    unit = Unit.of("shop", [pod("server"), pod("client"), policy({"policyTypes": ["Egress"], "egress": [rule]})], [])
    server, client = unit.pods

    assert not lets_out(unit, server, client, 8080)
    assert not lets_out_of_cluster(unit, server, [80])


def test_what_is_outside_is_reached_by_a_rule_without_peers_or_with_addresses() -> None:
    """No pod selector finds the rest of the world."""
    rule = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
    unit = Unit.of("shop", [pod("server"), policy({"policyTypes": ["Egress"], "egress": [rule]})], [])

    assert lets_out_of_cluster(unit, unit.pods[0], [443])
    assert not lets_out_of_cluster(unit, unit.pods[0], [80])


def test_an_object_without_pods_has_none() -> None:
    """A ConfigMap, or a Deployment that is not finished."""
    assert pod_of({"kind": "ConfigMap"}) is None
    assert pod_of({"kind": "Deployment", "spec": None}) is None
