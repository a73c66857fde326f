"""What can be said of the images without building one; `python -m kube.images` builds and tries them."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kube.images import CONTAINERFILE, SERVICES, ImageError, entrypoint, environment
from kube.versions import versions
from workspace import LOCKS, ROOT, environments, members

TEXT = CONTAINERFILE.read_text()


def commands() -> list[str]:
    """Return the commands that the Containerfile runs."""
    joined = re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ")
    runs = [line for line in joined.splitlines() if line.startswith("RUN ")]
    return [" ".join(command.split()) for run in runs for command in run.split("&&")]


def manifest(service: str) -> dict[str, object]:
    """Return the container of the service's Deployment."""
    text = (ROOT / "infra" / "services" / service / "deployment.yaml").read_text()
    container: dict[str, object] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"][0]
    return container


def admitted(path: Path) -> bool:
    """Whether the builder sees *path*, relative to the root: as in Docker the last line that fits decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    verdict = True
    for line in lines:
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = list(path.parts) if "**/" in line else names
        if any(fnmatch.fnmatchcase(part, pattern) for part in parts):
            verdict = line.startswith("!")
    return verdict


def files(folder: Path, *names: str) -> set[Path]:
    """Return the files below the given names of *folder*, relative to the root, but for what tools leave there."""
    found = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    relative = {path.relative_to(ROOT) for path in found}
    return {path for path in relative if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def test_an_image_runs_the_servers_under_the_launcher() -> None:
    """The entrypoint is the launcher of OpenTelemetry and our command, found by PATH."""
    assert entrypoint() == ("opentelemetry-instrument", "rsketch", "server")
    assert "ENV PATH=/opt/rsketch/bin:" in TEXT


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_and_its_manifest_agree(service: str) -> None:
    """The port that the image exposes is the container's, and both make the service listen on every address."""
    container = manifest(service)
    stage = TEXT.partition(f" AS service-{service}\n")[2]
    exposed = re.search(r"^EXPOSE (\d+)$", stage, re.MULTILINE)
    variable = f"RSKETCH_{service.upper()}_HOST"

    assert exposed is not None
    assert [port["containerPort"] for port in container["ports"]] == [int(exposed[1])]  # type: ignore[attr-defined]
    assert environment(service)[variable] == "0.0.0.0"
    assert {"name": variable, "value": "0.0.0.0"} in container["env"]  # type: ignore[operator]
    assert "command" not in container


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_the_packages_of_the_services_environment(service: str) -> None:
    """What is built into the image is what `hatch run <service>:server` runs."""
    [wheel] = [command for command in commands() if "pip --python /opt/build/bin/python wheel" in command]
    built = {word.replace("${SERVICE}", service) for word in wheel.split() if word.startswith("./")}

    assert built == set(environments()[service].members)


def test_nothing_is_installed_that_no_lock_knows() -> None:
    """Each pip either checks the hashes of a lock or has no index, and no index is named."""
    pips = [command for command in commands() if re.search(r"pip\b.* (install|wheel)\b", command)]

    assert len(pips) == 4
    assert all(("--require-hashes" in pip and "-r locks/" in pip) or "--no-index" in pip for pip in pips)
    assert not re.search(r"https?://|index-url|--find-links", TEXT)


def test_the_builder_sees_what_it_copies_and_nothing_else() -> None:
    """Of the packages only what their wheels are made of is sent to the builder, and of the rest only three locks."""
    wanted = {path for member in members() for path in files(ROOT / member.folder, *member.inputs)}
    # An input of the sdist alone.
    wanted = {path for path in wanted if "examples" not in path.parts}
    there = {path for folder in ("libs", "protos", "services") for path in files(ROOT, folder) if admitted(path)}
    locks = {path.name for path in LOCKS.iterdir() if admitted(path.relative_to(ROOT))}

    assert there == wanted
    assert locks == {"build.txt", *(f"{service}.txt" for service in SERVICES)}
    assert not any(admitted(Path(name)) for name in ("README.md", ".git/config", "infra/README.md", "tools/kube/x.py"))


def test_the_documented_commands_make_the_image_that_the_overlays_name() -> None:
    """Name and tag in the commands are those of `infra/versions.toml`, and the base is the one noted there."""
    component = versions()["rsketch-http"]

    assert f"--build-arg SERVICE=http -t {component.image} ." in TEXT
    assert f"kind load docker-image {component.image}\n" in TEXT
    assert f"ARG BASE={versions()['python'].image}\n" in TEXT


def test_an_unknown_service_is_named() -> None:
    """A service without a stage is refused with what there is."""
    with pytest.raises(ImageError, match=r"no stage service-smtp: 'smtp' is no service, accepts \('http', 'grpc'\)"):
        environment("smtp")


def test_two_entrypoints_are_refused(tmp_path: Path) -> None:
    """Which of two entrypoints holds would depend on the stage."""
    file = tmp_path / "Containerfile"
    file.write_text('FROM a\nENTRYPOINT ["b"]\nENTRYPOINT ["c"]\n')

    with pytest.raises(ImageError, match="2 ENTRYPOINT instructions, expected 1"):
        entrypoint(file)


@pytest.mark.parametrize(("ci", "verdict", "status"), [("", "SKIPPED", 0), ("true", "FAILED", 1)])
def test_without_buildah_the_check_is_skipped_on_a_laptop_and_fails_in_ci(
    ci: str, verdict: str, status: int, tmp_path: Path
) -> None:
    """One line says what is missing and what brings it."""
    variables = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "tools"), "CI": ci}
    ran = subprocess.run([sys.executable, "-m", "kube.images"], env=variables, capture_output=True, text=True)

    assert ran.returncode == status
    assert ran.stdout == (
        f"images: {verdict}: no buildah, no mmdebstrap, no bubblewrap: apt-get install buildah mmdebstrap bubblewrap\n"
    )
