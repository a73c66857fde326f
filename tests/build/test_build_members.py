"""What the members' pyproject.toml and folders have in common."""

import pytest
from packaging.requirements import Requirement
from workspace import ROOT, Member, members

_EACH = pytest.mark.parametrize("member", members(), ids=lambda member: member.name)


@_EACH
def test_the_ranges_for_siblings_include_the_siblings(member: Member) -> None:
    """A member accepts the version that each sibling has now, and neither its next minor version nor all later ones."""
    versions = {sibling.name: sibling.version for sibling in members()}
    for need in map(Requirement, member.project["dependencies"]):
        if need.name in versions:
            major, minor, _ = versions[need.name].split(".")
            assert need.specifier.contains(versions[need.name]), need
            assert not need.specifier.contains(f"{major}.{int(minor) + 1}.0"), need


@_EACH
def test_the_licence_is_a_copy(member: Member) -> None:
    """Each package ships the repository's licence; a link would be missing from a wheel made from an sdist."""
    copy = ROOT / member.folder / "LICENSE"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (ROOT / "LICENSE").read_bytes()


@_EACH
def test_the_common_fields_agree(member: Member) -> None:
    """All packages support the same interpreters, carry the same licence and cannot be uploaded by accident."""
    first = members()[0].project
    for field in ("requires-python", "license", "license-files", "authors", "classifiers"):
        assert member.project[field] == first[field], field
    assert "Private :: Do Not Upload" in member.project["classifiers"]


@_EACH
def test_the_history_tells_of_the_version(member: Member) -> None:
    """A version that is in a pyproject.toml is described in the CHANGELOG.md beside it."""
    text = (ROOT / member.folder / "CHANGELOG.md").read_text()
    assert f"`{member.tag.removesuffix(member.version)}<version>`" in text
    lines = text.splitlines()
    assert any(line.startswith("## ") and member.version in line for line in lines)
