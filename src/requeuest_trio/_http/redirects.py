"""Where a redirect leads: the rules of RFC 9110 section 15.4, and of common sense about credentials."""

from __future__ import annotations

from typing import NamedTuple

from requeuest_trio._model.ecosystem import URL, InvalidURL
from requeuest_trio._model.headers import Headers, find, is_secret
from requeuest_trio._model.urls import checked_url

__all__ = ["Hop", "next_hop"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Hop(NamedTuple):
    """One message to send."""

    method: str
    url: str
    headers: Headers
    body: bytes
    added: Headers = ()
    """Fields that come after those of the request, and are different in each."""
    is_foreign: bool = False
    """Whether a redirect has led to another origin than that of the request."""


def next_hop(hop: Hop, status: int, answer: Headers) -> Hop | None:
    """The message that a redirect asks for, or None if this answer is none that can be followed.

    303, and 301 and 302 after a POST, are followed by a GET without a body, as all clients do (RFC 9110 sections
    15.4.2 to 15.4.4). Another origin is shown no header that looks like a credential, `Location` can't bring
    credentials of its own, and https is not left for http.
    """
    location = find(answer, "location")
    if status not in _REDIRECTS or location is None:
        return None
    try:
        here = URL(hop.url)
        there = URL(checked_url(here.join(location)).url)
    except (InvalidURL, ValueError):
        return None
    if here.scheme == "https" and there.scheme == "http":
        return None
    headers = hop.headers
    is_foreign = hop.is_foreign or _origin(here) != _origin(there)
    if is_foreign:
        headers = tuple(pair for pair in headers if not is_secret(*pair))
    if (status == 303 and hop.method != "HEAD") or (status in {301, 302} and hop.method == "POST"):
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
        return Hop("GET", str(there), headers, b"", hop.added, is_foreign)
    return Hop(hop.method, str(there), headers, hop.body, hop.added, is_foreign)


def _origin(url: URL) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454)."""
    return url.scheme, url.host, {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
