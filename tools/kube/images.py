"""
Build the images of `infra/images` and try them, where there is neither a container engine nor a registry of images.

buildah builds the Containerfile as it is, cut off from the network: on a base made of Debian packages, which stands in
for the official Python image, and with files that pip fetched and checked before. Then each image is run as a pod runs
it: user 10001, nothing writable, the server as process 1.

`entrypoint()` and `environment()` say what an image runs, for those who run the same without one.
"""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workspace import LOCKS, ROOT

from kube.toolchain import cache_folder

__all__ = ["CONTAINERFILE", "SERVICES", "ImageError", "entrypoint", "environment", "main"]

CONTAINERFILE = ROOT / "infra" / "images" / "Containerfile"
SERVICES = ("http", "grpc")
USER = 10001


class ImageError(Exception):
    """An image cannot be built or does not do what it should; the message says which and what was found."""


# --- what the Containerfile says ---


def entrypoint(containerfile: Path = CONTAINERFILE) -> tuple[str, ...]:
    """Return the words of the images' ENTRYPOINT, such as `("rsketch", "server")`; it is the same for all services."""
    found = [rest for word, rest in _instructions(containerfile) if word == "ENTRYPOINT"]
    if len(found) != 1:
        raise ImageError(f"{containerfile}: {len(found)} ENTRYPOINT instructions, expected 1")
    return tuple(json.loads(found[0]))


def environment(service: str, containerfile: Path = CONTAINERFILE) -> dict[str, str]:
    """Return what the image of *service* sets with ENV, but for PATH, which depends on where the programs are."""
    variables = (shlex.split(rest) for word, rest in _inherited(service, containerfile) if word == "ENV")
    pairs = (pair.partition("=") for line in variables for pair in line)
    return {name: value for name, _, value in pairs if name != "PATH"}


def _instructions(containerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", containerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    parts = (line.strip().partition(" ") for line in text.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def _inherited(service: str, containerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions that make the image of *service*, those of the stages that it is made from first."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in _instructions(containerfile):
        if word == "FROM":
            parent, _, name = rest.replace("${SERVICE}", service).partition(" AS ")
            if not name and parent not in stages:
                raise ImageError(f"{containerfile}: no stage {parent}: {service!r} is no service, accepts {SERVICES}")
            stages[name] = list(stages.get(parent, ()))
        elif name in stages:
            stages[name].append((word, rest))
    return stages[""]


# --- building ---

BASE_PACKAGES = ("python3.11-venv", "python3-pip", "dash", "coreutils", "libc-bin", "libstdc++6")
"""What the builder and the services use of the official image."""

BASE = """\
FROM scratch
ADD base.tar /
RUN mkdir -p /usr/local/bin && ln -s /usr/bin/python3.11 /usr/local/bin/python
ENV PATH=/usr/local/bin:/usr/bin:/bin
"""

BASE_IMAGE = f"localhost/base:{hashlib.sha256(f'{BASE}{BASE_PACKAGES}'.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """
    Where images are built.

    Attributes:
        store: Where buildah keeps images and layers, from one run to the next.
        run: Where it keeps what belongs to this run.
        wheels: The files that the locks name.
    """

    store: Path
    run: Path
    wheels: Path

    def buildah(self, *arguments: str, succeed: bool = True) -> str:
        """Run buildah without a network and return what it prints."""
        store = ("--root", str(self.store), "--runroot", str(self.run))
        return _output(["unshare", "--net", "buildah", *store, *arguments], succeed=succeed)

    def build(self, service: str, tag: str, *options: str, context: Path = ROOT, succeed: bool = True) -> str:
        """Build the Containerfile in *context* and return what buildah prints."""
        settings = self.run / "pip.conf"
        settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        outside = (f"--secret=id=pip.conf,src={settings}", f"--volume={self.wheels}:/wheels:ro")
        inside = (f"--build-arg=BASE={BASE_IMAGE}", f"--build-arg=SERVICE={service}")
        file = context / CONTAINERFILE.relative_to(ROOT)
        return self.buildah(
            *("bud", "--isolation=chroot", "--layers", *outside, *inside, *options),
            *(f"--tag={tag}", f"--file={file}", str(context)),
            succeed=succeed,
        )

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """Mount the file system of *image*."""
        container = self.buildah("from", image).strip()
        try:
            yield Path(self.buildah("mount", container).strip())
        finally:
            self.buildah("rm", container)


def _output(command: Sequence[str], *, succeed: bool = True) -> str:
    ran = _captured(command)
    if succeed and ran.returncode != 0:
        said = "\n".join(ran.stdout.splitlines()[-20:])
        raise ImageError(f"`{shlex.join(command)[:300]}` ended with {ran.returncode}:\n{said}")
    return ran.stdout


def _captured(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=pipe, stderr=merged, text=True)


def make_base(shop: Workshop) -> str:
    """Make the base from Debian packages unless it is there."""
    if BASE_IMAGE in shop.buildah("images", "--format={{.Name}}:{{.Tag}}").splitlines():
        return "kept from an earlier run"
    with tempfile.TemporaryDirectory(dir=shop.run) as name:
        context = Path(name)
        # `extract` unpacks without running what packages run when they are installed: a third of the time.
        packages = ("--variant=extract", f"--include={','.join(BASE_PACKAGES)}")
        _output(["mmdebstrap", "--quiet", "--mode=root", *packages, "bookworm", str(context / "base.tar")])
        (context / "Containerfile").write_text(BASE)
        shop.buildah("bud", "--isolation=chroot", f"--tag={BASE_IMAGE}", str(context))
    return "from Debian packages"


def fetch_wheels(shop: Workshop) -> str:
    """Fetch the files that the locks name, with this machine's settings for pip, unless they are there."""
    if shop.wheels.is_dir():
        return "kept from an earlier run"
    for old in shop.wheels.parent.glob("wheels-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=shop.wheels.parent, prefix=".wheels-") as name:
        # The environments of hatch have no pip.
        python = Path(name) / "pip" / "bin" / "python"
        _output([sys.executable, "-m", "venv", str(python.parent.parent)])
        options = ("--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version=3.11")
        for lock in _locks():
            _output([str(python), "-m", "pip", "download", *options, f"--dest={name}/wheels", "-r", str(lock)])
        Path(name, "wheels").rename(shop.wheels)
    return f"{len(list(shop.wheels.iterdir()))} files"


def _locks() -> list[Path]:
    return [LOCKS / f"{name}.txt" for name in ("build", *SERVICES)]


def build(shop: Workshop, service: str) -> str:
    """Build the image of *service*."""
    # Named, so that pruning keeps the stages that take time.
    for stage in ("dependencies", "packages"):
        shop.build(service, f"localhost/{stage}-{service}", f"--target={stage}")
    shop.build(service, _image(service))
    shop.buildah("rmi", "--prune")
    with shop.mounted(BASE_IMAGE) as base, shop.mounted(_image(service)) as root:
        return f"{(_size(root) - _size(base)) / 1e6:.0f} MB on top of the base"


def _image(service: str) -> str:
    return f"localhost/rsketch-{service}"


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*"))


def refuse_another_hash(shop: Workshop) -> str:
    """See that the build stops at a file whose hash is not the lock's."""
    with tempfile.TemporaryDirectory(dir=shop.run) as name:
        context = Path(name)
        for file in (CONTAINERFILE, LOCKS / "http.txt"):
            (context / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, context / file.relative_to(ROOT))
        lock = context / "locks" / "http.txt"
        lock.write_text(re.sub(r"sha256:\w+", f"sha256:{'0' * 64}", lock.read_text(), count=2))
        said = shop.build("http", "localhost/refused", "--target=dependencies", context=context, succeed=False)
    if "do not match the hashes" not in said.lower():
        raise ImageError(f"a lock with another hash did not stop the build:\n{said[-1000:]}")
    return "the build stopped"


# --- trying ---

BECOME_USER = """\
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Both ask an address that a server on 127.0.0.1 alone does not answer.
ASK: Mapping[str, str] = {
    "http": """\
import sys, time, urllib.request
deadline = time.monotonic() + 60
while True:
    try:
        with urllib.request.urlopen(f"http://127.0.0.2:{sys.argv[1]}/livez", timeout=5) as answer:
            sys.exit(answer.status != 200)
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"no answer: {error}")
        time.sleep(0.1)
""",
    "grpc": """\
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(f"127.0.0.2:{sys.argv[1]}") as channel:
    check = health_pb2_grpc.HealthStub(channel).Check
    answer = check(health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True)
    sys.exit(answer.status != answer.SERVING)
""",
}


def inspect(shop: Workshop, service: str) -> str:
    """See that the image says what the Containerfile says, and that the service can read its files and write none."""
    config = _config(shop, service)
    found = (
        config.get("User"),
        tuple(config["Entrypoint"]),
        config.get("StopSignal"),
        _variables(config) | {"PATH": ""},
    )
    wanted = (f"{USER}:{USER}", entrypoint(), "SIGTERM", environment(service) | {"PATH": ""})
    if found != wanted:
        raise ImageError(f"the image of {service} says {found}, expected {wanted}")
    with shop.mounted(_image(service)) as root:
        files = list((root / "opt").rglob("*"))
        wrong = [f"{path.relative_to(root)}: {fault}" for path in files if (fault := _fault(path))]
    if wrong:
        raise ImageError(f"the image of {service}: {len(wrong)} files such as {wrong[0]}")
    return f"{len(files)} files"


def _config(shop: Workshop, service: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = json.loads(shop.buildah("inspect", "--type=image", _image(service)))["OCIv1"]["config"]
    return config


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in config["Env"])


def _fault(path: Path) -> str:
    found = path.lstat()
    if found.st_uid != 0 or found.st_gid != 0:
        return f"belongs to {found.st_uid}:{found.st_gid}, expected 0:0"
    if stat.S_ISLNK(found.st_mode):
        return ""
    if found.st_mode & 0o022 or not found.st_mode & 0o004:
        return f"has the mode {stat.filemode(found.st_mode)}, expected one that others can read and only root write"
    compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc"
    return "has no bytecode" if path.suffix == ".py" and not compiled.exists() else ""


def run(shop: Workshop, service: str) -> str:
    """See that the server starts as a pod starts it, answers on its port, and ends with 0 when it is told to stop."""
    config = _config(shop, service)
    [port] = (name.removesuffix("/tcp") for name in config["ExposedPorts"])
    with shop.mounted(_image(service)) as root, (shop.run / "output").open("w+") as output:
        began = time.monotonic()
        with _started(root, config, output) as (process, pid):
            fault = _fault_in_life(process, pid, service, port)
        seconds = time.monotonic() - began
        output.seek(0)
        said = output.read()
    if fault or "Traceback" in said:
        raise ImageError(f"the server of {service} {fault or 'had an error'}; it said:\n{said}")
    return f"answered on {port} and stopped, in {seconds:.1f} s"


def _fault_in_life(process: subprocess.Popen[bytes], pid: int, service: str, port: str) -> str:
    asked = _asked(pid, ASK[service], port)
    if asked.returncode != 0:
        return f"gave no answer on {port}: {asked.stdout.strip()}"
    os.kill(pid, signal.SIGTERM)
    try:
        status = process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        return "did not end within 30 s of SIGTERM"
    return "" if status == 0 else f"ended with {status} after SIGTERM, expected 0"


@contextmanager
def _started(root: Path, config: Mapping[str, Any], output: IO[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the entrypoint in *root* and give the process that waits for it, and its own number."""
    apart = ("--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--as-pid-1", "--die-with-parent")
    files = ("--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev")
    variables = [word for name, value in _variables(config).items() for word in ("--setenv", name, value)]
    reader, writer = os.pipe()
    command = ["bwrap", *apart, *files, "--clearenv", *variables, "--info-fd", str(writer), "--"]
    command += ["python", "-c", BECOME_USER, str(USER), *config["Entrypoint"]]
    with subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[writer]) as process:
        os.close(writer)
        with os.fdopen(reader) as info:
            pid = json.load(info)["child-pid"]
        try:
            _wait_until_inside(pid)
            yield process, pid
        finally:
            process.kill()


def _wait_until_inside(pid: int) -> None:
    """Wait until the process has become the user, which is the last that it does before it is the server."""
    deadline = time.monotonic() + 30
    own = Path(f"/proc/{pid}")
    # One that is gone is for the caller to notice: it gives no answer.
    while own.exists() and own.stat().st_uid != USER:
        if time.monotonic() > deadline:
            raise ImageError(f"the server's process did not become the user {USER}")
        time.sleep(0.02)


def _asked(pid: int, script: str, port: str) -> subprocess.CompletedProcess[str]:
    """Run *script* beside the server, as `kubectl exec` would."""
    inside = ("--target", str(pid), "--mount", "--net", "--pid", "--root", "--setuid", str(USER), "--setgid", str(USER))
    return _captured(["nsenter", *inside, "--", "/opt/rsketch/bin/python", "-c", script, port])


# --- the command ---

INSIDE = "--inside"


def main(arguments: Sequence[str] = ()) -> int:
    """Build and try all images; where that is impossible say so, which is a failure where CI is set."""
    if INSIDE in arguments:
        return _inside()
    if missing := _missing():
        in_ci = bool(os.environ.get("CI"))
        print(f"images: {'FAILED' if in_ci else 'SKIPPED'}: {missing}", flush=True)
        return int(in_ci)
    # Among mounts of its own, as buildah leaves some behind; PYTHONPATH, as this may be imported from anywhere.
    variables = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    command = ["unshare", "--mount", sys.executable, "-m", "kube.images", INSIDE]
    return subprocess.run(command, check=False, env=variables).returncode


def _missing() -> str:
    programs = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap"}
    lacking = [package for program, package in programs.items() if shutil.which(program) is None]
    if lacking:
        return f"no {', no '.join(lacking)}: apt-get install {' '.join(lacking)}"
    return "" if os.geteuid() == 0 else "needs root, to mount an image and to become its user"


def _inside() -> int:
    folder = cache_folder(os.environ).with_name("infra-images")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock, tempfile.TemporaryDirectory() as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _all_steps(Workshop(store=folder / "store", run=Path(name), wheels=folder / f"wheels-{_locks_digest()}"))
        except ImageError as error:
            print(f"images: FAILED: {error}", flush=True)
            return 1
    return 0


def _locks_digest() -> str:
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in _locks())).hexdigest()[:16]


def _all_steps(shop: Workshop) -> None:
    # What a run that was interrupted left.
    shop.buildah("rm", "--all")
    with _step("base") as said:
        said.append(make_base(shop))
    with _step("wheels") as said:
        said.append(fetch_wheels(shop))
    for service in SERVICES:
        for verb in (build, inspect, run):
            with _step(f"{verb.__name__} {service}") as said:
                said.append(verb(shop, service))
    with _step("another hash") as said:
        said.append(refuse_another_hash(shop))


@contextmanager
def _step(name: str) -> Iterator[list[str]]:
    began = time.monotonic()
    said: list[str] = []
    yield said
    print(f"images: {name:<14} {time.monotonic() - began:6.1f} s  {' '.join(said)}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
