"""Where a redirect leads: the rules of RFC 9110 section 15.4, and of common sense about credentials."""

from __future__ import annotations

from dataclasses import dataclass

from requeuest_trio._model.ecosystem import URL, InvalidURL
from requeuest_trio._model.headers import Headers, find

__all__ = ["Hop", "next_hop"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Hop:
    """One message to send."""

    method: str
    url: str
    headers: Headers
    body: bytes


def next_hop(hop: Hop, status: int, answer: Headers) -> Hop | None:
    """The message that a redirect asks for, or None if this answer is none that can be followed.

    303, and 301 and 302 after a POST, are followed by a GET without a body, as all clients do (RFC 9110 sections
    15.4.2 to 15.4.4). Credentials are not shown to another origin, and https is not left for http.
    """
    location = find(answer, "location")
    if status not in _REDIRECTS or location is None:
        return None
    try:
        here = URL(hop.url)
        there = here.join(location).copy_with(fragment=None)
    except (InvalidURL, ValueError):
        return None
    if there.scheme not in {"http", "https"} or not there.host or (here.scheme == "https" and there.scheme == "http"):
        return None
    headers = hop.headers
    if _origin(here) != _origin(there):
        headers = tuple(pair for pair in headers if pair[0].lower() not in _CREDENTIALS)
    if (status == 303 and hop.method != "HEAD") or (status in {301, 302} and hop.method == "POST"):
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
        return Hop("GET", str(there), headers, b"")
    return Hop(hop.method, str(there), headers, hop.body)


def _origin(url: URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme]
