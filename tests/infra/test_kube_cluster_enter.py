"""The way into the namespaces, and that nothing comes out of them; tried with real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from kube.cluster.enter import UNAVAILABLE

TOOLS = Path(__file__).parents[2] / "tools"
ENVIRON = {**os.environ, "PYTHONPATH": str(TOOLS)}


def entering(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command inside."""
    return [sys.executable, "-m", "kube.cluster.enter", "--", *command]


def inside(*command: str, environ: Mapping[str, str] = ENVIRON) -> subprocess.CompletedProcess[str]:
    """Run a command inside; a machine that cannot do that skips the test, unless it is in CI."""
    done = subprocess.run(entering(command), env=environ, capture_output=True, text=True, timeout=60)
    if done.returncode == UNAVAILABLE and environ is ENVIRON and not ENVIRON.get("CI"):
        pytest.skip(done.stderr.strip())
    return done


def test_a_command_runs_as_root_of_its_own_world() -> None:
    """It has a network with nothing but a loopback, process ids from 1 on, and a /run of its own."""
    done = inside("sh", "-c", "id -u; ip -brief link | wc -l; ls /run | wc -l; head -n1 /proc/1/comm; exit 7")

    assert done.stdout.split()[:3] == ["0", "1", "0"]
    assert done.stdout.split()[3].startswith("python")
    assert done.returncode == 7
    assert done.stderr == ""


def test_a_signal_is_told_as_in_a_shell() -> None:
    """A command that a signal ends yields 128 plus its number, and one that does not exist 127."""
    assert inside("sh", "-c", "kill -9 $$").returncode == 137
    missing = inside("/does/not/exist")

    assert (missing.returncode, missing.stderr) == (127, "/does/not/exist: No such file or directory\n")


def test_a_missing_program_is_one_line(tmp_path: Path) -> None:
    """Without the programs it needs, it says which packages have them, with a status of its own."""
    done = inside("true", environ={"PATH": str(tmp_path), "PYTHONPATH": str(TOOLS)})

    assert done.returncode == UNAVAILABLE
    assert done.stderr == (
        "mini cluster unavailable: not found: ip, nft, bwrap, nsenter; "
        "install iproute2 nftables bubblewrap util-linux\n"
    )


def test_without_a_command_it_explains_itself() -> None:
    """The usage is printed, with status 2."""
    done = inside()

    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m kube.cluster.enter")


@pytest.mark.parametrize(("ci", "status", "word"), [("", 5, "SKIPPED"), ("true", 2, "RuntimeError")])
def test_tests_outside_are_skipped_but_in_ci(ci: str, status: int, word: str) -> None:
    """A laptop gets one line that says how to run them; in CI it is an error, so that they are never left out."""
    environ = {name: value for name, value in ENVIRON.items() if name != "KUBE_CLUSTER_INSIDE"} | {"CI": ci}
    tests = str(Path(__file__).parent / "e2e" / "test_e2e_cluster.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tests], env=environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == status
    assert [line for line in done.stdout.splitlines() if word in line and "python -m kube.cluster.enter --" in line]


def test_a_signal_is_passed_on_from_the_first_moment() -> None:
    """Process 1 of a namespace has its handlers before the command begins: the kernel drops a signal that has none."""
    script = "trap 'exit 3' TERM; kill -TERM 1; n=0; while [ $n -lt 50 ]; do n=$((n + 1)); sleep 0.1; done"

    assert [inside("sh", "-c", script).returncode for _ in range(5)] == [3] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_everything_dies_with_it(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM is passed on to the command; and when the entrance is killed, even what has left it by itself ends."""
    inside("true")
    marker = tmp_path / "alive"
    # It leaves its session and its parent, writes for as long as it lives, and ignores a hang-up.
    beat = f"trap '' HUP; while :; do date +%s%N >> {marker}; sleep 0.05; done"
    script = f"setsid sh -c '{beat.replace(chr(39), '')}' & trap 'echo told; exit 3' TERM; while :; do sleep 0.05; done"
    entrance = subprocess.Popen(entering(["sh", "-c", script]), env=ENVIRON, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    entrance.send_signal(number)
    try:
        said, _ = entrance.communicate(timeout=30)
    finally:
        entrance.kill()
    time.sleep(0.3)
    before = marker.read_text()
    time.sleep(0.3)

    assert (entrance.returncode, said) == ((3, "told\n") if number == signal.SIGTERM else (-9, ""))
    assert marker.read_text() == before
