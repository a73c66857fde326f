"""TLS: what is served with a certificate, and which pairs of files are refused before anything listens."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from rsketch import ConfigError
from rsketch_grpc import service
from rsketch_grpc.tls import CERTIFICATE, KEY, KeyPair
from rsketch_protos.hello.v1 import HelloRequest, HelloServiceStub


@dataclass(frozen=True, kw_only=True)
class Files:
    """
    PEM files of one server certificate for 127.0.0.1.

    Attributes:
        other_key: A good key that belongs to another certificate.
        locked_key: The key of the certificate, behind a passphrase.
        authority: What clients trust.
    """

    certificate: Path
    key: Path
    other_key: Path
    locked_key: Path
    authority: bytes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make the files, with an authority of their own."""
    directory, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )

    def written(name: str, content: bytes) -> Path:
        (directory / name).write_bytes(content)
        return directory / name

    return Files(
        certificate=written("server.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
        key=written("server.key", issued.private_key_pem.bytes()),
        other_key=written("other.key", other.private_key_pem.bytes()),
        locked_key=written("locked.key", locked),
        authority=authority.cert_pem.bytes(),
    )


def environ(certificate: Path | None, key: Path | None) -> dict[str, str]:
    """Build the settings for a pair of paths."""
    return {"RSKETCH_GRPC_PORT": "0", CERTIFICATE: str(certificate or ""), KEY: str(key or "")}


async def test_calls_over_tls(files: Files) -> None:
    """With a certificate the address says grpcs, and a client that trusts the authority is answered."""
    async with service.serve(environ(files.certificate, files.key)) as at:
        credentials = grpc.ssl_channel_credentials(files.authority)
        async with grpc.aio.secure_channel(at.netloc, credentials) as channel:
            response = await HelloServiceStub(channel).Hello(HelloRequest(name="ada"), timeout=10)

    assert at.scheme == "grpcs"
    assert response.message == "Hello, ada!"


async def test_plaintext_client_is_refused(files: Files) -> None:
    """With a certificate nobody is served in plaintext."""
    async with (
        service.serve(environ(files.certificate, files.key)) as at,
        grpc.aio.insecure_channel(at.netloc) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HelloServiceStub(channel).Hello(HelloRequest(name="ada"), timeout=10)

    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_requested_address_says_tls(files: Files) -> None:
    """The address that is asked for has the scheme of the one that will be served."""
    assert str(service.requested(environ(files.certificate, files.key))) == "grpcs://127.0.0.1:0"


def test_one_path_alone_is_refused(files: Files) -> None:
    """A certificate without a key, or a key without a certificate, names the setting that is missing."""
    with pytest.raises(ConfigError, match=f"^{KEY}: accepts .* {CERTIFICATE} is set$"):
        KeyPair.from_env(environ(files.certificate, None))
    with pytest.raises(ConfigError, match=f"^{CERTIFICATE}: accepts .* {KEY} is set$"):
        KeyPair.from_env(environ(None, files.key))


def test_files_that_cannot_be_read(files: Files, tmp_path: Path) -> None:
    """A path without a file and a directory are refused by the name of the setting."""
    for path in (tmp_path / "absent.pem", tmp_path):
        with pytest.raises(ConfigError, match=f"^{CERTIFICATE}: accepts the path of a readable file"):
            KeyPair.from_env(environ(path, files.key))
        with pytest.raises(ConfigError, match=f"^{KEY}: accepts the path of a readable file"):
            KeyPair.from_env(environ(files.certificate, path))


@pytest.mark.parametrize("content", [b"", b"not a certificate", b"\x30\x82\x03\x0c\xff"])
def test_certificate_that_is_not_pem(files: Files, tmp_path: Path, content: bytes) -> None:
    """A file that holds no certificate in PEM is refused by the name of its setting, in one line."""
    bad = tmp_path / "bad.pem"
    bad.write_bytes(content)

    with pytest.raises(ConfigError, match=f"^{CERTIFICATE}: accepts the path of a PEM certificate") as refused:
        KeyPair.from_env(environ(bad, files.key))
    assert "\n" not in str(refused.value)


async def test_bad_keys(files: Files) -> None:
    """No key, the key of another certificate and a locked one are refused; nobody is asked for a passphrase."""
    for key in (files.certificate, files.other_key, files.locked_key):
        with pytest.raises(ConfigError, match=f"^{KEY}: accepts the path of the PEM private key"):
            async with service.serve(environ(files.certificate, key)):
                pass


def test_private_key_is_not_shown(files: Files) -> None:
    """The text of a pair, as it may reach a log, does not hold the key."""
    assert "PRIVATE KEY" not in repr(KeyPair.from_env(environ(files.certificate, files.key)))
