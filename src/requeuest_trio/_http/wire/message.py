"""A request as it goes over the wire: HTTP/1.1 by RFC 9112. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from requeuest_trio._http.wire.bodies import LAST_CHUNK, Chunked, Pieces, Sized, chunk
from requeuest_trio._model.ecosystem import URL, AsyncByteStream, LocalProtocolError, SentRequest, UnsupportedProtocol
from requeuest_trio._model.origin import DEFAULT_PORTS, Origin
from requeuest_trio._model.tokens import is_token
from requeuest_trio._model.urls import normal_form

__all__ = ["Message", "Target", "head_of", "message_of", "target_of"]

_VALUE = re.compile(rb"(?![ \t])[^\x00-\x08\x0a-\x1f\x7f]*(?<![ \t])")  # RFC 9110 section 5.5
_TARGET = re.compile(rb"[!-~]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")


# These two are no tuples: what shows the locals of a traceback takes tuples apart, whatever their `repr` hides.
@dataclass(slots=True, repr=False)
class Target:
    """What a URL says: whom to ask, how to name them, and for what."""

    origin: Origin
    host: bytes
    """The value of the `Host` field: with the port, unless it is the scheme's own."""
    path: bytes
    """Path and query."""

    def __repr__(self) -> str:
        """Without what may be secret: path and query."""
        return f"<Target at {self.origin}>"


@dataclass(slots=True, repr=False)
class Message:
    """One request, ready to be sent."""

    origin: Origin
    method: str
    head: bytes
    """Request line and fields, with the empty line."""
    body: bytes | Pieces
    """In pieces it can be sent only once, and is framed already."""
    is_last: bool = False
    """Whether the request itself says that the connection is to be closed after it."""
    share: str | None = None
    """On whose account names are looked up and answers are read: a channel. None: on that of the name's domain."""

    def __repr__(self) -> str:
        """Without what may be secret: head and body."""
        return f"<Message {self.method} to {self.origin}>"


def head_of(method: str, path: bytes, host: bytes, fields: bytes) -> bytes:
    """Request line and fields; `fields` are as they go over the wire, but without `Host`, which comes first."""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method.encode("ascii"), path, host, fields)


@lru_cache(maxsize=1_024)
def target_of(url: str) -> Target:
    """Take a URL apart that has been checked."""
    parts = normal_form(url)
    if parts is None:
        return _target(URL(url))
    scheme, authority, host, port, target = parts.groups()
    origin = Origin(scheme, host, int(port) if port else DEFAULT_PORTS[scheme])
    return Target(origin, authority.encode("ascii"), target.encode("ascii"))


def _target(url: URL) -> Target:
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise UnsupportedProtocol(f"the URL must be absolute and http or https, not {url.scheme!r}")
    host = url.raw_host.decode("ascii").strip("[]")
    # The zone of a link-local address means something to this machine only (RFC 6874 sections 1 and 4), where the
    # percent sign before it is written as %25, and mostly is not.
    address, _, zone = host.partition("%")
    scoped = f"{address}%{zone.removeprefix('25')}" if zone.removeprefix("25") else host
    netloc = url.netloc.replace(f"%{zone}]".encode(), b"]") if zone else url.netloc
    return Target(Origin(url.scheme, scoped, url.port or DEFAULT_PORTS[url.scheme]), netloc, url.raw_path)


def message_of(request: SentRequest) -> Message:
    """What httpx2 wants to have sent. Raises `LocalProtocolError` for what can't be sent as it stands.

    The fields are sent as they are given and in their order, but for `Host`, which comes first. `Content-Length` and
    `Transfer-Encoding` are httpx2's to set, and have to fit the body.
    """
    target = _target(request.url)
    path = _path_of(request, target)
    host, length, is_chunked, is_last = b"", None, False, False
    lines = []
    for name, value in request.headers.raw:
        if not is_token(name) or not _VALUE.fullmatch(value):
            raise LocalProtocolError(f"the header {name!r} can't be sent as it stands")
        match name.lower():
            case b"host" if host:
                raise LocalProtocolError("there may be one Host field only")
            case b"host":
                host = target.host if value == request.url.netloc else value
                continue
            case b"content-length":
                length = _declared(value)
            case b"transfer-encoding":
                is_chunked = _is_chunked(value)
            case b"connection":
                is_last = is_last or b"close" in value.lower()
        lines.append(b"%b: %b\r\n" % (name, value))
    method = request.method.encode("ascii", "replace")
    if not is_token(method) or method == b"CONNECT":
        raise LocalProtocolError(f"the method {request.method!r} can't be sent")
    if is_chunked and length is not None:
        raise LocalProtocolError("Content-Length and Transfer-Encoding exclude each other")
    head = head_of(request.method, path, host or target.host, b"".join(lines))
    body = _body_of(request, length or 0, is_chunked)
    return Message(target.origin, request.method, head, body, is_last, _share_of(request))


def _path_of(request: SentRequest, target: Target) -> bytes:
    """Path and query, unless httpx2's extension `target` says otherwise, such as `*` with OPTIONS."""
    if "sni_hostname" in request.extensions:
        raise UnsupportedProtocol("TLS is for the host of the URL; the extension sni_hostname is not supported")
    path = request.extensions.get("target", target.path)
    if not _TARGET.fullmatch(path):
        raise LocalProtocolError(f"the target {path!r} can't be sent as it stands")
    return bytes(path)


def _share_of(request: SentRequest) -> str | None:
    share = request.extensions.get("share")
    if not isinstance(share, str | None):
        raise LocalProtocolError("the extension share must be a str")
    return share


def _declared(value: bytes) -> int:
    if not _LENGTH.fullmatch(value):
        raise LocalProtocolError(f"Content-Length must be a number, not {value!r}")
    return int(value)


def _is_chunked(value: bytes) -> bool:
    if value.lower() != b"chunked":
        raise LocalProtocolError(f"Transfer-Encoding must be chunked, not {value!r}")
    return True


def _body_of(request: SentRequest, length: int, is_chunked: bool) -> bytes | Pieces:
    try:
        body = request.content
    except Exception:  # httpx2.RequestNotRead: it comes in pieces
        pieces = request.stream
        if not isinstance(pieces, AsyncByteStream):
            raise LocalProtocolError("the body must be bytes or an asynchronous stream") from None
        return Chunked(pieces) if is_chunked else Sized(pieces, length)
    if is_chunked:
        return (chunk(body) if body else b"") + LAST_CHUNK
    if len(body) != length:
        raise LocalProtocolError(f"Content-Length is {length}, and the body has {len(body)} bytes")
    return body
