"""
PostgreSQL for Trio: psycopg's protocol, Trio's waiting. Knows nothing of queues.

Reading order: `waiting` (a socket and a generator), `connection` (what an operation is, and what follows when it is
cancelled) with its parts `lock`, `connecting`, `draining` and `transaction`, then `encoded`, `route`,
`forgetting` and `pool`. Time limits are those of `_real_time`.
"""

from requeuest_trio._postgres.connecting import ELSEWHERE, is_of_server
from requeuest_trio._postgres.connection import SETTLE_TIMEOUT, TrioConnection
from requeuest_trio._postgres.encoded import Statement, execute_encoded
from requeuest_trio._postgres.forgetting import forget_prepared, prepared_names
from requeuest_trio._postgres.pool import ConnectionPool, PoolStatistics, PoolTimeout
from requeuest_trio._postgres.route import Dsn, Route
from requeuest_trio._postgres.transaction import TrioTransaction

__all__ = (
    "ELSEWHERE",
    "SETTLE_TIMEOUT",
    "ConnectionPool",
    "Dsn",
    "PoolStatistics",
    "PoolTimeout",
    "Route",
    "Statement",
    "TrioConnection",
    "TrioTransaction",
    "execute_encoded",
    "forget_prepared",
    "is_of_server",
    "prepared_names",
)
