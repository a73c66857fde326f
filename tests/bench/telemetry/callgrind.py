"""Programs run under callgrind: how many instructions they took, and in which functions."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.telemetry.children import environ

__all__ = ["available", "counted", "functions"]

_SECONDS = 300.0
_OPTIONS = (
    "--instr-atstart=no",
    # By thread, so that one that has no part in it counts for nothing.
    "--separate-threads=yes",
    # Without what a miss in the interpreter's cache of attributes takes: whether two of them share a place there
    # depends on their addresses, which any other module moves.
    "--toggle-collect=find_name_in_mro*",
    "--collect-atstart=yes",
)
_NAMED = re.compile(r"\((\d+)\)(?: (.*))?")


def available() -> bool:
    """Return whether there is a valgrind."""
    return shutil.which("valgrind") is not None


def counted(module: str, arguments: Sequence[str], settings: Mapping[str, str]) -> Counter[str]:
    """
    Run a module of ours under callgrind; return the instructions of its main thread by function.

    Raises:
        RuntimeError: It failed; the message has what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "callgrind.out"
        options = (*_OPTIONS, f"--callgrind-out-file={file}")
        command = ("valgrind", "--tool=callgrind", *options, sys.executable, "-m", module, *arguments)
        ran = subprocess.run(
            command, env=environ(settings), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if ran.returncode:
            raise RuntimeError(f"{module} failed under valgrind:\n{ran.stderr[-3000:]}")
        return functions(file.with_name(f"{file.name}-01").read_text().splitlines())


def functions(lines: Iterable[str]) -> Counter[str]:
    """Return the instructions that each function took itself, from the lines of callgrind's file."""
    names: dict[str, str] = {}
    found: Counter[str] = Counter()
    function, skip = "", False
    for line in lines:
        if line.startswith("fn="):
            number, name = _match(line[3:])
            function = names.setdefault(number, name)
        elif line.startswith("cfn="):
            # A name is written out where it first occurs.
            names.setdefault(*_match(line[4:]))
        elif line.startswith("calls="):
            # The next line has what was called cost, which is not the function's own.
            skip = True
        elif line[:1].isdigit() or line.startswith(("+", "-", "*")):
            if not skip and function:
                found[function] += int(line.split()[1])
            skip = False
    return found


def _match(text: str) -> tuple[str, str]:
    found = _NAMED.fullmatch(text)
    if found is None:
        raise ValueError(f"callgrind's file has an unknown form: {text!r}")
    return found[1], found[2] or ""
