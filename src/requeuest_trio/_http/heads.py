"""Heads of answers: the status line and the fields, by RFC 9112, and what others write all the same. Pure.

A head by the grammar is read line by line, and neither heads nor lines that were seen before are looked at again: the
same servers say the same things, in the same second word for word. Any other head is put in order first, as far as that
can't be misunderstood.
"""

from __future__ import annotations

import math
import re
from typing import Final

from requeuest_trio._model.headers import Headers

__all__ = ["MAX_HEADERS", "NO_HEAD", "Framing", "Head", "RawHeaders", "framing_of", "head_of_odd", "plain_heads"]

RawHeaders = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 1_000

_TOO_MANY: Final = f"the answer has more than {MAX_HEADERS:,} lines in its head"
_TOKEN: Final = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110 section 5.6.2
)
_STATUS_LINE: Final = re.compile(rb"(HTTP/[12]\.[0-9]) +([1-9][0-9]{2})(?:[ \t]([^\x00\r\n]*))?")
_FORBIDDEN: Final = re.compile(rb"[\x00\r\n]")
_LINE_END: Final = re.compile(rb"\r?\n")
# Not with the white space before the line end, which would be tried from each place of a long run of it.
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_NAMES_OF_FRAMING: Final = re.compile(rb"content.?length|transfer.?encoding", re.IGNORECASE)
_NAMES: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_LENGTHS_OF_NAMES: Final = frozenset(map(len, _NAMES))
_MOST_DIGITS: Final = 18
_LONGEST_LIST: Final = 1_000
"""Bytes of what one field says, all its lines together. A longer list is not taken apart."""
_NO_BODY: Final = frozenset({101, 204, 304})  # RFC 9112 section 6.3, rule 1; nobody asks for what comes after 101
_LINES_KEPT: Final = 4_096
_LONGEST_LINE_KEPT: Final = 256
_HEADS_KEPT: Final = 256
_LONGEST_HEAD_KEPT: Final = 1_024
_PROMISED: Final = re.compile(rb"timeout=(\d{1,6})")
_SAFETY_SECONDS: Final = 1.0


class Head:
    """Status line and fields of an answer, and what follows from them. Many answers share one: not to be changed."""

    __slots__ = ("fields", "plain_framing", "promised", "reason", "status", "text", "version")

    def __init__(self, version: bytes, status: int, reason: bytes, fields: RawHeaders) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.fields = fields
        self.text: Headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])
        self.promised = _promised_seconds(fields)
        """How long the other side keeps an idle connection open."""
        self.plain_framing: Framing | None = None
        """What `framing_of` gives for a plain head that answers no HEAD, once it was asked."""


def _promised_seconds(fields: RawHeaders) -> float:
    """What the other side tells (RFC 2068 section 19.7.1), less some."""
    for name, value in fields:
        if len(name) == 10 and name.lower() == b"keep-alive" and (found := _PROMISED.search(value.lower())):
            return float(found[1]) - _SAFETY_SECONDS
    return math.inf


NO_HEAD: Final = Head(b"", 0, b"", [])

Framing = tuple[int | None, bool, bool, str | None]
"""Where the body ends, as RFC 9112 section 6.3 has it: its length, if that is known; whether it is chunked; whether
another answer may follow it; why it can't be read. Neither length nor chunks: it ends with the connection."""


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
        if not colon or not name or name.translate(None, _TOKEN) or _FORBIDDEN.search(value):
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
    if colon and name and not name.translate(None, _TOKEN):
        return name, value.strip(b" \t")
    if _NAMES_OF_FRAMING.search(line if not colon else name):
        raise ValueError(f"{line[:60]!r} might say where the body ends")
    return None


# --- where the body ends ----------------------------------------------------------------------------------------------


def framing_of(head: Head, is_head: bool, is_plain: bool) -> Framing:
    """Where the body ends. `is_head`: the answer is to HEAD, and has none.

    After an answer that is not `is_plain`, whose server might not know where it ends either, no other one may follow.

    Raises `ValueError` if there is a length, and it is in doubt.
    """
    if is_plain and not is_head:
        if head.plain_framing is None:
            head.plain_framing = _framing_of(head, is_head=False, is_plain=True)
        return head.plain_framing
    return _framing_of(head, is_head, is_plain)


def _framing_of(head: Head, is_head: bool, is_plain: bool) -> Framing:
    version, status, headers = head.version, head.status, head.fields
    length: bytes | None = None
    is_chunked = False
    for name, value in headers:
        if len(name) in _LENGTHS_OF_NAMES and (lower := name.lower()) in _NAMES:
            if lower == b"content-length" and length is None:
                length = value
            elif lower == b"transfer-encoding" and value == b"chunked" and not is_chunked:
                is_chunked = True
            elif lower != b"connection" or value != b"keep-alive":
                break
    else:
        # As it mostly is.
        if version == b"HTTP/1.1" and is_plain and not is_head and status not in _NO_BODY:
            if is_chunked:
                return None, True, length is None, None
            if length is not None and length.isdigit() and len(length) <= _MOST_DIGITS:
                return int(length), False, True, None
    keep_alive = is_plain and _keeps_alive(version, _said_in(headers, b"connection"))
    if is_head or status in _NO_BODY:
        return 0, False, keep_alive and status != 101, None
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    said = _said_in(headers, b"transfer-encoding")
    codings = _items_of(said[:_LONGEST_LIST])
    left = [coding for coding in codings if coding != b"identity"]  # which RFC 2616 had
    if not left:
        return _measured(lengths, keep_alive and not codings)
    if set(left) == {b"chunked"} and len(said) <= _LONGEST_LIST:
        # It comes before a length, which then costs the connection (section 6.3, rule 3), and so does HTTP/1.0 (section
        # 6.1). Nobody applies it twice (section 7.1): a list may be spread over several fields, or repeated by a proxy.
        return None, True, keep_alive and version != b"HTTP/1.0" and len(codings) == 1 and not lengths, None
    problem = f"the body has a transfer coding that was not asked for: {b', '.join(codings)[:60]!r}"
    return None, False, False, problem


def _keeps_alive(version: bytes, said: bytes) -> bool:
    options = _items_of(said[:_LONGEST_LIST])
    return (
        len(said) <= _LONGEST_LIST and b"close" not in options and (version != b"HTTP/1.0" or b"keep-alive" in options)
    )


def _measured(lengths: list[bytes], keep_alive: bool) -> Framing:
    if not lengths:
        return None, False, False, None
    said = b",".join(lengths)
    values = {value.strip(b" \t").lstrip(b"0") or b"0" for value in said[:_LONGEST_LIST].split(b",")}
    if len(values) > 1 or len(said) > _LONGEST_LIST:
        raise ValueError(f"the answer has several lengths: {b', '.join(lengths)[:60]!r}")
    [value] = values
    if not _is_number(value) or not b"".join(lengths):
        raise ValueError(f"the answer has the length {b', '.join(lengths)[:60]!r}")
    return int(value), False, keep_alive and len(lengths) == 1 and lengths[0].isdigit(), None


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _MOST_DIGITS


def _said_in(headers: RawHeaders, wanted: bytes) -> bytes:
    """What a field says, in all its lines, which are one list (RFC 9110 section 5.3)."""
    return b",".join([value for name, value in headers if name.lower() == wanted]).lower()


def _items_of(said: bytes) -> list[bytes]:
    return [item for each in said.split(b",") if (item := each.strip(b" \t"))]
