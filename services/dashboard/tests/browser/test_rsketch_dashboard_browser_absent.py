"""Without Chromium the browser tests say so, and fail a build."""

from pathlib import Path

import pytest
from browsing import chromium


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing to be found."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("bare")
def test_a_laptop_without_chromium_skips_with_a_line_that_says_what_to_install(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line, on the terminal itself where pytest would swallow it, names the Debian package."""
    with pytest.raises(pytest.skip.Exception, match="install the Debian package chromium"):
        chromium(ci=False)

    assert "SKIPPED browser test: there is no Chromium" in capfd.readouterr().err


@pytest.mark.usefixtures("bare")
def test_a_build_without_chromium_fails() -> None:
    """It must not go green without the tests of the page."""
    with pytest.raises(pytest.fail.Exception, match="install the Debian package chromium"):
        chromium(ci=True)
