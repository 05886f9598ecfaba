"""Storing the requests of a file, and following them until each is delivered or given up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import trio

from requeuest_trio import Client, DatabaseUnavailable, Job, JobNotFound, RetryPolicy, events
from requeuest_trio.cli.request_file import Entry
from requeuest_trio.cli.tally import Outcome, Stored, Tally

__all__ = ["channels_of", "follow", "read_outcomes", "store", "watch_attempts"]

_BATCH = 1_000
_FOLLOWED_AT_ONCE = 50
_PAUSE_SECONDS = 1.0
_REMOVED = "it was removed from the queue by somebody else"


async def store(
    client: Client, entries: Iterable[Entry], *, retry: RetryPolicy | None, attempt_seconds: float | None = None
) -> list[Stored]:
    """Put all requests into the queue in one transaction: all of them, or none.

    Args:
        client: an open queue.
        entries: those with the same channel and ordering key are sent in this order.
        retry: when to try again; None is the library's default.
        attempt_seconds: the timeout of each attempt; None leaves it to the request.

    Returns:
        The jobs, in the order of the lines.

    Cancellation: nothing is stored, unless the commit was under way.
    """
    stored: list[Stored] = []
    async with client.transaction() as connection:
        # In the order of the keys: two transactions that lock several keys must not do it crosswise.
        for (channel, has_key, key), group in groupby(sorted(entries, key=_sequence), key=_sequence):
            rest = list(group)
            while batch := rest[:_BATCH]:
                del rest[:_BATCH]
                job_ids = await client.spawn_many(
                    channel,
                    [entry.request for entry in batch],
                    ordering_key=key if has_key else None,
                    retry=retry,
                    timeout=attempt_seconds,
                    connection=connection,
                )
                stored += [Stored(entry, job_id) for entry, job_id in zip(batch, job_ids, strict=True)]
    return sorted(stored, key=lambda stored: stored.entry.line)


def _sequence(entry: Entry) -> tuple[str, bool, str]:
    return entry.channel, entry.ordering_key is not None, entry.ordering_key or ""


async def follow(client: Client, tally: Tally) -> None:
    """Wait until every job of the tally has ended, and count each as it does.

    They are followed in the order of the file, a few at once: waiting for a job costs a commit, but for most of a long
    file it has ended when its turn comes. An outage of the database is waited out.

    Cancellation: what was counted stays counted.
    """
    places = trio.Semaphore(_FOLLOWED_AT_ONCE)
    async with trio.open_nursery() as nursery:
        for stored in tally.stored:
            await places.acquire()
            nursery.start_soon(_follow_one, client, stored, tally, places)


async def _follow_one(client: Client, stored: Stored, tally: Tally, places: trio.Semaphore) -> None:
    tally.add(await _end_of(client, stored))
    places.release()


async def _end_of(client: Client, stored: Stored) -> Outcome:
    while True:
        await trio.lowlevel.checkpoint()
        try:
            job = await client.wait(stored.job_id)
        except JobNotFound:
            return Outcome(stored, None, error=_REMOVED)
        except DatabaseUnavailable:
            await trio.sleep(_PAUSE_SECONDS)
        else:
            return _outcome(stored, job)


async def watch_attempts(client: Client, tally: Tally, *, task_status: trio.TaskStatus[None]) -> None:
    """Count the attempts of this process as they end, which is long before the database is asked.

    It ends when the client is closed, and so sees those too that end while the queue drains. Should it ever be too slow
    to see all, some failures are not counted, and jobs later.
    """
    async with client.events() as stream:
        task_status.started()
        async for event in stream:
            if isinstance(event, events.Attempt):
                tally.saw_attempt(event.job, event.state, event.error)


async def read_outcomes(client: Client, tally: Tally) -> None:
    """Read once what has become of the requests that are not known to have ended.

    Cancellation: what was counted stays counted.
    """
    places = trio.Semaphore(_FOLLOWED_AT_ONCE)
    async with trio.open_nursery() as nursery:
        for stored in tally.unfinished:
            await places.acquire()
            nursery.start_soon(_read_one, client, stored, tally, places)


async def _read_one(client: Client, stored: Stored, tally: Tally, places: trio.Semaphore) -> None:
    job = await client.job(stored.job_id)
    if job is None:
        tally.add(Outcome(stored, None, error=_REMOVED))
    elif job.is_finished:
        tally.add(_outcome(stored, job))
    else:
        tally.left.append(_outcome(stored, job))
    places.release()


def _outcome(stored: Stored, job: Job) -> Outcome:
    ended = job.finished_at or job.created_at
    seconds = (ended - job.created_at).total_seconds()
    return Outcome(stored, job.state, job.attempts, seconds, job.status, job.error)


def channels_of(entries: Sequence[Entry]) -> list[str]:
    """The channels, in the order in which they come first."""
    return list(dict.fromkeys(entry.channel for entry in entries))
