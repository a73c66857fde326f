"""How a process knows that it runs in the namespaces that `enter` creates."""

from collections.abc import Mapping

__all__ = ["INSIDE", "is_inside"]

# Set for the command that `enter` runs, and inherited by what it starts; containers get an environment of their own.
INSIDE = "KUBE_CLUSTER_INSIDE"


def is_inside(environ: Mapping[str, str]) -> bool:
    """Whether this process was started by `enter`, so that a `Cluster` can be created."""
    return environ.get(INSIDE) == "1"
