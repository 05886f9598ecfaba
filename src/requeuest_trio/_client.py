"""What an application does with an open queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID
from weakref import WeakSet

import trio
from psycopg.pq import TransactionStatus

from requeuest_trio._config import Config
from requeuest_trio._enqueue.arguments import JobFactory, SpawnOptions
from requeuest_trio._enqueue.group_commit import Spawner
from requeuest_trio._model import checks
from requeuest_trio._model.channel import All, Channel
from requeuest_trio._model.ecosystem import Response
from requeuest_trio._model.errors import (
    DatabaseUnavailable,
    InvalidRequest,
    JobCancelled,
    JobDead,
    JobNotFound,
    SchemaMismatch,
    kind_of,
    shown,
)
from requeuest_trio._model.job import Attempt, Job, Stats, make_response
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._observe.event import Event
from requeuest_trio._owner import Owner
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import Database, for_callers
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.store import Store
from requeuest_trio._waiters import Waiters

__all__ = ["Client"]

_PAGE = 200


class Client:
    """An open queue; what `open_requeuest` gives. Any number of tasks of its Trio run may use it at once.

    Another thread calls through the run that opened it: `trio.from_thread.run(client.spawn, "mail", request)`. A call
    from elsewhere (another Trio run, another event loop, a forked process) raises `RequeuestError` at once, and nothing
    of the client is touched. After the block of `open_requeuest` has ended, every call raises
    `trio.ClosedResourceError`. Every call may raise `DatabaseUnavailable` and `InvalidRequest`.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        spawner: Spawner,
        waiters: Waiters,
        config: Config,
        settings: Iterable[Channel],
        emitter: Emitter,
        load: Callable[[], tuple[int, int]] | None,
        loop_lag: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._spawner = spawner
        self._waiters = waiters
        self._factory = JobFactory(config, settings)
        self._emitter = emitter
        self._load = load
        self._loop_lag = loop_lag
        # One connection of the pool is always left for the library's own short operations: a caller that spawns without
        # `connection=` while its transactions have all the others would otherwise wait for itself.
        self._transactions = trio.Semaphore(config.pool_size - 1)
        self._patience = config.connect_timeout
        self._lent: WeakSet[TrioConnection] = WeakSet()
        self._owner = Owner()
        self._is_closed = False

    def __repr__(self) -> str:
        running, unrecorded = self._load() if self._load else (0, 0)
        return f"<Client {'closed' if self._is_closed else 'open'}: {running} running, {unrecorded} unrecorded>"

    def close(self) -> None:
        """End every waiting call. `open_requeuest` does this."""
        self._owner.require()
        self._is_closed = True
        self._spawner.close()
        self._waiters.close()

    # --- spawning -----------------------------------------------------------------------------------------------------

    async def spawn(
        self,
        channel: str,
        request: Request,
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        ordering_key: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - of an attempt, not of this call
        job_id: UUID | None = None,
        connection: TrioConnection[Any] | None = None,
    ) -> UUID:
        """Put a request into the queue.

        Args:
            channel: 1 to 200 characters. It need not be declared anywhere.
            request: what to send.
            delay: seconds or a `timedelta`, up to ten years, before which it is not sent.
            at: an aware `datetime` before which it is not sent; instead of `delay`.
            priority: -100 to 100; within a channel, the highest that is due goes first.
            ordering_key: 1 to 200 characters. Jobs with the same channel and key are sent one after the other, in the
                order of their commits: the next not before the one before is finished, all its retries included. (In
                an ordered channel all jobs have the same key, and none may be given.)
            retry: when to try again; None is `RetryPolicy()`.
            timeout: seconds or a `timedelta` for each attempt; goes before that of the request.
            job_id: an id of your own, so that the call can be repeated: an id that exists is not stored again.
            connection: a connection whose transaction the job joins, as `transaction` gives one. The job exists once
                that commits, and not at all otherwise.

        Returns:
            The job's id.

        Raises:
            InvalidRequest: naming the argument and its limit; nothing was stored.
            DatabaseUnavailable: PostgreSQL can't be reached. What was asked for may have been stored all the same; its
                `job_ids` make it safe to ask again.

        Guarantee: the job is committed when this returns (with `connection`: when that commits). It will be sent until
        it is delivered or given up.

        Cancellation: before its turn has come, nothing is stored; from then on the job may be stored, and is then sent.

        Example::

            job_id = await client.spawn("mail", Request.post("https://mail.example.com/send", json=mail), delay=60)
        """
        options = SpawnOptions(
            delay=delay, at=at, priority=priority, ordering_key=ordering_key, retry=retry, timeout=timeout
        )
        self._require_open()
        [job] = self._factory.jobs(channel, [request], None if job_id is None else [job_id], options)
        if connection is None:
            await self._spawner.spawn(job)
        else:
            await self._join(connection, [job])
        return job.id

    async def spawn_many(
        self,
        channel: str,
        requests: Iterable[Request],
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        ordering_key: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - of an attempt, not of this call
        job_id: Sequence[UUID] | None = None,
        connection: TrioConnection[Any] | None = None,
    ) -> list[UUID]:
        """Put several requests into the queue, in one transaction: all of them, or none.

        With an ordering key they are sent in the order given here. Arguments that are not named here are those of
        `spawn`, and hold for each request.

        Args:
            requests: any number of them, collected before anything is stored.
            job_id: one id of your own for each request, in the same order.

        Returns:
            The ids of the jobs, in the order of `requests`; an empty list, and nothing stored, if there are none.

        Raises:
            InvalidRequest: naming the argument and its limit; nothing was stored.
            DatabaseUnavailable: PostgreSQL can't be reached; `job_ids` has the ids of all that may have been stored.

        Guarantee: all jobs are committed when this returns (with `connection`: when that commits), or none.

        Cancellation: none is stored, or all are, and are then sent.

        Example::

            await client.spawn_many("mail", [Request.post(url, json={"to": name}) for name in names])
        """
        options = SpawnOptions(
            delay=delay, at=at, priority=priority, ordering_key=ordering_key, retry=retry, timeout=timeout
        )
        self._require_open()
        if isinstance(requests, str | bytes) or not isinstance(requests, Iterable):
            raise InvalidRequest("requests", f"must be a collection of Request, not {kind_of(requests)}")
        jobs = self._factory.jobs(channel, list(requests), job_id, options)
        if not jobs:
            await trio.lowlevel.checkpoint()
        elif connection is None:
            await self._spawner.spawn_many(jobs)
        else:
            await self._join(connection, jobs)
        return [job.id for job in jobs]

    async def spawn_returning(
        self,
        channel: str,
        request: Request,
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        ordering_key: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - of an attempt, not of this call
        job_id: UUID | None = None,
    ) -> Response:
        """Put a request into the queue, and wait for its response: `spawn`, then `result`.

        On a channel that no process delivers, this waits until it is cancelled; `trio.fail_after` sets a limit. The
        arguments are those of `spawn`, without `connection`: a job of an open transaction would wait for itself.

        Returns:
            The response with an accepted status, its body up to `Config.max_response_body`.

        Raises:
            InvalidRequest: naming the argument and its limit; nothing was stored.
            DatabaseUnavailable: PostgreSQL can't be reached, when the job is stored (`job_ids` has its id) or when its
                end is looked up.
            JobDead: the job was given up; the exception has the job.
            JobCancelled: the job was withdrawn.
            JobNotFound: the job was removed while this waited.

        Guarantee: the response has been recorded when this returns, so `result` gives it again, in any process.

        Cancellation: before the job's turn to be stored has come, nothing is stored; from then on it may be stored, and
        is then sent. With an id of your own, `result` gets the response later.

        Example::

            response = await client.spawn_returning("billing", Request.get("https://api.example.com/charges/7"))
        """
        options = SpawnOptions(
            delay=delay, at=at, priority=priority, ordering_key=ordering_key, retry=retry, timeout=timeout
        )
        self._require_open()
        [job] = self._factory.jobs(channel, [request], None if job_id is None else [job_id], options)
        job.awaited = True
        store = partial(self._spawner.spawn, job)
        if job_id is None:
            with for_callers():
                found = await self._waiters.wait_for_new(job.id, store)
            if isinstance(found, Job):
                return _response_of(found)
            return make_response(
                found.status, found.headers, found.body, job.request, truncated=found.truncated, url=found.url
            )
        # It may have been stored before, by a call that did not wait.
        await store()
        return await self.result(job.id)

    async def _join(self, connection: TrioConnection[Any], jobs: Sequence[NewJob]) -> None:
        if not isinstance(connection, TrioConnection):
            raise InvalidRequest(
                "connection",
                f"must be a TrioConnection, not {kind_of(connection)}; write async with client.transaction() as "
                "connection, or make one with TrioConnection.connect",
            )
        if connection.closed:
            raise InvalidRequest("connection", "is closed")
        status = connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise InvalidRequest(
                "connection",
                "a statement of its transaction has failed, so it can only be rolled back; around what may fail, set a "
                "savepoint: async with connection.transaction()",
            )
        if status == TransactionStatus.IDLE and connection in self._lent:
            raise InvalidRequest("connection", "its client.transaction() block has ended")
        try:
            with for_callers():
                await self._store.on(connection).spawn(jobs)
        except SchemaMismatch as error:
            raise SchemaMismatch(f"connection: its database has no queue like this client's: {error}") from error

    def transaction(self) -> AbstractAsyncContextManager[TrioConnection]:
        """Lend a connection in a transaction for the length of an `async with` block, for your tables and `spawn`.

        The transaction is committed when the block ends normally, and rolled back otherwise; jobs spawned with
        `connection=` share that fate. It is READ COMMITTED. At most `Config.pool_size - 1` of them are open at a time;
        a further one waits for up to `Config.connect_timeout`. Keep each short: for as long as it lasts, nothing else
        can be added to the ordering keys that it has used, nor the next of their jobs be sent.

        Returns:
            A context manager, to be entered once; it gives a `TrioConnection`, which is the caller's alone inside the
            block, and of no use after it.

        Raises:
            DatabaseUnavailable: no connection was to be had in time, or the commit failed: then it is unknown whether
                it happened. Inside the block, psycopg's own errors come out.

        Guarantee: when the block has ended normally, everything in it is committed. What it leaves in its session, such
        as settings, locks and temporary tables, is gone when the block ends.

        Cancellation: before the block has ended, the transaction is rolled back; a commit that has begun is waited for.

        Example::

            async with client.transaction() as connection:
                await connection.execute("INSERT INTO orders (id) VALUES (7)")
                await client.spawn("billing", request, connection=connection)
        """
        self._require_open()
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[TrioConnection]:
        self._require_open()
        with trio.move_on_after(self._patience) as waiting:
            await self._transactions.acquire()
        if waiting.cancelled_caught:
            raise DatabaseUnavailable(
                f"no connection became free within {self._patience:g} s: as many transactions are open as "
                "Config.pool_size allows"
            )
        try:
            async with self._database.transaction() as connection:
                self._lent.add(connection)
                yield connection
        finally:
            self._transactions.release()

    # --- following ----------------------------------------------------------------------------------------------------

    async def wait(self, job_id: UUID) -> Job:
        """Wait until a job is finished: succeeded, dead or cancelled.

        From any process, and also after a restart. For a job that is finished already, it returns at once; for one
        whose channel no process delivers, not before it is cancelled. `trio.fail_after` sets a limit.

        Args:
            job_id: the `UUID` that `spawn` returned.

        Returns:
            The job in its final state: look at `state`, `status` and `error`. A dead job is returned, not raised.

        Raises:
            InvalidRequest: `job_id` is not a `UUID`.
            JobNotFound: no job has this id, or it was removed while this waited.
            DatabaseUnavailable: PostgreSQL can't be reached at the start, or when the job is read at its end; an outage
                in between is survived.

        Guarantee: the job's state is final and committed; only pruning and `clear` remove it.

        Cancellation: the job stays in the queue, and is sent all the same.

        Example::

            job = await client.wait(job_id)
            assert job.state is JobState.SUCCEEDED, job.error
        """
        self._require_open()
        with for_callers():
            return await self._waiters.wait(checks.job_id(job_id))

    async def result(self, job_id: UUID) -> Response:
        """Wait until a job is delivered, and return the response: status, headers, and body up to the limit.

        From any process, also after a restart, and any number of times for as long as `Config.keep_succeeded` keeps it.

        Args:
            job_id: the `UUID` that `spawn` returned.

        Returns:
            The answer with an accepted status. Its body is decoded; `response.extensions["truncated"]` says whether it
            broke off, or was longer than is kept: `Config.max_response_body` if a caller waited when the answer came,
            `Config.keep_response` otherwise.

        Raises:
            InvalidRequest: `job_id` is not a `UUID`.
            JobDead: the job was given up; the exception has the job.
            JobCancelled: the job was withdrawn.
            JobNotFound: no job has this id, or it was removed while this waited.
            DatabaseUnavailable: as for `wait`.

        Guarantee: the job has succeeded, and that is committed.

        Cancellation: the job stays in the queue, and is sent all the same.

        Example::

            response = await client.result(job_id)
            assert response.status_code == 200
        """
        return _response_of(await self.wait(job_id))

    async def job(self, job_id: UUID) -> Job | None:
        """Read one job as it stands.

        Args:
            job_id: the `UUID` that `spawn` returned.

        Returns:
            The job with its request, and with its response if it has succeeded; None if no job has this id: it never
            had one, or the job was cleared or pruned.

        Raises:
            InvalidRequest: `job_id` is not a `UUID`.
            DatabaseUnavailable: PostgreSQL can't be reached, or took longer than `Config.statement_timeout`.

        Guarantee: what is returned was committed. It is a snapshot, and the job may have moved on since.

        Cancellation: nothing is changed.

        Example::

            job = await client.job(job_id)
            if job is not None and not job.is_finished:
                print(f"attempt {job.attempts + 1} is due at {job.due_at}")
        """
        self._require_open()
        with for_callers():
            return await self._store.job(checks.job_id(job_id))

    def jobs(
        self,
        *,
        channel: str | None = None,
        state: JobState | None = None,
        ordering_key: str | None = None,
    ) -> AsyncIterator[Job]:
        """Iterate over jobs with `async for`: all of them, or those that fit every argument that is given.

        They come in the order of their ids, which for ids made by `spawn` is, roughly, that of spawning. They are read
        a page at a time, of 200 jobs and 16 MiB at most (but always one job), and no connection is held between pages.

        Args:
            channel: only jobs of this channel; 1 to 200 characters.
            state: only jobs in this `JobState`, or its value as text.
            ordering_key: only jobs with this key; 1 to 200 characters.

        Returns:
            An asynchronous iterator. It may be left at any time, and needs no closing.

        Raises:
            InvalidRequest: at the call, naming the argument and its limit.
            DatabaseUnavailable: at any step, if PostgreSQL can't be reached, or a page took longer than
                `Config.statement_timeout`.

        Guarantee: each job is shown as it stood, committed, when its page was read; each that exists from the first
        step to the last comes exactly once, unless its channel, state or key changes.

        Cancellation: nothing is changed. Each step is a checkpoint.

        Example::

            async for job in client.jobs(channel="billing", state=JobState.DEAD):
                print(job.id, job.error)
        """
        self._require_open()
        if channel is not None:
            channel = checks.channel_name(channel)
        if ordering_key is not None:
            ordering_key = checks.short_text("ordering_key", ordering_key, checks.MAX_KEY_LENGTH)
        return self._pages(
            partial(
                self._store.jobs,
                channel=channel,
                state=None if state is None else _job_state(state),
                ordering_key=ordering_key,
                limit=_PAGE,
            )
        )

    async def _pages(self, read: Callable[..., Awaitable[Iterator[Job]]]) -> AsyncIterator[Job]:
        after: UUID | None = None
        while True:
            self._require_open()
            job = None
            with for_callers():
                page = await read(after=after)
            for job in page:
                yield job
                self._owner.require()
                # Whoever loops over a page without waiting for anything still lets others run, and can be cancelled.
                # Only after that, the next is made of its row, which may be large.
                await trio.lowlevel.checkpoint()
            if job is None:
                return
            after = job.id

    async def attempts(self, job_id: UUID) -> list[Attempt]:
        """Read every attempt of a job that has ended, in order; one under way is not among them.

        Args:
            job_id: the `UUID` that `spawn` returned.

        Returns:
            The attempts by number: the first 10,000, with 64 MiB of excerpts at most in all. An empty list if none has
            ended yet.

        Raises:
            InvalidRequest: `job_id` is not a `UUID`.
            JobNotFound: no job has this id: it never had one, or the job was cleared or pruned.
            DatabaseUnavailable: PostgreSQL can't be reached, or took longer than `Config.statement_timeout`.

        Guarantee: what is returned was committed. Each attempt is recorded with the job's new state, in one statement.

        Cancellation: nothing is changed.

        Example::

            for attempt in await client.attempts(job_id):
                print(attempt.number, attempt.status or attempt.error, f"{attempt.duration:.3f} s")
        """
        self._require_open()
        checks.job_id(job_id)
        with for_callers():
            found = await self._store.attempts(job_id)
        if not found and await self.job(job_id) is None:
            raise JobNotFound(job_id)
        return found

    async def stats(self) -> Stats:
        """Count the jobs of each channel and state, and look at this process's own load.

        It reads the whole table of jobs: for people and alarms once a minute, not for loops.

        Returns:
            The counts over all processes, and what this process has in flight and not yet recorded.

        Raises:
            DatabaseUnavailable: PostgreSQL can't be reached, or took longer than `Config.statement_timeout`.

        Guarantee: all counts are of one moment, and of committed jobs.

        Cancellation: nothing is changed.

        Example::

            stats = await client.stats()
            print(stats.count(JobState.DEAD), "dead,", stats.running, "in flight here")
        """
        self._require_open()
        with for_callers():
            counts = await self._store.counts()
        running, unrecorded = self._load() if self._load else (0, 0)
        return Stats(channels=counts, running=running, unrecorded=unrecorded, loop_lag=self._loop_lag())

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Subscribe to what happens in this client, for the length of an `async with` block.

        The kinds of events are the classes of `requeuest_trio.events`. Every `async with` has a stream of its own, from
        its beginning on, and iterating over it waits for the next event. Events of other clients and processes are not
        in it, and those that the log has of this client are, whatever the level of its loggers.

        Up to 1,000 events wait to be read. If more come, the oldest are dropped, and where they are missing stands an
        `events.Dropped` with their number: delivery never waits for who reads. What must not be missed is in the
        database, where `wait`, `attempts` and `jobs` find it.

        Returns:
            A context manager, to be entered once; it gives an asynchronous iterator. The iteration ends when the block
            of `open_requeuest` has ended, after its last event, or when this block has.

        Raises:
            Nothing beyond what every call may raise; for the iterator this holds as well.

        Guarantee: the events are in the order in which they happened here, and each that is missing is counted.

        Cancellation: waiting for the next event can be cancelled and taken up again, and no event is lost by it.

        Example::

            from requeuest_trio import events

            async with client.events() as stream:
                await client.spawn("billing", request)
                async for event in stream:
                    if isinstance(event, events.Attempt):
                        print(event.job, event.status, event.duration)
                        break
        """
        self._require_open()
        return self._subscribed()

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[AsyncIterator[Event]]:
        self._require_open()
        with self._emitter.subscribed(self._owner.require) as stream:
            yield stream

    # --- clearing -----------------------------------------------------------------------------------------------------

    async def clear(self, channels: Iterable[str] | All) -> int:
        """Remove jobs that are not running, waiting and finished ones alike, with their attempts and responses.

        What is running goes on, and can be cleared once it has ended; what is spawned meanwhile stays. Callers that
        wait for a removed job get `JobNotFound`.

        Args:
            channels: names of 1 to 200 characters each, or `ALL`.

        Returns:
            How many were removed.

        Raises:
            InvalidRequest: a name is empty, too long, or no text; nothing was removed.
            DatabaseUnavailable: PostgreSQL can't be reached; part of them may have been removed.

        Guarantee: every job of these channels that was stored before the call is gone, unless it was running.

        Cancellation: part of them may have been removed.

        Example::

            print(await client.clear(["drafts"]), "jobs removed")
        """
        self._require_open()
        names = None if isinstance(channels, All) else checks.channel_names(channels)
        total = 0
        with for_callers():
            before = await self._store.clock()
            for clear in (self._store.clear_free, self._store.clear_ordered):
                while removed := await clear(names, before):
                    total += removed
        return total

    def _require_open(self) -> None:
        """The first thing that every public call does, before it touches anything of the owner's."""
        if self._is_closed:
            raise trio.ClosedResourceError("the block of open_requeuest has ended")
        self._owner.require()


def _job_state(state: str) -> JobState:
    try:
        return JobState(state)
    except ValueError:
        # It has no context: that quotes whatever was given, whole.
        raise InvalidRequest("state", f"must be a JobState, not {shown(state)}") from None


def _response_of(job: Job) -> Response:
    """The response of a finished job. Raises what `Client.result` says."""
    if job.response is not None:
        return job.response
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job)
    raise JobDead(job)
