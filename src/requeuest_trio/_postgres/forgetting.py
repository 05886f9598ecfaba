"""What psycopg keeps in mind of a connection, and how it is made to forget that: for a session that changes hands."""

# ruff: noqa: SLF001 - psycopg has no other way for it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg._preparing import PrepareManager

from requeuest_trio._postgres.transaction import TrioServerCursor

if TYPE_CHECKING:
    from requeuest_trio._postgres.connection import TrioConnection

__all__ = ("forget_news", "forget_options", "forget_prepared", "prepared_names")


def prepared_names(conn: TrioConnection[Any]) -> set[str]:
    """Return the names of the statements that psycopg believes to be prepared in the session."""
    return {name.decode() for name in conn._prepared._names.values()}


def forget_prepared(conn: TrioConnection[Any]) -> None:
    """Have it believe that none is."""
    conn._prepared.clear()
    conn._prepared._to_flush.clear()


def forget_options(conn: TrioConnection[Any], prepare_threshold: int | None) -> None:
    """
    Forget what a connection was told that a new one would not know, such as adapters and handlers.

    Args:
      conn: which.
      prepare_threshold: as for `TrioConnection.connect`.
    """
    conn._adapters = None
    conn._notice_handlers[:] = [conn._note]
    conn._notify_handlers.clear()
    conn.server_cursor_factory = TrioServerCursor
    conn.prepare_threshold, conn.prepared_max = prepare_threshold, PrepareManager.prepared_max


def forget_news(conn: TrioConnection[Any]) -> None:
    """Forget notifications that have come and were not asked for, some of them perhaps with the last answer."""
    if conn._notifies_backlog:
        conn._notifies_backlog.clear()
