"""Tests of the request to stop."""

import asyncio
import threading

import pytest
from rsketch.stop import Stop


async def test_a_request_before_the_loop_runs_is_seen() -> None:
    """A signal may come while the program is still importing."""
    stop = Stop()
    stop.request("SIGTERM")
    stop.attach()

    async with asyncio.timeout(5):
        await stop.wait()

    assert stop.reason == "SIGTERM"


async def test_a_request_from_another_thread_wakes_the_loop() -> None:
    """The loop sleeps until the request, not until its next event; the first reason stays."""
    stop = Stop()
    stop.attach()
    thread = threading.Thread(target=stop.request, args=("first",))
    thread.start()

    async with asyncio.timeout(5):
        await stop.wait()
    thread.join()
    stop.request("second")

    assert stop.reason == "first"


async def test_until_returns_what_is_awaited() -> None:
    """Without a request nothing changes."""
    stop = Stop()
    stop.attach()

    assert await stop.until(asyncio.sleep(0, "value")) == "value"


async def test_until_cancels_what_is_awaited_when_the_stop_comes() -> None:
    """What was being opened may clean up, and the task itself goes on."""
    stop = Stop()
    stop.attach()
    cleaned = []

    async def open_slowly() -> str:
        try:
            stop.request("SIGINT")
            await asyncio.sleep(60)
        finally:
            cleaned.append("up")
        return "opened"

    assert await stop.until(open_slowly()) is None
    assert cleaned == ["up"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_until_passes_a_timeout_of_somebody_else() -> None:
    """A TimeoutError of what is awaited is not taken for the stop."""
    stop = Stop()
    stop.attach()

    async def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await stop.until(fail())


def test_a_request_after_the_loop_is_closed_is_harmless() -> None:
    """A signal may come while the process is already ending."""
    stop = Stop()

    async def attach() -> None:
        stop.attach()

    asyncio.run(attach())
    stop.request("SIGTERM")

    assert stop.requested()
