from collections.abc import Iterator

import pytest
from recording import Recording, checked, rejected
from rsketch_telemetry.conformance import check
from rsketch_telemetry.otlp.store import TelemetryStore


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """Check what a test records against the telemetry contract, also where it leaves its recording open."""
    with checked():
        yield


@pytest.fixture(autouse=True)
def _received_is_checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check in the same way what a test's receivers have stored of ours."""
    stores: list[TelemetryStore] = []
    make = TelemetryStore.__init__

    def remembered(store: TelemetryStore) -> None:
        make(store)
        stores.append(store)

    monkeypatch.setattr(TelemetryStore, "__init__", remembered)
    yield
    found = [each for store in stores for each in rejected(check(store.spans, store.points, store.logs))]
    said = "\n".join(sorted({str(violation) for violation in found}))
    assert not said, f"this test received telemetry of ours that the contract does not allow:\n{said}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests be run with the other recorder; pytest must be given this folder, or what is in it, then."""
    parser.addoption("--recorder", choices=("sdk", "lean"), default="sdk", help="what instrumentors record with")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the recorder."""
    config.addinivalue_line("markers", "sdk(reason): looks at what the SDK's recorder alone does")
    Recording.made_by = config.getoption("--recorder", "sdk")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what has nothing to look at."""
    marker = item.get_closest_marker("sdk")
    if marker is not None and Recording.made_by == "lean":
        pytest.skip(marker.args[0])
