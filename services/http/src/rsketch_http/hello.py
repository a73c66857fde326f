"""`rsketch hello`: calls a running server with a trace of its own making."""

import json
import secrets
import ssl
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from rsketch import Address, Command, ConfigError, settings

from rsketch_http.config import HttpConfig

__all__ = ["command"]

_EXAMPLE_URL = "http://127.0.0.1:3000"
_TIMEOUT_SECONDS = 10.0
_LIMIT_BYTES = 65536


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="world", help="whom to greet (default: world)")
    parser.add_argument(
        "--url", help=f"where the server is (default: {_EXAMPLE_URL}, or what RSKETCH_HTTP_HOST and _PORT say)"
    )


def _run(arguments: Namespace, environ: Mapping[str, str]) -> int:
    base = _base(_here(environ) if arguments.url is None else arguments.url)
    trace_id = secrets.token_hex(16)
    try:
        message = _ask(f"{base}/api/v1/hello?name={quote(arguments.name, safe='')}", trace_id)
    except HTTPError as error:
        with error:
            return _fail(f"{base} answered {error.code}: {_detail(error.read(_LIMIT_BYTES))} (trace {trace_id})")
    except (URLError, OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return _fail(f"{base} has a certificate that this machine does not trust (SSL_CERT_FILE names others)")
        return _fail(f"no server answers at {base}; start one with: rsketch server")
    except ValueError:
        return _fail(f"{base} answered, but not as the greeting service does")
    sys.stdout.write(f"{message}\ntrace {trace_id}\n")
    return 0


def _here(environ: Mapping[str, str]) -> str:
    """Return where a server with the same settings listens on this machine."""
    host = settings.text(environ, "RSKETCH_HTTP_HOST", HttpConfig().host)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - asked for, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104 - as above
    port = settings.port(environ, "RSKETCH_HTTP_PORT", HttpConfig().port)
    scheme = "https" if settings.text(environ, "RSKETCH_HTTP_TLS_CERTIFICATE", "") else "http"
    return str(Address(scheme=scheme, host=host, port=port))


def _base(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("--url", f"an address such as {_EXAMPLE_URL}", url)
    return url.rstrip("/")


def _ask(url: str, trace_id: str) -> str:
    """
    Return the greeting.

    Raises:
        OSError: Nobody answers, or the answer is a problem (HTTPError).
        ValueError: The answer is not a greeting.
    """
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01", "accept": "application/json"}
    # No proxy: what is asked for is a server that one has started oneself.
    opener = build_opener(ProxyHandler({}))
    with opener.open(Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - `_base` lets only http and https through
        return str(_member(response.read(_LIMIT_BYTES), "message"))


def _detail(body: bytes) -> str:
    try:
        return str(_member(body, "detail"))
    except ValueError:
        return "no details"


def _member(body: bytes, name: str) -> Any:
    document = json.loads(body)
    if not isinstance(document, dict) or name not in document:
        raise ValueError(name)
    return document[name]


def _fail(message: str) -> int:
    sys.stderr.write(f"rsketch hello: {message}\n")
    return 1


command = Command(help="call a running server and print the greeting and the trace id", arguments=_arguments, run=_run)
