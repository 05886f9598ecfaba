"""A request as a value: what to send, and which answer means "delivered"."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, Self, TypedDict, Unpack

from requeuest_trio._model import checks
from requeuest_trio._model.bodies import Fields, checked_body, content_body, form_encoded, json_body
from requeuest_trio._model.ecosystem import URL
from requeuest_trio._model.errors import InvalidRequest, shown
from requeuest_trio._model.escaping import cut, escaped
from requeuest_trio._model.exact import exact_text
from requeuest_trio._model.frames import without_locals
from requeuest_trio._model.headers import (
    RESERVED,
    Headers,
    HeaderSource,
    checked_headers,
    find,
    header_items,
    masked_for_logs,
)
from requeuest_trio._model.masking import masked_url_for_logs
from requeuest_trio._model.origin import DEFAULT_PORTS
from requeuest_trio._model.statuses import SUCCESS, Statuses, StatusSpec, statuses
from requeuest_trio._model.urls import checked_url, url_text

__all__ = ["METHODS", "Request", "RequestOptions"]

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH"})


class RequestOptions(TypedDict, total=False):
    """What the constructors named after a method take besides the URL."""

    headers: HeaderSource
    params: Fields | None
    json: Any
    form: Fields | None
    content: str | bytes | bytearray | memoryview | None
    accept: StatusSpec | Iterable[StatusSpec]
    timeout: float | timedelta | None
    follow_redirects: bool


_OPTIONS = frozenset(RequestOptions.__annotations__)
_CALLED_HERE = {"data": "form= or content=", "body": "content=", "auth": 'headers={"Authorization": ...}'}
"""What other clients, or `Request` itself, call it."""
_LONGEST_SHOWN = 2_000
_LIKE_A_METHOD = re.compile("[A-Za-z]{1,20}")


class _EcosystemRequest(Protocol):
    """What `httpx.Request` and `httpx2.Request` have in common, as far as it matters here."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> Any: ...
    @property
    def headers(self) -> Any: ...
    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Request:
    """An HTTP request to be delivered. A frozen value: equal requests compare equal.

    Most are made by `Request.get`, `head`, `options`, `delete`, `post`, `put` and `patch`, which take a URL and

    - `headers`: a mapping or pairs; order, case and repeats are kept. `Host`, `Content-Length`, `Transfer-Encoding`,
      `Connection` and the other fields of one connection are the library's.
    - `params`: a mapping or pairs, added at the end of the URL's query, which stays as it is. Values are `str`, `int`,
      `float`, `bool` ("true", "false"), None (empty), or a list of them.
    - `json`, `form` or `content` (one of them): the body, as JSON, as an HTML form (given like `params`), or as it is.
      The first two set `Content-Type` unless `headers` has it. None is no body, as in httpx; for JSON's null write
      `content="null"`.
    - `accept`: the statuses that mean "delivered": `int`, `range`, `StatusClass`, or several of them in a collection.
      The default is 200 to 299.
    - `timeout`: seconds or a `timedelta`, for one attempt from name lookup to the last byte of the answer.
      The default is that of `spawn`, then that of `Config`.
    - `follow_redirects`: off by default, so that a redirect is an answer like any other: a failure unless accepted.

    The URL is kept as it will be sent: everything but ASCII percent-encoded, without its fragment. A user and password
    in it become an `Authorization: Basic` header, so that no URL holds a secret.

    Raises:
        InvalidRequest: naming the argument and the limit. URL: absolute http or https, at most 8,192 characters.
            Headers: at most 65,536 bytes in all, Latin-1, no control characters. Methods: the seven above.
            The body's limit (`Config.max_request_body`) is checked by `spawn`.

    Example::

        >>> request = Request.post("https://api.example.com/", json={"order": 7}, accept=[StatusClass.SUCCESS, 409])
        >>> request.body
        b'{"order":7}'
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    accept: Statuses
    timeout: float | None
    follow_redirects: bool

    @without_locals
    def __init__(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderSource = (),
        body: bytes = b"",
        accept: StatusSpec | Iterable[StatusSpec] = SUCCESS,
        timeout: float | timedelta | None = None,
        follow_redirects: bool = False,
    ) -> None:
        self._fill(method, url, headers, body, accept, timeout, follow_redirects)

    def _fill(
        self,
        method: str,
        url: str,
        headers: HeaderSource,
        body: bytes,
        accept: StatusSpec | Iterable[StatusSpec],
        timeout: float | timedelta | None,
        follow_redirects: bool,
    ) -> None:
        if not isinstance(follow_redirects, bool):
            raise InvalidRequest("follow_redirects", f"must be a bool, not {type(follow_redirects).__name__}")
        accepted = statuses("accept", accept)
        if not accepted:
            raise InvalidRequest("accept", "must have at least one status")
        kept, address = checked_headers(headers), checked_url(url)
        # A frozen dataclass with an __init__ of its own has to set its fields this way.
        put = object.__setattr__
        put(self, "method", _checked_method(method))
        put(self, "url", address.url)
        put(self, "headers", kept if address.credentials is None else _with_credentials(kept, address.credentials))
        put(self, "body", checked_body("body", body))
        put(self, "accept", accepted)
        put(self, "timeout", None if timeout is None else checks.seconds("timeout", timeout, positive=True))
        put(self, "follow_redirects", follow_redirects)

    def __repr__(self) -> str:
        """Without secrets: only harmless header fields and parameters have their values, the body is only measured."""
        return (
            f"<Request {_shown(self.method)} {_shown(masked_url_for_logs(self.url))} "
            f"headers={_shown(str(dict(masked_for_logs(self.headers))))} body={len(self.body)} bytes>"
        )

    @classmethod
    @without_locals
    def get(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a GET request; options, limits and errors are those of the class.

        Example::

            >>> Request.get("https://api.example.com/charges", params={"page": 2}).url
            'https://api.example.com/charges?page=2'
        """
        return cls._build("GET", url, options)

    @classmethod
    @without_locals
    def head(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a HEAD request; options, limits and errors are those of the class.

        Example::

            >>> Request.head("https://api.example.com/charges/7", accept=[200, 404]).method
            'HEAD'
        """
        return cls._build("HEAD", url, options)

    @classmethod
    @without_locals
    def options(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make an OPTIONS request; options, limits and errors are those of the class.

        Example::

            >>> Request.options("https://api.example.com/charges").method
            'OPTIONS'
        """
        return cls._build("OPTIONS", url, options)

    @classmethod
    @without_locals
    def delete(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a DELETE request; options, limits and errors are those of the class.

        Example::

            >>> Request.delete("https://api.example.com/charges/7", accept=[204, 404]).method
            'DELETE'
        """
        return cls._build("DELETE", url, options)

    @classmethod
    @without_locals
    def post(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a POST request; options, limits and errors are those of the class.

        Example::

            >>> Request.post("https://api.example.com/charges", form={"order": 7}).body
            b'order=7'
        """
        return cls._build("POST", url, options)

    @classmethod
    @without_locals
    def put(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a PUT request; options, limits and errors are those of the class.

        Example::

            >>> Request.put("https://api.example.com/charges/7", content="paid").body
            b'paid'
        """
        return cls._build("PUT", url, options)

    @classmethod
    @without_locals
    def patch(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a PATCH request; options, limits and errors are those of the class.

        Example::

            >>> Request.patch("https://api.example.com/charges/7", json={"paid": True}).body
            b'{"paid":true}'
        """
        return cls._build("PATCH", url, options)

    @classmethod
    @without_locals
    def from_httpx(cls, request: _EcosystemRequest) -> Self:
        """Take over an `httpx.Request` or `httpx2.Request` whose body is in memory.

        Method, URL, headers and body are kept, and the longest of its timeouts, if it has all of them, is `timeout`;
        the fields of one connection (`Host`, `Content-Length`, ...) are left to the library.

        Raises:
            InvalidRequest: the body is a stream, the `Host` header is not that of the URL, it has an extension that
                can't be kept (`target`, `sni_hostname`, `trace`), or `Request` refuses a part.

        Example::

            >>> import httpx2
            >>> Request.from_httpx(httpx2.Request("PUT", "https://api.example.com/charges/7", content=b"paid")).body
            b'paid'
        """
        if not all(hasattr(request, part) for part in ("method", "url", "headers")):
            raise InvalidRequest("request", f"must be an httpx or httpx2 Request, not {type(request).__name__}")
        try:
            body = request.content
        except Exception as error:
            # Both libraries raise their own `RequestNotRead`; a foreign object may raise anything.
            raise InvalidRequest("request", "its body is a stream, which can't be stored; read it first") from error
        headers = checked_headers([pair for pair in header_items(request.headers) if pair[0].lower() not in RESERVED])
        made = cls(request.method, str(request.url), headers=headers, body=body, timeout=_kept_extensions(request))
        host = request.headers.get("host")
        if host and not _is_host_of(host, made.url):
            raise InvalidRequest("request", "its Host header is not the host of its URL")
        return made

    @classmethod
    def restored(
        cls,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        accept: Statuses,
        timeout: float | None,
        follow_redirects: bool,
    ) -> Self:
        """Make a request of parts that have been checked, or are only to be seen: a damaged one must still be shown."""
        self = object.__new__(cls)
        put = object.__setattr__
        put(self, "method", method)
        put(self, "url", url)
        put(self, "headers", headers)
        put(self, "body", body)
        put(self, "accept", accept)
        put(self, "timeout", timeout)
        put(self, "follow_redirects", follow_redirects)
        return self

    @classmethod
    def _build(cls, method: str, url: str, options: RequestOptions) -> Self:
        if not options.keys() <= _OPTIONS:
            wrong = min(options.keys() - _OPTIONS)
            known = f"write {_CALLED_HERE[wrong]}" if wrong in _CALLED_HERE else f"it has {', '.join(sorted(_OPTIONS))}"
            raise TypeError(f"Request.{method.lower()}() has no option {wrong!r}: {known}")
        headers = options.get("headers", ())
        body, content_type = _encoded_body(options)
        if content_type is not None:
            headers = checked_headers(headers)
            if find(headers, "content-type") is None:
                headers += (("Content-Type", content_type),)
        if (params := options.get("params")) is not None:
            url = _with_params(url_text(url), params)
        self = object.__new__(cls)
        self._fill(
            method,
            url,
            headers,
            body,
            options.get("accept", SUCCESS),
            options.get("timeout"),
            options.get("follow_redirects", False),
        )
        return self


def _shown(text: str) -> str:
    return cut(escaped(text), _LONGEST_SHOWN)


def _checked_method(method: object) -> str:
    if isinstance(method, str):
        method = exact_text(method)
        if method in METHODS:
            return method
        if method.isascii() and method.upper() in METHODS:
            return method.upper()
    # Whatever else may be another argument in the wrong place.
    found = method if isinstance(method, str) and _LIKE_A_METHOD.fullmatch(method) else type(method).__name__
    raise InvalidRequest("method", f"must be one of {', '.join(sorted(METHODS))}, not {found}")


def _kept_extensions(request: _EcosystemRequest) -> float | None:
    """The timeout for a whole attempt. A client has one for each step, which are short beside that."""
    extensions = dict(getattr(request, "extensions", None) or {})
    timeouts = extensions.pop("timeout", None) or {}
    if extensions.get("target") == request.url.raw_path:
        del extensions["target"]
    if extensions.get("sni_hostname") == request.url.host:
        del extensions["sni_hostname"]
    if extensions:
        raise InvalidRequest("request", f"its extension {shown(min(extensions, key=str))} can't be kept")
    values: list[Any] = [timeouts.get(step) for step in ("connect", "read", "write", "pool")]
    return None if None in values else max(values)


def _is_host_of(host: str, url: str) -> bool:
    parsed = URL(url)
    host = host.lower().removesuffix(f":{DEFAULT_PORTS[parsed.scheme]}")
    return host in {parsed.netloc.decode("ascii"), parsed.host}


def _with_credentials(headers: Headers, credentials: tuple[str, str]) -> Headers:
    """Basic authentication (RFC 7617), as every client makes it of a URL's user and password."""
    user, password = credentials
    if find(headers, "authorization") is not None:
        raise InvalidRequest("url", "has a user and password, and headers has Authorization: give one of them")
    if ":" in user:
        raise InvalidRequest("url", "the user must not have a colon (RFC 7617 section 2)")
    token = b64encode(f"{user}:{password}".encode()).decode("ascii")
    return (*headers, ("Authorization", f"Basic {token}"))


def _with_params(url: str, params: object) -> str:
    added = form_encoded("params", params)
    before, hash_sign, fragment = url.partition("#")
    glue = "" if not added or before.endswith(("?", "&")) else "&" if "?" in before else "?"
    return f"{before}{glue}{added}{hash_sign}{fragment}"


def _encoded_body(options: RequestOptions) -> tuple[bytes, str | None]:
    json, form, content = options.get("json"), options.get("form"), options.get("content")
    if json is None and form is None:
        return content_body(b"" if content is None else content), None
    if form is None and content is None:
        return json_body(json), "application/json"
    if json is None and content is None:
        return form_encoded("form", form).encode("ascii"), "application/x-www-form-urlencoded"
    one, other, *_ = [name for name in ("json", "form", "content") if options.get(name) is not None]
    raise InvalidRequest(other, f"is given together with {one}: a request has one body")
