"""Where a redirect leads: the rules of RFC 9110 section 15.4, and what may go along to another origin."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from requeuest_trio._model.ecosystem import URL, InvalidURL
from requeuest_trio._model.headers import HARMLESS, Headers, find, is_secret
from requeuest_trio._model.masking import masked_url_for_logs
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.urls import MAX_URL_LENGTH, checked_url

__all__ = ["Hop", "goes_along", "is_redirect", "next_hop"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITH_BODY = "the redirect to another origin would carry the body"


# No tuple: what shows the locals of a traceback takes tuples apart, whatever their `repr` hides.
@dataclass(slots=True, repr=False)
class Hop:
    """One message to send."""

    method: str
    url: str
    headers: Headers
    body: bytes
    added: Headers = ()
    """Fields that come after those of the request, and are different in each."""
    is_foreign: bool = False
    """Whether a redirect has led to another origin than that of the request."""
    share: str | None = None
    """On whose account names are looked up."""

    def __repr__(self) -> str:
        """Without what may be secret: headers, body, parameters."""
        return f"<Hop {self.method} {masked_url_for_logs(self.url)}, body={len(self.body)} bytes>"


def is_redirect(status: int, answer: Headers) -> bool:
    """Whether an answer says where else to ask, so that `next_hop` has something to do."""
    return status in _REDIRECTS and find(answer, "location") is not None


def next_hop(
    hop: Hop, status: int, answer: Headers, *, sensitive: Collection[str] = (), bodies_to: Collection[str] = ()
) -> Hop | str | None:
    """The message that a redirect asks for, or why it must not be. None if this answer is none that can be followed.

    303, and 301 and 302 after a POST, are followed by a GET without a body, as all clients do (RFC 9110 sections
    15.4.2 to 15.4.4), but 303 after HEAD by HEAD. Another origin is shown no field but harmless ones that `sensitive`
    does not name, of those that are added too; and a body only if `bodies_to` names the origin. `Location` can't bring
    credentials of its own, and https is not left for http.
    """
    location = find(answer, "location")
    if status not in _REDIRECTS or location is None:
        return None
    try:
        here = URL(hop.url)
        there = URL(checked_url(here.join(_checked(_text(location)))).url)
    except (InvalidURL, ValueError):
        return None
    if here.scheme == "https" and there.scheme == "http":
        return None
    becomes_get = (status == 303 and hop.method != "HEAD") or (status in {301, 302} and hop.method == "POST")
    method, headers, body = ("GET", hop.headers, b"") if becomes_get else (hop.method, hop.headers, hop.body)
    added = hop.added
    if becomes_get:
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
    origin = origin_of(str(there))
    is_elsewhere = origin != origin_of(hop.url)
    if is_elsewhere and body and origin not in bodies_to:
        return _WITH_BODY
    if is_elsewhere:
        headers, added = (tuple(pair for pair in fields if goes_along(*pair, sensitive)) for fields in (headers, added))
    return Hop(method, str(there), headers, body, added, hop.is_foreign or is_elsewhere, hop.share)


def goes_along(name: str, value: str, sensitive: Collection[str]) -> bool:
    """Whether a field may be shown to another origin."""
    return name.lower() in HARMLESS and not is_secret(name, value, sensitive)


def _text(location: str) -> str:
    """Many servers send UTF-8 as it is, though a header field is Latin-1 at best (RFC 9110 section 5.5)."""
    try:
        return location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return location


def _checked(location: str) -> str:
    # A backslash is a slash to some clients, and a part of a name to others: whoever sends one plays with that.
    if len(location) > MAX_URL_LENGTH or "\\" in location.partition("?")[0]:
        raise ValueError("the Location leads nowhere")
    return location
