"""
Where each signal goes, read from the `OTEL_EXPORTER_OTLP_*` variables as the OTLP exporter specification defines them.

See https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

from rsketch_telemetry.environment import Complaint
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.signal import Signal

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["DEFAULT_ENDPOINT", "Destination", "destination"]

Protocol = Literal["grpc", "http/protobuf"]
DEFAULT_ENDPOINT: Final[Mapping[str, str]] = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_METADATA_KEY = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """
    Where one signal goes.

    Attributes:
        endpoint: For gRPC scheme, host and port; for HTTP the whole URL that is posted to.
        headers: Sent with each request; their values are secrets.
        timeout_seconds: Of one request.
        compression: `gzip`, `deflate` (HTTP only) or `none`.
        certificate: PEM file of the authorities to trust, in place of the system's.
        held: Why nothing may be sent, or None: a broken credential or certificate is never replaced by a weaker one.
    """

    signal: Signal
    protocol: Protocol
    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 10.0
    compression: str = "none"
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    held: str | None = None

    @property
    def masked(self) -> str:
        """The endpoint without user information and query, fit for a log."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.endpoint.startswith("https:")


class _Reader:
    """Reads `OTEL_EXPORTER_OTLP_<SIGNAL>_<NAME>`, else `OTEL_EXPORTER_OTLP_<NAME>`, and collects complaints."""

    def __init__(self, environ: Mapping[str, str], signal: Signal, complaints: list[Complaint]) -> None:
        self._environ = environ
        self._signal = signal.value.upper()
        self._complaints = complaints
        self.held: str | None = None

    def get(self, name: str) -> tuple[str, str] | None:
        """Return the variable that is set, and its value."""
        return next(self.given(name), None)

    def given(self, name: str, prefix: str = "OTEL_EXPORTER_OTLP_") -> Iterator[tuple[str, str]]:
        """Return the signal's own variable and the common one, each with its value, where they are set."""
        for variable in (f"{prefix}{self._signal}_{name}", f"{prefix}{name}"):
            if value := self._environ.get(variable, "").strip():
                yield variable, value

    def value(self, name: str, default: str) -> str:
        found = self.get(name)
        return found[1] if found else default

    def complain(self, variable: str, value: str, reason: str, used: str) -> None:
        complaint = Complaint(variable=variable, value=value, reason=reason, used=used)
        if complaint not in self._complaints:
            self._complaints.append(complaint)

    def headers(self, protocol: Protocol) -> dict[str, str]:
        """Return the headers; a malformed one holds the signal, as what is missing may be the credential."""
        found = self.get("HEADERS")
        headers: dict[str, str] = {}
        for part in found[1].split(",") if found else ():
            if not part.strip():
                continue
            name, equals, value = part.partition("=")
            name, value = unquote(name.strip()).lower(), unquote(value.strip()).strip()
            # Neither protocol can carry more, and gRPC has an alphabet of its own.
            named = (_METADATA_KEY if protocol == "grpc" else _HEADER_NAME).fullmatch(name)
            if found and not (equals and named and value.isascii() and value.isprintable()):
                self.held = f"{found[0]} is malformed"
                used = "nothing: its signals are held back"
                self.complain(found[0], "****", "name=value pairs in ASCII separated by commas", used)
                continue
            headers[name] = value
        return headers

    def authorities(self) -> Path | None:
        """Return the file of trusted authorities; one that cannot be used holds the signal."""
        found = self.get("CERTIFICATE")
        if found is None:
            return None
        if not _loads(lambda tls: tls.load_verify_locations(found[1])):
            self._hold(found, "a readable PEM file of certificates")
        return Path(found[1])

    def client_pair(self, protocol: Protocol) -> tuple[Path | None, Path | None]:
        """Return the client's certificate and key; the one without the other holds the signal."""
        certificate, key = self.get("CLIENT_CERTIFICATE"), self.get("CLIENT_KEY")
        # With HTTP the certificate's file may hold the key as well; gRPC's core ends the process over half a pair.
        if key and not certificate:
            self._hold(key, "a file, and CLIENT_CERTIFICATE beside it")
        elif certificate and not key and protocol == "grpc":
            self._hold(certificate, "a file, and CLIENT_KEY beside it")
        elif certificate and not _loads(
            # With a password: OpenSSL would ask the terminal for one.
            lambda tls: tls.load_cert_chain(certificate[1], key[1] if key else None, password="")
        ):
            self._hold(certificate, "a readable PEM file that fits the key, which has no password")
        return Path(certificate[1]) if certificate else None, Path(key[1]) if key else None

    def credential_provider(self, protocol: Protocol) -> None:
        """Hold the signal where a plug-in of the stock exporter is to give the credential: without, it goes bare."""
        prefix = f"OTEL_PYTHON_EXPORTER_OTLP_{'GRPC' if protocol == 'grpc' else 'HTTP'}_"
        if found := next(self.given("CREDENTIAL_PROVIDER", prefix), None):
            self._hold(found, "nothing here, but OTEL_EXPORTER_OTLP_HEADERS holds credentials")

    def compression(self, protocol: Protocol) -> str:
        """Return the compression; gRPC's own deflate is known to few collectors."""
        found = self.get("COMPRESSION")
        if found is None or found[1].lower() != "deflate" or protocol != "grpc":
            return found[1].lower() if found else "none"
        self.complain(*found, "gzip or none over gRPC", "gzip")
        return "gzip"

    def _hold(self, found: tuple[str, str], accepts: str) -> None:
        self.held = f"{found[0]} cannot be used"
        # Some put the key itself in the place of its path.
        shown = "****" if "-----" in found[1] else scrub(found[1], 80)
        self.complain(found[0], shown, accepts, "nothing: its signals are held back")


def _loads(load: Callable[["SSLContext"], None]) -> bool:
    """Return whether OpenSSL takes what *load* gives it."""
    import ssl

    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except (OSError, ValueError):
        return False
    return True


def destination(environ: Mapping[str, str], signal: Signal, complaints: list[Complaint]) -> Destination:
    """Return where *signal* goes; what is malformed is replaced or held back, and added to *complaints*."""
    reader = _Reader(environ, signal, complaints)
    protocol = _protocol(reader, environ, signal)
    headers = reader.headers(protocol)
    certificate = reader.authorities()
    client_certificate, client_key = reader.client_pair(protocol)
    reader.credential_provider(protocol)
    return Destination(
        signal=signal,
        protocol=protocol,
        endpoint=_endpoint(reader, protocol, signal),
        headers=headers,
        timeout_seconds=float(reader.value("TIMEOUT", "10")),
        compression=reader.compression(protocol),
        certificate=certificate,
        client_certificate=client_certificate,
        client_key=client_key,
        held=reader.held,
    )


def _protocol(reader: _Reader, environ: Mapping[str, str], signal: Signal) -> Protocol:
    """Return the protocol; an exporter that is named with its protocol outranks the variable."""
    named = environ.get(f"OTEL_{signal.value.upper()}_EXPORTER", "")
    if "otlp_proto_http" in named:
        return "http/protobuf"
    if "otlp_proto_grpc" in named:
        return "grpc"
    return cast("Protocol", reader.value("PROTOCOL", "grpc").lower())


def _endpoint(reader: _Reader, protocol: Protocol, signal: Signal) -> str:
    default = DEFAULT_ENDPOINT[protocol]
    malformed: list[tuple[str, str]] = []
    variable, raw, url = "", default, urlsplit(default)
    for given, value in reader.given("ENDPOINT"):
        if (parsed := _url(value if "://" in value else f"{_scheme(reader, value)}://{value}")) is not None:
            variable, raw, url = given, value, parsed
            break
        malformed.append((given, value))
    for given, value in malformed:
        reader.complain(given, _masked(value), "a URL such as http://localhost:4317", _masked(raw))
    if protocol == "grpc":
        # gRPC knows no user information: it would be taken for a part of the name, and be logged with it.
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    # A signal's own endpoint is used as it stands; the common one is a base (OTLP exporter specification).
    own = variable.startswith(f"OTEL_EXPORTER_OTLP_{signal.value.upper()}_")
    return url.geturl() if own else f"{url.geturl().rstrip('/')}/v1/{signal.value}"


def _scheme(reader: _Reader, raw: str) -> str:
    """Return the scheme of an endpoint without one: TLS, but on loopback or where plaintext is asked for."""
    try:
        host = urlsplit(f"//{raw}").hostname
    except ValueError:
        host = None
    return "http" if host in _LOOPBACK or reader.value("INSECURE", "false").lower() == "true" else "https"


def _url(raw: str) -> SplitResult | None:
    try:
        url = urlsplit(raw)
        fine = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return None
    return url if fine and raw.isascii() and raw.isprintable() and not re.search(r"\s", raw) else None


def _masked(raw: str) -> str:
    """Return an endpoint that cannot be parsed without what may be a secret in it."""
    before, at, after = raw.partition("?")[0].rpartition("@")
    scheme = "".join(before.partition("://")[:2]) if "://" in before else ""
    return f"{scheme}****@{after}"[:80] if at else after[:80]
