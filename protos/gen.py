"""
Generates the Python code and the type stubs from the .proto files, beside them or below a given directory.

Run as `hatch run gen [DIRECTORY]`. Refuses to touch up what comes out: it depends on the .proto files and on the
versions of grpcio-tools and mypy-protobuf alone, so that a test can compare it with what is committed, byte for byte.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

__all__ = ["GENERATED", "SOURCES", "generate", "generated", "main", "replace"]

SOURCES = Path(__file__).resolve().parent / "src"
"""The import root of the .proto files: a path below it is at once the proto path and the Python package."""

GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
"""Names that belong to the generator: what matches and is not made by a fresh run is stale."""


def protos() -> list[str]:
    """Return the .proto files, relative to their import root, in a fixed order."""
    return sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.proto"))


def generate(output: Path) -> None:
    """
    Write messages, stubs of services and type stubs for every .proto file below *output*.

    Raises:
        subprocess.CalledProcessError: A .proto file does not compile; protoc has said why on stderr.
    """
    output.mkdir(parents=True, exist_ok=True)
    scripts = Path(sysconfig.get_path("scripts"))
    # The plugins beside this interpreter, not whatever comes first on PATH.
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    writers = [f"--python_out={output}", f"--grpc_python_out={output}"]
    stubs = [f"--mypy_out=quiet:{output}", f"--mypy_grpc_out=quiet:{output}"]
    # Relative names, because each one is written into the generated code.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={SOURCES}"]
    subprocess.run([*protoc, *plugins, *writers, *stubs, *protos()], check=True)  # noqa: S603 - our own files


def generated(root: Path) -> set[Path]:
    """Return the generated files below *root*, relative to it."""
    return {path.relative_to(root) for pattern in GENERATED for path in root.rglob(pattern)}


def replace() -> None:
    """Replace what is committed: a .proto file that does not compile changes nothing, a deleted one leaves nothing."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        for path in generated(SOURCES) - generated(fresh):
            (SOURCES / path).unlink()
        for path in generated(fresh):
            shutil.copyfile(fresh / path, SOURCES / path)


def main(arguments: list[str]) -> int:
    """Generate into the directory given as the only argument, or in place; return the exit status."""
    if len(arguments) > 1:
        sys.stderr.write("gen.py: accepts one directory at most\n")
        return 2
    if arguments:
        generate(Path(arguments[0]))
    else:
        replace()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
