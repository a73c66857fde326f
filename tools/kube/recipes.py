"""
What `kube.toolchain` makes, and how: a recipe for each folder of `infra/tools`.

A folder pins what is made by a go.mod with every module's version and a go.sum with its checksum, so that the bytes are
the same on every machine or the build fails. Nothing here downloads a program that others built.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workspace import ROOT

from kube.golang import BUILD_FLAGS, UPDATE_FLAGS, Go, Module, checksums, requirements

__all__ = ["CRDS", "LDFLAGS", "RECIPES", "BuildError", "Job", "Recipe"]

LDFLAGS = "-s -w"
"""No symbol table and no debug information: a third smaller, and quicker to link."""

HEARTBEAT_SECONDS = 30.0
LOG_LINES = 25
"""How much of the log a failure shows."""


class BuildError(Exception):
    """Something could not be made; the message shows the end of what was said about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A recipe at work.

    Attributes:
        recipe: What is made.
        go: What makes it.
        into: A new folder for its files.
        log: Where the programs that it runs write.
        needs: The programs that the recipe needs, by name.
    """

    recipe: "Recipe"
    go: Go
    into: Path
    log: Path
    needs: Mapping[str, Path]

    def run(self, command: Sequence[str], folder: Path, flags: Sequence[str] = BUILD_FLAGS) -> None:
        """
        Run *command* in *folder*, its output in the log, with a line now and then for those who wait.

        Raises:
            BuildError: It ended with another code than 0.
        """
        with self.log.open("ab") as log, _started(command, folder, self.go.environment(flags), log) as process:
            code = self._wait(process)
        if code != 0:
            said = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise BuildError(f"`{Path(command[0]).name} {' '.join(command[1:3])} …` ended with {code}:\n{said}")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        started = time.monotonic()
        while True:
            try:
                return process.wait(HEARTBEAT_SECONDS)
            except subprocess.TimeoutExpired:
                # Go's -v names one package a line.
                lines = self.log.read_bytes().count(b"\n")
                print(
                    f"  {self.recipe.name}: {time.monotonic() - started:.0f} s, {lines} packages compiled", flush=True
                )


@contextmanager
def _started(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, so that Go's compilers end with it when this program is stopped.
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# --- programs that Go builds as they are ---


def _build(job: Job) -> None:
    """Build what the `tool` lines of the go.mod name."""
    _go_build(job, job.recipe.folder, "tool")


def _go_build(job: Job, folder: Path, package: str) -> None:
    options = ["-v", f"-tags={job.recipe.tags}", f"-ldflags={LDFLAGS}", "-o", f"{job.into}{os.sep}"]
    job.run([job.go.command, "build", *options, package], folder)


def _tidy(job: Job) -> None:
    """Bring go.mod and go.sum in line with the versions that go.mod names."""
    _go_mod_tidy(job, job.recipe.folder)


def _go_mod_tidy(job: Job, folder: Path) -> None:
    # -e: what only the tests of some dependency import may be out of reach; the build says whether anything is missing.
    job.run([job.go.command, "mod", "tidy", "-e"], folder, UPDATE_FLAGS)


# --- the collector ---


def _build_collector(job: Job) -> None:
    """Let the collector builder write the collector's main package, and build it by our go.mod and go.sum."""
    with _generated(job) as source:
        for pin in ("go.mod", "go.sum"):
            shutil.copyfile(job.recipe.folder / pin, source / pin)
        _go_build(job, source, ".")


def _tidy_collector(job: Job) -> None:
    """Work out go.mod anew from the manifest, and go.sum with it."""
    folder = job.recipe.folder
    manifest = (folder / "manifest.yaml").read_text()
    distribution = re.search(r"^  version: (\S+)$", manifest, re.MULTILINE)
    if distribution is None:
        raise BuildError(f"{folder}/manifest.yaml: no dist.version, the collector's version without its v")
    lines = [*re.findall(r"^  - gomod: (.+)$", manifest, re.MULTILINE), f"{job.recipe.module} v{distribution[1]}"]
    header = (folder / "go.mod").read_text().partition("\nrequire ")[0]
    with _generated(job) as source:
        (source / "go.mod").write_text("\n".join((header, "require (", *lines, ")", "")))
        shutil.copyfile(folder / "go.sum", source / "go.sum")
        _go_mod_tidy(job, source)
        for pin in ("go.mod", "go.sum"):
            shutil.copyfile(source / pin, folder / pin)


@contextmanager
def _generated(job: Job) -> Iterator[Path]:
    manifest = (job.recipe.folder / "manifest.yaml").read_text()
    with tempfile.TemporaryDirectory(dir=job.into.parent, prefix=".source-") as name:
        source = Path(name)
        output = f"dist:\n  output_path: {json.dumps(name)}"
        config = source / "manifest.yaml"
        config.write_text(re.sub(r"^dist:$", lambda _: output, manifest, flags=re.MULTILINE))
        # Without the two it would ask the network for versions, and compile with flags of its own.
        skips = ("--skip-get-modules", "--skip-compilation")
        job.run([str(job.needs["builder"]), "--config", str(config), *skips], source)
        yield source


# --- the definitions of custom resources ---

CRDS: Mapping[str, tuple[str, ...]] = {
    "github.com/cert-manager/cert-manager": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_clusterissuers.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    "github.com/open-telemetry/opentelemetry-operator": (
        "config/crd/bases/opentelemetry.io_instrumentations.yaml",
        "config/crd/bases/opentelemetry.io_opentelemetrycollectors.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}
"""Of each module in infra/tools/crds/go.mod, the files that define the custom resources that our manifests may use."""


def _extract(job: Job) -> None:
    """Copy the files out of the modules that ship them."""
    pinned = checksums((job.recipe.folder / "go.sum").read_text())
    for module in _crd_modules(job.recipe):
        said = _download(job, module)
        if said["Sum"] != pinned.get((module.path, module.version)):
            raise BuildError(f"{module} has the checksum {said['Sum']}, which go.sum does not list")
        for file in CRDS[module.path]:
            shutil.copyfile(Path(said["Dir"]) / file, job.into / Path(file).name)


def _tidy_crds(job: Job) -> None:
    """Write go.sum anew; tidying would drop modules whose code nothing imports."""
    lines = []
    for module in _crd_modules(job.recipe):
        said = _download(job, module)
        lines += [
            f"{module.path} {module.version} {said['Sum']}",
            f"{module.path} {module.version}/go.mod {said['GoModSum']}",
        ]
    (job.recipe.folder / "go.sum").write_text("\n".join((*lines, "")))


def _crd_modules(recipe: "Recipe") -> tuple[Module, ...]:
    required = requirements((recipe.folder / "go.mod").read_text())
    return tuple(required[path] for path in CRDS)


def _download(job: Job, module: Module) -> Mapping[str, str]:
    # In a folder without go.mod: there Go neither writes to our go.sum nor loads what the module itself requires.
    command = [job.go.command, "mod", "download", "-json", str(module)]
    environ = job.go.environment(())
    ran = subprocess.run(command, check=False, cwd=job.into, env=environ, capture_output=True, text=True)
    said: Mapping[str, str] = json.loads(ran.stdout or "{}")
    if ran.returncode != 0:
        raise BuildError(f"{module}: {said.get('Error') or ran.stderr.strip()}")
    return said


# --- all of them ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """
    One folder of `infra/tools` and what comes of it.

    Attributes:
        name: The folder's name.
        module: The Go module whose version counts as the recipe's.
        files: What it makes.
        about: What that is for.
        make: Makes `files`.
        update: Works out the pins anew.
        tags: Go's build tags.
        needs: The programs that `make` and `update` run, each the only one of the recipe of its name.
        root: Where its folder is.
    """

    name: str
    module: str
    files: tuple[str, ...]
    about: str
    make: Callable[[Job], None] = _build
    update: Callable[[Job], None] = _tidy
    tags: str = ""
    needs: tuple[str, ...] = ()
    root: Path = ROOT / "infra" / "tools"

    @property
    def folder(self) -> Path:
        """Where its pins are."""
        return self.root / self.name

    @property
    def version(self) -> str:
        """The version of `module` that its go.mod requires."""
        return requirements((self.folder / "go.mod").read_text())[self.module].version


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="crds",
            module="github.com/cert-manager/cert-manager",
            files=tuple(Path(file).name for files in CRDS.values() for file in files),
            about="schemas of the operators' custom resources",
            make=_extract,
            update=_tidy_crds,
        ),
        Recipe(
            name="kustomize",
            module="sigs.k8s.io/kustomize/kustomize/v5",
            files=("kustomize",),
            about="renders the overlays",
        ),
        Recipe(
            name="builder",
            module="go.opentelemetry.io/collector/cmd/builder",
            files=("builder",),
            about="writes the collector's main package",
        ),
        Recipe(
            name="otelcol",
            module="go.opentelemetry.io/collector/otelcol",
            files=("otelcol",),
            about="the collector",
            make=_build_collector,
            update=_tidy_collector,
            tags="grpcnotrace",  # as the image is built
            needs=("builder",),
        ),
        Recipe(
            name="prometheus",
            module="github.com/prometheus/prometheus",
            files=("prometheus", "promtool"),
            about="metrics, alerts, and the tests of their rules",
            # The manifests find their targets by DNS: without the clouds' discoveries it builds in half the time.
            tags="remove_all_sd,enable_dns_sd",
        ),
        Recipe(
            name="loki",
            module="github.com/grafana/loki/v3",
            files=("loki",),
            about="logs",
        ),
        Recipe(
            name="jaeger",
            module="github.com/jaegertracing/jaeger",
            files=("jaeger",),
            about="traces; its API is whole, its web page a placeholder",
        ),
    )
}
"""What there is to make, by name, the quickest first: what is wrong with a machine shows early."""
