"""What went wrong in a sending, in one short line without secrets: it is stored, logged and shown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from requeuest_trio._model.headers import HARMLESS, Headers, is_secret
from requeuest_trio._model.masking import HIDDEN, masked_url

__all__ = ["causes", "described"]

_LONGEST = 500
_READ = 1_000
_BEGINNING = 64
"""So much of a secret is enough to know it; less of one may be at the end of what was read, and is left out."""
_MOST_CAUSES = 20
# Long enough not to be an ordinary word, so that the rest of the text stays readable.
_SHORTEST_SECRET = 6
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_PIECES = re.compile(r"[\s=;,:]+")


def described(
    error: BaseException, headers: Headers = (), sensitive: Collection[str] = (), foreign: Headers = ()
) -> str:
    """The error and the cause that says why.

    Exceptions quote what they stumbled over: URLs are masked, and so is what the secret ones of `headers` contain, and
    all of `foreign`, which a client of the caller's has added, but harmless ones.
    """
    sensitive = {*sensitive, *({name.lower() for name, _ in foreign} - HARMLESS)}
    error = _lone(error)
    text = _text(error)
    *_, root = causes(error)
    if root is not error and isinstance(root, OSError) and (reason := _str(root)) and reason not in text:
        text += f" ({reason})"
    is_cut = len(text) >= _READ
    text = _without_secrets(masked_url(text, sensitive), headers + foreign, sensitive)
    if is_cut:
        text = text[:-_BEGINNING]
    return _UNPRINTABLE.sub(" ", text).strip()[:_LONGEST]


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and so on: not without end, since a cause may be set by hand to anything."""
    current: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if current is None:
            return
        yield current
        # Also what `from None` hides: httpcore does that, and what it hides is the reason.
        following = current.__context__ if current.__cause__ is None else current.__cause__
        if following is None and isinstance(current, BaseExceptionGroup):
            following = current.exceptions[0]
        current = following


def _lone(error: BaseException) -> BaseException:
    for _ in range(_MOST_CAUSES):
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) > 1:
            break
        [error] = error.exceptions
    return error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {_str(error)}".rstrip(": ")


def _str(error: BaseException) -> str:
    try:
        return str(error)[:_READ]
    except Exception:
        return ""


def _without_secrets(text: str, headers: Headers, sensitive: Collection[str]) -> str:
    for value in (value for name, value in headers if is_secret(name, value, sensitive)):
        for piece in sorted({value, *_PIECES.split(value)}, key=len, reverse=True):
            if len(piece) >= _SHORTEST_SECRET:
                # By its beginning, since the text may end in the middle of it.
                text = text.replace(piece, HIDDEN)
                if piece[:_BEGINNING] in text:
                    text = text[: text.find(piece[:_BEGINNING])] + HIDDEN
    return text
