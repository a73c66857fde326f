"""Tests of several processes on the same ports."""

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from libs.rsketch.tests.conftest import Host, Start


def _gone(pids: set[int]) -> bool:
    """Whether none of them runs; an orphan may wait a while for whoever reaps it."""
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    return not any(state.exists() and ") Z " not in state.read_text() for state in states)


def _two(start: "Start", **settings: str) -> "Host":
    return start("server", "beta", "--workers", "2", **settings).serving()


def _closed(host: "Host") -> int:
    return host.journal.count("beta closed")


def test_workers_share_their_ports(start: "Start") -> None:
    """Port 0 is resolved once for all; each worker knows its number, and the supervisor serves nothing."""
    host = start("server", "alpha", "beta", "--workers", "2").serving()
    beta = f"RSKETCH_BETA_ADDRESS=127.0.0.1:{host.port('beta')}"

    assert sorted(line for line in host.journal if line.startswith("alpha")) == [
        f"alpha opened {beta} RSKETCH_TELEMETRY_WORKER=1",
        f"alpha opened {beta} RSKETCH_TELEMETRY_WORKER=2",
    ]
    assert host.process.pid not in host.pids()
    assert len(host.pids()) == 2
    host.until(lambda: {host.ask("alpha") for _ in range(10)} == host.pids())
    assert host.errors.count("rsketch 0.") == 1
    assert host.send(signal.SIGTERM).status() == 0
    assert host.journal.count("alpha closed") == 2
    assert _closed(host) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_counts_once(start: "Start", number: signal.Signals) -> None:
    """A Ctrl-C reaches the workers from the terminal and through the supervisor, and they still drain."""
    host = _two(start, STRANGER_BETA_DRAIN="0.3").send_all(number)

    assert host.status() == 0
    assert _closed(host) == 2


def test_a_signal_while_workers_start_is_a_clean_stop(start: "Start") -> None:
    """Workers that have not come to handle signals yet do not die of a Ctrl-C."""
    host = start("server", "beta", "--workers", "2")
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    host.until(lambda: len(children.read_text().split()) == 2).send_all(signal.SIGINT)

    assert host.status() == 0
    assert "Traceback" not in host.errors
    assert _closed(host) == len([line for line in host.journal if "opened" in line])


def test_a_dead_worker_is_replaced(start: "Start") -> None:
    """A line tells who died of what; the port never closes, and the new worker joins it."""
    host = _two(start)
    victim = min(host.pids())
    os.kill(victim, signal.SIGKILL)
    host.until(lambda: "serves" in host.errors)

    assert re.search(rf"worker \d \(pid {victim}\) was ended by signal 9 .*starts in 0\.2 s", host.errors)
    assert len(host.pids()) == 3
    host.until(lambda: {host.ask("beta") for _ in range(10)} == host.pids() - {victim})
    assert host.send(signal.SIGTERM).status() == 0
    assert _closed(host) == 2


def test_a_worker_that_fails_later_is_replaced(start: "Start") -> None:
    """What would end a single process ends one worker."""
    host = _two(start, STRANGER_BETA_FAULT="later")
    victim = host.ask("beta", b"!")
    host.until(lambda: "serves" in host.errors)

    assert f"(pid {victim}) ended with status 1" in host.errors
    assert host.send(signal.SIGTERM).status() == 0


def test_workers_do_not_outlive_a_killed_supervisor(start: "Start") -> None:
    """They drain and end as if they had been told to."""
    host = _two(start)
    host.process.kill()

    host.until(lambda: _gone(host.pids()))
    assert _closed(host) == 2


def test_a_second_signal_kills_all_at_once(start: "Start") -> None:
    """No worker is left behind."""
    host = _two(start, STRANGER_BETA_DRAIN="60").send(signal.SIGTERM)
    host.until(lambda: host.journal.count("beta closing") == 2).send(signal.SIGTERM)

    assert host.status() == 143
    host.until(lambda: _gone(host.pids()))
    assert _closed(host) == 0


def test_a_setting_that_only_workers_refuse_is_said_once(start: "Start") -> None:
    """The supervisor passes on what the first of them said, with status 2."""
    host = start("server", "beta", "--workers", "2", STRANGER_BETA_FAULT="config")

    assert host.status() == 2
    assert host.errors == "rsketch: STRANGER_BETA_FAULT: accepts nothing of the kind, not 'config'\n"


def test_workers_that_never_start_are_given_up(start: "Start") -> None:
    """After a few attempts with growing delays the status is 1."""
    host = start("server", "beta", "--workers", "2", STRANGER_BETA_FAULT="die")

    assert host.status() == 1
    assert re.search(
        r"\nrsketch: worker \d \(pid \d+\) ended with status 9; it did not start in 5 attempts\n$", host.errors
    )


def test_an_unclean_end_of_a_worker_shows(start: "Start") -> None:
    """A worker whose drain fails turns the status into 1, and the other one drains all the same."""
    host = _two(start, STRANGER_BETA_FAULT="close").send(signal.SIGTERM)

    assert host.status() == 1
    assert re.search(r"rsketch: worker \d \(pid \d+\) ended with status 1 while it stopped\n$", host.errors)
    assert _closed(host) == 2


def test_a_second_host_finds_the_ports_taken(start: "Start") -> None:
    """Sharing is among workers of one supervisor only."""
    port = str(_two(start).port("beta"))

    assert start("server", "beta", "--workers", "2", STRANGER_BETA_PORT=port).status() == 2
    assert start("server", "beta", STRANGER_BETA_PORT=port).status() == 2


def test_a_supervisor_exports_nothing(start: "Start") -> None:
    """With telemetry on it has no thread beside its own and one for each worker it waits for."""
    host = _two(start, OTEL_SDK_DISABLED="", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    os.kill(min(host.pids()), signal.SIGKILL)
    host.until(lambda: "serves" in host.errors)

    assert len(list(Path(f"/proc/{host.process.pid}/task").iterdir())) == 3
