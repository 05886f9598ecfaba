"""Taking compression off an answer's body, never more of it than was asked for.

The sender asks for no compression; some receivers compress all the same, and a client of the caller's may ask for it.
HTTP clients decompress a piece at a time, and a piece of 64 kB may hold 64 MB: so it is done here, with a limit.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from requeuest_trio._model.headers import Headers

__all__ = ["Decoder", "decoder_for"]

_NAME_LENGTH = len("content-encoding")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
_RAW_DEFLATE = -zlib.MAX_WBITS


class Decoder(Protocol):
    """Takes a body's pieces, gives what they mean."""

    def decode(self, data: bytes, most: int) -> bytes:
        """The next part of the body, at most so many bytes; the rest is lost. Raises `ValueError` for rubbish."""

    def finish(self) -> None:
        """Raises `ValueError` if the body is not complete."""


def decoder_for(headers: Headers) -> Decoder | None:
    """What undoes the body's `Content-Encoding`. None if it has none, or one that only the caller can undo."""
    values = [value for name, value in headers if len(name) == _NAME_LENGTH and name.lower() == "content-encoding"]
    if not values:
        return None
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    codings = [coding for coding in codings if coding not in {"", "identity"}]
    return _Inflater() if len(codings) == 1 and codings[0] in {"gzip", "x-gzip", "deflate"} else None


class _Inflater:
    """gzip, zlib, and the raw deflate that some servers send as `deflate` (RFC 9110 section 8.4.1.2)."""

    def __init__(self) -> None:
        self._inflate: Any = None

    def decode(self, data: bytes, most: int) -> bytes:
        decoded = b""
        while data and len(decoded) < most:
            if self._inflate is not None and self._inflate.eof and not data.startswith(_GZIP_MAGIC):
                break  # padding, which gzip itself ignores too
            try:
                decoded += self._piece(data, most - len(decoded))
            except zlib.error as error:
                raise ValueError(f"the body is not what its Content-Encoding says: {error}") from error
            # A gzip body may have several members (RFC 1952 section 2.2).
            data = self._inflate.unused_data if self._inflate.eof else b""
        return decoded

    def finish(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            raise ValueError("the compressed body ends early")

    def _piece(self, data: bytes, most: int) -> bytes:
        is_start = self._inflate is None
        if is_start or self._inflate.eof:
            self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            return bytes(self._inflate.decompress(data, most))
        except zlib.error:
            if not is_start:
                raise
            self._inflate = zlib.decompressobj(_RAW_DEFLATE)
            return bytes(self._inflate.decompress(data, most))
