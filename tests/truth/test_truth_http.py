"""Every HTTP case in every process model, ours against bare: a test for each row of a column, and one for the table."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from truth.http.suite import HTTP
from truth.judged import OURS, Chosen, Judged, judged_by
from truth.report import committed, row_of

_ROWS = [(column.name, case.name) for column, case in HTTP.rows("ours")]
_SINGLE = "single process"
# What the worker that is killed had served, and not exported yet, is lost in each run at another moment.
_SAME = [row for row in _ROWS if row[1] != "a worker is killed"]

# What instrumentors of Sanic have been seen to do, and the cases that look at it.
DEFECTS = {
    "a stream of half a second is recorded as a fraction of a millisecond": ("stream", "server-sent events"),
    "an exception after the first chunk is a success": ("exception after the first chunk",),
    "an unhandled exception has neither record nor error.type": ("defect",),
    "a websocket has no span": ("websocket", "websocket whose handler fails"),
    "a websocket stays in flight for ever": ("websocket whose client vanishes", "several websockets"),
    "a 404 is called after its path": ("not found", "many paths"),
    "a 405 has no route": ("method not allowed",),
    "an early answer of a middleware has no route": ("early answer of a middleware",),
    "a client that leaves is a 500": ("client leaves while it waits",),
    "made-up methods are labels of the metric": ("unknown method", "many methods"),
    "a request that was never parsed has a made-up method": ("malformed head",),
    "an IPv6 host is cut at its first colon": ("IPv6 host",),
    "signatures and tokens of the query are exported": ("secrets in the query",),
    "the caller's baggage is lost": ("baggage",),
    "the metric has no exemplars": ("exemplar",),
    "responses get trace headers that nobody asked for": ("plain",),
    "a path cannot be excluded by the environment": ("excluded path",),
}


@pytest.fixture(scope="session")
def judged(request: pytest.FixtureRequest) -> Judged:
    """What gives the judgements of a column; the cases that the chosen tests look at are run at its first call."""
    return judged_by(HTTP, _chosen(request.session.items))


def _chosen(items: Iterable[pytest.Item]) -> Chosen:
    """Return the cases that the chosen tests look at, by column and subject."""
    chosen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in items:
        if item.path != Path(__file__):
            continue
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if "case" in parameters:
            for subject in (parameters["subject"],) if "subject" in parameters else OURS:
                chosen[parameters["column"], subject].add(parameters["case"])
        elif "defect" in parameters:
            chosen[_SINGLE, "ours"].update(DEFECTS[parameters["defect"]])
        elif item.name == test_the_suite_sees_the_defects_of_others.__name__:
            chosen[_SINGLE, "plugin"].update(*DEFECTS.values())
        elif item.name.startswith(test_the_committed_table_is_of_these_cases_and_this_result.__name__):
            for column, case in _ROWS:
                chosen[column, parameters["subject"]].add(case)
    return chosen


@pytest.mark.parametrize("subject", OURS)
@pytest.mark.parametrize(("column", "case"), _ROWS, ids=["-".join(row) for row in _ROWS])
def test_ours_tells_the_truth(judged: Judged, column: str, case: str, subject: str) -> None:
    """Nothing changes for caller and handler, and what is recorded is what happened."""
    assert judged(column, subject)[case].wrong == []


@pytest.mark.parametrize(("column", "case"), _SAME, ids=["-".join(row) for row in _SAME])
def test_both_recorders_say_the_same(judged: Judged, column: str, case: str) -> None:
    """What is recorded of a case does not depend on the recorder."""
    lean, sdk = (judged(column, subject)[case].recorded for subject in OURS)

    assert lean == sdk


@pytest.mark.parametrize("defect", DEFECTS)
def test_ours_has_no_known_defect_of_others(judged: Judged, defect: str) -> None:
    """What others get wrong ours gets right."""
    assert [judged(_SINGLE)[case].wrong for case in DEFECTS[defect]] == [[]] * len(DEFECTS[defect])


def test_the_suite_sees_the_defects_of_others(judged: Judged) -> None:
    """A case that could not fail would prove nothing: under the third party's instrumentor each of these does."""
    right = {name for name, judgement in judged(_SINGLE, "plugin").items() if not judgement.wrong}

    assert right == set()


def test_each_case_is_run_somewhere() -> None:
    """No case is left out of all columns by its own conditions, and no two have one name."""
    names = [case.name for case in HTTP.cases]

    assert len(names) == len(set(names))
    assert {case for _, case in _ROWS} == set(names)


@pytest.mark.parametrize("subject", OURS)
def test_the_committed_table_is_of_these_cases_and_this_result(judged: Judged, subject: str) -> None:
    """The rows of the docs are the cases of the code, and what they say of ours is what was found just now."""
    fresh = {
        case.name: row_of(
            [judged(column.name, subject)[case.name] for column, each in HTTP.rows("ours") if each is case]
        )
        for case in HTTP.cases
    }

    assert committed("http", subject) == fresh
    assert list(committed("http", "contrib")) == list(fresh)
