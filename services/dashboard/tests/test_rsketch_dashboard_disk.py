"""A disk that fills up: a small tmpfs, and on it the store, and the command as people run it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import grpc
import httpx
import pytest
from harness.children import BIN, clean_environ, running
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rsketch_dashboard.errors import StoreError
from rsketch_dashboard.store import Limits, Store
from telemetry_made import Sent, rows, segments_of, small, spans, store_in

MIB = 2**20
ANY_PORT = ("--grpc-port", "0", "--http-port", "0")


@dataclass(frozen=True, slots=True)
class Disk:
    """A small file system, and a file on it of which other programs are guilty."""

    path: Path

    @property
    def free(self) -> int:
        """How many bytes there are left."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave: int) -> None:
        """Let somebody else take all but *leave* bytes."""
        with (self.path / "somebody-elses").open("ab") as file:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, max(self.free - leave, 1))

    def release(self) -> None:
        """Let them give it back."""
        (self.path / "somebody-elses").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a file system of 96 MiB."""
    with _mounted(tmp_path / "disk", "96m") as path:
        yield Disk(path)


@contextmanager
def _mounted(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    # As the kernel has it, not only for root: a test that cannot mount is skipped.
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        reason = f"a small disk cannot be mounted: {done.stderr.strip()[:200]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        print(f"\nSKIPPED disk-full test: {reason}", file=sys.__stderr__)
        pytest.skip(reason)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _large(number: int, count: int = 100) -> ExportTraceServiceRequest:
    """Return spans of about a kilobyte each that cannot be compressed."""
    first = number * count + 1
    return spans(
        *(
            Sent(trace=each, id=each, at=each, attributes=[("body", os.urandom(500).hex())])
            for each in range(first, first + count)
        )
    )


def _stored(store: Store) -> set[int]:
    with store.reading() as connection:
        return {number for (number,) in rows(connection, "SELECT span_id FROM spans")}


def _texts(store: Store) -> list[str]:
    return [notice.text for notice in store.notices]


def test_the_oldest_goes_before_the_disk_is_full(disk: Disk) -> None:
    """Long before the last byte the oldest segments are dropped, which is said, and everything that comes is taken."""
    disk.fill(leave=48 * MIB)
    with store_in(disk.path, Limits(spare=24 * MIB), rows=2000) as store:
        for number in range(80):
            store.append([_large(number, 500)])
            store.retain()
        contents, found = store.contents(), segments_of(store, "spans")

        assert contents.dropped["spans"] > 0
        assert contents.dropped["spans"] + sum(count for number, count in found if number) == 40_000
        assert set(range(38_001, 40_001)) <= _stored(store)
        assert any("were dropped to make room" in text for text in _texts(store))
        assert disk.free > 0
    with store_in(disk.path, Limits(spare=24 * MIB), rows=2000) as store:
        assert set(range(38_001, 40_001)) <= _stored(store)


def test_with_nothing_to_drop_requests_are_refused_until_there_is_room(disk: Disk) -> None:
    """What cannot be kept is refused, said once, and the sender comes again; what was taken stays."""
    with store_in(disk.path, Limits(spare=24 * MIB)) as store:
        store.append([_large(0)])
        disk.fill(leave=4 * MIB)
        for number in range(1, 50):
            with pytest.raises(StoreError, match="the disk is nearly full"):
                store.append([_large(number)])
            store.retain()
        refused = _stored(store)
        disk.release()
        store.append([_large(1)])

        assert len(refused) == 100
        assert len(_stored(store)) == 200
        assert _texts(store) == [
            "the disk is nearly full: no more is taken until there is room",
            "there is room on the disk again",
        ]


@pytest.mark.parametrize("reading", [False, True])
def test_a_disk_that_another_program_fills_at_once_loses_nothing(disk: Disk, reading: bool) -> None:
    """Where even the log of changes cannot be written requests are refused, and when there is room all goes on."""
    ended, acknowledged = threading.Event(), set()
    # Nothing is kept free, so that the database meets the full disk itself, in a commit and in a checkpoint.
    store = Store(disk.path / "data" / "telemetry.duckdb", Limits(spare=0), families=small(2000))
    reader = threading.Thread(target=_read, args=(store, ended))
    if reading:
        reader.start()
    for number in range(75):
        if number == 30:
            disk.fill(leave=200_000)
        if number == 50:
            disk.release()
        try:
            store.append([_large(number)])
        except StoreError:
            assert 30 <= number <= 50
        else:
            acknowledged |= set(range(number * 100 + 1, number * 100 + 101))
        if number % 25 == 0:
            store._checkpoint()
        store.retain()
    ended.set()
    if reading:
        reader.join()

    assert len(acknowledged) >= 5_400
    assert _stored(store) == acknowledged
    assert _texts(store)[-1] == "there is room on the disk again"
    store.close()
    with store_in(disk.path) as again:
        assert _stored(again) == acknowledged


def _read(store: Store, ended: threading.Event) -> None:
    """Ask again and again, as an open page does."""
    while not ended.wait(0.01):
        # The file may just be opened anew.
        with suppress(StoreError, duckdb.Error), store.reading() as connection:
            rows(connection, "SELECT count(*) FROM spans JOIN operations ON id = operation")


def test_what_is_on_a_full_disk_can_be_looked_at(disk: Disk) -> None:
    """A file is opened, read and closed without a byte to spare."""
    with store_in(disk.path, rows=10) as store:
        store.append([_large(0)])
    disk.fill(leave=0)
    with store_in(disk.path, rows=10) as store:
        assert len(_stored(store)) == 100
        with pytest.raises(StoreError):
            store.append([_large(1)])
        assert len(_stored(store)) == 100


async def test_the_command_serves_on_a_full_disk(disk: Disk) -> None:
    """Senders are told to come again, the page and its notice are there, and nothing acknowledged is lost."""
    argv: list[str | Path] = [
        BIN / "rsketch-dashboard",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--file",
        disk.path / "d" / "t.duckdb",
    ]
    async with running(argv, environ=clean_environ(disk.path), folder=disk.path, name="dashboard") as child:
        url = (await child.written(r"dashboard  (http://\S+)"))[1]
        target = (await child.written(r"OTLP       http://(\S+) \(gRPC\)"))[1]
        answers = []
        async with (
            grpc.aio.insecure_channel(target) as channel,
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
        ):
            method: Any = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            for number in range(30):
                if number == 10:
                    disk.fill(leave=300_000)
                if number == 20:
                    disk.release()
                answers.append(await _code(method(_large(number).SerializeToString())))
                assert (await client.get("/api/status")).status_code == 200
            status = (await client.get("/api/status")).json()
        ended = await child.stop()

    assert answers == ["OK"] * 10 + ["RESOURCE_EXHAUSTED"] * 10 + ["OK"] * 10
    assert (status["spans"], status["refused"]) == (2000, 10)
    assert [notice["text"] for notice in status["notices"]] == [
        "the disk is nearly full: no more is taken until there is room",
        "there is room on the disk again",
    ]
    assert (ended, child.matching("Traceback")) == (0, [])


async def _code(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> str:
    try:
        async with asyncio.timeout(20):
            await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"
