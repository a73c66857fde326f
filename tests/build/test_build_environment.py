"""What the default environment holds: the lock, the members, and nothing else."""

import re
from importlib.metadata import EntryPoint, distribution, distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workspace import LOCKS, members

_MEMBERS = {member.name for member in members()}


def _installed() -> dict[str, str]:
    return {canonicalize_name(found.name): found.version for found in distributions()}


def _locked() -> dict[str, str]:
    entries = re.findall(r"^([a-z].*) \\$", (LOCKS / "dev.txt").read_text(), re.MULTILINE)
    requirements = [Requirement(entry) for entry in entries]
    here = [need for need in requirements if need.marker is None or need.marker.evaluate()]
    return {need.name: str(need.specifier).removeprefix("==") for need in here}


def _entry_points() -> list[EntryPoint]:
    return [entry for member in members() for entry in distribution(member.name).entry_points]


def test_the_environment_equals_the_lock() -> None:
    """What is installed is what locks/dev.txt says for this interpreter; run it through ./hatchw if this fails."""
    third_party = {name: version for name, version in _installed().items() if name not in _MEMBERS}
    assert third_party == _locked()


def test_every_member_is_installed_as_it_is_declared() -> None:
    """An environment that was made before a version or a dependency changed would test something else."""
    for member in members():
        installed = distribution(member.name)
        declared = {Requirement(need) for need in member.project["dependencies"]}
        required = {Requirement(need) for need in installed.requires or () if "extra ==" not in need}
        assert (installed.version, required) == (member.version, declared)


def test_every_declared_entry_point_is_installed() -> None:
    """An entry point added to a pyproject.toml is known to the environment."""
    declared = {
        (group, *entry) for member in members() for group, entries in _groups(member.project) for entry in entries
    }
    assert {(entry.group, entry.name, entry.value) for entry in _entry_points()} == declared


def _groups(project: object) -> list[tuple[str, list[tuple[str, str]]]]:
    assert isinstance(project, dict)
    groups = {**project.get("entry-points", {}), "console_scripts": project.get("scripts", {})}
    return [(group, list(entries.items())) for group, entries in groups.items()]


@pytest.mark.parametrize("entry", _entry_points(), ids=lambda entry: f"{entry.group}:{entry.name}")
def test_every_entry_point_loads(entry: EntryPoint) -> None:
    """What a package publishes exists."""
    assert entry.load() is not None
