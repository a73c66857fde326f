import asyncio
import logging

import pytest
from opentelemetry import context as context_api
from opentelemetry.context import Context
from recording import Recording, attributes
from rsketch_telemetry import annotate, annotations
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import HttpOutcome, RpcCall, RpcOutcome, http_request

REQUEST = http_request(method="GET", scheme="http", path="/")


class _Serving(Recording):
    """A request that is being served while the block lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = self.create_recorder()

    def __enter__(self) -> "_Serving":
        self._call = self.recorder.http_server(REQUEST, Context())
        self._token = context_api.attach(self._call.inner)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        context_api.detach(self._token)

    def end(self) -> None:
        self._call.finish(HttpOutcome(status_code=200))

    def said(self, name: str = "GET") -> dict[str, object]:
        (span,) = (span for span in self.spans.get_finished_spans() if span.name == name)
        return attributes(span)


async def test_annotations_reach_the_server_span_from_any_depth() -> None:
    """Inside a user's span, a client call, a task and a thread it is the request's own span that is written on."""
    with _Serving() as serving, serving.tracer.start_as_current_span("query"):
        annotate(inner=1)
        called = RpcCall(method="a.B/C", server_address="b.example")
        client = serving.recorder.rpc_client(called, context_api.get_current())
        token = context_api.attach(client.inner)
        annotate(in_call=True)
        client.finish(RpcOutcome(status_code="OK"))
        context_api.detach(token)
        await asyncio.create_task(_annotating("task"))
        await asyncio.to_thread(annotate, thread=2.5)

    said = serving.said()
    assert (said["inner"], said["in_call"], said["where"], said["thread"]) == (1, True, "task", 2.5)
    assert serving.said("query") == {}


async def _annotating(where: str) -> None:
    annotate(where=where)


def test_outside_of_a_request_and_after_it_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    """Neither an error nor a line in the log, and the span keeps what it ended with."""
    annotate(lost=1)
    with _Serving() as serving:
        serving.end()
        annotate(late=1)

    assert not {"lost", "late"} & serving.said().keys()
    assert caplog.records == []


def test_secrets_and_sizes_are_bounded() -> None:
    """A name that promises a credential loses its value, a value its credentials, and what is huge is cut."""
    with _Serving() as serving:
        annotate(
            api_key="k1",
            note="bearer abcdefgh12",
            long="x" * 5000,
            big=2**70,
            odd="\ud800",
            tags=["a", 1],
        )
    said = serving.said()

    assert (said["api_key"], said["note"], len(str(said["long"]))) == ("REDACTED", "bearer REDACTED", 1024)
    assert (said["big"], said["odd"], said["tags"]) == (str(2**70), "\ufffd", ("a", "1"))


def test_reserved_names_are_refused_and_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application cannot make telemetry's own attributes say something else."""
    monkeypatch.setattr(annotations, "_refused", Once("refused", level=logging.WARNING, traceback=False))
    with _Serving() as serving:
        annotate(**{"http.route": "/mine", "rpc.method": "x"})

    assert not {"http.route", "rpc.method"} & serving.said().keys()
    assert caplog.messages == ["refused"]


def test_at_most_64_attributes_are_kept() -> None:
    """What comes after them is dropped, but those that are there can still be changed."""
    with _Serving() as serving:
        for number in range(100):
            annotate(**{f"mine.{number}": number})
        annotate(**{"mine.0": "new"})
    mine = {name: value for name, value in serving.said().items() if name.startswith("mine.")}

    assert len(mine) == 64
    assert mine["mine.0"] == "new"


@pytest.mark.parametrize(
    "credential",
    ['{"password": "%s"}', "postgres://till:%s@db", f"eyJ{'a' * 30}.%s.signature"],
    ids=["field", "url", "token"],
)
def test_a_credential_across_the_limit_is_replaced(credential: str) -> None:
    """What is cut off does not hide from us that the rest is half of a secret."""
    with _Serving() as serving:
        annotate(note="-" * 900 + " " + credential % ("hush" * 200))

    note = serving.said()["note"]
    assert isinstance(note, str)
    assert "REDACTED" in note
    assert "hush" not in note
