"""The chunked transfer coding (RFC 9112 section 7.1), taken off as it comes. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["ChunkedBody"]

_MAX_LINE: Final = 16_384
_MAX_TRAILER: Final = 131_072
# White space stands before an extension, in it, and by some servers where there is none.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r]*)?")


class ChunkedBody:
    """Takes bytes as they come, and hands over what the chunks hold. Extensions and trailers are passed over.

    A line may end in a bare LF, as in heads; then `is_plain` is False.
    """

    __slots__ = ("_left", "_line", "_read", "_trailer", "chunks", "framing", "is_complete", "is_plain")

    def __init__(self) -> None:
        self._left = 0
        """How much of the chunk is still to come."""
        self._line = bytearray()
        """The beginning of a line whose end has not come."""
        self._read: Callable[[bytes], None] = self._read_size
        """What the next line is."""
        self._trailer = 0
        self.chunks = 0
        self.framing = 0
        """Bytes that were no body."""
        self.is_plain = True
        self.is_complete = False

    def feed(self, data: bytes, at: int, pieces: list[bytes], most: int) -> int:
        """Take data from a position on, at most so many lines, and return the position that was reached.

        Raises `ValueError` for what is no chunked coding. What came before it is in `pieces`.
        """
        size = len(data)
        while at < size and most and not self.is_complete:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\n", at, at + _MAX_LINE)
            line = data[at : end if end >= 0 else at + _MAX_LINE]
            at += len(line)
            self.framing += len(line) + 1
            if self._line or end < 0:
                self._line += line
                if len(self._line) >= _MAX_LINE:
                    raise ValueError(f"the body has a line of more than {_MAX_LINE:,} bytes between two chunks")
                if end < 0:
                    continue
                line = bytes(self._line)
                self._line.clear()
            at += 1
            most -= 1
            if line[-1:] == b"\r":
                line = line[:-1]
            else:
                self.is_plain = False
            self._read(line)
        return at

    def _read_size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise ValueError(f"{line[:60]!r} is no size of a chunk")
        self.chunks += 1
        self._left = int(found[1], 16)
        self._read = self._read_end if self._left else self._read_trailer

    def _read_end(self, line: bytes) -> None:
        if line:
            raise ValueError("a chunk is longer than its size")
        self._read = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        # Fields of a trailer may be ignored, and must not be taken for those of the head (RFC 9110 section 6.5.1).
        self._trailer += len(line) + 2
        if self._trailer > _MAX_TRAILER:
            raise ValueError(f"the body has a trailer of more than {_MAX_TRAILER:,} bytes")
        self.is_complete = not line
