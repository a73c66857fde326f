"""Settings: what is accepted, and the one line for what is not."""

import re
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from rsketch import Address, ConfigError
from rsketch_http.config import HttpConfig
from rsketch_http.server import requested


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a CA, a certificate and its key, the key of another one, and a text."""
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    made = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca")
    made.cert_chain_pems[0].write_to_path(folder / "certificate")
    made.private_key_pem.write_to_path(folder / "key")
    other.issue_cert("localhost").private_key_pem.write_to_path(folder / "other")
    (folder / "text").write_text("not a certificate")
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "encrypted").write_bytes(locked)
    return {path.name: str(path) for path in folder.iterdir()}


def test_defaults_listen_on_loopback() -> None:
    """Nothing set means port 3000 on loopback, and the greeting service at its own default."""
    config = HttpConfig.from_env({})

    assert config == HttpConfig()
    assert config.address == Address(scheme="http", host="127.0.0.1", port=3000)
    assert config.grpc_target == "127.0.0.1:50051"


def test_empty_values_are_unset() -> None:
    """An empty variable means its default, as everywhere in the house."""
    names = ["HOST", "PORT", "DRAIN_SECONDS", "GRPC_TARGET", "GRPC_CA", "CORS_ORIGINS", "TLS_CERTIFICATE", "TLS_KEY"]

    assert HttpConfig.from_env({f"RSKETCH_HTTP_{name}": "" for name in names}) == HttpConfig()


@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({"RSKETCH_GRPC_ADDRESS": "127.0.0.1:7000"}, "127.0.0.1:7000"),
        ({"RSKETCH_HTTP_GRPC_TARGET": "dns:///greeter:50051"}, "dns:///greeter:50051"),
        (
            {"RSKETCH_HTTP_GRPC_TARGET": "unix:/run/g.sock", "RSKETCH_GRPC_ADDRESS": "127.0.0.1:7000"},
            "unix:/run/g.sock",
        ),
    ],
)
def test_the_target_is_the_setting_else_what_the_host_opened(environ: dict[str, str], target: str) -> None:
    """An explicit target wins over the address that the host put into the mapping."""
    assert HttpConfig.from_env(environ).grpc_target == target


def test_hosts_may_be_written_in_brackets() -> None:
    """As they are in URLs."""
    assert requested({"RSKETCH_HTTP_HOST": "[::1]"}) == Address(scheme="http", host="::1", port=3000)


def test_origins_are_a_list() -> None:
    """Separated by commas, blanks ignored."""
    config = HttpConfig.from_env({"RSKETCH_HTTP_CORS_ORIGINS": "https://a.example, http://b.example:8080"})

    assert config.cors_origins == ("https://a.example", "http://b.example:8080")


def test_certificate_and_key_make_it_https(files: dict[str, str]) -> None:
    """The address asked for says https, and the context has the certificate loaded."""
    environ = {"RSKETCH_HTTP_TLS_CERTIFICATE": files["certificate"], "RSKETCH_HTTP_TLS_KEY": files["key"]}
    config = HttpConfig.from_env(environ)

    assert config.address.scheme == "https"
    assert isinstance(config.tls, ssl.SSLContext)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("RSKETCH_HTTP_HOST", "not a host"),
        ("RSKETCH_HTTP_HOST", "http://127.0.0.1"),
        ("RSKETCH_HTTP_PORT", "65536"),
        ("RSKETCH_HTTP_PORT", "-1"),
        ("RSKETCH_HTTP_PORT", "http"),
        ("RSKETCH_HTTP_DRAIN_SECONDS", "soon"),
        ("RSKETCH_HTTP_DRAIN_SECONDS", "-1"),
        ("RSKETCH_HTTP_GRPC_TARGET", "localhost"),
        ("RSKETCH_HTTP_GRPC_TARGET", "http://localhost:50051"),
        ("RSKETCH_HTTP_GRPC_TARGET", "localhost:99999"),
        ("RSKETCH_GRPC_ADDRESS", "localhost"),
        ("RSKETCH_HTTP_GRPC_CA", "/no/such/file"),
        ("RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS", "0"),
        ("RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS", "5 s"),
        ("RSKETCH_HTTP_STREAM_TIMEOUT_SECONDS", "0s"),
        ("RSKETCH_HTTP_REQUEST_TIMEOUT_SECONDS", "0"),
        ("RSKETCH_HTTP_RESPONSE_TIMEOUT_SECONDS", "x"),
        ("RSKETCH_HTTP_KEEP_ALIVE_SECONDS", "0ms"),
        ("RSKETCH_HTTP_MAX_BODY_BYTES", "0"),
        ("RSKETCH_HTTP_MAX_BODY_BYTES", "1GB"),
        ("RSKETCH_HTTP_CORS_ORIGINS", "a.example"),
        ("RSKETCH_HTTP_CORS_ORIGINS", "https://a.example/"),
        ("RSKETCH_HTTP_CORS_ORIGINS", "*,https://a.example"),
        ("RSKETCH_HTTP_HEALTH_VERSION", "maybe"),
        ("RSKETCH_HTTP_TLS_CERTIFICATE", "/no/such/file"),
        ("RSKETCH_REUSE_PORT", "maybe"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting(setting: str, value: str) -> None:
    """The line says which setting, what it accepts and what it got."""
    with pytest.raises(ConfigError) as raised:
        requested({setting: value})

    assert raised.value.setting == setting
    assert str(raised.value).startswith(f"{setting}: accepts ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("certificate", "key", "setting"),
    [
        ("certificate", "", "RSKETCH_HTTP_TLS_KEY"),
        ("", "key", "RSKETCH_HTTP_TLS_CERTIFICATE"),
        ("certificate", "other", "RSKETCH_HTTP_TLS_CERTIFICATE"),
        ("text", "key", "RSKETCH_HTTP_TLS_CERTIFICATE"),
        ("certificate", "text", "RSKETCH_HTTP_TLS_CERTIFICATE"),
        ("certificate", "encrypted", "RSKETCH_HTTP_TLS_CERTIFICATE"),
    ],
)
def test_certificate_and_key_must_fit(files: dict[str, str], certificate: str, key: str, setting: str) -> None:
    """One without the other, those of two certificates, and files that are neither are refused at start."""
    environ = {
        "RSKETCH_HTTP_TLS_CERTIFICATE": files.get(certificate, ""),
        "RSKETCH_HTTP_TLS_KEY": files.get(key, ""),
    }
    with pytest.raises(ConfigError) as raised:
        requested(environ)

    assert raised.value.setting == setting


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\x00"])
def test_a_ca_file_without_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is readable and useless would show as an outage only."""
    path = tmp_path / "ca"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="RSKETCH_HTTP_GRPC_CA: accepts the path of a file with PEM certificates"):
        requested({"RSKETCH_HTTP_GRPC_CA": str(path)})


def test_the_readme_lists_every_setting_with_its_default() -> None:
    """The table of settings in the README is that of the code."""
    package = Path(__file__).parents[1]
    code = (package / "src/rsketch_http/config.py").read_text()
    rows = re.findall(r"^\| (`RSKETCH_HTTP_[^|]+) \|([^|]*)\|", (package / "README.md").read_text(), re.MULTILINE)
    told = {name: default.strip(" `") for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    single = {name: default for name, default in told.items() if default and "`" not in default}

    assert set(told) == set(re.findall(r"RSKETCH_HTTP_[A-Z_]+", code))
    assert HttpConfig.from_env(single) == HttpConfig()
    assert len(single) == 10
