"""
Promises 2 and 3: what became of an attempt is written down, once, whatever happens meanwhile.

What could go wrong, and is tried here: an outcome taken off the backlog that was not written, or written and not taken
off, when a write is cut short; one bad outcome that keeps back all others, or ends the block; a delivered request that
is sent again because its answer can't be stored; a backlog without bounds; an echo of a write whose answer was lost.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
import trio.testing
from psycopg import errors

from requeuest_trio import Config, DatabaseUnavailable, JobState, Reached, Request, open_requeuest
from requeuest_trio._engine import outcome_backlog
from requeuest_trio._engine.after_recording import AfterRecording
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.outcomes import Recorded, Report
from requeuest_trio._store.store import Store
from requeuest_trio._waiters import Waiters
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe, nothing_left, runner_of
from tests.machine import within
from tests.waiting import until


def report(body: bytes = b"ok", state: JobState = JobState.SUCCEEDED, job_id: UUID | None = None) -> Report:
    job = Claimed(
        claim=uuid4(),
        id=job_id or uuid4(),
        channel="a",
        ordering_key=None,
        attempt=1,
        request=Request.get("http://localhost/"),
        retry=None,
    )
    return Report(job, Outcome(state, Reached.RESPONSE, answer=Answer(200, (), body)), 0.0, 0.0)


OF_THE_SESSION = [
    psycopg.InternalError,  # of libpq, if a pooler's answers and its own error come for one question
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.ProgrammingError,
    errors.ConnectionFailure,
    errors.ProtocolViolation,
    errors.AdminShutdown,
    errors.IdleInTransactionSessionTimeout,
    errors.lookup("25P04"),
    errors.ReadOnlySqlTransaction,
    errors.DuplicatePreparedStatement,
    errors.InvalidSqlStatementName,
    errors.FeatureNotSupported,
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
]


class Books:
    """In place of the store: keeps what is written, and does what a test wants before or after."""

    def __init__(self, before: Callable[[Sequence[Report]], Awaitable[None]] | None = None) -> None:
        self.batches: list[list[Report]] = []
        self.before = before
        self.after: Callable[[], Awaitable[None]] | None = None
        self.locked: set[UUID] = set()

    async def locked_jobs(self, job_ids: Sequence[UUID]) -> set[UUID]:
        await trio.lowlevel.checkpoint()
        return self.locked.intersection(job_ids)

    async def record(self, reports: Sequence[Report], **__: object) -> Recorded:
        await trio.lowlevel.checkpoint()
        if self.before:
            await self.before(reports)
        known = {written.job.claim for batch in self.batches for written in batch}
        self.batches.append(list(reports))
        if self.after:
            await self.after()
        return Recorded({item.job.id for item in reports if item.job.claim in known}, {}, set())

    @property
    def written(self) -> list[Report]:
        return [item for batch in self.batches for item in batch]


def recorder_on(books: Books, told: list[Report] | None = None, config: Config | None = None) -> Recorder:
    def on_recorded(reports: Sequence[Report], *_: object) -> None:
        if told is not None:
            told.extend(reports)

    return Recorder(cast("Store", books), config or Config(), on_recorded, Emitter())


async def test_what_ends_during_a_write_goes_into_the_next(nursery: trio.Nursery) -> None:
    writing, go_on = trio.Event(), trio.Event()

    async def slowly(_: Sequence[Report]) -> None:
        writing.set()
        await go_on.wait()

    books, told = Books(slowly), list[Report]()
    recorder = recorder_on(books, told)
    nursery.start_soon(recorder.run)
    reports = [report() for _ in range(1_200)]
    recorder.submit(reports[0])
    await writing.wait()
    for one in reports[1:]:
        recorder.submit(one)
    go_on.set()
    await until(lambda: not recorder.backlog)
    assert [len(batch) for batch in books.batches] == [1, 500, 500, 199]
    assert books.written == told == reports, "in the order of their ends"
    nursery.cancel_scope.cancel()


async def test_two_outcomes_of_one_job_are_written_apart() -> None:
    books, job_id = Books(), uuid4()
    recorder = recorder_on(books)
    for one in (report(), report(job_id=job_id), report(job_id=job_id), report()):
        recorder.submit(one)
    await recorder.flush()
    assert [len(batch) for batch in books.batches] == [2, 2]


@pytest.mark.parametrize("confirmed", [False, True], ids=["cut short", "answered"])
async def test_cancelled_in_the_middle_of_a_write(confirmed: bool) -> None:
    scope = trio.CancelScope()

    async def cut_short() -> None:
        scope.cancel()
        if not confirmed:
            await trio.lowlevel.checkpoint()

    books, told = Books(), list[Report]()
    recorder = recorder_on(books, told)
    books.after = cut_short
    reports = [report() for _ in range(700)]
    for one in reports:
        recorder.submit(one)
    with scope:
        await recorder.run()
    books.after = None
    # The write was carried out in both cases. Without the answer nobody knows, so it is repeated.
    assert recorder.backlog == (200 if confirmed else 700)
    assert recorder.claims == {one.job.claim for one in reports[-recorder.backlog :]}
    await recorder.flush()
    await recorder.flush()
    assert recorder.backlog == 0
    assert books.written == (reports if confirmed else reports[:500] + reports)
    assert told == reports


async def test_cancelled_at_any_step_no_outcome_is_lost(log: Log) -> None:
    for k in range(1, 12):
        step, scope = 0, trio.CancelScope()

        async def count(_: object = None) -> None:
            nonlocal step
            step += 1
            if step == k:  # noqa: B023 - called in the round that it was made in
                scope.cancel()  # noqa: B023 - the same
            await trio.lowlevel.checkpoint()

        books = Books(count)
        books.after = count
        recorder = recorder_on(books)
        reports = [report() for _ in range(1_100)]
        for one in reports:
            recorder.submit(one)
        with scope:
            await recorder.flush()
        await recorder.flush()
        assert {one.job.id for one in books.written} == {one.job.id for one in reports}
        assert recorder.backlog == 0


async def test_too_much_unconfirmed_holds_its_callers() -> None:
    books = Books()
    recorder = recorder_on(books, config=Config(max_running=10))
    for _ in range(1_011):
        recorder.submit(report())
    with trio.move_on_after(0.05) as waited:
        await recorder.wait_for_room()
    assert waited.cancelled_caught
    await recorder.flush()
    await recorder.wait_for_room()
    for _ in range(9):
        recorder.submit(report(bytes(8 << 20)))  # few, but large
    with trio.move_on_after(0.05) as waited:
        await recorder.wait_for_room()
    assert waited.cancelled_caught
    await recorder.flush()
    await recorder.wait_for_room()
    assert [len(batch) for batch in books.batches] == [500, 500, 11, 2, 2, 2, 2, 1]


class Writing:
    """Lets no outcome be written before it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_begin = trio.Event()
        record = Store.record

        async def late(store: Store, *args: Any, **options: Any) -> Recorded:
            await self.may_begin.wait()
            return await record(store, *args, **options)

        monkeypatch.setattr(Store, "record", late)


async def test_attempts_wait_for_room(probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_backlog, "MAX_BATCH_ROWS", 5)
    writing, places, room = Writing(monkeypatch), 4, 4 + 2 * 5
    config = Config(max_running=places)
    async with nothing_left(probe), open_requeuest(probe.dsn, ["a"], concurrency=places, config=config) as client:
        await client.spawn_many("a", [Request.get(receiver.url)] * 60)
        await until(lambda: (load := client._load) and load()[1] >= room + places)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(receiver.arrivals) == room + places, "each place is held by an outcome for which there is no room"
        writing.may_begin.set()
        await probe.until_states(succeeded=60)


async def test_an_outcome_that_is_not_yet_written_is_no_lost_claim(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(monkeypatch)
    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        runner = runner_of(client)
        job_id = await client.spawn("a", Request.get(receiver.url))
        await until(lambda: runner.load() == (0, 1))
        await runner.maintenance.round()
        assert await probe.value("select worker from requeuest.job") == await probe.value(
            "select id from requeuest.worker"
        )
        writing.may_begin.set()
        await client.wait(job_id)
        assert await probe.job(job_id) == ("succeeded", 1, None)
    assert not log.fields("outcomes_lost")


async def test_one_refused_outcome_is_found_among_many(log: Log) -> None:
    bad = {3, 77, 78}
    reports = [report(b"bad" if number in bad else b"ok") for number in range(100)]

    async def refuse(batch: Sequence[Report]) -> None:
        if any(one.outcome.answer and one.outcome.answer.body == b"bad" for one in batch):
            raise errors.UntranslatableCharacter("no")

    books = Books(refuse)
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    await recorder.flush()
    assert [one.job.id for one in books.written] == [one.job.id for one in reports]
    for number, one in enumerate(books.written):
        assert one.outcome.state is JobState.SUCCEEDED
        assert one.outcome.answer is not None
        assert one.outcome.answer.body == (b"" if number in bad else b"ok")
    assert {fields["job"] for fields in log.fields("outcome_refused")} == {
        str(reports[number].job.id) for number in bad
    }


async def test_an_outcome_refused_in_any_form_lets_the_others_pass(nursery: trio.Nursery, log: Log) -> None:
    reports = [report() for _ in range(10)]
    refused = {reports[2].job.id}

    async def refuse(batch: Sequence[Report]) -> None:
        if refused & {one.job.id for one in batch}:
            raise errors.CheckViolation("no")

    books = Books(refuse)
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    nursery.start_soon(recorder.run)
    await until(lambda: len(books.written) == 9)
    await log.wait_for("record_failed")
    assert recorder.backlog == 1
    refused.clear()
    await until(lambda: not recorder.backlog)
    assert books.written[-1] == reports[2], "whole, once that is possible"
    nursery.cancel_scope.cancel()


async def test_one_that_is_always_refused_delays_none_of_the_others(nursery: trio.Nursery, log: Log) -> None:
    poison = report()

    async def refuse(batch: Sequence[Report]) -> None:
        if poison.job.id in {one.job.id for one in batch}:
            raise errors.CheckViolation("no")

    books = Books(refuse)
    recorder = recorder_on(books)
    recorder.submit(poison)
    nursery.start_soon(recorder.run)
    await log.wait_for("record_failed", 3)
    for number in range(20):
        recorder.submit(report())
        with within(0.2):
            await until(lambda: len(books.written) > number)  # noqa: B023 - over before the next number
    assert len(log.fields("outcome_refused")) == 1, "it is said once"
    nursery.cancel_scope.cancel()


class TooSlow:
    """What PostgreSQL says if some outcomes take it too long."""

    def __init__(self, *slow: Report, error: type[psycopg.Error] = errors.QueryCanceled) -> None:
        self.slow = list(slow)
        self.error = error
        self.asked: list[int] = []

    async def __call__(self, batch: Sequence[Report]) -> None:
        if any(one in self.slow for one in batch):
            self.asked.append(len(batch))
            raise DatabaseUnavailable("PostgreSQL is not available: too slow") from self.error()


@pytest.mark.parametrize("error", [errors.QueryCanceled, errors.OutOfMemory, errors.RaiseException, errors.DiskFull])
async def test_one_that_is_not_refused_keeps_its_answer_however_often_it_fails(
    nursery: trio.Nursery, log: Log, error: type[psycopg.Error]
) -> None:
    reports = [report(), report(b"huge"), report()]
    slow = TooSlow(reports[1], error=error)
    books = Books(slow)
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    nursery.start_soon(recorder.run)
    await log.wait_for("record_failed", 4)
    assert books.written == [reports[0], reports[2]]
    assert slow.asked[:3] == [3, 2, 1]
    assert set(slow.asked[2:]) == {1}
    slow.slow.clear()
    await until(lambda: not recorder.backlog)
    assert books.written[-1] is reports[1]
    assert not log.fields("outcome_refused")
    nursery.cancel_scope.cancel()


async def test_at_the_end_there_is_no_other_try_with_one_that_takes_too_long() -> None:
    """Its job is left for others to send again, who then have an answer for it too."""
    huge, good = report(b"huge"), report()
    slow = TooSlow(huge)
    books = Books(slow)
    recorder = recorder_on(books)
    recorder.submit(huge)
    recorder.submit(good)
    assert isinstance(await recorder.finish(), errors.QueryCanceled)
    assert slow.asked == [2, 1]
    assert books.written == [good]
    assert recorder.backlog == 1


@pytest.mark.parametrize("error", OF_THE_SESSION, ids=lambda error: f"{error.sqlstate} {error.__name__}")
async def test_an_error_of_the_session_is_no_fault_of_the_outcomes(log: Log, error: type[psycopg.Error]) -> None:
    reports = [report() for _ in range(8)]
    failures = [error("no")]

    async def fail(batch: Sequence[Report]) -> None:
        if failures:
            raise failures.pop()

    books = Books(fail)
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    with pytest.raises(psycopg.Error):
        await recorder.flush()
    assert recorder.backlog == len(reports)
    await recorder.flush()
    assert books.batches == [reports], "whole, and together"
    assert not log.fields("outcome_refused")


async def test_locked_rows_are_left_for_later_and_not_waited_for_again(nursery: trio.Nursery, log: Log) -> None:
    reports = [report() for _ in range(5)]
    locked = TooSlow(reports[1], reports[3], error=errors.LockNotAvailable)
    books = Books(locked)
    books.locked = {one.job.id for one in locked.slow}
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    nursery.start_soon(recorder.run)
    await log.wait_for("record_failed", 3)
    assert books.written == reports[::2]
    assert locked.asked == [5]
    another = report()
    books.locked.add(another.job.id)
    locked.slow.append(another)
    recorder.submit(another)
    await until(lambda: log.fields("record_failed")[-1]["backlog"] == 3)
    assert locked.asked == [5]
    books.locked.clear()
    locked.slow.clear()
    await until(lambda: not recorder.backlog)
    assert set(map(id, books.written)) == {id(one) for one in [*reports, another]}
    assert not log.fields("outcome_refused")
    nursery.cancel_scope.cancel()


async def test_a_row_that_somebody_has_locked_holds_up_only_itself(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    receiver.script(Reply(delay=0.3), target="/locked")
    config = Config(statement_timeout=1.0)
    async with nothing_left(probe), open_requeuest(probe.dsn, config=config) as client:
        locked = await client.spawn("a", Request.get(receiver.url + "/locked"))
        await receiver.wait_for(1)
        async with probe.connection.transaction():
            await probe.connection.execute("select from requeuest.job where id = %s for update", [locked])
            await log.wait_for("record_failed", 2)
            for _ in range(3):
                with within(2):
                    await client.spawn_returning("a", Request.get(receiver.url))
        await client.wait(locked)
        assert await probe.job(locked) == ("succeeded", 1, None)
    assert len(receiver.arrivals) == 4


async def test_the_dead_are_told_of_once_that_is_recorded(log: Log) -> None:
    books = Books()
    recorder = recorder_on(books)
    dead, stale = report(state=JobState.DEAD), report(state=JobState.DEAD)
    books.batches.append([stale])
    recorder.submit(dead, "gone")
    recorder.submit(stale, "gone too")
    assert not log.fields("job_dead")
    await recorder.flush()
    assert log.fields("job_dead") == [
        {"job": str(dead.job.id), "channel": "a", "attempts": 1, "status": 200, "error": "gone"}
    ]


async def test_a_stale_answer_is_handed_to_nobody() -> None:
    """Another process may have recorded another one meanwhile: who waits looks for itself."""
    told: list[tuple[str, UUID]] = []

    class Told:
        def answered(self, job_id: UUID, _: Answer) -> None:
            told.append(("answered", job_id))

        def wake(self, job_ids: Sequence[UUID]) -> None:
            told.extend(("wake", job_id) for job_id in job_ids)

        def due(self, waits: dict[str, float]) -> None:
            assert waits == {"a": 0.0}, "of the stale one's channel"

    books, reports = Books(), [report() for _ in range(2)]
    for one in reports:
        one.job.awaited = True
    books.batches.append(reports[:1])
    after_recording = AfterRecording(cast("Waiters", Told()), cast("WakeUps", Told()))
    recorder = Recorder(cast("Store", books), Config(), after_recording, Emitter())
    for one in reports:
        recorder.submit(one)
    await recorder.flush()
    assert told == [("wake", reports[0].job.id), ("answered", reports[1].job.id)]


async def test_an_echo_tells_of_what_the_first_write_may_have_unblocked() -> None:
    books, hints, again = Books(), list[dict[str, float]](), report()
    books.batches.append([again])
    recorder = Recorder(cast("Store", books), Config(), lambda _, waits, __: hints.append(waits), Emitter())
    recorder.submit(again)
    await recorder.flush()
    assert hints == [{"a": 0.0}]


async def test_the_next_of_a_key_follows_soon_after_a_transaction_that_had_it(
    probe: QueueProbe, receiver: Receiver
) -> None:
    receiver.script(Reply(delay=0.3))
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=60, poll_interval=600) as client:
        head = await client.spawn("a", Request.get(receiver.url), ordering_key="k")
        await receiver.wait_for(1)
        async with probe.connection.transaction():
            # What the application's own spawn does.
            [follower] = await client.spawn_many(
                "a", [Request.get(receiver.url)], ordering_key="k", connection=probe.connection
            )
            await client.wait(head)
            await trio.sleep(1.0)
        with within(2):
            await client.wait(follower)
        assert await probe.job(follower) == ("succeeded", 1, None)


REFUSE = """
create function refuse() returns trigger language plpgsql as $$ begin
    if new.url like '%{url}%' and {condition} then raise 'not with me' using errcode = '{sqlstate}'; end if; return new;
end $$;
create trigger refuse before update on requeuest.job for each row execute function refuse();
"""


async def test_a_delivered_request_is_not_sent_again_because_its_answer_is_refused(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    await probe.connection.execute(
        REFUSE.format(sqlstate="22000", url="poison", condition="length(new.response_body) > 0").encode()
    )
    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        poison = await client.spawn("a", Request.get(receiver.url + "/poison"))
        good = await client.spawn_many("a", [Request.get(receiver.url + "/good")] * 5)
        response = await client.result(poison)
        assert (response.status_code, response.content) == (200, b"")
        assert response.extensions["truncated"]
        for job_id in good:
            assert (await client.result(job_id)).content == b"ok"
    assert len(receiver.arrivals) == 6
    assert [fields["job"] for fields in log.fields("outcome_refused")] == [str(poison)]


@pytest.mark.parametrize("sqlstate", ["08006", "25P03", "25P04", "40001", "53200", "57014", "57P01", "P0001", "XX000"])
async def test_an_answer_is_kept_whole_through_whatever_is_no_error_of_its_data(
    probe: QueueProbe, receiver: Receiver, log: Log, sqlstate: str
) -> None:
    await probe.connection.execute(b"create sequence public.tries")
    fails = "new.state = 'succeeded' and nextval('public.tries') <= 2"
    await probe.connection.execute(REFUSE.format(sqlstate=sqlstate, url="poison", condition=fails).encode())
    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        response = await client.spawn_returning("a", Request.get(receiver.url + "/poison"))
        assert (response.status_code, response.content) == (200, b"ok")
        assert not response.extensions["truncated"]
    assert len(receiver.arrivals) == 1
    assert await probe.value("select last_value from public.tries") > 2
    assert not log.fields("outcome_refused")


async def test_an_outcome_refused_in_any_form_does_not_end_the_block(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    await probe.connection.execute(
        REFUSE.format(sqlstate="22000", url="poison", condition="new.state = 'succeeded'").encode()
    )
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn, grace=1) as client:
            poison = await client.spawn("a", Request.get(receiver.url + "/poison"))
            await log.wait_for("record_failed")
            for _ in range(3):
                await client.spawn_returning("a", Request.get(receiver.url + "/good"))
            await log.wait_for("record_failed", 3)
            # Not yet recorded, and behind the poison: none of these is given back.
            await client.spawn_many("a", [Request.get(receiver.url + "/good")] * 20)
            await receiver.wait_for(24)
        assert await probe.states() == {"succeeded": 23, "available": 1}
        assert await probe.job(poison) == ("available", 0, None)
        assert len(log.fields("close_incomplete")) == 1


async def test_an_echo_wakes_as_the_first_answer_would_have(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record was written and its answer lost, and with that the news of what to do next."""
    record = Store.record
    lost = 0

    async def unlucky(self: Store, *args: Any, **options: Any) -> Any:
        nonlocal lost
        answer = await record(self, *args, **options)
        if lost < 3:
            lost += 1
            raise DatabaseUnavailable("the answer was lost")
        return answer

    monkeypatch.setattr(Store, "record", unlucky)
    receiver.script(Reply(503))
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=600) as client:
        ids = [await client.spawn("a", Request.get(receiver.url), ordering_key="k") for _ in range(3)]
        with trio.fail_after(10):
            await client.wait(ids[-1])
    assert lost == 3
    assert len(receiver.arrivals) == 4
