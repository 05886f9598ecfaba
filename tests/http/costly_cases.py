"""Receivers whose answers are small on the wire, and meant to cost whoever reads them more time than they should."""

import gzip
import zlib

from tests.http.hostile import Handler, says
from tests.http.hostile_cases import CHUNKED, OK, for_ever

_GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"
_GZIP_HEADER = gzip.compress(b"")[:10]
_EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # RFC 1951 section 3.2.4: stored, of length 0, and not the last


def _ends(field: bytes) -> bytes:
    return OK + field + b"\r\nContent-Length: 0\r\n\r\n"


COSTLY: dict[str, Handler] = {
    "a transfer coding of keys": says(OK + b"Transfer-Encoding: " + b"?key" * 2_500 + b"\r\n\r\n"),
    "a transfer coding of user names": says(OK + b"Transfer-Encoding: " + b"//a:b" * 2_500 + b"\r\n\r\n"),
    "a header line of keys": says(OK + b"?token=" * 2_500 + b"\r\n\r\n"),
    "a status line of keys": says(b"HTTP/1.1 200 " + b"&secret=" * 2_500 + b"\x01\r\n\r\n"),
    "a reason of colons": says(b"HTTP/1.1 500 " + b"://:@" * 2_500 + b"\r\nContent-Length: 0\r\n\r\n"),
    "a thousand fields": says(OK + b"X-Token: ?key=1&key=2\r\n" * 4_000 + b"Content-Length: 0\r\n\r\n"),
    "codings without end": says(_ends(b"Content-Encoding: " + b"gzip," * 20_000)),
    "a Retry-After of digits": says(_ends(b"Retry-After: " + b"9" * 100_000).replace(b"200 OK", b"503 No")),
    "a Location of keys": says(_ends(b"Location: /" + b"?key=" * 20_000).replace(b"200 OK", b"302 No")),
    "gzip members of nothing": for_ever(_GZIP, gzip.compress(b"") * 3_000),
    "one gzip member of empty blocks": for_ever(_GZIP + _GZIP_HEADER, _EMPTY_BLOCK * 13_000),
    "zlib of empty blocks": for_ever(
        OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"")[:2], _EMPTY_BLOCK * 13_000
    ),
    "chunks of one byte": for_ever(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "chunks with extensions": for_ever(CHUNKED, (b"1;" + b"a=b;" * 500 + b"\r\nx\r\n") * 30),
    "a bomb, again and again": says(_GZIP + gzip.compress(b"\0" * 30_000_000, 9)),
}
