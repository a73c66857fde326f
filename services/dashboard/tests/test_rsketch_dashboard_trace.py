"""One trace as a tree, whatever its spans say of each other."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rsketch_dashboard.errors import NotFoundError
from rsketch_dashboard.queries.trace import trace
from rsketch_dashboard.store import Store
from telemetry_made import CLIENT, INTERNAL, NOW, Json, Sent, logs, spans, store_in, trace_id


def _trace(folder: Path, *sent: Sent) -> Json:
    with store_in(folder) as store:
        store.append([spans(*sent)])
        return _asked(store)


def _asked(store: Store, number: int = 1) -> Json:
    with store.reading() as connection:
        return trace(connection, trace_id(number))


def _tree(found: Json) -> list[tuple[int, int]]:
    """Return id and depth of each span, in the order in which they are shown."""
    return [(int(span["span_id"], 16), span["depth"]) for span in found["spans"]]


def _marked(found: Json, mark: str) -> set[int]:
    return {int(span["span_id"], 16) for span in found["spans"] if span[mark]}


def test_spans_are_in_the_order_of_a_tree(tmp_path: Path) -> None:
    """Each span stands before its children, and those in the order of their start, however they arrived."""
    found = _trace(
        tmp_path,
        Sent(id=5, parent=3, at=25),
        Sent(id=4, parent=2, at=15),
        Sent(id=3, parent=1, at=20),
        Sent(id=2, parent=1, at=10),
        Sent(id=1),
    )

    assert _tree(found) == [(1, 0), (2, 1), (4, 2), (3, 1), (5, 2)]
    assert (found["complete"], found["truncated"], found["skewed"]) == (True, False, 0)


def test_a_span_whose_parent_is_not_here_is_an_orphan(tmp_path: Path) -> None:
    """It is shown beside the root, after it, with all that is under it, and the trace is not complete."""
    found = _trace(tmp_path, Sent(id=1, at=50), Sent(id=3, parent=99, at=10), Sent(id=4, parent=3, at=20))

    assert _tree(found) == [(1, 0), (3, 0), (4, 1)]
    assert _marked(found, "orphan") == {3}
    assert not found["complete"]


@pytest.mark.parametrize(
    ("parents", "shown", "orphans"),
    [
        ({1: 1}, [(1, 0)], {1}),
        ({1: 2, 2: 1}, [(1, 0), (2, 1)], {1}),
        ({3: 2, 2: 1, 1: 3}, [(1, 0), (2, 1), (3, 2)], {1}),
        ({1: 2, 2: 1, 3: 1, 4: 0}, [(4, 0), (1, 0), (2, 1), (3, 1)], {1}),
        ({5: 7, 7: 5, 1: 5, 2: 1}, [(5, 0), (1, 1), (2, 2), (7, 1)], {5}),
    ],
)
def test_spans_that_are_their_own_ancestors_are_shown_once(
    tmp_path: Path, parents: dict[int, int], shown: list[tuple[int, int]], orphans: set[int]
) -> None:
    """A circle is cut at the lowest id of it, which is marked: its parent makes no sense."""
    found = _trace(tmp_path, *(Sent(id=each, parent=parent) for each, parent in parents.items()))

    assert _tree(found) == shown
    assert _marked(found, "orphan") == orphans


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Open one store for many traces."""
    with store_in(tmp_path_factory.mktemp("shared")) as store:
        yield store


SPANS = st.tuples(st.integers(0, 27), st.integers(-50, 50), st.integers(-50, 50))
NUMBERS = itertools.count(1)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(1, 25), SPANS, min_size=1))
def test_every_span_is_shown_once_whatever_the_parents(
    shared: Store, given_spans: dict[int, tuple[int, int, int]]
) -> None:
    """Roots, orphans, circles, any times: each span stands once, below its parent or marked, and times make sense."""
    number = next(NUMBERS)
    sent = [(each, *about) for each, about in given_spans.items()]
    shared.append([spans(*(Sent(trace=number, id=each, parent=up, at=at, took=took) for each, up, at, took in sent))])
    found = _asked(shared, number)
    tree, orphans = _tree(found), _marked(found, "orphan")
    above: list[int] = []

    assert sorted(each for each, _ in tree) == sorted(given_spans)
    for each, depth in tree:
        del above[depth:]
        parent = given_spans[each][0]
        assert (above[-1] if above else 0) == (0 if each in orphans else parent)
        assert (each in orphans) == (depth == 0 and parent != 0)
        above.append(each)
    for span in found["spans"]:
        assert 0 <= span["self_ns"] <= max(span["duration_ns"], 0)
    assert _marked(found, "critical") >= {each for each, depth in tree if depth == 0}
    assert found["complete"] == (not orphans)


def test_self_time_is_what_no_child_covers(tmp_path: Path) -> None:
    """Children that overlap count once, and what is outside the parent does not count."""
    found = _trace(
        tmp_path,
        Sent(id=1, took=100),
        Sent(id=2, parent=1, at=10, took=30),
        Sent(id=3, parent=1, at=20, took=30),
        Sent(id=4, parent=1, at=90, took=50),
        Sent(id=5, parent=1, at=-50, took=20),
    )

    assert [span["self_ns"] for span in found["spans"] if span["span_id"].endswith("1")] == [100 - 40 - 10]


def test_the_critical_path_is_what_the_end_waited_for(tmp_path: Path) -> None:
    """From the end back: the child that ended last, the one that ended before it began, and so on down."""
    found = _trace(
        tmp_path,
        Sent(id=1, took=100),
        Sent(id=2, parent=1, at=5, took=40),
        Sent(id=3, parent=1, at=10, took=60),
        Sent(id=4, parent=3, at=20, took=10),
        Sent(id=5, parent=1, at=75, took=20),
        Sent(id=6, parent=2, at=6, took=3),
    )

    assert _marked(found, "critical") == {1, 3, 4, 5}


def test_a_child_that_ends_after_its_parent_is_on_the_critical_path(tmp_path: Path) -> None:
    """It counts as ending with it; one that only begins then does not."""
    found = _trace(
        tmp_path, Sent(id=1, took=100), Sent(id=2, parent=1, at=50, took=200), Sent(id=3, parent=1, at=150, took=500)
    )

    assert _marked(found, "critical") == {1, 2}
    assert found["duration_ns"] == 650


def test_clocks_that_differ_are_counted(tmp_path: Path) -> None:
    """Spans that begin before their parent, or end before they begin."""
    found = _trace(
        tmp_path,
        Sent(id=1, at=100),
        Sent(id=2, parent=1, at=50),
        Sent(id=3, parent=1, at=150, took=-5),
        Sent(id=4, parent=1, at=200),
    )

    assert found["skewed"] == 2
    assert found["start_us"] == NOW // 1000


def test_a_trace_may_be_deep(tmp_path: Path) -> None:
    """A chain of ten thousand spans, whether it hangs on a root or is a circle, is shown in moderate time."""
    count = 10_000
    for at, last in enumerate((0, count)):
        chain = [Sent(id=n, parent=n - 1 or last, kind=INTERNAL, at=n) for n in range(1, count + 1)]
        started = time.process_time()
        found = _trace(tmp_path / str(at), *reversed(chain))
        took = time.process_time() - started

        assert _tree(found) == [(n, n - 1) for n in range(1, count + 1)]
        assert took < 10


def test_a_trace_may_be_too_large(tmp_path: Path) -> None:
    """Of more than twenty thousand spans the earliest are shown, and that there are more is said."""
    with store_in(tmp_path) as store:
        store.append([spans(Sent(id=1), *(Sent(id=n, parent=1, kind=CLIENT, at=n) for n in range(2, 20_001)))])
        whole = _asked(store)
        # Two that are there already, so that only one is new.
        store.append([spans(*(Sent(id=n, parent=1, kind=CLIENT, at=n) for n in (5, 6, 20_001)))])
        more = _asked(store)

    assert (len(whole["spans"]), whole["truncated"]) == (20_000, False)
    assert (20_000 - 3 <= len(more["spans"]) <= 20_000, more["truncated"]) == (True, True)


def test_a_trace_may_have_logs_alone(tmp_path: Path) -> None:
    """Records whose spans were not sampled are shown by themselves, oldest first."""
    with store_in(tmp_path) as store:
        store.append([logs("first", "second", trace=1, service="till")])
        found = _asked(store)

    assert (found["spans"], found["services"], found["start_us"], found["duration_ns"]) == (
        [],
        ["till"],
        NOW // 1000,
        0,
    )
    assert [record["body"] for record in found["logs"]] == ["first", "second"]


def test_a_trace_that_is_not_here_says_so(tmp_path: Path) -> None:
    """It may not have arrived yet."""
    with store_in(tmp_path) as store, pytest.raises(NotFoundError, match="may not have arrived yet"):
        _asked(store)


def test_a_trace_is_found_in_either_case(tmp_path: Path) -> None:
    """Ids of logs and of people are in upper case at times."""
    with store_in(tmp_path) as store, store.reading() as connection:
        store.append([spans(Sent(trace=0xABCDEF))])

        assert trace(connection, trace_id(0xABCDEF).upper())["trace_id"] == trace_id(0xABCDEF)
