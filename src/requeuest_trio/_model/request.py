"""A request as a value: what to send, and which answer means "delivered"."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict, Unpack
from urllib.parse import urlencode

from requeuest_trio._model import checks
from requeuest_trio._model.ecosystem import URL, InvalidURL
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.headers import RESERVED, Headers, HeaderSource, checked_headers, find, masked, masked_url
from requeuest_trio._model.statuses import SUCCESS, Statuses, StatusSpec, statuses

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["MAX_URL_LENGTH", "METHODS", "Request", "RequestOptions"]

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH"})
MAX_URL_LENGTH = 8_192

Parameter = str | int | float | bool | None


class RequestOptions(TypedDict, total=False):
    """What the constructors named after a method take besides the URL."""

    headers: HeaderSource
    params: Mapping[str, Parameter | Sequence[Parameter]] | Sequence[tuple[str, Parameter]]
    json: Any
    form: Mapping[str, str] | Sequence[tuple[str, str]]
    content: str | ReadableBuffer
    accept: StatusSpec | Iterable[StatusSpec]
    timeout: float | timedelta | None
    follow_redirects: bool


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
    - `params`: added to the query of the URL.
    - `json`, `form` or `content` (one of them): the body, as JSON, as an HTML form, or as it is. The first two set
      `Content-Type` unless `headers` has it.
    - `accept`: the statuses that mean "delivered": `int`, `range`, `StatusClass`, or several of them in a collection.
      The default is 200 to 299.
    - `timeout`: seconds or a `timedelta`, for one attempt from name lookup to the last byte of the answer.
      The default is that of `spawn`, then that of `Config`.
    - `follow_redirects`: off by default, so that a redirect is an answer like any other: a failure unless accepted.

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
        if not isinstance(follow_redirects, bool):
            raise InvalidRequest("follow_redirects", f"must be a bool, not {type(follow_redirects).__name__}")
        accepted = statuses("accept", accept)
        if not accepted:
            raise InvalidRequest("accept", "must have at least one status")
        # A frozen dataclass with an __init__ of its own has to set its fields this way.
        put = object.__setattr__
        put(self, "method", _checked_method(method))
        put(self, "url", _checked_url(url))
        put(self, "headers", checked_headers(headers))
        put(self, "body", _checked_body("body", body))
        put(self, "accept", accepted)
        put(self, "timeout", None if timeout is None else checks.seconds("timeout", timeout, positive=True))
        put(self, "follow_redirects", follow_redirects)

    def __repr__(self) -> str:
        """Without secrets: fields that look like credentials are masked, the body is only measured."""
        return (
            f"<Request {self.method} {masked_url(self.url)} headers={dict(masked(self.headers))} "
            f"body={len(self.body)} bytes>"
        )

    @classmethod
    def get(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a GET request; see the class for the options."""
        return cls._build("GET", url, **options)

    @classmethod
    def head(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a HEAD request; see the class for the options."""
        return cls._build("HEAD", url, **options)

    @classmethod
    def options(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make an OPTIONS request; see the class for the options."""
        return cls._build("OPTIONS", url, **options)

    @classmethod
    def delete(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a DELETE request; see the class for the options."""
        return cls._build("DELETE", url, **options)

    @classmethod
    def post(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a POST request; see the class for the options."""
        return cls._build("POST", url, **options)

    @classmethod
    def put(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a PUT request; see the class for the options."""
        return cls._build("PUT", url, **options)

    @classmethod
    def patch(cls, url: str, **options: Unpack[RequestOptions]) -> Self:
        """Make a PATCH request; see the class for the options."""
        return cls._build("PATCH", url, **options)

    @classmethod
    def from_httpx(cls, request: _EcosystemRequest) -> Self:
        """Take over an `httpx.Request` or `httpx2.Request` whose body is in memory.

        Method, URL, headers and body are kept; the fields of one connection (`Host`, `Content-Length`, ...) are
        left to the library.

        Raises:
            InvalidRequest: the body is a stream, the `Host` header is not that of the URL, or `Request` refuses a part.
        """
        try:
            body = request.content
        except Exception as error:
            # Both libraries raise their own `RequestNotRead`; a foreign object may raise anything.
            raise InvalidRequest("request", "its body is a stream, which can't be stored; read it first") from error
        host = request.headers.get("host")
        if host and host.lower() not in {request.url.netloc.decode("ascii").lower(), str(request.url.host).lower()}:
            raise InvalidRequest("request", f"its Host header, {host!r}, is not the host of its URL")
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        kept = [(name, value) for name, value in pairs if name.lower() not in RESERVED]
        return cls(request.method, str(request.url), headers=kept, body=body)

    @classmethod
    def restored(
        cls, method: str, url: str, headers: Headers, body: bytes, accept: Statuses, timeout: float | None, follow: bool
    ) -> Self:
        """Show a request as it is stored, unchecked: a damaged one must still be seen. Not for sending."""
        self = object.__new__(cls)
        for name, value in zip(
            ("method", "url", "headers", "body", "accept", "timeout", "follow_redirects"),
            (method, url, headers, body, accept, timeout, follow),
            strict=True,
        ):
            object.__setattr__(self, name, value)
        return self

    @classmethod
    def _build(cls, method: str, url: str, **options: Unpack[RequestOptions]) -> Self:
        unknown = options.keys() - RequestOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"Request.{method.lower()}() has no option {min(unknown)!r}")
        headers = checked_headers(options.get("headers") or ())
        body, content_type = _encoded_body(options)
        if content_type is not None and find(headers, "content-type") is None:
            headers += (("Content-Type", content_type),)
        params = options.get("params")
        return cls(
            method,
            _checked_url(url) if params is None else _with_params(url, params),
            headers=headers,
            body=body,
            accept=options.get("accept", SUCCESS),
            timeout=options.get("timeout"),
            follow_redirects=options.get("follow_redirects", False),
        )


def _checked_method(method: object) -> str:
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise InvalidRequest("method", f"must be one of {', '.join(sorted(METHODS))}, not {method!r}")
    return method.upper()


def _checked_url(url: object) -> str:
    text = str(url) if isinstance(url, URL) else url
    if not isinstance(text, str):
        raise InvalidRequest("url", f"must be a str, not {type(url).__name__}")
    if len(text) > MAX_URL_LENGTH:
        raise InvalidRequest("url", f"must have at most {MAX_URL_LENGTH} characters, not {len(text)}")
    if any(char <= " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest("url", "must not have spaces, control characters or lone surrogates")
    try:
        parsed = URL(text)
        port = parsed.port
    except (InvalidURL, ValueError) as error:
        raise InvalidRequest("url", f"{masked_url(text)!r} is no URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidRequest("url", f"must be absolute and http or https, not {masked_url(text)!r}")
    if port is not None and not 0 < port <= 65_535:
        raise InvalidRequest("url", f"the port must lie between 1 and 65535, not {port}")
    # A fragment is never sent (RFC 9110 section 4.2.5); dropping it here makes equal requests equal values.
    return str(parsed.copy_with(fragment=None))


def _with_params(url: str, params: Any) -> str:
    try:
        return _checked_url(
            URL(_checked_url(url)).copy_merge_params(dict(params) if isinstance(params, Mapping) else params)
        )
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest("params", f"must be a mapping or pairs of name and value: {error}") from error


def _encoded_body(options: RequestOptions) -> tuple[bytes, str | None]:
    given = [name for name in ("json", "form", "content") if name in options]
    if len(given) > 1:
        raise InvalidRequest(given[1], f"goes without {given[0]}: a request has one body")
    if "json" in options:
        return _json_body(options["json"]), "application/json"
    if "form" in options:
        try:
            form = urlencode(options["form"], doseq=True)
        except (TypeError, ValueError) as error:
            raise InvalidRequest("form", f"must be a mapping or pairs of name and value: {error}") from error
        return form.encode("ascii"), "application/x-www-form-urlencoded"
    content = options.get("content", b"")
    return (content.encode() if isinstance(content, str) else _checked_body("content", content)), None


def _json_body(value: Any) -> bytes:
    try:
        text = json_module.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("json", f"can't be written as JSON: {error}") from error


def _checked_body(argument: str, body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    if isinstance(body, Iterable | AsyncIterable) and not isinstance(body, str | Mapping):
        raise InvalidRequest(argument, "must be bytes in memory: a stream can't be stored and sent again")
    raise InvalidRequest(argument, f"must be bytes, not {type(body).__name__}")
