"""Whether a database that refuses a connection will go on doing so, in whatever language it says that."""

from __future__ import annotations

import os
import re
import select
import tempfile
from contextlib import suppress
from functools import lru_cache
from time import monotonic

import psycopg
import trio
from psycopg import pq
from psycopg._conninfo_utils import split_attempts
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import DatabaseUnavailable

__all__ = ["has_remedy", "is_refusal"]

_SECONDS = 10.0
_LASTING = re.compile(
    r'(database|role) ".*" does not exist|password authentication failed|no password supplied|no pg_hba\.conf entry'
    r'|role ".*" is not permitted to log in'
)
_OF_SERVER = re.compile(r": \S+:  \S|: fe_sendauth: ")
"""What a server has said, and not libpq or this library."""
_LASTING_STATES = ("28", "3D000", "42501")
"""A user, password or address that is not let in; a database that is not there; a right to connect that is lacking."""
_STATE = re.compile(rb'\tErrorResponse\t(?: [SV] "[^"]*")* C "(\w{5})"')
"""As it stands in a trace of libpq's."""


async def is_refusal(error: DatabaseUnavailable, dsn: str) -> bool:
    """Whether this database, or one of its hosts, goes on refusing until an operator has changed something.

    libpq tells no SQLSTATE of a refused connection, and servers have their own languages. So what is not known by its
    words is asked for once more, with libpq's trace on. A libpq that traces nothing then (before 17) leaves it at that.
    """
    await trio.lowlevel.checkpoint()
    words = str(error)
    if has_remedy(error):
        return True
    if not _OF_SERVER.search(words):
        return False
    states = await trio.to_thread.run_sync(_states_of_refusal, dsn, words, abandon_on_cancel=True)
    return any(state.startswith(_LASTING_STATES) for state in states)


def has_remedy(error: DatabaseUnavailable) -> bool:
    """Whether it is a refusal in words that the library knows: then the error says what to do."""
    return _LASTING.search(str(error)) is not None


@lru_cache(maxsize=16)
def _states_of_refusal(dsn: str, _words: str) -> list[str]:
    """The SQLSTATE of the last error that each host answers with, the same for the same words. It blocks."""
    states: list[str] = []
    # One by one: after most errors, libpq asks no other.
    hosts = split_attempts(conninfo_to_dict(dsn))
    for host in hosts:
        with suppress(psycopg.Error, OSError):
            states += _states_of_host(make_conninfo("", **host), _SECONDS / len(hosts))[-1:]
    return states


def _states_of_host(dsn: str, seconds: float) -> list[str]:
    # With passwords in it: a file that has no name.
    with tempfile.TemporaryFile() as trace:
        _connect(dsn, trace.fileno(), seconds)
        trace.seek(0)
        return [state.decode("ascii") for state in _STATE.findall(trace.read())]


def _connect(dsn: str, trace: int, seconds: float) -> None:
    connection = pq.PGconn.connect_start(os.fsencode(dsn))
    try:
        connection.trace(trace)
        deadline = monotonic() + seconds
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
