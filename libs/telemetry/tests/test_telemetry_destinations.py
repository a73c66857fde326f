from pathlib import Path

import pytest
from rsketch_telemetry.destinations import Destination, destination
from rsketch_telemetry.environment import Complaint
from rsketch_telemetry.signal import Signal


def _read(**environ: str) -> tuple[Destination, list[Complaint]]:
    complaints: list[Complaint] = []
    prefixed = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}
    return destination(prefixed, Signal.TRACES, complaints), complaints


def test_the_default_is_the_collector_on_this_machine() -> None:
    """Without settings it is gRPC to port 4317, uncompressed, in plaintext."""
    at, complaints = _read()

    assert (at.endpoint, at.protocol, at.tls, at.compression) == ("http://localhost:4317", "grpc", False, "none")
    assert complaints == []


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"PROTOCOL": "http/protobuf"}, "http://localhost:4318/v1/traces"),
        ({"PROTOCOL": "http/protobuf", "ENDPOINT": "http://c:1/base/"}, "http://c:1/base/v1/traces"),
        ({"PROTOCOL": "http/protobuf", "TRACES_ENDPOINT": "http://c:1/mine"}, "http://c:1/mine"),
        ({"ENDPOINT": "http://c:4317"}, "http://c:4317"),
        ({"ENDPOINT": "https://c:4317"}, "https://c:4317"),
        ({"ENDPOINT": "http://c:4317", "TRACES_ENDPOINT": "http://d:4317"}, "http://d:4317"),
        ({"ENDPOINT": "http://c:4317", "METRICS_ENDPOINT": "http://d:4317"}, "http://c:4317"),
        ({"ENDPOINT": "c.example:4317"}, "https://c.example:4317"),
        ({"ENDPOINT": "c.example:4317", "INSECURE": "true"}, "http://c.example:4317"),
        ({"ENDPOINT": "localhost:4317"}, "http://localhost:4317"),
        ({"ENDPOINT": "[::1]:4317"}, "http://[::1]:4317"),
    ],
)
def test_endpoints(environ: dict[str, str], endpoint: str) -> None:
    """Endpoints follow the OTLP exporter specification; without a scheme they are TLS but on loopback."""
    at, complaints = _read(**environ)

    assert at.endpoint == endpoint
    assert complaints == []


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://c", "http://c:99999", "http://", "http://c:x", "http://a b", "://", "[::1:4317", "u:hunter22@a b"],
)
def test_a_malformed_endpoint_falls_back_to_the_default(endpoint: str) -> None:
    """It is named in one complaint, and telemetry goes to the default."""
    at, complaints = _read(ENDPOINT=endpoint)

    assert at.endpoint == "http://localhost:4317"
    assert [complaint.variable for complaint in complaints] == ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert "hunter22" not in str(complaints[0])


def test_a_malformed_endpoint_gives_one_complaint_for_three_signals() -> None:
    """The common variable is named once, not once a signal."""
    complaints: list[Complaint] = []
    for signal in Signal:
        destination({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:99999"}, signal, complaints)

    assert len(complaints) == 1


def test_a_malformed_endpoint_of_a_signal_leaves_the_common_one() -> None:
    """The line names the endpoint that is used instead, without its user information."""
    at, complaints = _read(ENDPOINT="http://u:hunter22@c:4317", TRACES_ENDPOINT="http://d:99999")

    assert at.endpoint == "http://c:4317"
    assert [complaint.used for complaint in complaints] == ["http://****@c:4317"]


def test_the_common_endpoint_is_a_base_where_it_steps_in() -> None:
    """Over HTTP the signal's path is added to it."""
    at, _ = _read(PROTOCOL="http/protobuf", ENDPOINT="http://c:4318", TRACES_ENDPOINT="http://d:99999")

    assert at.endpoint == "http://c:4318/v1/traces"


@pytest.mark.parametrize(("protocol", "used", "lines"), [("grpc", "gzip", 1), ("http/protobuf", "deflate", 0)])
def test_deflate_is_for_http(protocol: str, used: str, lines: int) -> None:
    """Over gRPC gzip takes its place, which is said."""
    at, complaints = _read(PROTOCOL=protocol, COMPRESSION="deflate")

    assert at.compression == used
    assert [complaint.used for complaint in complaints] == ["gzip"] * lines


@pytest.mark.parametrize(
    ("variable", "protocol", "held"),
    [
        ("GRPC_CREDENTIAL_PROVIDER", "grpc", True),
        ("GRPC_TRACES_CREDENTIAL_PROVIDER", "grpc", True),
        ("GRPC_LOGS_CREDENTIAL_PROVIDER", "grpc", False),
        ("HTTP_CREDENTIAL_PROVIDER", "grpc", False),
        ("HTTP_CREDENTIAL_PROVIDER", "http/protobuf", True),
        ("HTTP_TRACES_CREDENTIAL_PROVIDER", "http/protobuf", True),
    ],
)
def test_a_credential_provider_holds_its_signal(variable: str, protocol: str, held: bool) -> None:
    """There is none here, and without its credential nothing may be sent; one line says so."""
    complaints: list[Complaint] = []
    name = f"OTEL_PYTHON_EXPORTER_OTLP_{variable}"
    at = destination({name: "vault", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}, Signal.TRACES, complaints)

    assert at.held == (f"{name} cannot be used" if held else None)
    assert [complaint.variable for complaint in complaints] == ([name] if held else [])


def test_headers_are_decoded_and_hidden() -> None:
    """Header values may be percent-encoded, and neither they nor an endpoint's password are ever shown."""
    at, complaints = _read(HEADERS="Authorization=Bearer%20hunter22, x-team = a", ENDPOINT="http://u:hunter22@c:4317")

    assert at.headers == {"authorization": "Bearer hunter22", "x-team": "a"}
    assert at.masked == "http://c:4317"
    assert "hunter22" not in repr(at.masked)
    assert complaints == []


@pytest.mark.parametrize("headers", ["authorization", "a b=c", "a=b%0d%0ac", "a=%C3%A9", "a!=b", "a-bin=b"])
def test_a_malformed_header_holds_its_signal(headers: str) -> None:
    """What is missing may be the credential, so nothing is sent, and the value is not repeated."""
    at, complaints = _read(HEADERS=headers)

    assert at.held == "OTEL_EXPORTER_OTLP_HEADERS is malformed"
    assert complaints[0].value == "****"


def test_an_unreadable_certificate_holds_its_signal(tmp_path: Path) -> None:
    """A certificate that cannot be read is not replaced by the system's authorities."""
    at, complaints = _read(TRACES_CERTIFICATE=str(tmp_path / "missing.pem"))

    assert at.held == "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE cannot be used"
    assert len(complaints) == 1


@pytest.mark.parametrize("content", ["", "no certificate"])
def test_a_certificate_file_without_a_certificate_holds_its_signal(tmp_path: Path, content: str) -> None:
    """An empty file is not replaced by the system's authorities either."""
    (tmp_path / "ca.pem").write_text(content)

    assert _read(CERTIFICATE=str(tmp_path / "ca.pem"))[0].held


@pytest.mark.parametrize("given", ["CLIENT_KEY", "CLIENT_CERTIFICATE"])
def test_half_a_client_pair_holds_its_signal(tmp_path: Path, given: str) -> None:
    """The one without the other would end the process inside gRPC."""
    (tmp_path / "half.pem").write_text("half")
    at, complaints = _read(**{given: str(tmp_path / "half.pem")})

    assert at.held == f"OTEL_EXPORTER_OTLP_{given} cannot be used"
    assert [complaint.variable for complaint in complaints] == [f"OTEL_EXPORTER_OTLP_{given}"]


def test_a_key_in_the_place_of_its_path_is_not_repeated() -> None:
    """Some put the key itself into the variable."""
    _, complaints = _read(CLIENT_KEY="-----BEGIN PRIVATE KEY-----hunter22")

    assert "hunter22" not in str(complaints)


def test_user_information_does_not_reach_grpc() -> None:
    """It would be a part of the name that is looked up, and of the line that says the look-up failed."""
    assert _read(ENDPOINT="http://u:hunter22@c:4317")[0].endpoint == "http://c:4317"


def test_an_exporter_named_with_its_protocol_outranks_the_variable() -> None:
    """`OTEL_TRACES_EXPORTER=otlp_proto_http` is HTTP whatever the protocol variable says."""
    at = destination({"OTEL_TRACES_EXPORTER": "otlp_proto_http"}, Signal.TRACES, [])

    assert at.protocol == "http/protobuf"
