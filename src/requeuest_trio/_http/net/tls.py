"""TLS over a TCP connection: whom it trusts, and the stream."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio
import truststore

from requeuest_trio._http.net.streams import NOTHING, PlainStream

__all__ = ["TlsStream", "default_context", "open_tls"]

_ENCRYPTED_RECEIVED_AT_ONCE: Final = 16_384  # which may be hundreds of records, and as many calls
_DECRYPTED_AT_ONCE: Final = 65_536
_ENCRYPTED_AT_ONCE: Final = 262_144  # what is encrypted and not yet sent is kept twice

_T = TypeVar("_T")


def default_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificates that the operating system trusts. Reading them takes its time."""
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if sys.platform in {"darwin", "win32"}:
        return context
    # Elsewhere truststore finds the right file, but reads it again for each connection: a tenth of a second in which
    # nothing else would run. It hands what it has read to the context within.
    inner = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost").context
    # Only subjectAltName counts (RFC 9110 section 4.3.4, RFC 9525 section 6.3).
    inner.hostname_checks_common_name = False
    return inner


class TlsStream:
    """TLS over a TCP connection. To be made by `open_tls`.

    Not a `trio.SSLStream`, which does not tell whether it holds bytes that were not asked for: what follows an answer
    would be the beginning of the next one.
    """

    __slots__ = (
        "_has_ended", "_has_sent", "_heard", "_incoming", "_is_listening", "_outgoing", "_plain", "_problem", "_rest",
        "_tls", "took", "was_cut",
    )  # fmt: skip

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # The dot of an absolute name is no part of it in TLS (RFC 6066 section 3), nor is the zone of an address.
        name = host.partition("%")[0].removesuffix(".")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._rest = NOTHING
        """What is not encrypted yet."""
        self._has_sent = False
        self._is_listening = False
        self._heard = trio.lowlevel.ParkingLot()
        self._has_ended = False
        self.was_cut = False
        self.took = 0.0
        self._problem: ssl.SSLError | None = None

    @property
    def unsent(self) -> memoryview:
        """What waits for room, encrypted."""
        return self._plain.unsent

    async def shake_hands(self) -> None:
        """Agree on keys, and check the certificate."""
        await self._do(self._tls.do_handshake)

    def start_sending(self, data: bytes) -> bool:
        """Send what can be sent without waiting. False: `finish_sending` sends the rest."""
        self._has_sent = True
        self._rest = memoryview(data)
        try:
            self._rest = self._rest[self._tls.write(self._rest[:_ENCRYPTED_AT_ONCE]) :]
        except ssl.SSLWantReadError:
            return False
        return self._plain.start_sending(self._outgoing.read()) and not self._rest

    async def finish_sending(self) -> None:
        """Send the rest."""
        await self._plain.finish_sending()
        while self._rest:
            self._rest = self._rest[await self._do(partial(self._tls.write, self._rest[:_ENCRYPTED_AT_ONCE])) :]

    async def receive(self, *, while_sending: bool = False) -> bytes:
        """Wait for the next bytes; none at the end. Without TLS's own closing message, `was_cut` is True."""
        data = b""
        if self._has_ended or self._incoming.pending:
            await trio.lowlevel.checkpoint()
            data = self._decrypted()
        while not data and not self._has_ended:
            if not while_sending:
                await self._flush()
            await self._listen()
            data = self._decrypted()
        if not data and self._problem is not None:
            raise self._problem
        return data

    def is_readable(self) -> bool:
        """Whether something can be read. What TLS sends for itself, after the handshake most of all, does not count."""
        while not self._has_ended and self._plain.is_readable():
            try:
                data = self._plain.receive_nowait()
            except OSError:
                return True
            self._take(data)
            if self._decrypted():
                return True
        # The beginning of a record may be the beginning of an answer, but hardly before anything was asked.
        return self._has_ended or (self._has_sent and self._incoming.pending > 0)

    def close(self) -> None:
        """Close it at once, without TLS's closing message: what was sent is framed by HTTP."""
        self._plain.close()

    def _decrypted(self) -> bytes:
        """All that has come and can be read, so that nothing of it is left inside."""
        pieces: list[bytes] = []
        if self._has_ended:
            return b""
        began = time.thread_time()
        try:
            while piece := self._tls.read(_DECRYPTED_AT_ONCE):
                pieces.append(piece)
            self._has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            # So much of the web ends; what has a length is complete all the same (RFC 9112 section 9.8).
            self._has_ended = self.was_cut = True
        except ssl.SSLError as error:
            # What came before is as good as it was.
            self._has_ended, self._problem = True, error
        self.took = time.thread_time() - began
        return b"".join(pieces)

    async def _do(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._listen()
            else:
                await self._flush()
                return result

    async def _listen(self) -> None:
        """Wait for what TLS wants to hear."""
        if self._is_listening:
            await self._heard.park()  # another task does
            return
        self._is_listening = True
        try:
            self._take(await self._plain.receive())
        finally:
            self._is_listening = False
            self._heard.unpark_all()

    def _take(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending and not self._plain.start_sending(self._outgoing.read()):
            await self._plain.finish_sending()


async def open_tls(sock: socket.socket, context: ssl.SSLContext, host: str) -> TlsStream:
    """Shake hands over a connected socket that does not block, which is this function's from here on.

    Cancelled, or if the handshake fails, the socket is closed.
    """
    plain = PlainStream(sock, _ENCRYPTED_RECEIVED_AT_ONCE)
    try:
        stream = TlsStream(plain, context, host)
        await stream.shake_hands()
    except BaseException:
        plain.close()
        raise
    return stream
