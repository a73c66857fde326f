"""
What makes a value safe to record: bounded, valid UTF-8, without secrets.

Pure functions, applied to facts before a recorder sees them, so that nothing behind that point can hold a secret.
"""

import re
from collections.abc import Callable, Collection

__all__ = ["REDACTED", "as_text", "clean", "names_secret", "redact_query", "scrub"]

REDACTED = "REDACTED"
_MAX_LENGTH = 1024
_MAX_QUERY_PARTS = 64
_MAX_KEY_LENGTH = 128
_MAX_QUERY_LENGTH = 16 * 1024
_MAX_SECRET_LENGTH = 4 * 1024
_NO_TEXT = re.compile("[\ud800-\udfff]")

_KEY = r"(?:api|access|private|secret)[_-]?key"
_CREDENTIAL = rf"(?:pass(?:word|wd|phrase)|pwd|secret|token|jwt|{_KEY}|signature|credential|cookie2?)"


# One of these is in each name that `_CREDENTIAL` matches, once it is in lower case.
_CREDENTIAL_PART = re.compile("pass|pwd|secret|token|jwt|key|signature|credential|cookie")


# What is not ASCII has letters that are others in another case: of such text nothing is known before the search.


def _names_a_scheme(text: str) -> bool:
    if not text.isascii():
        return True
    lower = text.lower()
    return "bearer" in lower or "basic" in lower


def _assigns(text: str) -> bool:
    if "=" not in text and ":" not in text:
        return False
    return not text.isascii() or _CREDENTIAL_PART.search(text.lower()) is not None


def _has_user_information(text: str) -> bool:
    return "://" in text and "@" in text


def _has_a_token(text: str) -> bool:
    return "eyJ" in text and "." in text


# Each pattern behind what tells quickly that it cannot match: a search for it takes ten times as long.
#
# Each takes time in proportion to the text: no pattern begins with a run of what it also ends in. In this order: the
# word Bearer may be the value of a field.
_SECRETS: tuple[tuple[Callable[[str], bool], re.Pattern[str]], ...] = (
    (_names_a_scheme, re.compile(r"(?i)(\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{6,})")),
    # The end of a field's name that promises a secret, then its value.
    (
        _assigns,
        re.compile(
            rf"(?i)({_CREDENTIAL}s?[\"']?\s{{0,9}}[=:]\s{{0,9}})(\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)|[^\s,;&}}\"']+)"
        ),
    ),
    # User information in a URL.
    (_has_user_information, re.compile(r"(://)([^\s/@]+)(?=@)")),
    # A JSON Web Token: three base64url parts, the first of which is a JSON object.
    (_has_a_token, re.compile(r"()((?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)")),
)
# The query of a URL, whose values are secrets like those of any query. Bounded, so that it is read but once.
_URL_QUERY = re.compile(r"(://[^\s\"'<>?]{1,512}\?)([^\s\"'<>]+)")
_SECRET_NAMES = re.compile(rf"(?i){_CREDENTIAL}s?$|authorization$|(?:^|[-_.])auth$")


def clean(value: str, limit: int = _MAX_LENGTH) -> str:
    """Return *value* cut to *limit* characters, with what cannot be UTF-8 (lone surrogates) replaced by U+FFFD."""
    cut = value[:limit]
    return cut if cut.isascii() else _NO_TEXT.sub("\ufffd", cut)


def redact_query(query: str, allowed: Collection[str] = ()) -> str:
    """
    Return the query string with its keys kept and each value replaced, unless its key is in *allowed*.

    A part without `=` may be a bare token, so it is replaced whole. At most 64 parts are kept.
    """
    parts = query.split("&", _MAX_QUERY_PARTS)[:_MAX_QUERY_PARTS]
    return "&".join(_redact_part(part, allowed) for part in parts)[:_MAX_QUERY_LENGTH]


def _redact_part(part: str, allowed: Collection[str]) -> str:
    key, equals, _ = part.partition("=")
    if not equals:
        return REDACTED if part else ""
    return clean(part) if key in allowed else f"{clean(key, _MAX_KEY_LENGTH)}={REDACTED}"


def as_text(value: object) -> str:
    """Return `str(value)`, or the name of its class where that raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a class of the program raises
        return f"<{type(value).__name__}>"


def names_secret(name: str) -> bool:
    """Return whether a field of this name holds a credential, whatever its value looks like."""
    return _SECRET_NAMES.search(name[:_MAX_KEY_LENGTH].removesuffix("-bin")) is not None


def scrub(text: str, limit: int = 16 * 1024) -> str:
    """
    Return free text, such as an exception's, without the values of URLs' queries and without credentials.

    Credentials are what matches well-known patterns.
    """
    # Cut only then: of half a credential no pattern knows what it is.
    text = clean(text, limit + _MAX_SECRET_LENGTH)
    if text.isalnum():
        # Without a sign between a name and a secret there is none.
        return text[:limit]
    if "://" in text and "?" in text:
        text = _URL_QUERY.sub(lambda found: found[1] + redact_query(found[2]), text)
    for may_match, pattern in _SECRETS:
        if may_match(text):
            text = pattern.sub(_masked, text)
    return text[:limit]


def _masked(found: re.Match[str]) -> str:
    return found[1] + REDACTED
