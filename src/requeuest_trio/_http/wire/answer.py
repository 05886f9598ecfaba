"""Reading answers from bytes: HTTP/1.1 responses by RFC 9112, and what every other client reads too. No I/O."""

from __future__ import annotations

import re
from typing import Final

from requeuest_trio._http.wire.chunks import ChunkedBody
from requeuest_trio._http.wire.framing import framing_of
from requeuest_trio._http.wire.heads import NO_HEAD, Head, RawHeaders, head_of_odd, plain_heads

__all__ = ["LONG_HEAD", "MAX_HEAD_BYTES", "MAX_INFORMATIONAL", "AnswerParser", "RawHeaders"]

MAX_HEAD_BYTES: Final = 131_072
"""A head, and the 1xx answers before it."""
MAX_INFORMATIONAL: Final = 1_000
"""1xx answers before the real one. RFC 9110 section 15.2 sets no limit, and some servers send one every few seconds for
as long as they work."""

LONG_HEAD: Final = 1_024
"""Bytes. A longer head is read in one step all the same, but not while other tasks wait for many like it."""

_TOO_LONG: Final = f"the answer has a head of more than {MAX_HEAD_BYTES:,} bytes"
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_LINE_ENDS: Final = frozenset({b"\r", b"\n"})
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_NEAR: Final = 2_048
_HEADS_AT_ONCE: Final = 50
_LINES_AT_ONCE: Final = 50
"""So many are read without a pause. Hundreds of answers may come at once, and each may be as hard to read as it can."""


class AnswerParser:
    """Takes bytes as they come, and gives one answer after the other. Raises nothing: see `problem`.

    It refuses what could be understood in two ways, and has a problem with a body that it can't read; all else it reads
    as others do. `docs/decisions/sending.md` has the table.
    """

    __slots__ = (
        "_at", "_body", "_has_blank", "_head_bytes", "_held", "_informational", "_input", "_is_head", "_left",
        "has_begun", "has_leftovers", "has_more", "head", "is_complete", "is_head_complete", "keep_alive", "pieces",
        "problem",
    )  # fmt: skip

    def __init__(self) -> None:
        self.expect(is_head=False)

    def expect(self, *, is_head: bool) -> None:
        """Get ready for the answer to another request; `is_head` tells that it is to HEAD, and so has no body."""
        self._is_head = is_head
        self._input = b""
        self._at = self._head_bytes = self._informational = 0
        self._has_blank = False
        """Whether an empty line came before it."""
        self._held: bytearray | None = None
        """The beginning of a head whose end has not come."""
        self._left: int | None = None
        """How much of a body is still to come, if that is known."""
        self._body: ChunkedBody | None = None
        self.problem: str | None = None
        """Why no more of it can be read. What had come before is as good as it was."""
        self.has_begun: bool = False
        self.has_more: bool = False
        self.is_head_complete: bool = False
        self.is_complete: bool = False
        self.keep_alive: bool = False
        """Whether the other side will answer more requests, once this answer is complete."""
        self.has_leftovers: bool = False
        """Whether more came than the answer: whose it is, nobody can tell."""
        self.head: Head = NO_HEAD
        self.pieces: list[bytes] = []
        """What has come of the body, and was not taken yet."""

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is in the state in which it was before the request (RFC 9112 section 9.3)."""
        return self.is_complete and self.keep_alive and not self.has_leftovers

    @property
    def status(self) -> int:
        """Of the answer, or 0."""
        return self.head.status

    @property
    def effort(self) -> tuple[int, int]:
        """How many chunks of the body have begun, and how many bytes stood between them."""
        return (0, 0) if self._body is None else (self._body.chunks, self._body.framing)

    @property
    def has_given_up_waiting(self) -> bool:
        """Whether it says that no request came, and ends the connection (RFC 9110 section 15.5.9)."""
        return self.status == 408 and not self.keep_alive

    def has_long_head(self, data: bytes | None = None) -> bool:
        """Whether a long head would be read next: of what was fed, or of this if it were."""
        if self.is_head_complete:
            return False
        if self._held is not None and data is not None:
            return len(self._held) + len(data) > LONG_HEAD
        data, at = (self._input, self._at) if data is None else (data, 0)
        return len(data) - at > LONG_HEAD and data.find(b"\r\n\r\n", at, at + LONG_HEAD) < 0

    def feed(self, data: bytes) -> None:
        """Take what has come, once `has_more` is False."""
        self.has_begun = True
        self._input = data
        self._at = 0
        self.go_on()

    def go_on(self) -> None:
        """Read some more of what was fed. So much work at a time is done that others need not wait."""
        try:
            heads, near = _HEADS_AT_ONCE, self._at + LONG_HEAD
            while heads and self._at < near and not self.is_head_complete and self._read_head():
                heads -= 1
            if self.is_head_complete:
                self._read_body()
        except ValueError as error:
            self.problem = str(error)
        self.has_more = self._at < len(self._input) and self.problem is None

    def feed_eof(self, *, is_certain: bool = True) -> None:
        """The other side has closed. Not `is_certain`: someone on the way may have (RFC 9112 section 9.8)."""
        self.keep_alive = False
        if self.problem is not None:
            return
        if not self.is_head_complete:
            self.problem = "the connection was closed in the middle of the answer's head"
        elif self._left is None and self._body is None:
            if is_certain:
                self.is_complete = True
            else:
                self.problem = "the connection was closed without TLS's closing alert, which alone ends this body"
        elif not self.is_complete:
            self.problem = "the connection was closed in the middle of the body"

    # --- the head -----------------------------------------------------------------------------------------------------

    def _read_head(self) -> bool:
        """Read a head, of a 1xx answer or of the real one. False: its end has not come."""
        data, at = self._input, self._at
        if self._held is not None:
            return self._read_more_of_head(self._held, data)
        # Where many stand together, each must not look through all of them.
        end = data.find(b"\r\n\r\n", at, at + _NEAR if at else len(data))
        if end >= 0:
            try:
                head = plain_heads[data[at:end]]
            except ValueError:
                pass  # as it stands, or at all
            else:
                self._at = end + 4
                self._take_head(head, end + 4 - at, True)
                return True
        # An empty line may be left of the answer before (RFC 9112 section 2.2).
        if data[at : at + 1] in _LINE_ENDS:
            return self._leave_out_blank(data, at)
        if not b"HTTP/".startswith(data[at : at + 5]):
            raise ValueError("the answer does not begin with HTTP/")
        found = _EMPTY_LINE.search(data, at)
        if found is None:
            self._held = bytearray(data[at:])
            self._at = len(data)
            return False
        self._at = found.end()
        raw = data[at : found.start()]
        is_plain = found[0] == b"\n\r\n" and raw.endswith(b"\r")
        raw = raw.removesuffix(b"\r")
        try:
            head = plain_heads[raw] if is_plain else head_of_odd(raw)
        except ValueError:
            is_plain, head = False, head_of_odd(raw)
        self._take_head(head, found.end() - at, is_plain)
        return True

    def _read_more_of_head(self, held: bytearray, data: bytes) -> bool:
        """Go on with one that comes in pieces."""
        searched = max(len(held) - 2, 0)
        held += data
        if not b"HTTP/".startswith(bytes(held[:5])):
            raise ValueError("the answer does not begin with HTTP/")
        if _EMPTY_LINE.search(held, searched):
            self._held = None
            self._input, self._at = bytes(held), 0
            return self._read_head()
        if self._head_bytes + len(held) > MAX_HEAD_BYTES:
            raise ValueError(_TOO_LONG)
        self._at = len(data)
        return False

    def _leave_out_blank(self, data: bytes, at: int) -> bool:
        rest = len(data[at:].lstrip(b"\r\n"))
        self._head_bytes += len(data) - at - rest
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(_TOO_LONG)
        self._at = len(data) - rest
        self._has_blank = True
        return rest > 0

    def _take_head(self, head: Head, size: int, is_plain: bool) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(_TOO_LONG)
        if head.status < 200 and head.status != 101:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise ValueError(f"more than {MAX_INFORMATIONAL:,} answers with status 1xx")
            return
        is_plain = is_plain and not self._has_blank
        self._left, is_chunked, self.keep_alive, self.problem = framing_of(head, self._is_head, is_plain)
        if is_chunked and not self._has_whole_body():
            self._body = ChunkedBody()
        self.head = head
        self.is_head_complete = True

    # --- the body -----------------------------------------------------------------------------------------------------

    def _has_whole_body(self) -> bool:
        """Whether all of it is there, in one chunk, as of a server that had it at once."""
        data = self._input
        found = _SIZE_LINE.match(data, self._at)
        if found is None:
            return False
        end = found.end() + int(found[1], 16)
        if data[end:] != _LAST_CHUNK:
            return False
        self.pieces.append(data[found.end() : end])
        self._at = len(data)
        self._left = 0
        return True

    def _read_body(self) -> None:
        data, at = self._input, self._at
        if self.problem is not None:
            return
        if self._body is not None:
            if not self.is_complete:
                at = self._body.feed(data, at, self.pieces, _LINES_AT_ONCE)
                self.is_complete = self._body.is_complete
                self.keep_alive = self.keep_alive and self._body.is_plain
        elif self._left is None:
            if at < len(data):
                self.pieces.append(data[at:])
            at = len(data)
        else:
            left = self._left
            if left and at < len(data):
                piece = data[at : at + left]
                self.pieces.append(piece)
                at += len(piece)
                self._left = left = left - len(piece)
            self.is_complete = not left
        if self.is_complete and at < len(data):
            if data[at:].strip(b"\r\n"):
                self.has_leftovers = True
            at = len(data)
        self._at = at
