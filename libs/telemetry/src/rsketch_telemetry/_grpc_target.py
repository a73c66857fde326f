"""
What gRPC's names of the other end mean: the target of a channel and the peer of a call.

Pure functions; nothing is resolved. See https://github.com/grpc/grpc/blob/master/doc/naming.md.
"""

from functools import lru_cache
from urllib.parse import unquote

from rsketch_telemetry.facts import Peer, host_and_port
from rsketch_telemetry.redaction import clean

__all__ = ["Endpoint", "peer_of", "target_endpoint"]

Endpoint = tuple[str | None, int | None]
"""Address and port; either is None where it is not known or does not exist."""

_DEFAULT_PORT = 443
_MAX_LENGTH = 256
_IP = ("ipv4", "ipv6")
_UNIX = ("unix", "unix-abstract")


@lru_cache(maxsize=256)
def target_endpoint(target: str) -> Endpoint:
    """
    Return `server.address` and `server.port` of a channel's target.

    A name without a port gets 443, which gRPC dials then. A target that names no single endpoint (several addresses, a
    scheme that a control plane resolves) is its own address, whole and without a port: it identifies the group.
    """
    scheme, rest = _split(target)
    if scheme in _UNIX:
        return clean(_path(rest), _MAX_LENGTH), None
    if scheme == "dns":
        address, port = host_and_port(unquote(_last(rest)), "")
        return (address, port or _DEFAULT_PORT) if address else (clean(target, _MAX_LENGTH), None)
    if scheme in _IP and "," not in rest:
        address, port = host_and_port(unquote(_last(rest)), "")
        return (address, port) if address else (clean(target, _MAX_LENGTH), None)
    return clean(target, _MAX_LENGTH), None


@lru_cache(maxsize=1024)
def peer_of(peer: str) -> Peer:
    """Return the facts of a peer such as `ipv4:127.0.0.1:40000`, `ipv6:%5B::1%5D:40000` or `unix:/run/x`."""
    scheme, _, rest = peer.partition(":")
    if scheme in _UNIX:
        return Peer(clean(rest, _MAX_LENGTH) or None)
    return Peer(*host_and_port(unquote(rest), "")) if scheme in _IP else Peer()


def _split(target: str) -> tuple[str, str]:
    """Return scheme and rest; a target without a scheme that gRPC could know is a name for DNS."""
    scheme, colon, rest = target.partition(":")
    known = scheme == "dns" or scheme in _IP or scheme in _UNIX
    if colon and (known or rest.startswith("//") or scheme in {"vsock", "xds"}):
        return scheme, rest
    return "dns", target


def _last(rest: str) -> str:
    """Return what follows the authority in `//authority/endpoint`, or *rest* where there is none."""
    return rest[2:].partition("/")[2] if rest.startswith("//") else rest


def _path(rest: str) -> str:
    """Return the socket's path in `path`, `/path` or `//authority/path`."""
    return "/" + _last(rest) if rest.startswith("//") else rest
