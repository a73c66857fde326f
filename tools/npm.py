"""Packages of npm, fetched with the ordinary client and held against their published hash; nothing in them is run."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NpmError", "archive", "member", "skipped", "verify"]


class NpmError(Exception):
    """A package cannot be had here, for a reason that says nothing about the checkout."""


@contextmanager
def archive(package: str, version: str, integrity: str) -> Iterator[tarfile.TarFile]:
    """
    Open a package while in the context.

    Args:
        integrity: Its hash as npm publishes it, `sha512-…`; another one ends the program.

    Raises:
        NpmError: npm is not installed, or cannot fetch it.
    """
    if shutil.which("npm") is None:
        raise NpmError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        # From the registry that the client is configured with.
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        if subprocess.run(command, check=False, cwd=folder, stdout=subprocess.DEVNULL).returncode:
            raise NpmError(f"npm cannot fetch {package} {version}")
        (file,) = Path(folder).glob("*.tgz")
        verify(f"{package} {version}", file.read_bytes(), integrity)
        with tarfile.open(file) as tar:
            yield tar


def member(tar: tarfile.TarFile, name: str) -> bytes:
    """Return a file of a package."""
    found = tar.extractfile(name)
    assert found is not None
    return found.read()


def skipped(tool: str, error: NpmError, arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Say why there is no package. Only a check on a laptop goes on without; a build must not go green unchecked."""
    print(f"SKIPPED {tool}: {error}, so nothing was compared", file=sys.stderr)
    return 0 if "--check" in arguments and environ.get("CI") != "true" else 1


def verify(what: str, content: bytes, integrity: str) -> None:
    """Refuse a package that is not the one that was looked at."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != integrity:
        sys.exit(f"{what} has the hash {found}, not {integrity}")
