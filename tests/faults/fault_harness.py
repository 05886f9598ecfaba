"""What a fault test is built on: programs, faults that are done to them, and the judgement at the end."""

import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from requeuest_trio._model.groups import raise_bare
from tests.faults.arrivals import Answer, told
from tests.faults.checker import judge
from tests.faults.figures import Answers, recovery_time, stored_answers
from tests.faults.history import (
    Arrival,
    Fault,
    History,
    Promise,
    Spawn,
    Usage,
    read_arrivals,
    read_attempts,
    read_jobs,
    read_spawns,
)
from tests.faults.journal import read_journal
from tests.faults.processes import Program, start_program
from tests.faults.producing import Orders
from tests.faults.working import Terms
from tests.waiting import PATIENCE, until

ALL = -1
FINISHED = (
    f"select case when count(*) = count(finished_at) then {ALL} else nullif(count(finished_at) + 1, %s) end "
    "from requeuest.job"
)
"""`ALL`, or how many jobs are finished and one, if that is not what it was."""
ACTIVITY = (
    "select pid, application_name, state, wait_event_type, wait_event, xact_start, left(query, 100) "
    "from pg_stat_activity where datname = current_database() order by pid"
)
CLAIMS = (
    "select distinct claim from requeuest.job where state = 'running' "
    "and worker in (select id from requeuest.worker where pid = %s)"
)
CLAIM, RECORD = "RECURSIVE place", "json_to_recordset"
"""What tells these statements from others, in the 1,024 bytes of them that the server shows."""
MIB = 1_048_576


class FaultHarness:
    """One database, one receiver, and any number of producers and workers."""

    def __init__(self, dsn: str, directory: Path, seed: int, nursery: trio.Nursery) -> None:
        self.dsn = dsn
        self.directory = directory
        self.seed = seed
        self.programs: list[Program] = []
        self.faults: list[Fault] = []
        self.usages: list[Usage] = []
        self.load: tuple[float, float] | None = None
        self.terms = Terms()
        """Of the last worker that was started."""
        self.answers: Answers | None = None
        """Of the receiver's, as they were stored when that was judged last."""
        self.epitaph = ""
        """What there is to say about it once it has ended, if the test has failed."""
        self.url = ""
        """The receiver's."""
        self._nursery = nursery
        self._receiver: Program | None = None

    # --- programs -----------------------------------------------------------------------------------------------------

    async def start_receiver(self, *answers: Answer) -> str:
        """Start the receiver, which does this with the first, second ... arrival of each job. Returns its URL."""
        self._receiver = self._start("arrivals", "receiver", seed=self.seed, **told(answers))
        self.url = f"http://127.0.0.1:{(await self._receiver.said('ready'))['port']}"
        return self.url

    async def answer(self, *answers: Answer) -> None:
        """From now on, the receiver does this."""
        assert self._receiver is not None
        times = sum(line["said"] == "told" for line in self._receiver.heard)
        await self._receiver.tell(**told(answers))
        await self._receiver.said("told", times + 1)

    async def answer_from_now(self, *answers: Answer) -> None:
        """The same, and all that was sent before has arrived, whose senders stand still.

        Each word to the receiver takes a turn of its loop, and so does each step of what comes: two connections, one
        after the other, a task for each, and what it reads.
        """
        for _ in range(10):
            await self.answer(*answers)

    async def start_worker(
        self, name: str = "", *, dsn: str | None = None, level: str = "INFO", **terms: Any
    ) -> Program:
        """
        Start a worker; the arguments are those of `Terms`.

        `dsn` is for one that goes through a proxy, and `level` for one whose log is to say more.
        """
        self.terms = Terms(**terms)
        name = name or f"worker-{len(self.programs)}"
        worker = self._start(
            "working",
            name,
            dsn=make_conninfo(dsn or self.dsn, application_name=name),
            seed=self.seed + len(self.programs),
            terms=asdict(self.terms),
            level=level,
        )
        await worker.said("ready")
        return worker

    async def start_producer(self, name: str = "", *, dsn: str | None = None, **orders: Any) -> Program:
        """Start a producer; the arguments are those of `Orders`. The requests go to the receiver."""
        name = name or f"producer-{len(self.programs)}"
        producer = self._start(
            "producing",
            name,
            dsn=make_conninfo(dsn or self.dsn, application_name=name),
            name=name,
            seed=self.seed + len(self.programs),
            orders=asdict(Orders(**{"url": self.url, **orders})),
        )
        await producer.said("ready")
        return producer

    async def produce(self, *, patience: float = 60.0, **orders: Any) -> None:
        """Run a producer to its end."""
        producer = await self.start_producer(**orders)
        await producer.said("done", patience=patience)
        await producer.ended()

    def _start(self, module: str, program: str, **settings: Any) -> Program:
        started = start_program(self._nursery, module, program, self.directory, settings)
        self.programs.append(started)
        return started

    # --- faults -------------------------------------------------------------------------------------------------------

    def note_fault(self, kind: str, at: float, *, jobs: Iterable[UUID] | None = None, **more: bool) -> None:
        """Something was done to the system from then until now; `more` is about it."""
        concerned = None if jobs is None else frozenset(jobs)
        self.faults.append(Fault(kind=kind, at=at, until=time.monotonic(), jobs=concerned, **more))

    def note_lost_leases(self, *programs: Program) -> None:
        """These have said that they could not renew their leases, though nobody kept them: the machine is too slow.

        What they were sending is sent again. That is only for programs to which nothing is done that costs a lease.
        """
        for program in programs:
            said = [line for path in program.journals for line in read_journal(path)]
            lags = [(line["at"], line["fields"]["lag"]) for line in said if line["event"] == "loop_stalled"]
            for lost in (line["at"] for line in said if line["event"] == "lease_lost"):
                stood_still = max((lag for at, lag in lags if abs(at - lost) < 1.0), default=0.0)
                unrenewed = max(self.terms.lease, stood_still)
                self.faults.append(Fault(kind="lease lost", at=lost - unrenewed, until=lost, jobs=None))

    @contextmanager
    def fault(self, kind: str, **options: Any) -> Iterator[None]:
        """Something is done to the system as long as this block lasts."""
        at = time.monotonic()
        try:
            yield
        finally:
            self.note_fault(kind, at, **options)

    async def run_for(self, seconds: float) -> None:
        """Let it all run for a time that was chosen at random, so that what comes next comes at any point."""
        await trio.sleep(seconds)

    async def kill(self, worker: Program, kind: str = "kill -9") -> frozenset[UUID]:
        """kill -9. Returns the jobs that it had in hand, of which nobody will hear; any, if there is no database."""
        at = time.monotonic()
        await worker.kill()
        try:
            jobs: frozenset[UUID] | None = await self.held_in_the_end(worker)
        except psycopg.OperationalError:
            jobs = None
        self.note_fault(kind, at, jobs=jobs)
        return jobs or frozenset()

    async def kill_holding(self, worker: Program) -> frozenset[UUID]:
        """kill -9, at a moment when it has jobs in hand. Returns these."""
        while True:
            await worker.freeze()
            if await self.held_in_the_end(worker):
                return await self.kill(worker)
            worker.thaw()
            await trio.sleep(0.01)

    async def held_in_the_end(self, worker: Program) -> frozenset[UUID]:
        """The same as `held_by`, once the server has carried out what the worker has still asked for."""
        await self.until_true(
            "select count(*) = 0 from pg_stat_activity "
            "where application_name = %s and state = 'active' and wait_event_type is distinct from 'Lock'",
            worker.name,
        )
        return await self.held_by(worker)

    async def held_by(self, worker: Program) -> frozenset[UUID]:
        """The jobs that a worker has claimed and not finished."""
        rows = await self.ask(
            "select id from requeuest.job where state = 'running' "
            "and worker in (select id from requeuest.worker where pid = %s)",
            worker.pid,
        )
        return frozenset(row[0] for row in rows)

    async def claims_of(self, worker: Program) -> list[UUID]:
        """Those under which a worker holds jobs."""
        return [row[0] for row in await self.ask(CLAIMS, worker.pid)]

    async def until_claimed(self, worker: Program, claims: list[UUID], *, patience: float = PATIENCE) -> None:
        """Wait until a worker holds jobs under another claim than these."""
        await self.until_true(f"select exists ({CLAIMS} and claim <> all(%s))", worker.pid, claims, patience=patience)

    @asynccontextmanager
    async def locked(self, table: str, mode: str = "SHARE") -> AsyncIterator[None]:
        """
        Nobody writes to a table as long as this block lasts; reading goes on, unless `mode` says otherwise.

        With the table of attempts, outcomes are held up on their way; with that of jobs, claims are too.
        """
        connection = await trio.to_thread.run_sync(partial(psycopg.connect, self.dsn))
        try:
            lock = f"LOCK TABLE requeuest.{table} IN {mode} MODE".encode()
            await trio.to_thread.run_sync(connection.execute, lock)
            yield
        finally:
            connection.close()

    async def until_held_up(self, program: Program, query: str) -> None:
        """Wait until a statement of a program waits for a lock: `CLAIM`, `RECORD`, or another with this in its text."""
        await self.until_true(
            "select count(*) > 0 from pg_stat_activity where application_name = %s "
            "and wait_event_type = 'Lock' and position(%s in query) > 0",
            program.name,
            query,
        )

    async def end_backends(self, program: Program) -> None:
        """End what the server does for a program, unfinished."""
        name = program.name
        await self.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", name)
        await self.until_true("select count(*) = 0 from pg_stat_activity where application_name = %s", name)

    # --- what the database says ---------------------------------------------------------------------------------------

    async def ask(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows of a query, over a connection of its own. Raises `psycopg.OperationalError`."""
        return await trio.to_thread.run_sync(partial(self._ask, query, params))

    def _ask(self, query: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, connect_timeout=5, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), params or None)
            # Without columns psycopg tells of no rows, however many there are.
            assert cursor.description or not (cursor.statusmessage or "").startswith("SELECT"), query
            return cursor.fetchall() if cursor.description else []

    async def until_true(self, query: str, *params: object, patience: float = PATIENCE) -> Any:
        """Wait until a query gives a true value, and return that; while the database is not there, it does not."""
        rows: list[tuple[Any, ...]] = []
        with trio.move_on_after(patience):
            while not (rows and rows[0][0]):
                try:
                    rows = await self.ask(query, *params)
                except psycopg.OperationalError:
                    rows = []
                if not (rows and rows[0][0]):
                    await trio.sleep(0.03)
            return rows[0][0]
        raise AssertionError(f"not within {patience} s: {query}")

    async def until_finished(self, *, patience: float = 60.0) -> None:
        """Wait until no job is unfinished. `patience` is for each next one: how long all take is the machine's."""
        so_far = 0
        while so_far != ALL:
            so_far = await self.until_true(FINISHED, so_far, patience=patience)

    # --- what the logs say --------------------------------------------------------------------------------------------

    def arrivals(self) -> list[Arrival]:
        return read_arrivals(self.directory / "receiver.log")

    def spawns(self) -> list[Spawn]:
        return read_spawns(sorted(self.directory.glob("producer*.log")))

    async def until_arrived(self, number: int, *, patience: float = PATIENCE) -> list[Arrival]:
        """Wait until so many requests have come, and return all that have."""
        await until(
            lambda: len(self.arrivals()) >= number,
            patience=patience,
            what=lambda: f"{len(self.arrivals())} arrivals, not {number}",
        )
        return self.arrivals()

    async def until_logged(
        self, worker: Program, event: str, number: int = 1, *, patience: float = PATIENCE
    ) -> dict[str, Any]:
        """Wait until a worker has logged an event of the library for the n-th time, and return its fields."""

        def found() -> list[dict[str, Any]]:
            return [line["fields"] for line in read_journal(worker.log) if line["event"] == event]

        await until(
            lambda: len(found()) >= number,
            patience=patience,
            what=lambda: f"no {event} ({number}): {read_journal(worker.log)}",
        )
        return found()[number - 1]

    async def until_recovered(self, loaded_since: float) -> None:
        """Wait until as much arrives as before the faults; how soon that was is judged in the end."""

        def has_recovered() -> bool:
            self.load = (loaded_since, time.monotonic())
            so_far = History(promise=Promise(), arrivals=self.arrivals(), faults=self.faults, load=self.load)
            time_taken = recovery_time(so_far)
            return time_taken is not None and time_taken < math.inf

        patience = Promise().recovery
        await until(has_recovered, patience=patience, every=0.2, what=lambda: f"{len(self.arrivals())} arrivals in all")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def leave(self, worker: Program, *, patience: float = PATIENCE) -> dict[str, Any]:
        """End a worker in the normal way, and note what it has left behind. Returns what it said last."""
        worker.terminate()
        return await self.leave_after_signal(worker, patience=patience)

    async def leave_after_signal(self, worker: Program, *, patience: float = PATIENCE) -> dict[str, Any]:
        """The same for one that has been told to end already."""
        ended = await worker.said("ended", patience=patience)
        await worker.ended()
        for what, allowed in (("rss", 64 * MIB), ("files", 0), ("tasks", 0)):
            before, after = ended["before"][what], ended["after"][what]
            self.usages.append(Usage(what=f"{what} of {worker.name}", before=before, after=after, allowed=allowed))
        return ended

    async def history(self, **promise: float) -> History:
        """Everything so far. What is promised follows from the terms of the last worker, unless it is given."""
        times = {name: getattr(self.terms, name) for name in ("lease", "poll_interval", "attempt_timeout")}
        return await trio.to_thread.run_sync(partial(self._history, Promise(**{**times, **promise})))

    def _history(self, promise: Promise) -> History:
        with psycopg.connect(self.dsn) as connection:
            return History(
                promise=promise,
                spawns=self.spawns(),
                arrivals=self.arrivals(),
                jobs=read_jobs(connection),
                attempts=read_attempts(connection),
                faults=sorted(self.faults, key=lambda fault: fault.at),
                usages=self.usages,
                load=self.load,
            )

    async def must_hold(self, **promise: float) -> History:
        """Every program is well, and every invariant holds."""
        for program in self.programs:
            program.must_be_well()
        history = await self.history(**promise)
        assert history.spawns, "nothing was asked for"
        self.answers = stored_answers(history)
        violations = judge(history)
        assert not violations, "\n".join(str(violation) for violation in violations[:20])
        return history

    async def close(self) -> None:
        self.epitaph = await trio.to_thread.run_sync(self._epitaph)
        for program in self.programs:
            await program.end()

    def _epitaph(self) -> str:
        """The seed, the ends of all logs, and what the database is doing."""
        parts = [f"REQUEUEST_FAULTS_SEED={self.seed}", *(str(fault) for fault in self.faults[-20:])]
        for path in sorted(set(self.directory.iterdir()) - set(self.directory.glob("*.suspended"))):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-12:]]
        try:
            parts += ["--- pg_stat_activity", *(str(row) for row in self._ask(ACTIVITY, ()))]
        except psycopg.Error as error:
            parts += [f"--- no pg_stat_activity: {error}"]
        return "\n".join(line[:400] for line in parts)


@asynccontextmanager
async def open_fault_harness(dsn: str, directory: Path, seed: int) -> AsyncIterator[FaultHarness]:
    """A harness on a migrated database. When the block ends, however it does, so have all its programs."""
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            harness = FaultHarness(dsn, directory, seed, nursery)
            try:
                yield harness
            finally:
                with trio.CancelScope(shield=True):
                    await harness.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_bare(group)
