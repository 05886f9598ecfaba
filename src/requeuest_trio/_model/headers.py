"""Header fields: checked on the way in, masked on the way out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from requeuest_trio._model.errors import InvalidRequest, kind_of, shown
from requeuest_trio._model.escaping import cut
from requeuest_trio._model.exact import exact_text
from requeuest_trio._model.masking import HIDDEN, has_token, is_secret_name, masked_url
from requeuest_trio._model.tokens import SIGNS, is_token

__all__ = [
    "HARMLESS",
    "MAX_HEADER_BYTES",
    "RESERVED",
    "HeaderSource",
    "Headers",
    "checked_headers",
    "find",
    "header_items",
    "is_secret",
    "masked",
    "masked_for_logs",
]

Headers = tuple[tuple[str, str], ...]
"""Name and value pairs as given: order, case and repeats are kept."""
HeaderSource = Mapping[str, str] | Iterable[tuple[str, str]]

MAX_HEADER_BYTES = 65_536
_LONGEST_SHOWN = 200
_NO_PAIRS = "must be a mapping or pairs of name and value"

RESERVED = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Fields about one connection or the message's framing (RFC 9110 section 7.6.1): the transport's, not the user's."""

HARMLESS = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "content-encoding", "content-language",
    "content-length", "content-type", "idempotency-key", "user-agent",
})  # fmt: skip
"""Fields that say nothing about who sends them: they are shown everywhere, and go along to another origin."""
_SECRET_VALUE = re.compile(
    r"(?:apikey|api-key|aws4-hmac-sha256|basic|bearer|bot|digest|dpop|hawk|hmac|hmac-sha256|key|mac|negotiate|ntlm|oauth"
    r"|privatetoken|signature|token)\s",
    re.IGNORECASE,
)

# Servers that hand fields on as variables (RFC 3875 section 4.1.18) take all of these for one.
_ALIKE = str.maketrans(dict.fromkeys(SIGNS, "-"))
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5


def checked_headers(source: HeaderSource) -> Headers:
    """Bring headers to pairs of `str`, refusing what can't be sent as it stands. Raises `InvalidRequest`."""
    try:
        items = tuple(header_items(source))
    except (TypeError, ValueError) as error:
        raise InvalidRequest("headers", _NO_PAIRS) from error
    try:
        return _checked_items(items)
    except TypeError:
        return _checked_items.__wrapped__(items)  # lists can't be looked up


@lru_cache(maxsize=64)
def _checked_items(items: tuple[Any, ...]) -> Headers:
    """Most requests of a program have the same few sets of headers."""
    try:
        pairs = [_pair(item) for item in items]
    except (TypeError, ValueError) as error:
        raise InvalidRequest("headers", _NO_PAIRS) from error
    checked = tuple(_checked(name, value) for name, value in pairs)
    size = sum(len(name) + len(value) + 4 for name, value in checked)
    if size > MAX_HEADER_BYTES:
        raise InvalidRequest("headers", f"must have at most {MAX_HEADER_BYTES} bytes in all, not {size}")
    return checked


def header_items(source: Any) -> Iterable[Any]:
    """The pairs of a mapping or of pairs, unchecked."""
    if type(source) is dict:
        return source.items()
    # The header types of httpx, httpx2 and Starlette lose case and repeats as mappings; `raw` has what was meant.
    raw = getattr(source, "raw", None)
    if isinstance(raw, list) and isinstance(source, Mapping):
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
    return source.items() if isinstance(source, Mapping) else source


def _pair(item: Any) -> tuple[object, object]:
    if isinstance(item, str | bytes):
        raise TypeError("two letters are no pair")
    name, value = item
    return name, value


def _checked(name: object, value: object) -> tuple[str, str]:
    if type(name) is not str or type(value) is not str:
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidRequest("headers", _not_text(name, value))
        name, value = exact_text(name), exact_text(value)
    if not name.isascii() or not is_token(name.encode()):
        raise InvalidRequest("headers", f"{shown(name)} is no header name (RFC 9110 section 5.6.2)")
    if name.lower().translate(_ALIKE) in RESERVED:
        raise InvalidRequest("headers", f"{name} is set by the library: leave it out")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise InvalidRequest(
            "headers", f"the value of {cut(name, _LONGEST_SHOWN)} must not have CR, LF, NUL or other control characters"
        )
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "headers", f"the value of {cut(name, _LONGEST_SHOWN)} must be Latin-1 text (RFC 9110 section 5.5)"
        ) from error
    return name, value.strip(" \t")


def _not_text(name: object, value: object) -> str:
    if not isinstance(name, str):
        return f"a name must be a str, not {kind_of(name)}"
    remedy = ": leave the field out" if value is None else ""
    return f"the value of {shown(name)} must be a str, not {kind_of(value)}{remedy}"


def find(headers: Headers, name: str) -> str | None:
    """The first value of a field, whatever the case of its name."""
    name = name.lower()
    return next((value for field, value in headers if field.lower() == name), None)


def is_secret(name: str, value: str, sensitive: Collection[str] = ()) -> bool:
    """Whether a field looks like a credential, by its name or its value, or its name, in lower case, is `sensitive`."""
    if name.lower() in HARMLESS and name.lower() not in sensitive:
        return False
    return is_secret_name(name, sensitive) or _SECRET_VALUE.match(value) is not None or has_token(value)


def masked(headers: Headers, sensitive: Collection[str] = ()) -> Headers:
    """The same headers with the values of those that look secret replaced: for people who ask to see them."""
    return tuple(
        (name, HIDDEN if is_secret(name, value, sensitive) else masked_url(value, sensitive)) for name, value in headers
    )


def masked_for_logs(headers: Headers) -> Headers:
    """The same for what is shown unasked, as in a traceback: only harmless fields keep their values."""
    return tuple((name, value if name.lower() in HARMLESS else HIDDEN) for name, value in headers)
