"""requeuest-trio: deliver HTTP requests reliably from Trio, with PostgreSQL as the queue.

A program needs the names below, `requeuest_trio.events` for what `Client.events` gives, `requeuest_trio.checks` and
`requeuest_trio.masking` for what comes from people and is shown to them, `requeuest_trio.embedded` for a PostgreSQL of
its own, and `requeuest_trio.testing` for tests. The command `requeuest`, `python -m requeuest_trio` as well, is made of
these too.

To read the code, follow one request. `docs/architecture.md` has the files of each step, what each room may know, and
where a new feature goes:

1. spawn: `_client` takes the request, `_enqueue` makes a job of it.
2. commit: `_enqueue` stores the jobs of all callers together, and announces them.
3. wake up: `_engine` has the tasks that deliver. One of them listens, here or in another process;
4. claim: the dispatcher claims a batch;
5. slot: each channel has a worker with slots of its own;
6. attempt: in a slot, an attempt goes through its steps.
7. send: `_http` sends.
8. judge: `_model` has values and pure decisions, this one among them.
9. record: `_engine` writes what came of it.
10. wait: `_waiters` wakes the callers that wait for the response.

Above them, `_open` opens and closes a queue, `_wiring` builds its parts, and `cli` is the command. Below them, `_store`
has all SQL, `_postgres` drives psycopg from Trio, and `_observe` has the events, and those that take them.
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
