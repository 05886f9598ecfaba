"""The way to a database: what its connection string is now, and which of its addresses have failed of late."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeAlias

import psycopg

from requeuest_trio._model.dsn import HiddenText, problem_of
from requeuest_trio._model.exact import exact_text
from requeuest_trio._postgres.connecting import Addresses
from requeuest_trio._postgres.connection import TrioConnection
from requeuest_trio._real_time import move_on_after

__all__ = ("Dsn", "Route")

Dsn: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A connection string, or a callable that is asked for it whenever a connection is made."""


class Route:
    """
    Makes connections to one database; all that is made for the same purpose shares it.

    A host that does not answer costs only its share of the time, and is tried last from then on, for a while. So one
    that is silent, as a frozen server or a cut cable is, hides none of the others.

    Args:
      dsn: the connection string, or a callable that gives it, or awaits it. It is asked for every connection anew, so
        that a password may change. It must not block the event loop.

    Example::

        route = Route(lambda: make_conninfo("postgresql:///app", password=token_of_the_day()))
        async with await route.connect(10.0) as conn:
            await conn.execute("select 1")
    """

    def __init__(self, dsn: Dsn) -> None:
        self._dsn = dsn
        self._addresses = Addresses()

    async def connect(self, timeout: float, **options: Any) -> TrioConnection[tuple[Any, ...]]:  # noqa: ASYNC109 - shared out here
        """
        Connect, within so many seconds over all hosts and their addresses, and those of the callable.

        Args:
          timeout: in seconds.
          options: as for `TrioConnection.connect`.

        Raises:
          psycopg.OperationalError: no attempt succeeded in time, or the callable failed.

        Cancellation: nothing is left open.
        """
        deadline = monotonic() + timeout
        waits_for = "the callable for the dsn has not answered"
        with move_on_after(timeout):
            conninfo = self._dsn if isinstance(self._dsn, str) else await _asked(self._dsn)
            waits_for = "no connection"
            # From the first message on: Python has no codec for some of the encodings that a database may have.
            return await TrioConnection.connect(
                conninfo, within=deadline - monotonic(), addresses=self._addresses, client_encoding="UTF8", **options
            )
        raise psycopg.errors.ConnectionTimeout(f"{waits_for} within {timeout:g} s")

    def avoid(self, conn: TrioConnection[Any]) -> None:
        """Begin with another address next time: this one is silent, or leads to what can't be written to."""
        self._addresses.note_failure(conn.address)

    def is_in_doubt(self, conn: TrioConnection[Any], since: float) -> bool:
        """Whether another connection to the same address has been given up since a time: then this one is no better."""
        return self._addresses.has_failed_since(conn.address, since)


async def _asked(dsn: Callable[[], str | Awaitable[str]]) -> str:
    try:
        answer = dsn()
        if inspect.isawaitable(answer):
            answer = await answer
    except Exception as error:  # whatever it is, the next connection may have it better
        raise psycopg.OperationalError(f"the callable for the dsn has raised {type(error).__name__}") from error
    if not isinstance(answer, str):
        raise psycopg.OperationalError(f"the callable for the dsn must return a str, not {type(answer).__name__}")
    if answer.startswith("embedded:"):
        raise psycopg.OperationalError("the callable for the dsn must return a libpq connection string, not embedded:")
    if (problem := problem_of(answer)) is not None:
        raise psycopg.OperationalError(f"what the callable for the dsn has returned is wrong: {problem}")
    return HiddenText(exact_text(answer))
