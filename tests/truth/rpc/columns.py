"""The process models of the gRPC half, and who is tried in them."""

from truth.frame import Column
from truth.rpc.cases import BASIC, BESIDE, BOTH, CASES, EARLY, INTERCEPTED, REGISTERED, THREADS
from truth.rpc.drive import CLIENT, SERVER
from truth.subjects import OURS, SDK, contrib
from truth.suite import Suite

__all__ = ["SUITE"]

_PEERS = frozenset({"ours", "contrib"})
_OWN = {INTERCEPTED: frozenset({"interceptor refuses", "interceptor breaks"})}


def _column(name: str, mode: str, about: str, *, whole: bool = False, launched: bool = True) -> Column:
    return Column(
        name=name,
        about=about,
        program=("-m", "truth.rpc.app", mode),
        subjects=_PEERS,
        cases=None if whole else BASIC | _OWN.get(name, frozenset()),
        launched=launched,
    )


_COLUMNS = (
    _column(SERVER, "server", "The server is under test; its callers know nothing of telemetry.", whole=True),
    _column(CLIENT, "client", "The caller is under test; its servers know nothing of telemetry.", whole=True),
    _column(BOTH, "both", "Both ends are under test, in one process."),
    _column(INTERCEPTED, "intercepted", "The application's own interceptors at both ends, inside of ours."),
    _column(REGISTERED, "registered", "Methods are registered by name too, as generated code does."),
    _column(EARLY, "early", "`server` and `insecure_channel` were imported before.", launched=False),
    Column(
        name=BESIDE,
        about="Contrib's package is installed, and nothing of it is disabled: still one span for each end of a call.",
        program=("-m", "truth.rpc.app", "both"),
        cases=BASIC,
        environ=lambda _port, _folder: {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ""},
    ),
    Column(
        name=THREADS,
        about="`grpc.server` with a thread pool and a synchronous channel: left to contrib.",
        program=("-m", "truth.rpc.app", "threads"),
        cases=frozenset(case.name for case in CASES if case.only_in == {THREADS}),
        environ=lambda _port, _folder: {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "grpc_server,grpc_client"},
    ),
)

SUITE = Suite(
    protocol="rpc",
    cases=CASES,
    columns=_COLUMNS,
    subjects={"ours": OURS, "sdk": SDK, "contrib": contrib("grpc_aio_server", "grpc_aio_client")},
)
"""All gRPC cases in all gRPC columns."""
