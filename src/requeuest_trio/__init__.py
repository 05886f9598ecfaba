"""requeuest-trio: deliver HTTP requests reliably from Trio, with PostgreSQL as the queue.

A program needs the names below, `requeuest_trio.events` for what `Client.events` gives, `requeuest_trio.checks` and
`requeuest_trio.masking` for what comes from people and is shown to them, `requeuest_trio.embedded` for a PostgreSQL of
its own, and `requeuest_trio.testing` for tests. The command `requeuest`, `python -m requeuest_trio` as well, is made of
these too.

To read the code, follow one request from the top down; each room imports only those below it:

- `_open` wires everything, and `cli` is the command on top of it.
- `_client` takes the request.                                     1. spawn
- `_engine` has the tasks that deliver: the listener hears of it,  3. wake up
  the dispatcher claims it, a worker takes it,                     4. claim
  an attempt sends it, the recorder writes what came of it.        5. attempt, 8. record
- `_enqueue` checks its arguments, and commits it with others.     2. commit
- `_waiters` wakes those who wait for the response.                9. wait
- `_store` has all SQL.
- `_http` sends.                                                   6. send
- `_postgres` drives psycopg from Trio.
- `_observe` has the events, and those that take them: the log, and who subscribes.
- `_config` and `_model` have values and pure decisions.           7. judge
"""

from requeuest_trio._client import Client
from requeuest_trio._config import Config
from requeuest_trio._enqueue.arguments import SpawnOptions
from requeuest_trio._http.transport import TrioTransport
from requeuest_trio._model.channel import ALL, All, Channel
from requeuest_trio._model.errors import (
    DatabaseUnavailable,
    InvalidRequest,
    JobCancelled,
    JobDead,
    JobNotFound,
    RequeuestError,
    SchemaMismatch,
)
from requeuest_trio._model.job import Attempt, Job, Reached, Stats
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._model.statuses import StatusClass
from requeuest_trio._observe.event import Event
from requeuest_trio._open import migrate, open_requeuest
from requeuest_trio._postgres import TrioConnection

__all__ = [
    "ALL",
    "All",
    "Attempt",
    "Channel",
    "Client",
    "Config",
    "DatabaseUnavailable",
    "Event",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobDead",
    "JobNotFound",
    "JobState",
    "Reached",
    "Request",
    "RequeuestError",
    "RetryPolicy",
    "SchemaMismatch",
    "SpawnOptions",
    "Stats",
    "StatusClass",
    "TrioConnection",
    "TrioTransport",
    "migrate",
    "open_requeuest",
]
