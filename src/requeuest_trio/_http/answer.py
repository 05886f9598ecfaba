"""Reading answers from bytes: HTTP/1.1 responses by RFC 9112, with llhttp as the parser. No I/O."""

from __future__ import annotations

import re
from typing import Final

import httptools

__all__ = ["MAX_HEAD_BYTES", "MAX_INFORMATIONAL", "AnswerParser", "RawHeaders"]

RawHeaders = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES: Final = 131_072
"""All that comes and is no part of a body: the head with the 1xx answers before it, the trailer of a chunked body, and
what stands between two of its parts. What comes in one piece is looked at as a whole, so it may be a little more."""
MAX_HEADERS: Final = 1_000
MAX_INFORMATIONAL: Final = 20
"""1xx answers before the real one (RFC 9110 section 15.2 sets no limit, so an endless series would be legal)."""

_QUOTED: Final = 50  # bytes of a receiver's, in the text of a problem
_NO_BODY: Final = frozenset({204, 304})  # RFC 9112 section 6.3, rules 1 and 2; llhttp knows them too
_NOT_IN_REASON: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9112 section 4


class AnswerParser:
    """Takes bytes as they come, and gives one answer after the other. Raises nothing: see `problem`.

    llhttp refuses what the standard lets a recipient refuse: both Content-Length and Transfer-Encoding, a repeated
    Content-Length (RFC 9112 section 6.3), obsolete line folding (section 5.2), bare LF, control characters in fields.
    Transfer codings beside `chunked` are refused here: no request asks for them (section 7.4).
    """

    __slots__ = (
        "_informational", "_is_head", "_parser", "_without_body",
        "has_begun", "has_leftovers", "headers", "is_complete", "is_head_complete", "keep_alive",
        "pieces", "problem", "reason", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._is_head = True
        self.expect(is_head=False)

    def expect(self, *, is_head: bool) -> None:
        """Get ready for the answer to another request; `is_head` tells that it is to HEAD, and so has no body."""
        if self._is_head:
            # The last one may have been left in the middle of its answer; see `_end_after_head`.
            self._parser = httptools.HttpResponseParser(self)
        self._is_head = is_head
        self._without_body = 0
        self._informational = 0
        self.problem: str | None = None
        """Why no more of it can be read. What had come before is as good as it was."""
        self.has_begun = False
        """Whether any byte of it has come."""
        self.status = 0
        self.reason = b""
        self.headers: RawHeaders = []
        self.keep_alive = False
        """Whether the other side will answer more requests, once this answer is complete."""
        self.is_head_complete = False
        self.is_complete = False
        self.has_leftovers = False
        """Whether more came than the answer: whose it is, nobody can tell."""
        self.pieces: list[bytes] = []
        """What has come of the body, and was not taken yet."""

    @property
    def http_version(self) -> bytes:
        """Such as `HTTP/1.1`; to be asked once the head is there."""
        return f"HTTP/{self._parser.get_http_version()}".encode()

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is in the state in which it was before the request (RFC 9112 section 9.3)."""
        return self.is_complete and self.keep_alive and not self.has_leftovers

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if not self.has_begun:
            self.has_begun = True
            # llhttp also reads RTSP and ICE.
            if data[:5] != b"HTTP/"[: len(data)]:
                self.problem = "the answer does not begin with HTTP/"
                return
        self._without_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # 101, which is a problem of its own
        except httptools.HttpParserError as error:
            if self.is_complete:
                # It is what follows the answer that can't be read.
                self.has_leftovers = True
            elif self.problem is None:
                self.problem = f"the answer is no HTTP/1.1: {error}"
        if self.is_complete:
            # llhttp says nothing of a line after an answer to HEAD before the line is complete.
            if self._is_head and not data.endswith(b"\n"):
                self.has_leftovers = True
        elif self._without_body > MAX_HEAD_BYTES and self.problem is None:
            self.problem = f"the answer has more than {MAX_HEAD_BYTES:,} bytes that are no body"

    def feed_eof(self) -> None:
        """The other side has closed."""
        self.keep_alive = False
        if not self.is_head_complete:
            self.problem = "the connection was closed in the middle of the answer's head"
        elif self._ends_with_connection():
            self.is_complete = True
        elif not self.is_complete:
            self.problem = "the connection was closed in the middle of the body"

    def _ends_with_connection(self) -> bool:
        """Whether only the end of the connection ends the body (RFC 9112 section 6.3, rule 8)."""
        return not any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)

    # --- called by llhttp ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A status line begins: that of an answer nobody has asked for, if there is one already."""
        if self.is_complete:
            self.has_leftovers = True

    def on_status(self, reason: bytes) -> None:
        """A part of the reason phrase."""
        if not self.is_complete:
            self.reason += reason
            if not reason.isalnum() and _NOT_IN_REASON.search(reason):
                self.problem = "the answer's reason phrase has control characters"

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, of the head or of a chunked body's trailer, which may be ignored (RFC 9110 section 6.5.1)."""
        if not self.is_head_complete:
            value = value.rstrip(b" \t")  # llhttp leaves the space behind it
            self.headers.append((name, value))
            if len(name) == 17 and name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
                self.problem = f"the answer has a transfer coding that was not asked for: {value[:_QUOTED]!r}"

    def on_headers_complete(self) -> None:
        """The head is there, of a 1xx answer or of the real one. One with a problem is never complete."""
        if self.is_complete or self.problem is not None:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if len(self.headers) > MAX_HEADERS:
            self.problem = f"the answer has more than {MAX_HEADERS:,} header fields"
        elif status == 101:
            self.problem = "the answer switches protocols, which was not asked for"
        elif status < 100 or not version.startswith("1."):
            self.problem = f"the answer is HTTP/{version} with status {status}"
        elif status < 200:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                self.problem = f"more than {MAX_INFORMATIONAL} answers with status 1xx"
        else:
            self.status = status
            self.keep_alive = self._parser.should_keep_alive()
            self.is_head_complete = True
            self._without_body = 0
            if version == "1.0" and any(name.lower() == b"transfer-encoding" for name, _ in self.headers):
                self.keep_alive = False  # whoever mixes the two may not know where it ends (RFC 9112 section 6.1)
            if self._is_head and status not in _NO_BODY:
                self._end_after_head(version)

    def _end_after_head(self, version: str) -> None:
        # llhttp can't be told that this was a HEAD, and waits for the body that the head speaks of. So it is given up;
        # what should come all the same is counted below.
        self.is_complete = True
        if version == "1.1":
            # It may say "close" only because it believes in a body that ends with the connection.
            self.keep_alive = not any(
                name.lower() == b"connection" and b"close" in value.lower() for name, value in self.headers
            )

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        if self.is_complete:
            self.has_leftovers = True

    def on_body(self, piece: bytes) -> None:
        """A part of the body."""
        if self.is_complete:
            self.has_leftovers = True
        else:
            self.pieces.append(piece)
            self._without_body = 0

    def on_message_complete(self) -> None:
        """The end of a 1xx answer, or of the real one."""
        if self.is_head_complete:
            self.is_complete = True
        else:
            self.reason = b""
            self.headers = []
