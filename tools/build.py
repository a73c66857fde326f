"""
Build every member's sdist and wheel into `dist/`, with `SHA256SUMS` beside them.

Only the build system in locks/build.txt is used, and the same commit gives the same bytes on every machine.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from workspace import LOCKS, ROOT, members, uv, without_constraints


def main() -> int:
    """Build all members and print the sums."""
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    for member in members():
        build(ROOT / member.folder, target)
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in releases(target))
    (target / "SHA256SUMS").write_text(sums)
    print(sums, end="")
    return 0


def build(source: Path, target: Path) -> None:
    """Build the sdist of the package in *source*, and the wheel from that sdist, into *target*."""
    locked = [f"--build-constraints={LOCKS / 'build.txt'}", "--require-hashes"]
    command = [uv(), "build", "--quiet", *locked, "--python", sys.executable, "--out-dir", str(target)]
    subprocess.run([*command, str(source)], env=without_constraints(), check=True)


def releases(target: Path) -> list[Path]:
    """Return the sdists and wheels in *target* by name."""
    return sorted([*target.glob("*.tar.gz"), *target.glob("*.whl")])


if __name__ == "__main__":
    sys.exit(main())
