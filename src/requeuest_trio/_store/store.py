"""The queue in PostgreSQL: what each query does, as a method."""

from __future__ import annotations

from requeuest_trio._store.claimed import ClaimedJobs
from requeuest_trio._store.maintaining import Maintaining
from requeuest_trio._store.new_jobs import NewJobs
from requeuest_trio._store.outcomes import Outcomes
from requeuest_trio._store.reading import Reading

__all__ = ["Store"]


class Store(NewJobs, ClaimedJobs, Outcomes, Maintaining, Reading):
    """All that is done with one queue, over the connections of one `Database`.

    Each method is one operation on one connection. What belongs into a transaction that is open already, such as an
    application's, is done by `store.on(connection)`.
    """
