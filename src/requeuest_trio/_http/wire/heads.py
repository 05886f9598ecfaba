"""Heads of answers: the status line and the fields, by RFC 9112, and what others write all the same. Pure.

A head by the grammar is read line by line, and neither heads nor lines that were seen before are looked at again: the
same servers say the same things, in the same second word for word. Any other head is put in order first, as far as that
can't be misunderstood.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from requeuest_trio._model.headers import Headers
from requeuest_trio._model.tokens import is_token

if TYPE_CHECKING:
    from requeuest_trio._http.wire.framing import Framing

__all__ = ["MAX_HEADERS", "NO_HEAD", "Head", "RawHeaders", "head_of_odd", "plain_heads"]

RawHeaders = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 1_000

_TOO_MANY: Final = f"the answer has more than {MAX_HEADERS:,} lines in its head"
_STATUS_LINE: Final = re.compile(rb"(HTTP/[12]\.[0-9]) +([1-9][0-9]{2})(?:[ \t]([^\x00\r\n]*))?")
_FORBIDDEN: Final = re.compile(rb"[\x00\r\n]")
_LINE_END: Final = re.compile(rb"\r?\n")
# Not with the white space before the line end, which would be tried from each place of a long run of it.
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_NAMES_OF_FRAMING: Final = re.compile(rb"content.?length|transfer.?encoding", re.IGNORECASE)
_LINES_KEPT: Final = 4_096
_LONGEST_LINE_KEPT: Final = 256
_HEADS_KEPT: Final = 256
_LONGEST_HEAD_KEPT: Final = 1_024
_PROMISED: Final = re.compile(rb"timeout=(\d{1,6})")
_SAFETY_SECONDS: Final = 1.0


class Head:
    """Status line and fields of an answer, and what follows from them. Many answers share one: not to be changed."""

    __slots__ = ("fields", "has_coding", "plain_framing", "promised", "reason", "status", "text", "version")

    def __init__(self, version: bytes, status: int, reason: bytes, fields: RawHeaders) -> None:
        self.version: bytes = version
        self.status: int = status
        self.reason: bytes = reason
        self.fields: RawHeaders = fields
        self.text: Headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])
        self.promised: float = _promised_seconds(fields)
        """How long the other side keeps an idle connection open."""
        self.has_coding: bool = any(len(name) == 16 and name.lower() == b"content-encoding" for name, _ in fields)
        """Whether the body may not be as it was meant."""
        self.plain_framing: Framing | None = None
        """What `framing_of` gives for a plain head that answers no HEAD, once it was asked."""


def _promised_seconds(fields: RawHeaders) -> float:
    """What the other side tells (RFC 2068 section 19.7.1), less some."""
    for name, value in fields:
        if len(name) == 10 and name.lower() == b"keep-alive" and (found := _PROMISED.search(value.lower())):
            return float(found[1]) - _SAFETY_SECONDS
    return math.inf


NO_HEAD: Final = Head(b"", 0, b"", [])

# --- what the grammar allows ------------------------------------------------------------------------------------------


class _StatusLines(dict[bytes, tuple[bytes, int, bytes]]):
    """Status lines that were seen before. Others are looked at: `ValueError` if one is none."""

    def __missing__(self, line: bytes) -> tuple[bytes, int, bytes]:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"the answer begins with {line[:60]!r}, which is no status line of HTTP/1.1")
        read = found[1], int(found[2]), found[3] or b""
        if len(line) <= _LONGEST_LINE_KEPT:
            if len(self) >= _LINES_KEPT:
                self.clear()
            self[line] = read
        return read


class _Fields(dict[bytes, tuple[bytes, bytes]]):
    """The same for fields."""

    def __missing__(self, line: bytes) -> tuple[bytes, bytes]:
        name, colon, value = line.partition(b":")
        if not colon or not is_token(name) or _FORBIDDEN.search(value):
            raise ValueError(f"{line[:60]!r} is no header field")
        read = name, value.strip(b" \t")
        if len(line) <= _LONGEST_LINE_KEPT:
            if len(self) >= _LINES_KEPT:
                self.clear()
            self[line] = read
        return read


_status_lines: Final = _StatusLines()
_fields: Final = _Fields()


class _PlainHeads(dict[bytes, Head]):
    """The same for whole heads, without the empty line."""

    def __missing__(self, raw: bytes) -> Head:
        if raw.count(b"\n") > MAX_HEADERS:
            raise ValueError(_TOO_MANY)
        first, *rest = raw.split(b"\r\n")
        known = _fields
        read = Head(*_status_lines[first], [known[line] for line in rest])
        if len(raw) <= _LONGEST_HEAD_KEPT:
            if len(self) >= _HEADS_KEPT:
                self.clear()
            self[raw] = read
        return read


plain_heads: Final = _PlainHeads()


# --- what others write ------------------------------------------------------------------------------------------------


def head_of_odd(data: bytes) -> Head:
    """A head that is not by the grammar, as it came, up to the empty line.

    Raises `ValueError` for what can be understood in two ways (NUL, a lone CR, the spoiled name of a field that says
    where the body ends), and if the status line is none.
    """
    if data.count(b"\n") > MAX_HEADERS:
        raise ValueError(_TOO_MANY)
    if b"\0" in data:
        raise ValueError("the answer's head has a NUL (RFC 9110 section 5.5)")
    # White space before the first field is no continuation of anything (RFC 9112 section 2.2).
    first, *rest = _LINE_END.split(data, maxsplit=1)
    unfolded = b" ".join([part.rstrip(b" \t") for part in _FOLD.split(b"\n" + rest[0])]) if rest else b""
    lines = _LINE_END.split(unfolded)
    if any(b"\r" in line for line in (first, *lines)):
        raise ValueError("the answer's head has a CR that ends no line (RFC 9112 section 2.2)")
    return Head(*_status_lines[first.rstrip(b" \t")], [field for line in lines if (field := _odd_field(line))])


def _odd_field(line: bytes) -> tuple[bytes, bytes] | None:
    """A field, or None for a line that is none and can be left out."""
    name, colon, value = line.partition(b":")
    name = name.rstrip(b" \t")  # RFC 9112 section 5.1
    if colon and is_token(name):
        return name, value.strip(b" \t")
    if _NAMES_OF_FRAMING.search(line if not colon else name):
        raise ValueError(f"{line[:60]!r} might say where the body ends")
    return None
