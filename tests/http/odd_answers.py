"""Answers that are not as they should be, or that few servers send, and what is to be made of each.

`docs/decisions/sending.md` has the same table for readers, with what others do.
"""

from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 2\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Odd(NamedTuple):
    """What comes, and what is understood."""

    stream: bytes
    body: bytes = b"ok"
    is_reusable: bool = False
    alone: str = ""
    """Why it is read although httpx2 does not read it."""
    differs: str = ""
    """How the fields differ from what httpx2 makes of them, and why."""


# --- what is read -----------------------------------------------------------------------------------------------------

_AS_IT_CAME = "h11 tidies fields of framing up; here they are kept as they came"
_LENIENT = "it means one thing only, and a refusal would repeat a request that was carried out"

READ: dict[str, Odd] = {
    # The status line (RFC 9112 section 4).
    "no space after the status": Odd(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "an empty reason": Odd(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "Latin-1 in the reason": Odd(b"HTTP/1.1 200 \xe9t\xe9\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "an escape in the reason": Odd(b"HTTP/1.1 200 O\x1b[2J\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "two spaces before the status": Odd(
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", is_reusable=True, alone=_LENIENT
    ),
    "HTTP/1.2": Odd(b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "HTTP/2.0": Odd(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "status 799": Odd(b"HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "an empty line before it": Odd(b"\r\n" + LENGTH + b"ok", alone="some servers send one after a body"),
    # Lines of fields (RFC 9112 sections 2.2 and 5).
    "a folded line": Odd(OK + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
    "a line folded by a tab": Odd(OK + b"X-A: b\r\n\t\tc\r\nContent-Length: 2\r\n\r\nok"),
    "a line folded twice": Odd(OK + b"X-A: b\r\n c\r\n d\r\nContent-Length: 2\r\n\r\nok"),
    "a folded length": Odd(OK + b"Content-Length:\r\n 2\r\n\r\nok"),
    "a folded coding": Odd(OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "bare LF": Odd(b"HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok"),
    "bare LF after a field": Odd(OK + b"X-A: b\nContent-Length: 2\r\n\r\nok"),
    "bare LF before the body": Odd(OK + b"Content-Length: 2\r\n\nok"),
    "bare LF, then the body": Odd(b"HTTP/1.1 200 OK\nContent-Length: 2\n\r\nok"),
    "a folded line and bare LF": Odd(b"HTTP/1.1 200 OK\nX-A: b\n c\nContent-Length: 2\n\nok"),
    "a space before the first field": Odd(OK + b" X-A: b\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "a space before the colon": Odd(OK + b"X-A : b\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "a space before the colon of a length": Odd(OK + b"Content-Length : 2\r\n\r\nok", alone=_LENIENT),
    "no colon": Odd(OK + b"X-A\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "no name": Odd(OK + b": b\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "a space in a name": Odd(OK + b"X A: b\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "a control character in a name": Odd(OK + b"X\x01A: b\r\nContent-Length: 2\r\n\r\nok", alone=_LENIENT),
    "a control character in a value": Odd(OK + b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "a form feed in a value": Odd(OK + b"X-A: a\x0cb\r\nContent-Length: 2\r\n\r\nok", is_reusable=True, alone=_LENIENT),
    "DEL in a value": Odd(OK + b"X-A: a\x7fb\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "UTF-8 in a value": Odd(OK + b"X-A: \xc3\xa9\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "an empty value": Odd(OK + b"X-A:\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    "a tab in a value": Odd(OK + b"X-A:\ta\tb\t\r\nContent-Length: 2\r\n\r\nok", is_reusable=True),
    # Lengths (RFC 9112 section 6.3, RFC 9110 section 8.6).
    "the same length twice": Odd(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", differs=_AS_IT_CAME),
    "a list of one length": Odd(OK + b"Content-Length: 2, 2\r\n\r\nok", differs=_AS_IT_CAME),
    "the same length in a list and alone": Odd(
        OK + b"Content-Length: 2,2\r\nContent-Length: 2\r\n\r\nok", differs=_AS_IT_CAME
    ),
    "a length with zeros": Odd(OK + b"Content-Length: 0002\r\n\r\nok", is_reusable=True),
    "two lengths of a 204": Odd(
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"",
        True,
        alone="a 204 has no body anyway",
    ),
    "a length and chunks": Odd(OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "chunks and a length": Odd(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    # Transfer codings (RFC 9112 sections 6.1 and 7).
    "Chunked": Odd(
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", is_reusable=True, differs=_AS_IT_CAME
    ),
    "chunked, chunked": Odd(
        OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", alone="RFC 9110 section 5.3"
    ),
    "chunked in two fields": Odd(
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        alone="some proxies add their own",
    ),
    "chunked after a comma": Odd(
        OK + b"Transfer-Encoding: ,chunked,\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        is_reusable=True,
        alone="RFC 9110 section 5.6.1.2",
    ),
    "identity": Odd(OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", alone="RFC 2616 had it"),
    "identity until the end": Odd(OK + b"Transfer-Encoding: identity\r\n\r\nok", alone="RFC 2616 had it"),
    "HTTP/1.0 with chunks": Odd(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    # Chunks (RFC 9112 section 7.1).
    "a space after a size": Odd(CHUNKED + b"2 \r\nok\r\n0\r\n\r\n", is_reusable=True),
    "a tab after a size": Odd(CHUNKED + b"2\t\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "many spaces after a size": Odd(CHUNKED + b"2    \t \r\nok\r\n0\r\n\r\n", is_reusable=True),
    "a space after the last size": Odd(CHUNKED + b"2\r\nok\r\n0 \r\n\r\n", is_reusable=True),
    "an extension": Odd(CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "a space before an extension": Odd(
        CHUNKED + b"2 ;a=b\r\nok\r\n0 ;last\r\n\r\n", is_reusable=True, alone="RFC 9112 section 7.1.1"
    ),
    "a space in an extension": Odd(CHUNKED + b"2; a=b\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "spaces around =": Odd(CHUNKED + b"2;a = b\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "spaces all over": Odd(
        CHUNKED + b"2 \t; a\t= b ; c \r\nok\r\n0\r\n\r\n", is_reusable=True, alone="RFC 9112 section 7.1.1"
    ),
    "a quoted extension": Odd(CHUNKED + b'2;a="b;c\\" d"\r\nok\r\n0\r\n\r\n', is_reusable=True),
    "an extension without a name": Odd(CHUNKED + b"2;\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "NUL in an extension": Odd(CHUNKED + b"2;a\0b\r\nok\r\n0\r\n\r\n", is_reusable=True),
    "zeros before a size": Odd(CHUNKED + b"0000002\r\nok\r\n000\r\n\r\n", is_reusable=True),
    "bare LF in chunks": Odd(CHUNKED + b"2\nok\n0\n\n", alone=_LENIENT),
    "a length in the trailer": Odd(CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n", is_reusable=True),
    "a trailer that is none": Odd(
        CHUNKED + b"2\r\nok\r\n0\r\nX\r\n\r\n", is_reusable=True, alone="it is not looked at"
    ),
    # Answers before the answer (RFC 9110 section 15.2).
    "a hundred 102": Odd(b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + LENGTH + b"ok", is_reusable=True),
    "101": Odd(
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"",
        alone="it is an answer with a status",
    ),
    # What follows.
    "an answer behind it": Odd(LENGTH + b"ok" + LENGTH + b"no"),
    "an empty line behind it": Odd(LENGTH + b"ok\r\n", is_reusable=True),
}

# --- what is not ------------------------------------------------------------------------------------------------------

REFUSED: dict[str, bytes] = {
    "a tab before the status": b"HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": OK + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a name": OK + b"X\0A: b\r\nContent-Length: 2\r\n\r\nok",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
    "bare CR in a value": OK + b"X-A: b\rc\r\nContent-Length: 2\r\n\r\nok",
    "bare CR for a line end": b"HTTP/1.1 200 OK\rContent-Length: 2\r\r\nok\r\n\r\n",
    "bare CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "a list of two lengths": OK + b"Content-Length: 2, 3\r\n\r\nok!",
    "a length with a sign": OK + b"Content-Length: +2\r\n\r\nok",
    "a negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "an empty length": OK + b"Content-Length: \r\n\r\nok",
    "a length in hexadecimal": OK + b"Content-Length: 0x2\r\n\r\nok",
    "a length in two lines": OK + b"Content-Length: 1\r\n 2\r\n\r\nok",
    "a length in other digits": OK + b"Content-Length: \xb2\r\n\r\nok",
    "a length beyond 64 bits": OK + b"Content-Length: 18446744073709551616\r\n\r\nok",
    "a spoiled name of a length": OK + b"Content-Length\x0b: 2\r\n\r\nok",
    "a length without a colon": OK + b"Content-Length 2\r\n\r\nok",
    "a spoiled name of a coding": OK + b"\x01Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a 1xx answer with a body": b"HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\nno" + LENGTH + b"ok",
    "status 099": b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok",
    "status 1000": b"HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/11.1": b"HTTP/11.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a field first": b"X-A: b\r\n" + LENGTH + b"ok",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICE": b"ICE/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
}
"""No answer at all: what can be understood in two ways, or is no HTTP/1.1."""

BROKEN: dict[str, tuple[bytes, bytes]] = {
    "another coding": (OK + b"Transfer-Encoding: gzip\r\n\r\nok", b""),
    "another coding first": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b""),
    "another coding in a field of its own": (
        OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"",
    ),
    "chunked not last": (OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n", b""),
    "almost chunked": (OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b""),
    "two sizes": (CHUNKED + b"1 0\r\nok\r\n0\r\n\r\n", b""),
    "a word after a size": (CHUNKED + b"2 x\r\nok\r\n0\r\n\r\n", b""),
    "a size with a sign": (CHUNKED + b"+2\r\nok\r\n0\r\n\r\n", b""),
    "a negative size": (CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", b""),
    "a size with 0x": (CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", b""),
    "a size beyond 64 bits": (CHUNKED + b"10000000000000002\r\nok\r\n0\r\n\r\n", b""),
    "an empty size": (CHUNKED + b"\r\nok\r\n0\r\n\r\n", b""),
    "an extension without a size": (CHUNKED + b";a=b\r\nok\r\n0\r\n\r\n", b""),
    "a space before a size": (CHUNKED + b" 2\r\nok\r\n0\r\n\r\n", b""),
    "bare CR in an extension": (CHUNKED + b"2;a\rb\r\nok\r\n0\r\n\r\n", b""),
    "a chunk longer than its size": (CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", b"ok"),
    "a chunk shorter than its size": (CHUNKED + b"4\r\nok\r\n0\r\n\r\n", b"ok\r\n"),
    "rubbish after a chunk": (CHUNKED + b"2\r\nok\r\nzz\r\n", b"ok"),
    "an end before the last chunk": (CHUNKED + b"2\r\nok\r\n", b"ok"),
    "an end before the empty line": (CHUNKED + b"2\r\nok\r\n0\r\n", b"ok"),
    "an end before the length": (OK + b"Content-Length: 5\r\n\r\nok", b"ok"),
}  # fmt: skip
"""An answer with a status and a body that breaks off: what had come of it is kept."""
