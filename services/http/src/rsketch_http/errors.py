"""The error that handlers raise to refuse a request."""

from collections.abc import Mapping

__all__ = ["RefusedError"]


class RefusedError(Exception):
    """
    A request cannot be answered as asked; the caller gets it as one problem document.

    Args:
        status: HTTP status, 400 to 599.
        detail: What to tell the caller; written by us, never the text of another exception.
        fields: What is wrong with each named part of the input; empty where that does not apply.
    """

    def __init__(self, status: int, detail: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.fields = dict(fields or {})
