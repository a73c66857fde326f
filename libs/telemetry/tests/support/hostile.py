"""What callers may send: hypothesis strategies, and the check that nothing of it makes telemetry invalid."""

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from hypothesis import strategies as st

__all__ = ["BAGGAGE", "CONTEXT_HEADERS", "TEXT", "TRACEPARENT", "TRACESTATE", "Loop", "assert_fit_to_leave"]

T = TypeVar("T")
_LONGEST_VALUE = 17 * 1024
"""A stack trace, cut to 16 Ki characters; every other value of ours is shorter."""

TEXT = st.text(st.characters(codec=None), max_size=300)
"""Any characters, lone surrogates included: what Python makes of bytes that are not UTF-8."""

_PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=120)
_HEX = "0123456789abcdefABCDEFg-"

TRACEPARENT = st.one_of(
    st.builds(
        "{}-{}-{}-{}".format,
        st.sampled_from(["00", "01", "ff", "0", "000", ""]),
        st.text(_HEX, min_size=30, max_size=34),
        st.text(_HEX, min_size=14, max_size=18),
        st.sampled_from(["00", "01", "ff", "1", "zz"]),
    ),
    st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True),
    _PRINTABLE,
    # A caller that has decided against a span would rightly get none.
).map(lambda header: re.sub(r"-00(?=[ \t]*$)", "-01", header))
TRACESTATE = st.one_of(
    st.lists(st.builds("{}={}".format, st.text("abc@*/-_1", max_size=12), _PRINTABLE), max_size=40).map(",".join),
    _PRINTABLE,
)
BAGGAGE = st.one_of(
    st.lists(st.builds("{}={}".format, st.text("abc%1 ;", max_size=8), _PRINTABLE), max_size=60).map(",".join),
    # More entries than the specification asks anyone to take (180).
    st.integers(170, 200).map(lambda count: ",".join(f"key{number}=value" for number in range(count))),
    st.text("%0aZ;,= \t", max_size=300),
    _PRINTABLE,
)
CONTEXT_HEADERS = st.fixed_dictionaries({}, optional={
    "traceparent": TRACEPARENT,
    "tracestate": TRACESTATE,
    "baggage": BAGGAGE,
    "b3": TRACEPARENT,
})  # fmt: skip


def assert_fit_to_leave(items: Iterable[Any]) -> None:
    """Check that the names and attributes of spans, points and log records can be encoded and are bounded."""
    for item in items:
        for text in (getattr(item, "name", None) or "", *_texts(item.attributes or {})):
            text.encode("utf-8")
            assert len(text) <= _LONGEST_VALUE


def _texts(attributes: Mapping[str, Any]) -> Iterable[str]:
    for name, value in attributes.items():
        yield name
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str))


class Loop:
    """An event loop in a thread of its own, for tests that are not coroutines: hypothesis runs plain functions."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the loop, and return what it returns within a minute."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        """Stop the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
