"""What is logged: the fixed names of events, their levels and fields. The docs show this table.

Each room logs to a logger of its own, `requeuest_trio.<room>`. The message is the event's name followed by its fields,
and a record has them as attributes too (`record.event`, `record.fields`). Nothing is logged at INFO for each job, and
no header, body or password ever.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import NamedTuple

from requeuest_trio._model.escaping import cut, escaped

__all__ = ["Event", "EventSpec", "emit"]

_LONGEST = 1_000
"""Of a field."""


class EventSpec(NamedTuple):
    """What is fixed about an event."""

    name: str
    room: str
    level: int
    fields: tuple[str, ...]
    meaning: str


class Event(Enum):
    """All events."""

    OPENED = EventSpec("opened", "open", logging.INFO, ("channels", "worker"), "A runner has started.")
    POOLED = EventSpec(
        "pooled", "open", logging.WARNING, ("poll_interval", "advice"),
        "PostgreSQL is behind a transaction pooler, over which nothing can be heard: what other processes spawn or "
        "finish is found by polling. See `Config.listen_dsn`.",
    )  # fmt: skip
    COLLATION_CHANGED = EventSpec(
        "collation_changed", "open", logging.WARNING, ("database", "recorded", "actual", "advice"),
        "The operating system, or a library, compares texts by other rules than when the database was made: indexes of "
        "your own tables may miss rows. Those of the queue don't go by such rules. Once for each opening.",
    )  # fmt: skip
    MIGRATION_WAITS = EventSpec(
        "migration_waits", "migrate", logging.WARNING, ("waited", "retry_in", "error"),
        "Another transaction holds what a migration needs. It is tried again, so that what others store meanwhile does "
        "not have to wait for long. What an event trigger raises is tried three times.",
    )  # fmt: skip
    LIMITS_EXCEEDED = EventSpec(
        "limits_exceeded", "migrate", logging.WARNING, ("constraint", "error"),
        "Finished jobs that were stored before there were limits break them. They stay as they are; new ones are "
        "refused.",
    )  # fmt: skip
    DRAINING = EventSpec(
        "draining", "open", logging.INFO, ("running", "grace"), "The block is left; running attempts may finish."
    )
    CLOSED = EventSpec(
        "closed", "open", logging.INFO, ("released",), "A runner has ended, and given back what was unfinished."
    )
    CLOSE_INCOMPLETE = EventSpec(
        "close_incomplete", "open", logging.WARNING, ("error",),
        "Outcomes or claims could not be written at the end; the lease will expire and the jobs be sent again.",
    )  # fmt: skip
    LISTENER_LOST = EventSpec(
        "listener_lost", "listener", logging.WARNING, ("error", "retry_in"),
        "The listening connection broke. Polling goes on.",
    )  # fmt: skip
    LISTENER_BACK = EventSpec(
        "listener_back", "listener", logging.INFO, ("failures",), "Notifications are heard again."
    )
    ANNOUNCE_FAILED = EventSpec(
        "announce_failed", "announcer", logging.WARNING, ("error", "retry_in"),
        "Other processes could not be told of new jobs; it is tried again, and their polls find the jobs.",
    )  # fmt: skip
    NOTIFY_QUEUE_FULL = EventSpec(
        "notify_queue_full", "announcer", logging.WARNING, ("silent_for",),
        "PostgreSQL's queue of notifications is full, because some session listens and sits in a transaction. Nothing "
        "is announced for so many seconds, so that all can be stored; polls find it.",
    )  # fmt: skip
    CLAIM_FAILED = EventSpec(
        "claim_failed", "dispatcher", logging.WARNING, ("error", "retry_in"), "Jobs could not be claimed."
    )
    CLAIM_LOST = EventSpec(
        "claim_lost", "dispatcher", logging.WARNING, ("jobs",),
        "The answer to a claim had been lost; its jobs were given back, their attempt not counted.",
    )  # fmt: skip
    OUTCOMES_LOST = EventSpec(
        "outcomes_lost", "dispatcher", logging.WARNING, ("jobs",),
        "PostgreSQL has forgotten outcomes that it had confirmed, as it may after a failover; the jobs are sent again.",
    )  # fmt: skip
    SHORTAGE = EventSpec(
        "shortage", "dispatcher", logging.WARNING, ("error", "jobs"),
        "This machine lacks descriptors, memory, threads or ports to send with. So many jobs were given back, their "
        "attempts not counted, and fewer are claimed. Told once a minute at most.",
    )  # fmt: skip
    SHORTAGE_OVER = EventSpec(
        "shortage_over", "dispatcher", logging.INFO, ("jobs",),
        "As many jobs are claimed as before a shortage, over which so many were given back.",
    )  # fmt: skip
    CLAIMED = EventSpec("claimed", "dispatcher", logging.DEBUG, ("jobs", "channels"), "Jobs were claimed.")
    ATTEMPT = EventSpec(
        "attempt", "attempt", logging.DEBUG, ("job", "number", "state", "status", "reached", "duration", "error"),
        "An attempt has ended.",
    )  # fmt: skip
    ORIGIN_FAILING = EventSpec(
        "origin_failing", "attempt", logging.WARNING, ("origin", "failures", "error"),
        "A receiver begins to fail: at least three attempts without a success in between, for a second or to the end "
        "of a job. At most once a minute for each origin.",
    )  # fmt: skip
    ORIGIN_RECOVERED = EventSpec(
        "origin_recovered", "attempt", logging.INFO, ("origin", "failures", "failed_for"),
        "A receiver that was told of as failing has accepted a request, so many seconds after the first failure.",
    )  # fmt: skip
    JOB_DEAD = EventSpec(
        "job_dead", "recorder", logging.WARNING, ("job", "channel", "attempts", "status", "error"),
        "A job was given up, and that is recorded.",
    )  # fmt: skip
    RECORD_FAILED = EventSpec(
        "record_failed", "recorder", logging.WARNING, ("error", "backlog", "retry_in"),
        "Outcomes could not be written; they are kept and tried again.",
    )  # fmt: skip
    OUTCOME_REFUSED = EventSpec(
        "outcome_refused", "recorder", logging.ERROR, ("job", "error"),
        "PostgreSQL refused an outcome; it is recorded without the answer's headers and body.",
    )  # fmt: skip
    OUTCOMES_STALE = EventSpec(
        "outcomes_stale", "recorder", logging.WARNING, ("jobs",),
        "Outcomes were not recorded: the jobs had been given to another process or removed, or it was done before.",
    )  # fmt: skip
    HEARTBEAT_FAILED = EventSpec(
        "heartbeat_failed", "heartbeat", logging.WARNING, ("error", "lease_left"), "The lease could not be renewed."
    )
    LEASE_LOST = EventSpec(
        "lease_lost", "heartbeat", logging.ERROR, ("cut_short",),
        "The lease has run out; this process has stopped sending until it has a new one.",
    )  # fmt: skip
    CLOCK_SET = EventSpec(
        "clock_set", "heartbeat", logging.WARNING, ("seconds",),
        "The database's clock was set, by at least so many seconds, or is another server's now. Leases do not go by "
        "it, and what is due only by the clock as it was is brought back.",
    )  # fmt: skip
    LOOP_STALLED = EventSpec(
        "loop_stalled", "loop", logging.WARNING, ("lag",),
        "Nothing ran in this process for so many seconds, more than a quarter of the lease: code without `await` "
        "blocked the event loop, or the process was stopped.",
    )  # fmt: skip
    MAINTENANCE_FAILED = EventSpec(
        "maintenance_failed", "maintenance", logging.WARNING, ("error",), "A round of maintenance failed."
    )
    BROUGHT_BACK = EventSpec(
        "brought_back", "maintenance", logging.WARNING, ("jobs",),
        "Jobs were due only in a time that the database's clock has been put back from; they are due now.",
    )  # fmt: skip
    RESCUED = EventSpec(
        "rescued", "maintenance", logging.WARNING, ("jobs",), "Jobs of lost processes were made available."
    )
    PRUNED = EventSpec("pruned", "maintenance", logging.DEBUG, ("jobs", "state"), "Old finished jobs were removed.")
    UNSTRANDED = EventSpec(
        "unstranded", "maintenance", logging.WARNING, ("channels",),
        "Jobs waited behind nobody, which only another program can cause; they were made available.",
    )  # fmt: skip
    POLL_FAILED = EventSpec(
        "poll_failed", "waiters", logging.WARNING, ("error",), "Awaited jobs could not be looked up."
    )


def emit(logger: logging.Logger, event: Event, **fields: object) -> None:
    """Log an event with its fields, in one line: names of channels and texts of errors come from anywhere."""
    spec = event.value
    if logger.isEnabledFor(spec.level):
        fields = {name: _logged(value) for name, value in fields.items()}
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.log(spec.level, "%s %s", spec.name, escaped(text), extra={"event": spec.name, "fields": fields})


def _logged(value: object) -> object:
    """What a record has of a field: only what JSON knows too, so that a handler can pass it on as it is."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [_logged(each) for each in value]
    if isinstance(value, Exception):
        # The details of PostgreSQL's errors, which follow, may show a whole row with all that is secret in it.
        value = str(value).strip().partition("\n")[0] or type(value).__name__
    return cut(escaped(str(value)), _LONGEST)
