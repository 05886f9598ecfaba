"""Where the body of an answer ends (RFC 9112 section 6.3), and whether another answer may follow it. Pure."""

from __future__ import annotations

from typing import Final

from requeuest_trio._http.wire.heads import Head, RawHeaders

__all__ = ["Framing", "framing_of"]

Framing = tuple[int | None, bool, bool, str | None]
"""Where the body ends, as RFC 9112 section 6.3 has it: its length, if that is known; whether it is chunked; whether
another answer may follow it; why it can't be read. Neither length nor chunks: it ends with the connection."""

_NAMES: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_LENGTHS_OF_NAMES: Final = frozenset(map(len, _NAMES))
_MOST_DIGITS: Final = 18
_LONGEST_LIST: Final = 1_000
"""Bytes of what one field says, all its lines together. A longer list is not taken apart."""
_NO_BODY: Final = frozenset({101, 204, 304})  # RFC 9112 section 6.3, rule 1; nobody asks for what comes after 101


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
