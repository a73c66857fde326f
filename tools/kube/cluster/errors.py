"""What can go wrong with the mini cluster, as far as a caller would tell it apart."""

__all__ = ["ClusterError", "ClusterUnavailable", "ObjectError"]


class ClusterError(Exception):
    """The base of all errors of this package."""


class ClusterUnavailable(ClusterError):  # noqa: N818  It is a state of the machine.
    """The machine cannot run a cluster: a program is missing, or the kernel refuses a namespace."""


class ObjectError(ClusterError):
    """An object cannot run as it is written; the message names it, what was found and what exists."""
