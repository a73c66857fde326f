"""What the tools do with packages of npm: they take the one that was looked at, or none."""

import base64
import tarfile
from pathlib import Path

import npm
import pytest
import semconv
import vendor


def test_without_npm_only_a_laptop_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A build must not go green without the comparison; writing without npm is a failure anywhere."""
    error = npm.NpmError("npm is not installed")
    assert npm.skipped("semconv", error, ["--check"], {}) == 0
    assert npm.skipped("semconv", error, ["--check"], {"CI": "true"}) == 1
    assert npm.skipped("semconv", error, [], {}) == 1
    assert capsys.readouterr().err.count("npm is not installed") == 3


def test_another_package_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """The package is the one that was looked at, byte for byte."""
    archive = tmp_path / "x.tgz"
    with tarfile.open(archive, "w:gz"):
        pass

    with pytest.raises(SystemExit, match="has the hash sha512-"):
        npm.verify("x 1.0", archive.read_bytes(), semconv.INTEGRITY)


@pytest.mark.parametrize("integrity", [semconv.INTEGRITY, *(package.integrity for package in vendor.PACKAGES)])
def test_a_pinned_hash_is_a_whole_one(integrity: str) -> None:
    """A hash that was cut short would be compared with nothing."""
    assert len(base64.b64decode(integrity.partition("-")[2])) == 64
