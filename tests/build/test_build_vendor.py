"""That what the dashboard's page has from others is what was published, with its licence; no network is needed."""

import hashlib
import json
from pathlib import Path

import pytest
from workspace import ROOT

_FOLDER = ROOT / "services/dashboard/src/rsketch_dashboard/web/vendor"
_LISTED = json.loads((_FOLDER / "vendor.json").read_text())["files"]


@pytest.mark.parametrize("entry", _LISTED, ids=lambda entry: entry["file"])
def test_a_vendored_file_is_the_one_that_was_published(entry: dict[str, str]) -> None:
    """Not a byte was changed; `./hatchw run vendor --check` compares with the package itself."""
    assert hashlib.sha256((_FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert entry["integrity"].startswith("sha512-")


def test_every_vendored_file_is_listed_and_every_package_has_its_licence() -> None:
    """Nothing lies there of which nobody knows where it came from, or under which terms."""
    files = {entry["file"] for entry in _LISTED}
    assert {file.name for file in _FOLDER.iterdir()} == files | {"vendor.json"}
    licensed = {entry["package"] for entry in _LISTED if Path(entry["path"]).name.startswith("LICENSE")}
    assert licensed == {entry["package"] for entry in _LISTED}
