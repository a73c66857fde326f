"""The contract against the published conventions, against the code, and against what a release has promised."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import emitted
import pytest
import semconv as published
from rsketch_telemetry import conformance, event_loop, instrumentor_settings, pipeline_metrics, process, semconv
from rsketch_telemetry.conformance import contract as contracts
from rsketch_telemetry.conformance.contract import Use

CONTRACT = conformance.load()
ORACLE: Mapping[str, Any] = json.loads(published.ORACLE.read_text())
OWN = "rsketch."


def _deviates(name: str) -> bool:
    return name.startswith(OWN)


def test_every_attribute_is_published_with_its_stability() -> None:
    """Each attribute and each template of the contract is in the registry, alive, and as stable as it says."""
    for attribute in CONTRACT.attributes.values():
        entry = ORACLE["template" if attribute.template else "attribute"][attribute.name]
        assert "deprecated" not in entry, attribute.name
        assert entry["stability"] == attribute.stability, attribute.name


@pytest.mark.parametrize("kind", ["metric", "event"])
def test_every_metric_and_event_is_published_with_its_stability(kind: str) -> None:
    """Each is in the registry and as stable as the contract says, or begins with our own prefix and has a reason."""
    listed: Mapping[str, Any] = CONTRACT.metrics if kind == "metric" else CONTRACT.events
    for name, each in listed.items():
        if _deviates(name):
            assert each.deviation, name
            assert each.stability == "development", name
        else:
            assert ORACLE[kind][name] == {"stability": each.stability}, name


def test_values_are_the_published_ones() -> None:
    """An attribute whose values the registry lists has no other, unless a deviation gives the reason."""
    checked = 0
    for attribute in CONTRACT.attributes.values():
        listed = ORACLE["attribute"].get(attribute.name, {}).get("values")
        if listed and attribute.values and not attribute.deviation:
            assert set(attribute.values) <= set(listed), attribute.name
            checked += 1
    assert checked >= 3


def test_a_level_is_changed_only_with_a_reason() -> None:
    """A deviation is a sentence; what is required by the contract and not by the conventions has one."""
    reasons = [use.deviation for _, use in _uses() if use.deviation]
    reasons += [each.deviation for each in CONTRACT.metrics.values() if each.deviation]

    assert reasons
    assert all(len(reason) > 20 and reason.endswith(".") for reason in reasons)


def _uses() -> Iterator[tuple[str, Use]]:
    for _, uses in emitted.groups(CONTRACT):
        yield from uses.items()
    for group in CONTRACT.lines.values():
        yield from group.attributes.items()
    yield from CONTRACT.resource.attributes.items()


def test_the_contract_is_whole() -> None:
    """Every attribute that a group names is described, every one described is used, and levels are the four."""
    used = dict(_uses())

    assert set(used) == set(CONTRACT.attributes)
    assert {use.level for _, use in _uses()} == {"required", "conditional", "recommended", "opt-in"}
    assert all(use.when or use.only_when or use.note for _, use in _uses() if use.level == "conditional")
    assert all(metric.span in {None, *CONTRACT.spans} for metric in CONTRACT.metrics.values())


def test_attributes_of_metrics_are_bounded() -> None:
    """Every attribute of a metric has a bound on how many values it may take, and none is what a caller writes."""
    for metric in CONTRACT.metrics.values():
        for name in metric.attributes:
            assert CONTRACT.attributes[name].distinct, f"{name} of {metric.name}"
            assert not CONTRACT.attributes[name].template


def test_every_group_has_its_section_of_the_specification() -> None:
    """What the conventions have links to them."""
    unlinked = [metric.name for metric in CONTRACT.metrics.values() if not metric.link]
    unlinked += [event.name for event in CONTRACT.events.values() if not event.link]

    assert all(name.startswith(OWN) for name in unlinked)
    assert all(span.link for span in CONTRACT.spans.values())
    assert all(rule.link.startswith("https://opentelemetry.io/docs/specs/") for rule in conformance.RULES.values())


def test_the_contract_is_what_the_code_writes() -> None:
    """Version, buckets, units, methods and errors stand in the code as well, for speed; they are the same."""
    durations = [metric for metric in CONTRACT.metrics.values() if metric.span]

    assert CONTRACT.schema_url == semconv.SCHEMA_URL
    assert CONTRACT.version == ORACLE["version"]
    assert {metric.buckets for metric in durations} == {semconv.DURATION_BUCKETS}
    assert {metric.unit for metric in durations} == {semconv.DURATION_UNIT}
    assert set(CONTRACT.attributes["http.request.method"].values) == {*semconv.HTTP_METHODS, semconv.OTHER}
    assert set(CONTRACT.attributes["rpc.status_code"].values) >= semconv.RPC_SERVER_ERRORS
    assert CONTRACT.metrics[event_loop.LAG].buckets == event_loop.BUCKETS
    assert {name for name, metric in CONTRACT.metrics.items() if metric.opt_in} == instrumentor_settings.OPT_IN_METRICS


@pytest.mark.parametrize("module", [semconv, process, pipeline_metrics, event_loop])
def test_every_name_in_the_code_is_in_the_contract(module: object) -> None:
    """A name that is added to the code's table and not to the contract is found here."""
    known = {*CONTRACT.attributes, *CONTRACT.metrics, *CONTRACT.events, "exception"}
    names = {value for key, value in vars(module).items() if key.isupper() and _is_name(value)}

    assert names - known == set()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and "." in value and "/" not in value and not value.startswith("rsketch_telemetry")


def test_the_checkers_names_are_the_published_ones() -> None:
    """What the package ships of the registry is a part of the oracle, the old names with what replaces them."""
    shipped = json.loads(published.REGISTRY.read_text())
    everything = {
        name: about for kind in ("attribute", "template", "metric", "event") for name, about in ORACLE[kind].items()
    }

    for kind in ("attribute", "template", "metric", "event"):
        assert set(shipped[kind]) <= set(ORACLE[kind])
    for name, replacements in shipped["deprecated"].items():
        assert everything[name]["deprecated"] == replacements
    assert shipped["deprecated"]["rpc.grpc.status_code"] == ["rpc.status_code"]


def test_the_names_are_those_of_the_package_on_the_registry() -> None:
    """The oracle is what a fresh extraction gives; without npm a build fails and a laptop says so in one line."""
    result = subprocess.run([sys.executable, published.__file__, "--check"], capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr
    if "SKIPPED" in result.stderr:
        print(f"\n{result.stderr.strip()}", file=sys.__stderr__)
        pytest.skip(result.stderr.strip())


def test_declarations_are_read_from_text() -> None:
    """Names, templates, values and what replaced a name, as the package writes them."""
    text = """
/**
 * Which system.
 */
const ATTR_RPC_SYSTEM_NAME = "rpc.system.name";
/**
 * Enum value for attribute {@link ATTR_RPC_SYSTEM_NAME}.
 */
const RPC_SYSTEM_NAME_VALUE_GRPC = "grpc";
/**
 * A header.
 */
const ATTR_HTTP_REQUEST_HEADER = (key) => `http.request.header.${key}`;
/**
 * Old.
 *
 * @deprecated Replaced by `rpc.system.name`.
 */
const ATTR_RPC_SYSTEM = "rpc.system";
"""
    names: dict[str, dict[str, dict[str, Any]]] = {"attribute": {}, "template": {}, "metric": {}, "event": {}}
    published.add(names, text, "stable")

    assert names["attribute"] == {
        "rpc.system.name": {"stability": "stable", "values": ["grpc"]},
        "rpc.system": {"stability": "stable", "deprecated": ["rpc.system.name"]},
    }
    assert names["template"] == {"http.request.header.": {"stability": "stable"}}


def test_the_wheel_has_both_files() -> None:
    """The contract is read from the package, so it is in it, and what hatchling builds is the package's folder."""
    folder = resources.files(contracts.__name__.rpartition(".")[0])
    project = tomllib.loads((emitted.MEMBER / "pyproject.toml").read_text())

    assert {"contract.toml", "registry.json"} <= {file.name for file in folder.iterdir()}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/rsketch_telemetry"]


def test_the_page_and_the_lock_are_generated() -> None:
    """docs/emitted.md and emitted.lock are what the contract gives."""
    result = subprocess.run([sys.executable, emitted.__file__, "--check"], capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr


def test_what_a_release_promised_is_kept_until_a_version_breaks_it() -> None:
    """A name, unit or bucket that goes is found, unless the version says that it breaks; what is added is no matter."""
    lock = emitted.locked(CONTRACT, "1.2.0")
    duration = CONTRACT.metrics[semconv.HTTP_SERVER_DURATION]
    others = {name: metric for name, metric in CONTRACT.metrics.items() if name != duration.name}
    metric = f"metric {duration.name}"
    changed = {
        f"{metric} histogram in s": replace(CONTRACT, metrics={**others, duration.name: replace(duration, unit="ms")}),
        f"{metric} attribute http.route string": replace(CONTRACT, metrics=others),
        f"{metric} buckets 0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10": replace(
            CONTRACT, metrics={**others, duration.name: replace(duration, buckets=(1.0, 2.0))}
        ),
    }
    for promise, contract in changed.items():
        assert promise in emitted.broken_promises(lock, contract, "1.3.0", released=False)
        assert emitted.broken_promises(lock, contract, "2.0.0", released=False) == []

    fewer = emitted.locked(changed[f"{metric} attribute http.route string"], "1.2.0")
    assert emitted.broken_promises(fewer, CONTRACT, "1.3.0", released=False) == []


def test_a_version_that_is_not_out_may_still_change() -> None:
    """Until its release a version's own promise is a draft; after it, it stands."""
    lock = emitted.locked(CONTRACT, "1.2.0")
    without = replace(CONTRACT, events={})

    assert emitted.broken_promises(lock, without, "1.2.0", released=False) == []
    assert emitted.broken_promises(lock, without, "1.2.0", released=True) != []
    assert emitted.broken_promises("", without, "1.2.0", released=True) == []


@pytest.mark.parametrize(
    ("then", "now", "may"),
    [
        ("0.1.0", "0.1.1", False),
        ("0.1.0", "0.2.0", True),
        ("1.4.0", "1.5.0", False),
        ("1.4.0", "2.0.0", True),
        ("0.9.0", "1.0.0", True),
    ],
)
def test_which_versions_may_break(then: str, now: str, *, may: bool) -> None:
    """A new major version, and below 1 a new minor one."""
    assert emitted.may_break(then, now) is may
