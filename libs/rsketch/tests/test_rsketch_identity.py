"""Tests of who a process is, told from its command line."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from rsketch.arguments import create_parser, parse
from rsketch.identity import _named, attributes, from_argv, split

OURS = [
    ["python", "/x/bin/rsketch"],
    ["/usr/bin/python3.11", "-u", "-X", "dev", "bin/rsketch"],
    ["python", "-m", "rsketch"],
    ["python", "-mrsketch"],
    ["python", "-Bum", "rsketch"],
    ["python", "-Werror", "-W", "ignore", "-Ximporttime", "-m", "rsketch"],
    ["python", "--check-hash-based-pycs", "always", "-m", "rsketch"],
]
OTHERS = [
    ["python"],
    ["python", "-"],
    ["python", "-c", "import rsketch", "rsketch"],
    ["python", "-m", "rsketch_telemetry", "doctor"],
    ["python", "-m", "pytest", "rsketch"],
    ["python", "/x/bin/opentelemetry-instrument", "rsketch", "server"],
    ["python", "-m"],
    ["python", "-X", "rsketch"],
    [],
]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only these be installed: the host, and a service called alpha in version 1.5; outside of any checkout."""
    for name, release, entries in (("rsketch", "7.0", ""), ("stranger", "1.5", "[rsketch.services]\nalpha = x:y\n")):
        info = tmp_path / f"{name}-{release}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
        (info / "entry_points.txt").write_text(entries)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("start", OURS)
def test_split_finds_the_command_behind_interpreter_options(start: list[str]) -> None:
    """Each way to start the command is recognised, with its arguments apart."""
    assert split([*start, "server", "-m", "http"]) == (start, ["server", "-m", "http"])


@pytest.mark.parametrize("argv", OTHERS)
def test_other_programs_get_no_identity(argv: list[str]) -> None:
    """A stranger's program is not renamed, whatever its arguments are."""
    assert split(argv) is None
    assert from_argv(argv) == {}


@pytest.mark.parametrize(
    ("arguments", "release"),
    [
        (["server", "alpha"], "1.5"),
        (["server"], "1.5"),
        (["server", "--console", "--workers", "2", "alpha"], "1.5"),
        (["server", "alpha", "alpha"], "1.5"),
        (["server", "nobody"], "7.0"),
        (["server", "alpha", "nobody"], "7.0"),
        (["hello"], "7.0"),
        (["--version"], "7.0"),
        ([], "7.0"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_the_version_is_that_of_the_only_service(arguments: list[str], release: str) -> None:
    """With one service in the process its version counts, otherwise the host's."""
    assert from_argv(["python", "bin/rsketch", *arguments]) == {"service.name": "rsketch", "service.version": release}


@pytest.mark.parametrize(("arguments", "told"), [(["server"], True), (["hello"], False), ([], False)])
@pytest.mark.usefixtures("installed")
def test_a_run_of_the_server_tells_the_commit(tmp_path: Path, arguments: list[str], told: bool) -> None:
    """What is checked out in the working directory is what runs; other commands are no runs."""
    commit = "5ca1ab1e" * 5
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(commit)

    assert from_argv(["python", "bin/rsketch", *arguments]).get("vcs.ref.head.revision") == (commit if told else None)


@pytest.mark.usefixtures("installed")
def test_a_working_directory_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """The server still says who it is."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert from_argv(["python", "bin/rsketch", "server"]) == {"service.name": "rsketch", "service.version": "1.5"}


def test_the_installed_host_knows_its_version() -> None:
    """The name and the version come from the installed distribution."""
    assert attributes(None) == {"service.name": "rsketch", "service.version": version("rsketch")}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["http"],
        ["--workers", "3", "http", "grpc"],
        ["http", "grpc", "--workers=3", "--console"],
        ["--console", "http", "--worker", "2"],
    ],
)
def test_names_are_read_as_the_parser_reads_them(arguments: list[str]) -> None:
    """The quick look at the arguments agrees with the real parser."""
    assert _named(arguments) == parse(create_parser((), {}), ["server", *arguments]).services
