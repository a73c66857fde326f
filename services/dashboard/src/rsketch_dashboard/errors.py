"""The errors of the dashboard; the command turns each into one line."""

__all__ = ["DashboardError", "NotFoundError", "QueryError", "SettingError", "StoreError"]


class DashboardError(Exception):
    """Base of every error that is said in one line."""


class SettingError(DashboardError):
    """
    A setting or an argument is malformed; nothing was started.

    Args:
        setting: The variable or argument, as the user wrote it.
        accepts: What it accepts.
        given: The offending value.
    """

    def __init__(self, setting: str, accepts: str, given: str) -> None:
        super().__init__(f"{setting}: accepts {accepts}, not {given[:80]!r}")


class StoreError(DashboardError):
    """The data file cannot be used."""


class QueryError(DashboardError):
    """What the page asks for is malformed, or takes too long."""


class NotFoundError(DashboardError):
    """What the page asks for is not here, or not any more."""
