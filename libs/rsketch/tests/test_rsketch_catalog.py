"""Tests of finding what other packages publish."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rsketch import ConfigError, StartError
from rsketch.catalog import SERVICES, chosen, describe_command, load_command, load_service, published
from rsketch.errors import ServiceError, UsageError


def _publish(folder: Path, name: str, where: str) -> None:
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{SERVICES}]\nalpha = {where}\n")


def test_published_lists_names_without_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that cannot be imported is listed all the same."""
    _publish(tmp_path, "one", "nowhere.at.all:service")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    assert list(published(SERVICES)) == ["alpha"]


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one is found first depends on the file system, so neither wins."""
    _publish(tmp_path, "one", "one:service")
    _publish(tmp_path, "two", "two:service")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    with pytest.raises(StartError, match=r"both (one|two) .* and (one|two) .* publish 'alpha'"):
        published(SERVICES)


def test_all_services_are_chosen_by_default() -> None:
    """Without names everything runs; with names each runs once."""
    assert chosen([], ["a", "b"]) == ("a", "b")
    assert chosen(["b", "a", "b"], ["a", "b"]) == ("b", "a")


def test_what_is_not_installed_cannot_be_chosen() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match=re.escape("SERVICE: accepts a or b, not 'c'")):
        chosen(["a", "c"], ["a", "b"])
    with pytest.raises(UsageError, match="no service is installed"):
        chosen([], [])


@pytest.mark.parametrize("load", [load_service, load_command])
def test_something_else_is_refused(load: object) -> None:
    """An entry point that is no service or command is named."""
    assert callable(load)
    with pytest.raises(StartError, match=r"thing: os:sep is no rsketch\.(Service|Command)"):
        load(EntryPoint("thing", "os:sep", SERVICES))
    with pytest.raises(ServiceError, match=r"^nowhere:x cannot be loaded: ModuleNotFoundError: [^\n]+$"):
        load(EntryPoint("thing", "nowhere:x", SERVICES))


def test_a_broken_command_is_described_as_such() -> None:
    """The list of commands survives one that cannot be imported."""
    assert "cannot be loaded" in describe_command(EntryPoint("thing", "nowhere:x", SERVICES)).help
