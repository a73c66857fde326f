"""
One container of a pod: started, probed, restarted when it ends, and ended as its manifest says.

Its threads belong to it: one keeps it running, and while it runs one or two send its probes.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kube.cluster.errors import ClusterError
from kube.cluster.probes import Outcome, Target, Timing, attempt
from kube.cluster.process import Process
from kube.objects import Object

__all__ = ["Container", "Ending"]

# A tenth of the kubelet's 10 s, doubling as its own does: a test has no five minutes.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
# After running so long it starts afresh.
_FORGIVEN_SECONDS = 20.0
# What the kubelet leaves a program when its preStop hook has used up the grace period.
_LEAST_GRACE = 2.0
_CANNOT_START = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """
    How a container ended when it was asked to.

    Attributes:
        exit_code: 128 plus the signal's number where one ended it; None if it was not running.
        killed: It had to be killed.
        seconds: From the start of the termination, preStop hook included.
    """

    exit_code: int | None
    killed: bool
    seconds: float


class Container:
    """
    Keeps a container running.

    Args:
        start: Starts one run of it.
        grace_seconds: Time between SIGTERM and SIGKILL, preStop hook included.
        restart: `Always`, `OnFailure` or `Never`.
        pace: Factor on the times of its probes.
        changed: Called when it became ready, or is no longer.

    Attributes:
        started: It runs, and its startup probe succeeded.
        ready: Its readiness probe says so.
        restarts: How often it was started again.
        exit_code: Of its last run; None during the first.
        reason: What was seen last that was not as it should be.
    """

    def __init__(
        self,
        *,
        name: str,
        spec: Object,
        start: Callable[[], Process],
        ip: str,
        log: Path,
        grace_seconds: float,
        restart: str,
        pace: float,
        changed: Callable[[], None],
        where: str,
    ) -> None:
        self.name = name
        self.log = log
        self.started = False
        self.ready = False
        self.restarts = 0
        self.exit_code: int | None = None
        self.reason = "not started yet"
        self._spec = spec
        self._start_one = start
        self._grace_seconds = grace_seconds
        self._restart = restart
        self._pace = pace
        self._changed = changed
        self._target = Target(ip=ip, ports=_named_ports(spec), execute=self.execute, where=where)
        self._process: Process | None = None
        self._stopping = False
        self._held = False
        self._finished = threading.Event()
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._keep_running, name=f"container {where}", daemon=True)

    def start(self) -> None:
        """Start it, and again whenever it ends, until `stop`."""
        self._thread.start()

    def wait(self, timeout: float | None) -> int | None:
        """Its exit code once it will not be started again; None if that takes longer than so many seconds."""
        return self.exit_code if self._finished.wait(timeout) else None

    @property
    def is_sidecar(self) -> bool:
        """Whether its manifest is that of an init container that runs on beside the others."""
        return self._spec.get("restartPolicy") == "Always"

    @property
    def finished(self) -> bool:
        """Whether it has ended for good."""
        return self._finished.is_set()

    def kill(self) -> None:
        """End it with SIGKILL and keep it down."""
        with self._turn:
            self._held = True
            if self._process is not None:
                self._process.kill()

    def revive(self) -> None:
        """Let it start again after `kill`."""
        with self._turn:
            self._held = False
            self._turn.notify_all()

    def stop(self, grace_seconds: float | None = None) -> Ending:
        """
        End it for good: preStop hook, SIGTERM, and SIGKILL when the grace period is over.

        Args:
            grace_seconds: In place of the manifest's; 0 kills at once.
        """
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
            process = self._process
        ending = self._end(process, self._grace_seconds if grace_seconds is None else grace_seconds)
        if self._thread.ident is not None:
            self._thread.join()
        return ending

    def execute(self, command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """
        Run a command in it.

        Raises:
            ClusterError: It does not run.
            subprocess.TimeoutExpired: It took longer than so many seconds.
        """
        process = self._process
        if process is None or not process.running:
            raise ClusterError(f"{self._target.where}: does not run")
        return process.execute(command, timeout)

    def _keep_running(self) -> None:
        pause = _FIRST_PAUSE
        while self._may_start():
            began = time.monotonic()
            self.exit_code = self._run_once()
            if self._is_done():
                break
            if time.monotonic() - began > _FORGIVEN_SECONDS:
                pause = _FIRST_PAUSE
            with self._turn:
                self._turn.wait_for(lambda: self._stopping or self._held, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self.restarts += 1
        self._finished.set()
        self._changed()

    def _may_start(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._stopping or not self._held)
            return not self._stopping

    def _is_done(self) -> bool:
        return self._restart == "Never" or (self._restart == "OnFailure" and self.exit_code == 0)

    def _run_once(self) -> int | None:
        with self._turn:
            if self._stopping:
                return self.exit_code
            try:
                process = self._process = self._start_one()
            except (OSError, ClusterError) as error:
                self.reason = f"cannot start: {error}"
                return _CANNOT_START
        over = threading.Event()
        probing = threading.Thread(target=self._look_after, args=(process, over), name=self._target.where, daemon=True)
        probing.start()
        code = process.wait()
        over.set()
        self._set_ready(started=False, ready=False)
        probing.join()
        self.reason = f"ended with exit code {code}"
        return code

    def _set_ready(self, *, started: bool, ready: bool) -> None:
        before, self.started, self.ready = (self.started, self.ready), started, ready
        if before != (started, ready):
            self._changed()

    def _look_after(self, process: Process, over: threading.Event) -> None:
        """Run the postStart hook and then the probes until the run is over."""
        hook = (self._spec.get("lifecycle") or {}).get("postStart")
        if hook and not self._attempt(hook, self._grace_seconds).succeeded:
            self._replace(process, "postStart hook failed")
        elif self._has_started(process, over):
            liveness = threading.Thread(target=self._watch_life, args=(process, over), daemon=True)
            liveness.start()
            self._watch_readiness(over)
            liveness.join()

    def _has_started(self, process: Process, over: threading.Event) -> bool:
        probe = self._spec.get("startupProbe")
        if not probe:
            return not over.is_set()
        allowed = Timing.of(probe, self._pace).failures
        for failures, outcome in enumerate(self._outcomes(probe, over), 1):
            if outcome.succeeded:
                return True
            self.reason = f"startup probe: {outcome.detail}"
            if failures >= allowed:
                self._replace(process, f"startup probe failed {failures} times: {outcome.detail}")
                break
        return False

    def _watch_readiness(self, over: threading.Event) -> None:
        probe = self._spec.get("readinessProbe")
        if not probe:
            self._set_ready(started=not over.is_set(), ready=not over.is_set())
            return
        self._set_ready(started=True, ready=False)
        for ready, detail in self._verdicts(probe, over, initial=False):
            if not ready:
                self.reason = f"readiness probe: {detail}"
            if not over.is_set():
                self._set_ready(started=True, ready=ready)

    def _watch_life(self, process: Process, over: threading.Event) -> None:
        probe = self._spec.get("livenessProbe")
        for alive, detail in self._verdicts(probe, over, initial=True) if probe else ():
            if not alive and not self._stopping:
                self._replace(process, f"liveness probe: {detail}")
                return

    def _verdicts(self, probe: Object, over: threading.Event, *, initial: bool) -> Iterator[tuple[bool, str]]:
        """After each probe, what the results in a row amount to."""
        timing = Timing.of(probe, self._pace)
        verdict, in_a_row, last = initial, 0, initial
        for outcome in self._outcomes(probe, over):
            in_a_row = in_a_row + 1 if outcome.succeeded == last else 1
            last = outcome.succeeded
            if in_a_row >= (timing.successes if last else timing.failures):
                verdict = last
            yield verdict, outcome.detail

    def _outcomes(self, probe: Object, over: threading.Event) -> Iterator[Outcome]:
        timing = Timing.of(probe, self._pace)
        pause = timing.delay
        while not over.wait(pause):
            yield self._attempt(probe, timing.timeout)
            pause = timing.period

    def _attempt(self, handler: Object, timeout: float) -> Outcome:
        try:
            return attempt(handler, self._target, timeout)
        except ClusterError as error:
            # It ended in between.
            return Outcome(succeeded=False, detail=str(error))

    def _replace(self, process: Process, reason: str) -> None:
        """End this run; the container is then started again."""
        if not self._stopping and process.running:
            self._end(process, self._grace_seconds)
        self.reason = reason

    def _end(self, process: Process | None, grace_seconds: float) -> Ending:
        if process is None or not process.running:
            return Ending(exit_code=self.exit_code, killed=False, seconds=0.0)
        began = time.monotonic()
        left = grace_seconds
        hook = (self._spec.get("lifecycle") or {}).get("preStop")
        if hook and grace_seconds > 0:
            self._attempt(hook, grace_seconds)
            left = max(_LEAST_GRACE, grace_seconds - (time.monotonic() - began))
        code = None
        if left > 0:
            process.signal(signal.SIGTERM)
            code = process.wait(left)
        killed = code is None
        if killed:
            process.kill()
            code = process.wait()
        return Ending(exit_code=code, killed=killed, seconds=time.monotonic() - began)


def _named_ports(spec: Object) -> Mapping[str, int]:
    return {port["name"]: port["containerPort"] for port in spec.get("ports") or [] if "name" in port}
