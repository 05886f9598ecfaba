"""The standard streams, where they may be closed, full, or read by nobody any more.

Standard output has the results: if it can't be written, `Unwritten` says so. Standard error tells what happens: what
does not get there is lost, and the command goes on, since a full disk under a log is no reason to stop delivering.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Unwritten", "prepare_streams"]

_UNREAD = 141
"""The reader has gone, as `head` does; as shells have it for SIGPIPE."""
_FULL = 74
"""As sysexits.h has it."""
_WIDEST = 10_000


class Unwritten(Exception):
    """Standard output can't be written. It is no `OSError`, which click and rich would take for theirs."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"standard output can't be written: {reason.strerror}")
        self.status = _UNREAD if reason.errno == errno.EPIPE else _FULL

    def tell(self) -> None:
        """Say it on standard error, unless a reader did not want more."""
        if self.status != _UNREAD:
            print(f"requeuest: {self}", file=sys.stderr)


class _Results(io.FileIO):
    """The first failure raises. What comes later is dropped, so that the end of the process has nothing to report."""

    _has_failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._has_failed:
            return memoryview(data).nbytes
        try:
            if (written := super().write(data)) is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except OSError as error:
            self._has_failed = True
            raise Unwritten(error) from None
        return written


class _Remarks(io.FileIO):
    """What can't be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) or memoryview(data).nbytes
        except OSError:
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Let the streams be what the module says, whatever this process was started with."""
    _open_closed()
    sys.stdout = _text(_Results(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Remarks(2, "w", closefd=False), sys.stderr)
    for name in ("COLUMNS", "LINES"):
        # On a terminal of no columns, rich prints nothing.
        size = os.environ.get(name, "")
        if not (size.isascii() and size.isdecimal() and len(size) < 6 and 0 < int(size) <= _WIDEST):
            os.environ.pop(name, None)


def _open_closed() -> None:
    """Give a closed stream a descriptor with which its use fails, before a socket gets that number."""
    for number, name, flags in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_RDONLY)):
        if getattr(sys, name) is None:
            if (opened := os.open(os.devnull, flags)) != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _text(raw: io.FileIO, before: TextIO) -> io.TextIOWrapper:
    """A name that the terminal's encoding lacks is no reason to stop half-way."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding,
        errors="backslashreplace",
        line_buffering=raw.fileno() == 2 or raw.isatty(),
    )
