"""
Baggage on telemetry: entries whose keys an operator has listed become attributes of spans and log records.

Baggage comes from callers, so nothing is copied that is not on the list, and nothing is put on it that could pass for
what an instrumentor says or that is named like a credential.
"""

import re
from collections.abc import Collection
from typing import Final

from opentelemetry import baggage
from opentelemetry.context import Context

from rsketch_telemetry.redaction import names_secret, scrub

__all__ = ["ACCEPTS", "VARIABLE", "acceptable", "entries"]

VARIABLE: Final = "RSKETCH_TELEMETRY_BAGGAGE_KEYS"
ACCEPTS: Final = (
    "keys of baggage separated by commas, none of them a name of the conventions (http., user., …) or of a secret"
)

_MAX_LENGTH = 256
# The alphabet of keys that the W3C has for baggage.
_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# The first parts of the attribute names of the conventions 1.45.0, and ours.
_NAMESPACE = re.compile(
    r"(?:"
    r"android|app|artifact|aspnetcore|aws|az|azure|browser|cassandra|cicd|client|cloud|cloudevents|"
    r"cloudfoundry|code|container|cpu|cpython|db|deployment|destination|device|disk|dns|dotnet|elasticsearch|"
    r"enduser|error|event|exception|faas|feature_flag|file|gcp|gen_ai|geo|go|graphql|heroku|host|http|hw|ios|"
    r"jsonrpc|jvm|k8s|kafka|linux|log|mainframe|mcp|message|messaging|net|network|nfs|nodejs|oci|onc_rpc|"
    r"openai|openshift|opentracing|oracle|oracle_cloud|os|otel|peer|pool|pprof|process|profile|rabbitmq|"
    r"rocketmq|rpc|rsketch|security_rule|server|service|session|signalr|source|system|telemetry|test|thread|"
    r"tls|url|user|user_agent|v8js|vcs|webengine|zos"
    r")\."
)


def acceptable(key: str) -> bool:
    """Return whether *key* may be copied: a key of baggage that is neither a convention's nor a secret's name."""
    return _KEY.fullmatch(key) is not None and _NAMESPACE.match(key) is None and not names_secret(key)


def entries(keys: Collection[str], context: Context | None) -> dict[str, str]:
    """Return the entries of *keys* that a context's baggage has (None: the current one's), bounded and redacted."""
    carried = baggage.get_all(context)
    return {key: scrub(str(carried[key]), _MAX_LENGTH) for key in keys if key in carried} if carried else {}
