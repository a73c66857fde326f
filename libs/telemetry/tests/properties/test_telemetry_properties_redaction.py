"""Whatever a text holds: what tells quickly that there is nothing to mask never overlooks anything."""

from hostile import TEXT
from hypothesis import given
from hypothesis import strategies as st
from rsketch_telemetry import redaction
from rsketch_telemetry.redaction import REDACTED, clean, redact_query, scrub

_PARTS = st.sampled_from(
    [
        *("bearer", "Basic", "BEARER", "ba\u017fic", "BAS\u0130C", "bas\u0131c"),
        *("password", "passwd", "pass_phrase", "PassPhrase", "pwd", "secret", "token", "Tokens", "jwt", "\u017fecret"),
        *("api_key", "apiKey", "private-key", "secretkey", "access_KEY", "to\u212aen", "signature", "credential"),
        *("cookie", "cookie2", "authorization", "eyJhbGciOi", "eyJ", ".", "eyJzdWIiOi.eyJhbGciOi.x"),
        *("=", ":", "?", "&", "@", "://", "/", '"', "'", "-", "_", " ", "  ", "\t", "\n", "\u00a0", ",", ";", "}"),
        *("hunter22", "a", "é", "x=1", "http", "https://shop.example", "user:pass@host", "\ud800"),
    ]
)
_TEXTS = st.one_of(
    st.lists(_PARTS, max_size=14).map("".join), st.lists(st.one_of(_PARTS, TEXT), max_size=6).map("".join)
)


def _searched(text: str, limit: int) -> str:
    """Scrub with each pattern, whatever stands before it."""
    text = clean(text, limit + redaction._MAX_SECRET_LENGTH)
    text = redaction._URL_QUERY.sub(lambda found: found[1] + redact_query(found[2]), text)
    for _, pattern in redaction._SECRETS:
        text = pattern.sub(rf"\g<1>{REDACTED}", text)
    return text[:limit]


@given(_TEXTS, st.sampled_from([0, 1, 9, 20, 200, 16 * 1024]))
def test_nothing_is_overlooked(text: str, limit: int) -> None:
    """A text is scrubbed as if each pattern were searched for."""
    assert scrub(text, limit) == _searched(text, limit)


@given(_TEXTS)
def test_what_cannot_match_does_not(text: str) -> None:
    """Of each pattern: where it is not searched for, it is not there."""
    for may_match, pattern in redaction._SECRETS:
        assert may_match(text) or not pattern.search(text)
