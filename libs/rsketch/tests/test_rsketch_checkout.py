"""Tests of the commit that is read from a repository's files; the repositories are made by git itself."""

import shutil
import subprocess
from pathlib import Path

import pytest
from rsketch.checkout import revision

GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(GIT is None, reason="git is not installed")


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    command = [str(GIT), "-C", str(folder), *who, *arguments]
    environ = {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.strip()


def _commit(folder: Path) -> str:
    _git(folder, "commit", "--quiet", "--allow-empty", "--message", "more")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with two commits on the branch `main`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    _git(folder, "init", "--quiet")
    _commit(folder)
    _commit(folder)
    return folder


def test_a_branch_is_followed_to_its_commit(checkout: Path) -> None:
    """From any folder of the checkout, and again after another commit."""
    inner = checkout / "src" / "deep"
    inner.mkdir(parents=True)
    first = _git(checkout, "rev-parse", "HEAD")
    found = [revision(checkout), revision(inner)]
    second = _commit(checkout)

    assert found == [first, first]
    assert revision(inner) == second != first


def test_a_packed_branch_is_found(checkout: Path) -> None:
    """What git has packed has no file of its own; a newer one beside it wins."""
    packed = _git(checkout, "rev-parse", "HEAD")
    _git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git/refs/heads/main").exists()
    assert revision(checkout) == packed

    assert revision(checkout) != _commit(checkout) == revision(checkout)


def test_a_detached_head_is_its_commit(checkout: Path) -> None:
    """A commit that is checked out by itself is on no branch."""
    _git(checkout, "checkout", "--quiet", "--detach", "HEAD~1")

    assert revision(checkout) == _git(checkout, "rev-parse", "HEAD") != _git(checkout, "rev-parse", "main")


@pytest.mark.parametrize("packed", [False, True])
def test_a_worktree_has_its_own_head(checkout: Path, packed: bool) -> None:
    """Its branch is in the repository that it shares with the others."""
    worktree = checkout.parent / "worktree"
    _git(checkout, "worktree", "add", "--quiet", "-b", "side", str(worktree), "HEAD~1")
    if packed:
        _git(checkout, "pack-refs", "--all")

    assert revision(worktree) == _git(worktree, "rev-parse", "HEAD") != revision(checkout)


def test_a_submodule_is_a_checkout_of_its_own(checkout: Path) -> None:
    """What leads to its repository is a relative path."""
    other = checkout.parent / "other"
    _git(checkout.parent, "clone", "--quiet", "--no-hardlinks", str(checkout), str(other))
    _commit(other)
    _git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "part")

    assert revision(checkout / "part") == revision(other) != revision(checkout)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".git", "somewhere else"),
        (".git", "gitdir: /no/such/folder"),
        (".git", "gitdir: \0"),
        (".git/HEAD", ""),
        (".git/HEAD", "ref: refs/heads/main"),
        (".git/HEAD", "ref: refs/heads/.invalid"),
        (".git/HEAD", "ref: ../../secret"),
        (".git/HEAD", "ref: refs/../../secret"),
        (".git/HEAD", "0" * 39),
    ],
)
def test_what_cannot_be_read_has_none(tmp_path: Path, file: str, text: str) -> None:
    """A branch without a commit, another layout, a path that leads out: no commit, and no error."""
    (tmp_path / "secret").write_text("0" * 40)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)

    assert revision(tmp_path) is None


def test_a_circle_of_references_ends(checkout: Path) -> None:
    """Each names the other one."""
    (checkout / ".git/refs/heads/a").write_text("ref: refs/heads/b")
    (checkout / ".git/refs/heads/b").write_text("ref: refs/heads/a")
    (checkout / ".git/HEAD").write_text("ref: refs/heads/a")

    assert revision(checkout) is None


def test_outside_of_a_checkout_there_is_none(tmp_path: Path) -> None:
    """A container without sources, for one."""
    assert revision(tmp_path) is None
