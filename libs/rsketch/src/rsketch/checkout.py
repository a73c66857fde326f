"""
The git commit that is checked out in a folder, read from the repository's files. Runs no git, and never raises.

See https://git-scm.com/docs/gitrepository-layout. What cannot be read, such as a repository with reftables, has none.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["revision"]

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SYMBOLIC = "ref: "
_MOST_STEPS = 5
_LONGEST = 4096


def revision(folder: Path) -> str | None:
    """Return the full hash of the commit whose checkout *folder* is in, or None."""
    with suppress(OSError, ValueError):
        repository = _repository(folder)
        if repository is not None:
            return _commit(repository, _text(repository / "HEAD"))
    return None


def _repository(folder: Path) -> Path | None:
    """Return the folder that holds HEAD: `.git`, or what a file of that name leads to, as in a worktree."""
    for parent in (folder, *folder.parents):
        entry = parent / ".git"
        if entry.is_dir():
            return entry
        if entry.is_file():
            return parent / _text(entry).removeprefix("gitdir: ")
    return None


def _commit(repository: Path, head: str) -> str | None:
    """Follow *head* to the commit; a reference may name another one."""
    for _ in range(_MOST_STEPS):
        if _COMMIT.fullmatch(head):
            return head
        name = head.removeprefix(_SYMBOLIC)
        if name == head or not name.startswith("refs/") or ".." in name:
            return None
        head = next(_values(repository, name), "")
    return None


def _values(repository: Path, name: str) -> Iterator[str]:
    """Yield what a reference holds: of the worktree, of the repository that all worktrees share, packed."""
    shared = repository / _text(repository / "commondir")
    for loose in (repository / name, shared / name):
        if value := _text(loose):
            yield value
    with (shared / "packed-refs").open(encoding="utf-8", errors="replace") as packed:
        for line in packed:
            value, _, packed_name = line.rstrip("\n").partition(" ")
            if packed_name == name:
                yield value


def _text(file: Path) -> str:
    """Return what a small file holds, nothing where there is no such file: to open a pipe would wait for a writer."""
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(_LONGEST).strip()
