"""Getting a connection out of the middle of an operation: protocol generators of our own, in psycopg's manner."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import generators, pq
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from psycopg.abc import PQGen, PQGenConn
    from psycopg.pq.abc import PGconn

__all__ = ("come_to_rest", "dispose_of", "request_cancel")

T = TypeVar("T")

_ACTIVE = pq.TransactionStatus.ACTIVE


def come_to_rest(pgconn: PGconn, gen: PQGen[T] | None) -> PQGen[tuple[T] | None]:
    """
    Run what is left of an interrupted generator, then throw away what the server still sends.

    Return the generator's value, in a tuple, if it succeeded and that was the whole operation. Anything else is None:
    it failed (as it will when the server has been asked to cancel it), or it was one part of a longer operation, such
    as a COPY, of which the rest will never be asked for.
    """
    outcome: tuple[T] | None = None
    if gen is not None:
        with suppress(Exception):
            outcome = ((yield from _resumed(gen)),)
    if pgconn.transaction_status != _ACTIVE:
        return outcome
    yield from _discard(pgconn)
    return None


def _resumed(gen: PQGen[T]) -> PQGen[T]:
    """What is left of a generator. It waits for a number, and `yield from` would begin with None."""
    ready: int = Ready.NONE
    while True:
        try:
            want = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value
        ready = yield want


def _discard(pgconn: PGconn) -> PQGen[None]:
    yield from generators.send(pgconn)
    while pgconn.transaction_status == _ACTIVE:
        result = yield from generators.fetch(pgconn)
        match result and result.status:
            case pq.ExecStatus.COPY_IN:
                with suppress(psycopg.Error):  # the server's complaint that we broke off
                    yield from generators.copy_end(pgconn, b"interrupted")
            case pq.ExecStatus.COPY_OUT:
                with suppress(psycopg.Error):
                    while not isinstance((yield from generators.copy_from(pgconn)), pq.PGresult):
                        pass
            case pq.ExecStatus.COPY_BOTH:
                raise psycopg.NotSupportedError("a replication stream cannot be broken off")


def request_cancel(pgconn: PGconn) -> PQGenConn[None]:
    """
    Ask the server, over a connection made for the purpose, to cancel what this one is doing.

    It ends when the server has closed that connection again, that is, after it has sent the signal. psycopg has the
    same, but not with the same arguments in every version.
    """
    request = pgconn.cancel_conn()
    request.start()
    while True:
        match request.poll():
            case pq.PollingStatus.READING:
                yield request.socket, Wait.R
            case pq.PollingStatus.WRITING:
                yield request.socket, Wait.W
            case pq.PollingStatus.OK:
                return
            case _:
                raise psycopg.OperationalError(f"cancel request failed: {request.get_error_message()}")


def dispose_of(gen: PQGen[T] | None) -> None:
    """Close a generator that will not be run again: left to the garbage collector, its complaints would be printed."""
    if gen is not None:
        with suppress(Exception):
            gen.close()
