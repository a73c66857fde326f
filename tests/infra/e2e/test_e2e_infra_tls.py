"""The component `tls` on the local overlay with the real programs; the test stands in for cert-manager."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import httpx
import trustme
from kube.cluster.testing import require_inside
from kube.objects import Object
from kube.render import render
from load import traceparent
from local import INFRA, SERVICES, eventually, starting_platform

require_inside()

EXAMPLE = INFRA / "components" / "examples" / "tls" / "local"


def test_services_send_over_tls(tmp_path: Path) -> None:
    """Both services trust the CA of their Secret and nothing else, and their traces arrive."""
    with starting_platform(tmp_path, EXAMPLE, beside=_issued(render(EXAMPLE))) as platform:
        trace = secrets.token_hex(16)
        headers = traceparent(trace)
        httpx.get(f"http://{platform.http_address()}/api/v1/hello?name=ada", headers=headers, timeout=10.0)

        def arrived() -> bool:
            return {span.service for span in platform.jaeger.trace(trace)} == set(SERVICES)

        eventually(arrived, 30.0, "no trace of both services over TLS")


def _issued(objects: Sequence[Object]) -> list[Object]:
    """Return the Secrets that cert-manager would make of the Certificates, each with the CA and its own names."""
    authority = trustme.CA()
    namespace = {"kind": "Namespace", "metadata": {"name": "cert-manager"}}
    certificates = [each for each in objects if each["kind"] == "Certificate" and not each["spec"].get("isCA")]
    return [namespace, *(_secret(authority, each) for each in certificates)]


def _secret(authority: trustme.CA, certificate: Object) -> Object:
    asked = certificate["spec"]
    issued = authority.issue_cert(*asked.get("dnsNames", [f"{asked.get('commonName')}.invalid"]))
    return {
        "kind": "Secret",
        "metadata": {"name": asked["secretName"], "namespace": certificate["metadata"]["namespace"]},
        "stringData": {
            "ca.crt": authority.cert_pem.bytes().decode(),
            "tls.crt": issued.cert_chain_pems[0].bytes().decode(),
            "tls.key": issued.private_key_pem.bytes().decode(),
        },
    }
