"""Every gRPC case in every process model, ours against bare: a test for each row of a column, and one for the table."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

from truth.judged import OURS, Chosen, Judged, judged_by
from truth.report import committed, row_of
from truth.rpc.columns import SUITE
from truth.rpc.drive import CLIENT, SERVER

_ROWS = [(column.name, case.name) for column, case in SUITE.rows("ours")]

# What instrumentors of gRPC have been seen to do, and the column and cases that look at it.
DEFECTS = {
    "there are no metrics": (SERVER, ("unary", "server stream by yield")),
    "an uncaught exception is a success": (SERVER, ("uncaught exception", "exception with code")),
    "a call whose time is over is a success": (SERVER, ("deadline", "deadline in mid stream")),
    "a call that was cancelled is a success": (SERVER, ("cancel", "cancel in mid stream", "channel closed")),
    "a stream that fails half-way is a success": (SERVER, ("exception in mid stream",)),
    "a coroutine that writes its answers fails": (SERVER, ("server stream by write", "two streams by write")),
    "an unknown method has no span": (SERVER, ("unknown method", "unknown service")),
    "`call.cancel()` does not reach the handler": (CLIENT, ("cancel", "cancel long before the deadline")),
    "the span of a cancelled call never ends": (CLIENT, ("cancel", "cancel at once")),
    "a method without a second slash raises into the application": (CLIENT, ("method without service",)),
    "it stalls under four times eight streams": (SERVER, ("four times eight streams",)),
    "a retried call is several, or its attempts are none": (SERVER, ("retries", "retries in vain")),
}


@pytest.fixture(scope="session")
def judged(request: pytest.FixtureRequest) -> Judged:
    """What gives the judgements of a column; the cases that the chosen tests look at are run at its first call."""
    return judged_by(SUITE, _chosen(request.session.items))


def _chosen(items: Iterable[pytest.Item]) -> Chosen:
    """Return the cases that the chosen tests look at, by column and subject."""
    chosen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in items:
        if item.path.name == "test_truth_rpc.py":
            for column, subject, case in _looked_at(item):
                chosen[column, subject].add(case)
    return chosen


def _looked_at(item: pytest.Item) -> Iterable[tuple[str, str, str]]:
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    subjects = (parameters["subject"],) if "subject" in parameters else OURS
    if "case" in parameters:
        return [(parameters["column"], subject, parameters["case"]) for subject in subjects]
    if "flaw" in parameters:
        column, cases = DEFECTS[parameters["flaw"]]
        return [(column, "ours", case) for case in cases]
    if item.name == test_the_suite_sees_the_defects_of_others.__name__:
        return [(column, "contrib", case) for column, case in _SEEN]
    if item.name.startswith(test_the_committed_table_is_of_these_cases_and_this_result.__name__):
        return [(column, subject, case) for column, case in _ROWS for subject in subjects]
    return []


@pytest.mark.parametrize("subject", OURS)
@pytest.mark.parametrize(("column", "case"), _ROWS, ids=["-".join(row) for row in _ROWS])
def test_ours_tells_the_truth(judged: Judged, column: str, case: str, subject: str) -> None:
    """Nothing changes for caller and handler, and what is recorded is what happened."""
    wrong = judged(column, subject)[case].wrong

    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("column", "case"), _ROWS, ids=["-".join(row) for row in _ROWS])
def test_both_recorders_say_the_same(judged: Judged, column: str, case: str) -> None:
    """What is recorded of a case does not depend on the recorder."""
    lean, sdk = (judged(column, subject)[case].recorded for subject in OURS)

    assert lean == sdk


@pytest.mark.parametrize("flaw", DEFECTS)
def test_ours_has_no_known_defect_of_others(judged: Judged, flaw: str) -> None:
    """What others get wrong ours gets right."""
    column, cases = DEFECTS[flaw]

    assert [judged(column)[case].wrong for case in cases] == [[]] * len(cases)


# The first case of each defect, without those that only somebody else's instrumentor has.
_SEEN = [
    (column, cases[0]) for defect, (column, cases) in DEFECTS.items() if not defect.startswith(("it stalls", "a retr"))
]


def test_the_suite_sees_the_defects_of_others(judged: Judged) -> None:
    """A case that could not fail would prove nothing: under contrib's instrumentors each of these does."""
    right = [row for row in _SEEN if not judged(row[0], "contrib")[row[1]].wrong]

    assert right == []


def test_each_case_is_run_somewhere() -> None:
    """No case is left out of all columns by its own conditions, no two have one name, and there are enough."""
    names = [case.name for case in SUITE.cases]

    assert len(names) == len(set(names)) >= 35
    assert {case for _, case in _ROWS} == set(names)


@pytest.mark.parametrize("subject", OURS)
def test_the_committed_table_is_of_these_cases_and_this_result(judged: Judged, subject: str) -> None:
    """The rows of the docs are the cases of the code, and what they say of ours is what was found just now."""
    fresh = {
        case.name: row_of(
            [judged(column.name, subject)[case.name] for column, each in SUITE.rows("ours") if each is case]
        )
        for case in SUITE.cases
    }

    assert committed("rpc", subject) == fresh
    assert list(committed("rpc", "contrib")) == list(fresh)
