"""What the sdist and the wheel of each member contain, and that both are reproducible."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build
import pytest
from workspace import ROOT, Member, members

_ELSEWHERE = """
import os, sys, pathlib, build
os.umask(0o077)
build.build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""

_EACH = pytest.mark.parametrize("member", members(), ids=lambda member: member.name)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each member's sdist and wheel."""
    target = tmp_path_factory.mktemp("releases")
    for member in members():
        build.build(ROOT / member.folder, target)
    return target


def _files(folder: Path) -> list[Path]:
    """Return the files below *folder*, without the caches that git ignores."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    cache = re.compile(r"__pycache__|\..+_cache")
    return [file for file in files if not any(cache.fullmatch(part) for part in file.parts)]


@_EACH
def test_a_wheel_is_the_package_and_its_metadata(releases: Path, member: Member) -> None:
    """A wheel holds the files of its package, typed, with the licence, and nothing else."""
    stem, source = f"{member.package}-{member.version}", ROOT / member.folder / "src"
    with zipfile.ZipFile(releases / f"{stem}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    info = {name for name in names if name.startswith(f"{stem}.dist-info/")}
    assert names - info == {str(file.relative_to(source)) for file in _files(source)}
    assert f"{member.package}/py.typed" in names
    assert f"{stem}.dist-info/licenses/LICENSE" in info


@_EACH
def test_an_sdist_is_the_declared_inputs(releases: Path, member: Member) -> None:
    """No file that git ignores, or that merely lies in the folder, gets into an sdist."""
    stem, folder = f"{member.package}-{member.version}", ROOT / member.folder
    with tarfile.open(releases / f"{stem}.tar.gz") as archive:
        names = {name.removeprefix(f"{stem}/") for name in archive.getnames()}
    inputs = {path for name in member.inputs for path in (folder / name, *_files(folder / name)) if path.is_file()}
    assert names - {".gitignore", "PKG-INFO"} == {str(path.relative_to(folder)) for path in inputs}


@_EACH
def test_a_build_elsewhere_gives_the_same_bytes(releases: Path, member: Member, tmp_path: Path) -> None:
    """Folder, umask, time zone, locale, hash seed and age of the files leave no trace in a release."""
    source, target = tmp_path / member.folder, tmp_path / "out"
    caches = shutil.ignore_patterns("__pycache__", ".*_cache")
    shutil.copytree(ROOT / member.folder, source, copy_function=shutil.copyfile, ignore=caches)
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    elsewhere = {"PYTHONPATH": str(ROOT / "tools"), "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    environ = {**os.environ, **elsewhere}  # noqa: TID251 - for a child process
    subprocess.run([sys.executable, "-c", _ELSEWHERE, source, target], env=environ, check=True)
    theirs = build.releases(target)
    assert len(theirs) == 2
    for file in theirs:
        assert _sum(file) == _sum(releases / file.name), file.name


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
