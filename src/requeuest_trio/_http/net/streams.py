"""What a connection reads and writes: a plain TCP socket, or TLS over one (`tls.py`).

Both can be closed without waiting, so that whatever ends an attempt, its cancellation too, leaves no socket behind.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Final, Protocol

import trio

__all__ = ["NOTHING", "PlainStream", "Stream"]


class Stream(Protocol):
    """One connection to a receiver, for one task at a time. What breaks it raises `OSError` or Trio's errors."""

    was_cut: bool
    """Whether it has ended in a way that anybody on the way could have brought about."""
    took: float
    """Seconds of the processor's time that decrypting took, of what was received last."""

    @property
    def unsent(self) -> memoryview:
        """What waits for room; another object whenever there was some."""
        ...

    def start_sending(self, data: bytes) -> bool:
        """Send what can be sent without waiting. False: `finish_sending` sends the rest."""
        ...

    async def finish_sending(self) -> None:
        """Send the rest."""
        ...

    async def receive(self, *, while_sending: bool = False) -> bytes:
        """Wait for the next bytes; none at the end. Always a checkpoint, so that a fast sender starves no other task.

        `while_sending`: another task sends meanwhile.
        """
        ...

    def is_readable(self) -> bool:
        """Whether something can be read, though nothing was asked: most often, that the other side has closed."""
        ...

    def close(self) -> None:
        """Close it at once. A task that waits for it gets `trio.ClosedResourceError`."""
        ...


_RECEIVED_AT_ONCE: Final = 65_536

NOTHING: Final = memoryview(b"")


class PlainStream:
    """A TCP connection.

    Not a `trio.SocketStream`, whose every call is a checkpoint: to send a request that fits into the socket's buffer
    needs no waiting, and the wait for the answer follows at once.
    """

    __slots__ = ("_at_once", "_poll", "_socket", "unsent")

    took = 0.0
    was_cut = False  # a reset is an error, and nothing protects an end

    def __init__(self, sock: socket.socket, at_once: int = _RECEIVED_AT_ONCE) -> None:
        self._socket = sock
        self._at_once = at_once
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.unsent = NOTHING
        """What waits for room."""

    def start_sending(self, data: bytes) -> bool:
        """Send what can be sent without waiting. False: `finish_sending` sends the rest."""
        sent = self._try_to_send(data)
        if sent == len(data):
            return True
        self.unsent = memoryview(data)[sent:]
        return False

    async def finish_sending(self) -> None:
        """Send the rest."""
        while self.unsent:
            await trio.lowlevel.wait_writable(self._socket)
            # After a standstill both has come true: there is room, and there is no time.
            await trio.lowlevel.checkpoint_if_cancelled()
            self.unsent = self.unsent[self._try_to_send(self.unsent) :]

    def _try_to_send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, *, while_sending: bool = False) -> bytes:
        """Wait for the next bytes; none at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(self._at_once)
            except BlockingIOError:
                continue

    def receive_nowait(self) -> bytes:
        """What can be read at once; `is_readable` has told that there is something, and none of it is the end."""
        return self._socket.recv(self._at_once)

    def is_readable(self) -> bool:
        """Whether something can be read."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it at once."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            with suppress(OSError):  # what the other side has done to it; it is closed in any case
                self._socket.close()
