"""That the commands in the documentation exist, and what a script must look like."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from workspace import ROOT

_COMMAND = re.compile(r"(?<![\w/-])(?:\./hatchw|hatch) run (?:(?P<environment>[a-z]+):)?(?P<script>[a-z]+)\b")
_ENVIRONMENTS = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]
_PAGES = sorted(page for page in ROOT.rglob("*.md") if not {".hatchw", "dist"} & set(page.relative_to(ROOT).parts))


def _scripts(environment: str) -> set[str]:
    table = _ENVIRONMENTS[environment]
    inherited = set() if table.get("template") == environment else set(_ENVIRONMENTS["default"]["scripts"])
    return inherited | set(table.get("scripts", {}))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_is_a_script(page: Path) -> None:
    """Whoever types a command from a page finds it."""
    for found in _COMMAND.finditer(page.read_text()):
        assert found["script"] in _scripts(found["environment"] or "default"), found[0]


@pytest.mark.parametrize("name", _ENVIRONMENTS)
def test_a_server_script_begins_with_exec(name: str) -> None:
    """Otherwise a shell stays between hatch and the server."""
    script = _ENVIRONMENTS[name].get("scripts", {}).get("server", "exec")
    assert script.split()[0] == "exec"


def test_continuous_integration_runs_the_command_that_the_readme_names() -> None:
    """The README's test command is the one that a merge needs."""
    assert "./hatchw run test\n" in (ROOT / "README.md").read_text()
    assert re.search(r"^gate tests +\./hatchw run test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def test_the_build_graph_is_true() -> None:
    """The generated part of BUILD.md is what the generator writes now."""
    graph = subprocess.run([sys.executable, "tools/graph.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (graph.returncode, graph.stderr) == (0, ""), graph.stdout


def test_the_import_contracts_hold() -> None:
    """Who may import whom is kept."""
    lint = subprocess.run(["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout
