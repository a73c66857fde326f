"""
The way into the namespaces that the mini cluster lives in.

`python -m kube.cluster.enter COMMAND…` runs a command as root of a new user namespace with a network, mounts and
process ids of its own, and ends with its status. Nothing that the command starts outlives it, and nothing that it
mounts or configures is seen outside.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from kube.cluster import kernel
from kube.cluster.errors import ClusterUnavailable
from kube.cluster.inside import INSIDE

__all__ = ["UNAVAILABLE", "enter", "main"]

# Status where the machine cannot do it (EX_UNAVAILABLE), so that a caller can tell it from a failure.
UNAVAILABLE = 69
_PACKAGES = {"ip": "iproute2", "nft": "nftables", "bwrap": "bubblewrap", "nsenter": "util-linux"}
# What a cluster is going to do, tried once: each is refused by some kernels, containers or distributions.
_TRIALS = (
    "ip link set lo up",
    "ip link add trial type veth peer name peer",
    "ip link delete trial",
    "nft add table ip trial",
    "nft add chain ip trial nat { type nat hook prerouting priority -100 ; }",
    "nft delete table ip trial",
    "bwrap --unshare-user --unshare-pid --uid 1 --gid 1 --ro-bind / / --proc /proc --dev /dev true",
)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def enter(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Run a command inside new namespaces.

    Returns:
        Its exit status; 128 plus the number of the signal that ended it.

    Raises:
        ClusterUnavailable: A program is missing or the kernel refuses; the message is one line.
    """
    _check_programs()
    complaint, complain = os.pipe()
    first = _fork_into_namespaces(complaint, complain, command, environ)
    os.close(complain)
    with os.fdopen(complaint) as reader:
        message = reader.read()
    status = _await(first)
    if message:
        raise ClusterUnavailable(message)
    return status


def _check_programs() -> None:
    missing = [program for program in _PACKAGES if shutil.which(program) is None]
    if missing:
        packages = " ".join(_PACKAGES[program] for program in missing)
        raise ClusterUnavailable(f"not found: {', '.join(missing)}; install {packages}")


def _fork_into_namespaces(complaint: int, complain: int, command: Sequence[str], environ: Mapping[str, str]) -> int:
    supervisor = os.fork()
    if supervisor:
        return supervisor
    # From here on it is a child of ours, so that the caller itself stays where it was.
    status = 1
    try:
        os.close(complaint)
        status = _supervise(complain, command, environ)
    finally:
        os._exit(status)


def _supervise(complain: int, command: Sequence[str], environ: Mapping[str, str]) -> int:
    kernel.die_with_parent()
    try:
        _unshare()
    except OSError as error:
        os.write(complain, f"the kernel refuses new namespaces: {_reason(error)}".encode())
        return 1
    first = os.fork()
    if first == 0:
        status = 1
        try:
            status = _be_first(complain, command, environ)
        finally:
            os._exit(status)
    os.close(complain)
    return _await(first)


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_SPACES)
    # The kernel lets a user map its own group only after it has given up setgroups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _be_first(complain: int, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Be process 1 of the namespace: set it up, start the command, and take in what it leaves behind."""
    kernel.die_with_parent()
    try:
        kernel.make_private()
        kernel.mount("proc", "/proc")
        # `ip netns` keeps its namespaces in /run, which an ordinary user may not write to.
        kernel.mount("tmpfs", "/run")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    except OSError as error:
        os.write(complain, f"the kernel refuses it inside a user namespace: {_reason(error)}".encode())
        return 1
    if failure := next(filter(None, map(_failure, _TRIALS)), None):
        os.write(complain, failure.encode())
        return 1
    # Process 1 loses a signal that it has no handler for yet, unless it is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    os.close(complain)
    return _run(command, environ)


def _failure(trial: str) -> str | None:
    """Why a trial failed, in one line; None if it did not."""
    done = subprocess.run(trial.split(), capture_output=True, text=True, check=False)
    said = " ".join(done.stderr.split()) or f"status {done.returncode}"
    return f"{trial}: {said}" if done.returncode else None


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env={**environ, INSIDE: "1"}, preexec_fn=_unblock)  # noqa: PLW1509 - no threads
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    return _await(child.pid)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)


def _await(process: int) -> int:
    """Pass signals on to a child until it ends, and collect orphans meanwhile."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    _unblock()
    try:
        while True:
            ended, status = os.wait()
            if ended == process:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str]) -> int:
    """Run a command line inside; a machine that cannot do it gets one line and status 69."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        print("usage: python -m kube.cluster.enter [--] COMMAND [ARGUMENT…]", file=sys.stderr)
        return 2
    try:
        return enter(command, os.environ)
    except ClusterUnavailable as error:
        print(f"mini cluster unavailable: {error}", file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
