"""One database of the server, seen from the conductor: what is in it, and what PostgreSQL has counted there."""

import time
from dataclasses import dataclass
from typing import Any, Self

import psycopg

PATIENCE = 60.0
# PostgreSQL counts a flush of the log where it counts all other I/O, since version 18.
FLUSHES = {
    True: "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
    False: "SELECT wal_sync FROM pg_stat_wal",
}
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type IN ('client backend', 'autovacuum worker')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Flushes of the write-ahead log, and transactions that were not the benchmark's own."""

    flushes: int
    transactions: int

    def per_job(self, since: Self, jobs: int) -> dict[str, float]:
        """The figures for what was done since."""
        return {
            "flushes_per_job": (self.flushes - since.flushes) / jobs,
            "transactions_per_job": (self.transactions - since.transactions) / jobs,
        }


class Database:
    """One database, and what happens in it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self._statements = 0

    def value(self, query: str, **parameters: Any) -> int:
        """The one number that a query gives."""
        self._statements += 1
        row = self._connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return int(row[0])

    def execute(self, statement: str) -> None:
        """Run a statement."""
        self._statements += 1
        self._connection.execute(statement.encode())

    def settle(self) -> None:
        """Have done with what came before: tables are analysed and vacuumed, and everything is on disk."""
        self._wait_until_alone()
        self.execute("VACUUM ANALYZE")
        self.execute("CHECKPOINT")

    def counters(self) -> Counters:
        """What was counted so far, once all others have left, which is when their counts are complete."""
        self._wait_until_alone()
        self.execute("SELECT pg_stat_force_next_flush()")  # of our own counts, so that they are all there to subtract
        own = self._statements
        return Counters(
            transactions=self.value(TRANSACTIONS) - own,
            flushes=self.value(FLUSHES[self._connection.info.server_version >= 180_000]),
        )

    def _wait_until_alone(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.value(OTHERS):
            if time.monotonic() > deadline:
                raise TimeoutError(f"somebody is still connected after {PATIENCE:g} s")
            time.sleep(0.02)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
