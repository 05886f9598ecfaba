"""All events: what each means, and which fields it has. The docs show this table.

What happens to a queue as a whole comes first, then what happens to its jobs on their way, then what keeps it going.
"""

from __future__ import annotations

from logging import DEBUG, ERROR, INFO, WARNING
from uuid import UUID

from requeuest_trio._model.channel import All
from requeuest_trio._model.job import Reached
from requeuest_trio._model.states import JobState
from requeuest_trio._observe.event import Event, kind

__all__ = [
    "AnnounceFailed",
    "Attempt",
    "BroughtBack",
    "ClaimFailed",
    "ClaimLost",
    "Claimed",
    "ClockSet",
    "CloseIncomplete",
    "Closed",
    "CollationChanged",
    "Draining",
    "Dropped",
    "HeartbeatFailed",
    "JobDead",
    "LeaseLost",
    "LimitsExceeded",
    "ListenerBack",
    "ListenerLost",
    "LoopStalled",
    "MaintenanceFailed",
    "MigrationWaits",
    "NotifyQueueFull",
    "Opened",
    "OriginFailing",
    "OriginRecovered",
    "OutcomeRefused",
    "OutcomesLost",
    "OutcomesStale",
    "PollFailed",
    "Pooled",
    "Pruned",
    "RecordFailed",
    "Rescued",
    "Shortage",
    "ShortageOver",
    "Unstranded",
]


@kind("open", INFO)
class Opened(Event):
    """A runner has started."""

    channels: tuple[str, ...] | All
    worker: UUID


@kind("open", WARNING)
class Pooled(Event):
    """PostgreSQL is behind a transaction pooler, over which nothing can be heard.

    What other processes spawn or finish is found by polling. See `Config.listen_dsn`.
    """

    poll_interval: float
    advice: str


@kind("open", WARNING)
class CollationChanged(Event):
    """The operating system, or a library, compares texts by other rules than when the database was made.

    Indexes of your own tables may miss rows. Those of the queue don't go by such rules. Once for each opening.
    """

    database: str
    recorded: str
    actual: str
    advice: str


@kind("migrate", WARNING)
class MigrationWaits(Event):
    """Another transaction holds what a migration needs.

    It is tried again, so that what others store meanwhile does not have to wait for long. What an event trigger raises
    is tried three times.
    """

    waited: float
    retry_in: float
    error: str


@kind("migrate", WARNING)
class LimitsExceeded(Event):
    """Finished jobs that were stored before there were limits break them.

    They stay as they are; new ones are refused.
    """

    constraint: str
    error: str


@kind("open", INFO)
class Draining(Event):
    """The block is left; running attempts may finish."""

    running: int
    grace: float


@kind("open", INFO)
class Closed(Event):
    """A runner has ended, and released what was unfinished."""

    released: int


@kind("open", WARNING)
class CloseIncomplete(Event):
    """Outcomes or claims could not be written at the end; the lease will expire and the jobs be sent again."""

    error: str


@kind("listener", WARNING)
class ListenerLost(Event):
    """The listening connection broke. Polling goes on."""

    error: str
    retry_in: float


@kind("listener", INFO)
class ListenerBack(Event):
    """Notifications are heard again."""

    failures: int


@kind("announcer", WARNING)
class AnnounceFailed(Event):
    """Other processes could not be told of new jobs; it is tried again, and their polls find the jobs."""

    error: str
    retry_in: float


@kind("announcer", WARNING)
class NotifyQueueFull(Event):
    """PostgreSQL's queue of notifications is full, because some session listens and sits in a transaction.

    Nothing is announced for so many seconds, so that all can be stored; polls find it.
    """

    silent_for: float


@kind("dispatcher", WARNING)
class ClaimFailed(Event):
    """Jobs could not be claimed."""

    error: str
    retry_in: float


@kind("dispatcher", WARNING)
class ClaimLost(Event):
    """The answer to a claim had been lost; its jobs were released, their attempt not counted."""

    jobs: int


@kind("dispatcher", WARNING)
class OutcomesLost(Event):
    """PostgreSQL has forgotten outcomes that it had confirmed, as it may after a failover; the jobs are sent again."""

    jobs: int


@kind("dispatcher", WARNING)
class Shortage(Event):
    """This machine lacks descriptors, memory, threads or ports to send with.

    So many jobs were released, their attempts not counted, and fewer are claimed. Told once a minute at most.
    """

    error: str
    jobs: int


@kind("dispatcher", INFO)
class ShortageOver(Event):
    """As many jobs are claimed as before a shortage, over which so many were released."""

    jobs: int


@kind("dispatcher", DEBUG)
class Claimed(Event):
    """Jobs were claimed."""

    jobs: int
    channels: int


@kind("attempt", DEBUG)
class Attempt(Event):
    """An attempt has ended."""

    job: UUID
    number: int
    state: JobState
    status: int | None
    reached: Reached
    duration: float
    error: str | None


@kind("attempt", WARNING)
class OriginFailing(Event):
    """A receiver begins to fail.

    At least three attempts without a success in between, for a second or to the end of a job. At most once a minute for
    each origin.
    """

    origin: str
    failures: int
    error: str | None


@kind("attempt", INFO)
class OriginRecovered(Event):
    """A receiver that was told of as failing has accepted a request, so many seconds after the first failure."""

    origin: str
    failures: int
    failed_for: float


@kind("recorder", WARNING)
class JobDead(Event):
    """A job was given up, and that is recorded."""

    job: UUID
    channel: str
    attempts: int
    status: int | None
    error: str | None


@kind("recorder", WARNING)
class RecordFailed(Event):
    """Outcomes could not be written; they are kept and tried again."""

    error: str
    backlog: int
    retry_in: float


@kind("recorder", ERROR)
class OutcomeRefused(Event):
    """PostgreSQL refused an outcome; it is recorded without the answer's headers and body."""

    job: UUID
    error: str


@kind("recorder", WARNING)
class OutcomesStale(Event):
    """Outcomes were not recorded: the jobs had been given to another process or removed, or it was done before."""

    jobs: int


@kind("heartbeat", WARNING)
class HeartbeatFailed(Event):
    """The lease could not be renewed."""

    error: str
    lease_left: float


@kind("heartbeat", ERROR)
class LeaseLost(Event):
    """The lease has run out; this process has stopped sending until it has a new one."""

    cut_short: int


@kind("heartbeat", WARNING)
class ClockSet(Event):
    """The database's clock was set, by at least so many seconds, or is another server's now.

    Leases do not go by it, and what is due only by the clock as it was is brought back.
    """

    seconds: float


@kind("loop", WARNING)
class LoopStalled(Event):
    """Nothing ran in this process for so many seconds, more than a quarter of the lease.

    Code without `await` blocked the event loop, or the process was stopped.
    """

    lag: float


@kind("maintenance", WARNING)
class MaintenanceFailed(Event):
    """A round of maintenance failed."""

    error: str


@kind("maintenance", WARNING)
class BroughtBack(Event):
    """Jobs were due only in a time that the database's clock has been put back from; they are due now."""

    jobs: int


@kind("maintenance", WARNING)
class Rescued(Event):
    """Jobs of lost processes were made available."""

    jobs: int


@kind("maintenance", DEBUG)
class Pruned(Event):
    """Old finished jobs were removed."""

    jobs: int
    state: JobState


@kind("maintenance", WARNING)
class Unstranded(Event):
    """Jobs were blocked behind no other job, which only another program can cause; they were made available."""

    channels: int


@kind("waiters", WARNING)
class PollFailed(Event):
    """Awaited jobs could not be looked up."""

    error: str


@kind("events", WARNING)
class Dropped(Event):
    """So many events are missing here: their subscriber reads too slowly. It is in its stream only, not in the log."""

    count: int
