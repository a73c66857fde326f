"""What a lock may contain, and that the locks belong together."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workspace import LOCKS, environments, members

# Whatever is not a name, a version, a marker or a sum does not match: a host, a URL and a path among them.
_ENTRY = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[a-z0-9.]+)(?P<marker> ; [A-Za-z_0-9.<>=!'*() -]+)? \\\n"
    r"(?P<sums>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)
_FILES = sorted(LOCKS.iterdir())
_NAMES = [file.stem for file in _FILES]


def _versions(file: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in _ENTRY.finditer(file.read_text()):
        found.setdefault(entry["name"], set()).add(entry["version"])
    return found


@pytest.mark.parametrize("file", _FILES, ids=_NAMES)
def test_every_line_is_a_version_or_a_sum(file: Path) -> None:
    """A lock is nothing but versions, each with at least one sha256."""
    assert _ENTRY.sub("", file.read_text()) == ""
    assert _versions(file)


@pytest.mark.parametrize("file", _FILES, ids=_NAMES)
def test_no_member_is_locked(file: Path) -> None:
    """A member is built from this checkout, so its version is never in a lock."""
    assert not {member.name for member in members()} & set(_versions(file))


def test_every_environment_has_its_lock_and_no_lock_is_left_over() -> None:
    """The files in `locks/` are those of the environments, of the wrapper and of the build system."""
    assert set(_NAMES) == {"hatch", "build", *(environment.lock for environment in environments().values())}


@pytest.mark.parametrize("name", ["http", "grpc", "dashboard"])
def test_a_service_is_locked_to_the_versions_that_the_tests_use(name: str) -> None:
    """Each version in a service's lock is in the one that the tests ran with."""
    tested = _versions(LOCKS / "dev.txt")
    assert all(versions <= tested[package] for package, versions in _versions(LOCKS / f"{name}.txt").items())


@pytest.mark.parametrize("name", environments())
def test_what_an_environment_asks_for_is_in_its_lock(name: str) -> None:
    """A dependency that is not in the lock would be installed unchecked, so each direct one is there."""
    environment = environments()[name]
    folders = {re.split(r"\[", member.removeprefix("./"))[0] for member in environment.members}
    declared = [
        need for member in members() if str(member.folder) in folders for need in member.project["dependencies"]
    ]
    third_party = {canonicalize_name(Requirement(need).name) for need in (*declared, *environment.dependencies)}
    third_party -= {canonicalize_name(member.name) for member in members()}
    assert third_party <= set(_versions(LOCKS / f"{environment.lock}.txt"))
