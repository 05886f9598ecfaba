"""URLs: checked and brought to the one form in which they are stored and sent."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from requeuest_trio._model.ecosystem import URL, InvalidURL
from requeuest_trio._model.errors import InvalidRequest, shown
from requeuest_trio._model.exact import exact_text

__all__ = ["MAX_URL_LENGTH", "Address", "checked_url", "normal_form", "url_text"]

MAX_URL_LENGTH = 8_192
_MAX_HOST = 253
_MAX_LABEL = 63  # RFC 1035 section 2.3.4; Python's resolver refuses longer ones with a UnicodeError

# A URL that is surely in normal form already. Most are, and the full parser takes thirty times as long. A path with
# `/.`, a host with `--` (which may be IDNA's) and the schemes' own ports are left to it.
_NORMAL_FORM = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<authority>(?P<host>"
    r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
    r"|(?![^/:]*--)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){0,8}[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?::(?P<port>(?!(?:80|443)/)(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])))?)"
    r"(?P<target>/(?![^?]*/\.)(?!\.)(?:[A-Za-z0-9\-._~!$&()*+,;=:@/]|%[0-9A-F]{2})*"
    r"(?:\?(?:[A-Za-z0-9\-._~!$&()*+,;=:@/?]|%[0-9A-F]{2})*)?)",
    re.ASCII,
)


@lru_cache(maxsize=1_024)
def normal_form(url: str) -> re.Match[str] | None:
    """The parts `scheme`, `authority`, `host`, `port` and `target` of a URL that is plainly in normal form."""
    return _NORMAL_FORM.fullmatch(url)


class Address(NamedTuple):
    """A URL without user and password, and these."""

    url: str
    credentials: tuple[str, str] | None = None


def checked_url(value: object) -> Address:
    """Check a URL and bring it to normal form, which stays as it is when it is checked again. Raises `InvalidRequest`.

    Normal form is what httpx2 makes of it: lower case scheme and host, no default port, no `.` and `..`, and
    everything but ASCII percent-encoded. A fragment is dropped, since it is never sent (RFC 9110 section 4.2.5).
    """
    text = url_text(value)
    _check_length(text)
    if normal_form(text):
        return Address(text)
    if any(char <= " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest("url", "must not have spaces, control characters or lone surrogates")
    if "\\" in text.partition("?")[0].partition("#")[0]:
        raise InvalidRequest("url", "must not have a backslash: to some clients it is a slash; write %5C")
    parsed, credentials = _parsed(text)
    _check_parts(parsed)
    _check_length(str(parsed))
    return Address(str(parsed), credentials)


def _parsed(text: str) -> tuple[URL, tuple[str, str] | None]:
    problem = ""
    try:
        parsed = URL(text)
        credentials = (parsed.username, parsed.password) if parsed.userinfo else None
        if credentials or "#" in text:
            parsed = parsed.copy_with(userinfo=b"", fragment=None)
        return parsed, credentials
    except InvalidURL as error:
        problem = f": {str(error).partition(':')[0][:100]}"
    except ValueError:
        pass
    # Outside of the handlers, so that it has no context: that quotes what nobody can tell from a password.
    raise InvalidRequest("url", f"is no URL{problem}")


def url_text(value: object) -> str:
    """A URL as text, also if it is a `URL` of httpx2 or httpx."""
    if type(value) is str:
        return value
    text = str(value) if hasattr(value, "raw_path") else value
    if not isinstance(text, str):
        raise InvalidRequest("url", f"must be a str, not {type(value).__name__}")
    return exact_text(text)


def _check_length(text: str) -> None:
    if len(text) > MAX_URL_LENGTH:
        raise InvalidRequest("url", f"must have at most {MAX_URL_LENGTH} characters (encoded), not {len(text)}")


def _check_parts(url: URL) -> None:
    host = url.raw_host.decode("ascii")
    if url.scheme not in {"http", "https"} or not host:
        found = f"not {shown(url.scheme)}" if url.scheme not in {"", "http", "https"} else "and have a host"
        raise InvalidRequest("url", f"must be absolute and http or https, {found}")
    if url.port is not None and not 0 < url.port <= 65_535:
        raise InvalidRequest("url", f"the port must lie between 1 and 65535, not {url.port}")
    if ":" not in host:
        labels = host.removesuffix(".").split(".")
        if "%" in host or len(host) > _MAX_HOST or not all(1 <= len(label) <= _MAX_LABEL for label in labels):
            parts = f"{_MAX_HOST} characters in all, and 1 to {_MAX_LABEL} between two dots"
            raise InvalidRequest("url", f"the host must be a name of at most {parts}, not {shown(host)}")
