"""Whether a database that refuses a connection will go on doing so, in whatever language it says that."""

from __future__ import annotations

import os
import re
import select
import tempfile
from functools import lru_cache
from time import monotonic

import psycopg
import trio
from psycopg import pq

from requeuest_trio import DatabaseUnavailable

__all__ = ["is_lasting"]

_SECONDS = 10.0
_LASTING = re.compile(
    r'(database|role) ".*" does not exist|password authentication failed|no password supplied|no pg_hba\.conf entry'
    r'|role ".*" is not permitted to log in'
)
_LASTING_STATES = ("28", "3D000", "42501")
"""A user, password or address that is not let in; a database that is not there; a right to connect that is lacking."""
_OF_THE_SERVER = re.compile(r": \S+:  \S")
"""libpq writes an error of a server with its severity and two spaces before it, and so none of its own."""
_STATE = re.compile(rb'\tErrorResponse\t(?: [SV] "[^"]*")* C "(\w{5})"')
"""As it stands in a trace of libpq's."""


async def is_lasting(error: DatabaseUnavailable, dsn: str) -> bool:
    """Whether somebody has to do something before this database lets anybody in.

    libpq tells no SQLSTATE of a refused connection, and servers have their own languages. So what is not known by its
    words is asked for once more, with libpq's trace on. A libpq that traces nothing then (before 17) leaves it at that.
    """
    await trio.lowlevel.checkpoint()
    words = str(error)
    if _LASTING.search(words):
        return True
    if not _OF_THE_SERVER.search(words):
        return False
    state = await trio.to_thread.run_sync(_state_of_refusal, dsn, words, abandon_on_cancel=True)
    return state.startswith(_LASTING_STATES)


@lru_cache(maxsize=16)
def _state_of_refusal(dsn: str, _words: str) -> str:
    """The SQLSTATE of the last error that servers answer with, the same for the same words; "" if there is none.

    It blocks.
    """
    # With passwords in it: a file that has no name.
    with tempfile.TemporaryFile() as trace:
        try:
            _connect(dsn, trace.fileno())
        except (psycopg.Error, OSError):
            return ""
        trace.seek(0)
        states = _STATE.findall(trace.read())
    return states[-1].decode("ascii") if states else ""


def _connect(dsn: str, trace: int) -> None:
    connection = pq.PGconn.connect_start(os.fsencode(dsn))
    try:
        connection.trace(trace)
        deadline = monotonic() + _SECONDS
        wanted: int = pq.PollingStatus.WRITING
        while wanted in {pq.PollingStatus.READING, pq.PollingStatus.WRITING}:
            ready = select.POLLIN if wanted == pq.PollingStatus.READING else select.POLLOUT
            poll = select.poll()
            poll.register(connection.socket, ready)
            if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                return
            wanted = connection.connect_poll()
    finally:
        connection.untrace()
        connection.finish()
