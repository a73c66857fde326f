"""The errors of the host and of the services that it runs."""

__all__ = ["ConfigError", "RsketchError", "ServiceError", "StartError", "UsageError", "oneline"]


class RsketchError(Exception):
    """Base of every error that the command turns into one line on stderr."""


class UsageError(RsketchError):
    """What was asked for cannot be done as asked; the process exits with status 2 before anything is started."""


class ConfigError(UsageError):
    """
    A setting or an argument is malformed; the process exits with status 2 before anything is started.

    Args:
        setting: The environment variable or argument, as the user wrote it.
        accepts: What it accepts, in the user's terms.
        given: The offending value, or None where it must not be repeated (a secret) or there is none.
    """

    def __init__(self, setting: str, accepts: str, given: str | None = None) -> None:
        got = "" if given is None else f", not {given[:80]!r}"
        super().__init__(f"{setting}: accepts {accepts}{got}")
        self.setting = setting


class StartError(RsketchError):
    """A service cannot start for a reason outside its settings; the process exits with status 1."""


class ServiceError(RsketchError):
    """A service failed for a reason that it did not foresee, its cause; all services stop, exit status 1."""


def oneline(error: BaseException) -> str:
    """Return the type and the text of an error without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
