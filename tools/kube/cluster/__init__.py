"""A Kubernetes cluster small enough for a test: rendered objects, unchanged, as real processes of this machine."""

from kube.cluster.cluster import Cluster
from kube.cluster.container import Ending
from kube.cluster.errors import ClusterError, ClusterUnavailable, ObjectError
from kube.cluster.pod import Pod, Termination
from kube.cluster.sandbox import Image, interpreter_binds
from kube.objects import Object

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterUnavailable",
    "Ending",
    "Image",
    "Object",
    "ObjectError",
    "Pod",
    "Termination",
    "interpreter_binds",
]
