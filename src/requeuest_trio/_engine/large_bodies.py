"""Bodies that a claim has left unread, because they are large.

They are read one at a time, over a connection of their own: so no other job waits for them, nor does the lease, and
there is never more than one on its way here.
"""

from __future__ import annotations

import trio

from requeuest_trio._engine.lease import Lease
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.database import DATABASE_ERRORS, why_unreadable
from requeuest_trio._store.failures import is_of_what_was_read
from requeuest_trio._store.store import Store

__all__ = ["PATIENCE", "LargeBodies", "UnreadableError"]

PATIENCE = 4.0
"""How many times as long as a statement a large body may take: it is more to read, and only others of its kind wait for
it. A machine or a line that is slow for a while kills no job."""


class UnreadableError(Exception):
    """A body can't be read, though PostgreSQL is there. The text says why."""


class LargeBodies:
    """Reads them for the attempts of one process."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._one_at_a_time = trio.Lock()

    async def read(self, job: Claimed) -> bytes | None:
        """The body of a claimed job; None if it is not held under its claim any more.

        Raises `UnreadableError` if that has failed twice of the body itself, while the lease was renewed all the same;
        any other error of the database as it is.
        """
        async with self._one_at_a_time:
            try:
                return await self._store.body(job)
            except DATABASE_ERRORS as error:
                if not is_of_what_was_read(error):
                    raise
            try:
                return await self._store.body(job)
            except DATABASE_ERRORS as error:
                if not is_of_what_was_read(error) or not self._lease.is_fresh:
                    raise
                why = why_unreadable(error, self._store.statement_timeout, "a large body")
                raise UnreadableError(f"its body can't be read{why}") from error
