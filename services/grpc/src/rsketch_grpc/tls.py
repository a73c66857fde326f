"""The certificate and the key that the gRPC service shows. Checked before anything is opened, read once."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rsketch import ConfigError
from rsketch.settings import optional_file

__all__ = ["CERTIFICATE", "KEY", "KeyPair"]

CERTIFICATE = "RSKETCH_GRPC_TLS_CERTIFICATE"
KEY = "RSKETCH_GRPC_TLS_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """
    A certificate chain and its private key.

    Attributes:
        certificate_chain: PEM, the server's own certificate first.
        private_key: PEM, without a passphrase.
    """

    certificate_chain: bytes
    private_key: bytes = field(repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self | None:
        """
        Read the pair from the files that *environ* names; None where it names neither.

        Raises:
            ConfigError: One of them is missing or cannot be read, is not PEM, or they do not belong together.
        """
        certificate, key = optional_file(environ, CERTIFICATE), optional_file(environ, KEY)
        if certificate is None and key is None:
            return None
        if certificate is None:
            raise ConfigError(CERTIFICATE, f"the path of a PEM certificate, as {KEY} is set")
        if key is None:
            raise ConfigError(KEY, f"the path of a PEM private key, as {CERTIFICATE} is set")
        _check(certificate, key)
        return cls(certificate_chain=certificate.read_bytes(), private_key=key.read_bytes())


def _check(certificate: Path, key: Path) -> None:
    """Load both as a server would: gRPC itself reports a bad pair only when the first client connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=certificate)
    except (ssl.SSLError, ValueError):
        raise ConfigError(CERTIFICATE, "the path of a PEM certificate", str(certificate)) from None
    try:
        # A password of our own, because the default is to ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        accepts = f"the path of the PEM private key, without a passphrase, of the certificate in {CERTIFICATE}"
        raise ConfigError(KEY, accepts, str(key)) from None
