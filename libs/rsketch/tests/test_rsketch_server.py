"""Tests of services in one process: the order of things, signals, failures."""

import json
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from libs.rsketch.tests.conftest import Start

DOWN = ["alpha closing", "alpha closed", "beta closing", "beta closed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_services_open_in_order_and_close_in_reverse(start: "Start", number: signal.Signals) -> None:
    """What is needed opens first, its address is passed on, and a signal drains them with status 0."""
    host = start("server", "alpha", "beta").serving()
    assert host.journal == ["beta opened", f"alpha opened RSKETCH_BETA_ADDRESS=127.0.0.1:{host.port('beta')}"]
    assert host.ask("alpha") == host.process.pid

    host.send(number)

    assert host.status() == 0
    assert host.journal[2:] == DOWN
    assert f"stopping, asked by {number.name}" in host.errors


def test_only_the_named_service_runs(start: "Start") -> None:
    """A need that is not asked for is not opened."""
    host = start("server", "alpha", "alpha").serving().send(signal.SIGTERM)

    assert host.status() == 0
    assert host.journal == ["alpha opened", "alpha closing", "alpha closed"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(start: "Start", number: signal.Signals, status: int) -> None:
    """A drain that takes too long is not waited for, and one line says so."""
    host = start("server", "beta", STRANGER_BETA_DRAIN="60").serving().send(signal.SIGTERM)
    host.until(lambda: "beta closing" in host.journal).send(number)

    assert host.status() == status
    assert f"rsketch: ended at once by a second signal, {number.name}\n" in host.errors


def test_a_signal_during_the_start_closes_what_is_open(start: "Start") -> None:
    """A service that hangs in its start is given up, the one before it is drained, and the status is 0."""
    host = start("server", "alpha", "beta", STRANGER_ALPHA_FAULT="hang")
    host.until(lambda: "beta opened" in host.journal).send(signal.SIGTERM)

    assert host.status() == 0
    assert host.journal == ["beta opened", "beta closing", "beta closed"]
    assert "workers" not in host.errors


def test_a_service_that_cannot_start_stops_all(start: "Start") -> None:
    """A foreseen error is one line without a traceback."""
    host = start("server", "alpha", "beta", STRANGER_ALPHA_FAULT="start")

    assert host.status() == 1
    assert host.errors == "rsketch: the moon is in the wrong place\n"
    assert host.journal == ["beta opened", "beta closing", "beta closed"]


def test_an_unforeseen_error_is_logged_and_named(start: "Start") -> None:
    """The traceback is in the log, and the last line names the service."""
    host = start("server", "alpha", "beta", STRANGER_ALPHA_FAULT="bug")

    assert host.status() == 1
    assert "Traceback (most recent call last)" in host.errors
    assert host.errors.endswith("\nrsketch: service alpha failed: ZeroDivisionError: one of those\n")
    assert host.journal == ["beta opened", "beta closing", "beta closed"]


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_service_that_fails_while_serving_stops_all(start: "Start", name: str) -> None:
    """Whichever opened first, both are closed and the status is 1."""
    host = start("server", "alpha", "beta", **{f"STRANGER_{name.upper()}_FAULT": "later"}).serving()
    host.ask(name, b"!")

    assert host.status() == 1
    assert host.errors.endswith(f"\nrsketch: service {name} failed: RuntimeError: the cable was cut\n")
    assert host.journal[2:] == DOWN


def test_a_service_that_fails_while_closing_leaves_the_others_alone(start: "Start") -> None:
    """The others are drained all the same; the status is 1."""
    host = start("server", "alpha", "beta", STRANGER_ALPHA_FAULT="close").serving().send(signal.SIGTERM)

    assert host.status() == 1
    assert host.errors.endswith("\nrsketch: service alpha failed: RuntimeError: broken drain\n")
    assert host.journal[2:] == DOWN


def test_logs_of_a_machine_hold_nothing_but_json(start: "Start") -> None:
    """With RSKETCH_LOG_FORMAT=json the banner is a record as well."""
    host = start("server", "beta", RSKETCH_LOG_FORMAT="json")
    host.until(lambda: "workers 1" in host.errors).send(signal.SIGTERM)

    assert host.status() == 0
    messages = [json.loads(line)["message"] for line in host.errors.splitlines()]
    assert "beta grpc://127.0.0.1:" in messages[0]
    assert messages[1:] == ["stopping, asked by SIGTERM"]


def test_telemetry_that_reaches_nobody_neither_delays_nor_prolongs(start: "Start") -> None:
    """The banner says where telemetry would go, and the flush keeps its own deadline."""
    host = start(
        "server",
        "beta",
        OTEL_SDK_DISABLED="",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        RSKETCH_TELEMETRY_FLUSH_SECONDS="200ms",
    ).serving()
    host.send(signal.SIGTERM)

    assert host.status() == 0
    assert "  telemetry  traces, metrics, logs to http://127.0.0.1:1 (grpc)\n" in host.errors
    assert "  service    rsketch\n" in host.errors


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("warning", False)])
def test_access_lines_heed_the_log_level(start: "Start", level: str, shown: bool) -> None:
    """Their logger has a level of its own, which follows the setting."""
    host = start("server", "alpha", RSKETCH_LOG_LEVEL=level, STRANGER_ALPHA_CALL="1").serving().send(signal.SIGTERM)

    assert host.status() == 0
    assert ("a call of alpha" in host.errors) is shown
