"""
Write `locks/*.txt`: every third-party file by version and sha256, for CPython 3.11 and later.

The requirements come from the environments in hatch.toml and from the members' pyproject.toml. What is locked stays as
it is while it fits, so that relocking is a no-op; `--upgrade` or `--upgrade-package NAME` moves it on. Neither a host,
nor a URL, nor a path enters a lock: the files may come from any index or folder.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workspace import LOCKS, ROOT, environments, members, uv, without_constraints

WRAPPER = ("hatch", "uv")
"""What hatchw installs into its private environment."""

EDITABLE = ("editables",)
"""What hatchling asks for, beyond what a member declares, to install it as it lies in the checkout."""

COMPILE = (
    *("pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """
    One file in `locks/`.

    Attributes:
        name: Its stem.
        requirements: What it must satisfy, in the format of a requirements file.
        within: The stem of the lock whose versions it shares, or None.
        pinned: The requirements whose versions come from *within*; None for all.
        options: Further options for the compiler.
    """

    name: str
    requirements: tuple[str, ...]
    within: str | None = None
    pinned: frozenset[str] | None = None
    options: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Write all locks and say which ones changed; with `--check` leave them alone and return 1 if one would change."""
    parser = argparse.ArgumentParser(prog="lock", description="Write locks/*.txt.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="move everything to the newest release that fits")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="move only this one")
    options = parser.parse_args(arguments)
    upgrade = ["--upgrade"] if options.upgrade else [f"--upgrade-package={name}" for name in options.upgrade_package]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) if options.check else LOCKS
        changed = [lock.name for lock in locks() if write(lock, target, upgrade)]
    verdict = "out of date, run ./hatchw run lock" if options.check else "changed"
    print(f"locks: {', '.join(changed)} {verdict}" if changed else "locks: nothing changed")
    return 1 if options.check and changed else 0


def locks() -> Iterator[Lock]:
    """Yield every lock, after those whose versions it shares."""
    yield Lock(name="hatch", requirements=WRAPPER)
    declared = {need for member in members() for need in member.build_requires}
    yield Lock(name="build", requirements=(*EDITABLE, *sorted(declared)))
    yield Lock(name="dev", requirements=requirements("default"))
    yield Lock(name="http", requirements=requirements("http"), within="dev")
    yield Lock(name="grpc", requirements=requirements("grpc"), within="dev")
    yield Lock(name="dashboard", requirements=requirements("dashboard"), within="dev")
    yield Lock(name="bench", requirements=requirements("bench"), within="dev")
    yield Lock(name="infra", requirements=requirements("infra"), within="dev")
    yield Lock(name="checkov", requirements=requirements("checkov"))
    # The tools of the tests are no subject of the test: they stay where they are.
    tools = frozenset(environments()["lowest"].dependencies)
    lowest = ("--resolution", "lowest-direct")
    yield Lock(name="lowest", requirements=requirements("lowest"), within="dev", pinned=tools, options=lowest)


def requirements(name: str) -> tuple[str, ...]:
    """Return what an environment must satisfy."""
    environment = environments()[name]
    return (*(f"-e {member}" for member in environment.members), *environment.dependencies)


def write(lock: Lock, target: Path, upgrade: Sequence[str]) -> bool:
    """Write one lock into *target* and return whether it differs from the one in `locks/`."""
    committed, output = LOCKS / f"{lock.name}.txt", target / f"{lock.name}.txt"
    before = committed.read_bytes() if committed.exists() else b""
    if before:
        output.write_bytes(before)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins(lock, target)))
        constraints.flush()
        options = ["--constraints", constraints.name, "--output-file", str(output)]
        options += [f"--no-emit-package={member.name}" for member in members()]
        command = [uv(), *COMPILE, *upgrade, *lock.options, *options, "-"]
        wanted, quiet = "\n".join(lock.requirements).encode(), subprocess.DEVNULL
        ran = subprocess.run(command, check=False, cwd=ROOT, env=without_constraints(), input=wanted, stdout=quiet)
    if ran.returncode:
        sys.exit(f"locks: uv cannot write {lock.name}.txt, for the reason above")
    return output.read_bytes() != before


def pins(lock: Lock, target: Path) -> list[str]:
    """Return the versions that *lock* takes over from another one, already written into *target*."""
    if lock.within is None:
        return []
    lines = re.findall(r"^([^ ]+)==([^ ]+)(.*) \\$", (target / f"{lock.within}.txt").read_text(), re.MULTILINE)
    return [
        f"{name}=={version}{marker}" for name, version, marker in lines if lock.pinned is None or name in lock.pinned
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
