"""Taking compression off an answer's body, never more of it than was asked for.

The sender asks for no compression; some receivers compress all the same, and a client of the caller's may ask for it.
HTTP clients decompress a piece at a time, and a piece of 64 kB may hold 64 MB: so it is done here, with a limit.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from requeuest_trio._http.wire.codings import DECODED
from requeuest_trio._model.headers import Headers

__all__ = ["Decoder", "decoder_for"]

_NAME_LENGTH = len("content-encoding")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
_RAW_DEFLATE = -zlib.MAX_WBITS
_MOST_MEMBERS = 1_000
_LONGEST_LIST = 1_000
"""Characters of `Content-Encoding`; of a longer one, nothing is undone."""


class Decoder(Protocol):
    """Takes a body's pieces, gives what they mean."""

    has_enough: bool
    """Whether there are more parts than it takes apart, so that the rest is to be left."""
    has_rest: bool
    """Whether `decode` has given as much as it might, so that there may be more: to be asked for with `rest`."""
    rest: bytes
    """What it has left of its data."""

    def decode(self, data: bytes, most: int) -> bytes:
        """The next part of the body, at most so many bytes. Raises `ValueError` for rubbish.

        What it takes apart may mean nothing, and take its time: so `data` should be short.
        """

    def finish(self) -> None:
        """Raises `ValueError` if the body is not complete."""


def decoder_for(headers: Headers) -> Decoder | None:
    """What undoes the body's `Content-Encoding`. None if it has none, or one that only the caller can undo."""
    values = [value for name, value in headers if len(name) == _NAME_LENGTH and name.lower() == "content-encoding"]
    if not values or sum(map(len, values)) > _LONGEST_LIST:
        return None
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    codings = [coding for coding in codings if coding not in {"", "identity"}]
    return _Inflater() if len(codings) == 1 and codings[0] in DECODED else None


class _Inflater:
    """gzip, zlib, and the raw deflate that some servers send as `deflate` (RFC 9110 section 8.4.1.2)."""

    def __init__(self) -> None:
        self._inflate: Any = None
        self._held = b""
        """The first byte of a member: it takes two to know one."""
        self._is_over = False
        self._members = 0
        self.has_enough = False
        self.has_rest = False
        self.rest = b""

    def decode(self, data: bytes, most: int) -> bytes:
        decoded: list[bytes] = []
        data = self._held + data
        self._held = b""
        # zlib may hold a part of what it has read, too.
        while (data or self.has_rest) and most > 0 and not self._is_over:
            self.has_rest = False
            if self._inflate is None or self._inflate.eof:
                if len(data) < len(_GZIP_MAGIC):
                    self._held = data
                    break
                self._begin_member(data)
                continue
            piece = self._decompressed(data, most)
            decoded.append(piece)
            most -= len(piece)
            # A gzip body may have several members (RFC 1952 section 2.2).
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        self.has_rest = most <= 0
        self.rest = data
        return b"".join(decoded)

    def finish(self) -> None:
        if self._held and self._inflate is None:
            raise ValueError("the compressed body ends early")
        if self._inflate is not None and not self._inflate.eof:
            raise ValueError("the compressed body ends early")

    def _begin_member(self, data: bytes) -> None:
        is_first = self._inflate is None
        if not is_first and not data.startswith(_GZIP_MAGIC):
            self._is_over = True  # padding, which gzip itself ignores too
            return
        self._members += 1
        if self._members > _MOST_MEMBERS:
            self._is_over = self.has_enough = True
            return
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        if is_first:
            try:
                zlib.decompressobj(_GZIP_OR_ZLIB).decompress(data[:2])
            except zlib.error:
                self._inflate = zlib.decompressobj(_RAW_DEFLATE)

    def _decompressed(self, data: bytes, most: int) -> bytes:
        try:
            return bytes(self._inflate.decompress(data, most))
        except zlib.error as error:
            raise ValueError(f"the body is not what its Content-Encoding says: {error}") from error
