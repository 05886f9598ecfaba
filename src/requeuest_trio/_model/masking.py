"""What is not shown: credentials, in URLs and in text that quotes them.

It errs on the side of hiding: a harmless value that looks like a credential is hidden too. Everything here takes time
in proportion to the text, which may be a stranger's: a pass for each separator, and no pattern that tries again.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import unquote

__all__ = ["HIDDEN", "has_token", "is_secret_name", "masked_url", "masked_url_for_logs"]

HIDDEN = "***"

_SECRET_PART = re.compile(
    r"authori[sz]|authenti|cookie|token|secret|passw|passphrase|pwd|credential|signature|session|jwt|hmac|bearer"
    r"|api[-_.]?key|otp|csrf|xsrf"
)
# Whole words of a name; `auth` and `key` also where a word ends with them.
_SECRET_WORD = frozenset({
    "assertion", "code", "cred", "creds", "mac", "nonce", "pass", "pin", "psk", "pw", "sas", "sid", "sig", "sign",
    "ticket",
})  # fmt: skip
_SECRET_END = ("auth", "key", "keys")
_WORD = re.compile(r"[A-Z]*[a-z0-9]+|[A-Z]+")
# What follows one of these in a text is one, whatever stands around it.
_SCHEME_IN_TEXT = frozenset({"apikey", "api-key", "basic", "bearer", "digest"})

_SHORTEST_TOKEN = 20
_RUN = re.compile(r"[A-Za-z0-9]{20,}")
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")

_SPACE = re.compile(r"(\s+)")
_PARAMETERS = re.compile(r"([?&;#])")
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_BRACKET = re.compile(r"[\[\]]")
_MOST_ENCODINGS = 3

# Webhooks carry their credential in the path, behind one of these or on a host named so: Slack, Discord, Teams, Zapier.
_BEFORE_TOKENS = frozenset({
    "hook", "hooks", "incomingwebhook", "key", "keys", "token", "tokens", "webhook", "webhookb2", "webhooks",
})  # fmt: skip
# Parameters that say which part of something is wanted, and not who wants it.
_HARMLESS_PARAMETERS = frozenset({
    "count", "fields", "format", "from", "lang", "limit", "locale", "offset", "order", "page", "page_size",
    "per_page", "since", "size", "sort", "to", "until", "v", "version",
})  # fmt: skip
_BOT = re.compile(r"bot\d+:", re.IGNORECASE)  # Telegram


def is_secret_name(name: str, sensitive: Collection[str] = ()) -> bool:
    """Whether a header field or parameter, or an entry of one, as in `a[token]`, looks like a credential by its name.

    It may be percent-encoded, and is one if that goes too deep to be looked at.
    """
    plain = _decoded(name)
    if plain is None or (sensitive and _is_one_of(plain.lower(), sensitive)):
        return True
    return _is_secret_name(plain) if len(plain) <= 64 else _names_secret(plain)


def _is_one_of(lower: str, sensitive: Collection[str]) -> bool:
    if lower in sensitive:
        return True
    spaced = lower.replace("+", " ")  # as forms write a space
    return any(part.strip() in sensitive for part in _BRACKET.split(spaced))


@lru_cache(maxsize=1_024)
def _is_secret_name(name: str) -> bool:
    """Applications use the same few names again and again."""
    return _names_secret(name)


def _names_secret(name: str) -> bool:
    lower = name.lower()
    if lower.replace("_", "-").endswith("idempotency-key"):
        return False
    if _SECRET_PART.search(lower):
        return True
    words = [word.lower() for word in _WORD.findall(name)]
    return any(word in _SECRET_WORD for word in words) or any(word.endswith(_SECRET_END) for word in words)


def _decoded(text: str) -> str | None:
    """None: it is encoded more often than is looked at."""
    for _ in range(_MOST_ENCODINGS):
        if "%" not in text:
            return text
        text = unquote(text)
    return text if unquote(text) == text else None


def has_token(text: str) -> bool:
    """Whether it holds a long run of letters and digits mixed, as credentials are. A UUID is none."""
    return len(text) >= _SHORTEST_TOKEN and any(
        _DIGIT.search(run) and _LETTER.search(run) for run in _RUN.findall(text)
    )


def masked_url(text: str, sensitive: Collection[str] = ()) -> str:
    """The same URL, or text with URLs, without users, passwords, and what looks secret in parameters and paths."""
    words = _SPACE.split(text)
    after_scheme = False
    for place in range(0, len(words), 2):
        word = words[place]
        if after_scheme and word:
            words[place] = HIDDEN
        elif len(word) > 3:  # the shortest that can hold anything secret is x=y with a name of one of the above
            words[place] = _masked_word(word, sensitive, _MOST_ENCODINGS)
        after_scheme = word.strip("'\"(:").lower() in _SCHEME_IN_TEXT
    return "".join(words)


def masked_url_for_logs(text: str) -> str:
    """The same for what is shown unasked, as in a traceback: only harmless parameters keep their values."""
    first, *rest = _PARAMETERS.split(masked_url(text))
    for place in range(1, len(rest), 2):
        name, equals, value = rest[place].partition("=")
        if not equals:
            rest[place] = name and HIDDEN
        elif value and name.lower() not in _HARMLESS_PARAMETERS:
            rest[place] = f"{name}={HIDDEN}"
    return first + "".join(rest)


def _masked_word(word: str, sensitive: Collection[str], depth: int) -> str:
    if "//" in word:
        word = _without_users(word)
    first, *rest = _PARAMETERS.split(word)
    if "/" in first:
        first = _masked_path(first, sensitive, depth)
    parts = [_masked_parameter(first, sensitive, depth)]
    for place in range(0, len(rest), 2):
        parts += rest[place], _masked_parameter(rest[place + 1], sensitive, depth)
    return "".join(parts)


def _without_users(word: str) -> str:
    before, *rest = word.split("//")
    parts = [before]
    for part in rest:
        end = _END_OF_AUTHORITY.search(part)
        place = part.rfind("@", 0, end.start() if end else len(part))
        parts.append(part if place < 0 else HIDDEN + part[place:])
    return "//".join(parts)


def _masked_path(path: str, sensitive: Collection[str], depth: int) -> str:
    segments = path.split("/")
    begins = 1
    is_behind = False
    if len(segments) > 2 and not segments[1] and segments[0][-1:] in {"", ":"}:
        begins = 3
        is_behind = not _BEFORE_TOKENS.isdisjoint(segments[2].lower().split("."))
    for place in range(begins, len(segments)):
        segment = segments[place]
        is_name = "=" not in segment
        if (
            (segment and (is_behind or _BOT.match(segment)))
            or (is_name and has_token(segment))
            or (is_name and _encodes_secret(segment, sensitive, depth))
        ):
            segments[place] = HIDDEN
        is_behind = is_behind or segment.lower() in _BEFORE_TOKENS
    return "/".join(segments)


def _masked_parameter(part: str, sensitive: Collection[str], depth: int) -> str:
    name, equals, value = part.partition("=")
    if _encodes_secret(name, sensitive, depth):
        return HIDDEN
    if not equals:
        return HIDDEN if "/" not in part and has_token(part) else part
    if is_secret_name(name[name.rfind("/") + 1 :], sensitive) or has_token(value):
        return f"{name}={HIDDEN}"
    if "=" in value or "//" in value:
        # It may be a URL, or several, with secrets of their own.
        is_secret = not depth or _masked_word(value, sensitive, depth - 1) != value
    else:
        is_secret = _encodes_secret(value, sensitive, depth)
    return f"{name}={HIDDEN}" if is_secret else part


def _encodes_secret(text: str, sensitive: Collection[str], depth: int) -> bool:
    """Whether something secret shows when it is decoded, or may, since it is encoded more often than is looked at."""
    if "%" not in text or (plain := unquote(text)) == text:
        return False
    return not depth or _masked_word(plain, sensitive, depth - 1) != plain
