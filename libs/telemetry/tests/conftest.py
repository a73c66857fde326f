from collections.abc import Iterator

import pytest
from recording import checked, rejected
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
