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

from requeuest_trio import Config, DatabaseUnavailable, JobState, Reached, Request, open_requeuest
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import Database
from requeuest_trio._store.rows import Claimed, Report
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver, Reply
from tests.engine.support import Eye, Log, nothing_left, until_done


def report(body: bytes = b"ok", state: JobState = JobState.SUCCEEDED, job_id: UUID | None = None) -> Report:
    job = Claimed(
        claim=uuid4(),
        id=job_id or uuid4(),
        channel="a",
        ordering_key=None,
        attempt=1,
        method="GET",
        url="http://localhost/",
        headers="[]",
        body=b"",
        accept="{[200,300)}",
        timeout=None,
        follow_redirects=False,
        retry=None,
    )
    return Report(job, Outcome(state, Reached.RESPONSE, answer=Answer(200, (), body)), 0.0, 0.0)


class Books:
    """In place of the database and the store: keeps what is written, and does what a test wants before or after."""

    def __init__(self, before: Callable[[Sequence[Report]], Awaitable[None]] | None = None) -> None:
        self.batches: list[list[Report]] = []
        self.before = before
        self.after: Callable[[], Awaitable[None]] | None = None

    async def run(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        return await operation(None)

    async def record(self, _: object, reports: Sequence[Report], **__: object) -> tuple[set[UUID], dict[str, float]]:
        await trio.lowlevel.checkpoint()
        if self.before:
            await self.before(reports)
        known = {written.job.claim for batch in self.batches for written in batch}
        self.batches.append(list(reports))
        if self.after:
            await self.after()
        return {item.job.id for item in reports if item.job.claim not in known}, {}

    @property
    def written(self) -> list[Report]:
        return [item for batch in self.batches for item in batch]


def recorder_on(books: Books, told: list[Report] | None = None, config: Config | None = None) -> Recorder:
    def on_recorded(reports: Sequence[Report], _: dict[str, float]) -> None:
        if told is not None:
            told.extend(reports)

    return Recorder(cast("Database", books), cast("Store", books), config or Config(), on_recorded)


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
    await until_done(lambda: not recorder.backlog)
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
            if step == k:  # noqa: B023
                scope.cancel()  # noqa: B023
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
    for _ in range(21):
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
    assert [len(batch) for batch in books.batches] == [21, 2, 2, 2, 2, 1]


async def test_one_refused_outcome_is_found_among_many(log: Log) -> None:
    bad = {3, 77, 78}
    reports = [report(b"bad" if number in bad else b"ok") for number in range(100)]

    async def refuse(batch: Sequence[Report]) -> None:
        if any(one.outcome.answer and one.outcome.answer.body == b"bad" for one in batch):
            raise psycopg.DataError("no")

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
    assert {fields["job"] for fields in log.fields("outcome_refused")} == {reports[number].job.id for number in bad}


async def test_an_outcome_refused_in_any_form_lets_the_others_pass(nursery: trio.Nursery, log: Log) -> None:
    reports = [report() for _ in range(10)]
    refused = {reports[2].job.id}

    async def refuse(batch: Sequence[Report]) -> None:
        if refused & {one.job.id for one in batch}:
            raise psycopg.IntegrityError("no")

    books = Books(refuse)
    recorder = recorder_on(books)
    for one in reports:
        recorder.submit(one)
    nursery.start_soon(recorder.run)
    await until_done(lambda: len(books.written) == 9)
    await log.wait_for("record_failed")
    assert recorder.backlog == 1
    refused.clear()
    await until_done(lambda: not recorder.backlog)
    assert books.written[-1] == reports[2], "whole, once that is possible"
    nursery.cancel_scope.cancel()


REFUSE = """
create function refuse() returns trigger language plpgsql as $$ begin
    if new.url like '%{url}%' and {condition} then raise 'not with me'; end if; return new;
end $$;
create trigger refuse before update on requeuest.job for each row execute function refuse();
"""


async def test_a_delivered_request_is_not_sent_again_because_its_answer_is_refused(
    eye: Eye, receiver: Receiver, log: Log
) -> None:
    await eye.connection.execute(REFUSE.format(url="poison", condition="length(new.response_body) > 0").encode())
    async with nothing_left(eye), open_requeuest(eye.dsn) as client:
        poison = await client.spawn("a", Request.get(receiver.url + "/poison"))
        good = await client.spawn_many("a", [Request.get(receiver.url + "/good")] * 5)
        response = await client.result(poison)
        assert (response.status_code, response.content) == (200, b"")
        assert response.extensions["truncated"]
        for job_id in good:
            assert (await client.result(job_id)).content == b"ok"
    assert len(receiver.arrivals) == 6
    assert [fields["job"] for fields in log.fields("outcome_refused")] == [poison]


async def test_an_outcome_refused_in_any_form_does_not_end_the_block(eye: Eye, receiver: Receiver, log: Log) -> None:
    await eye.connection.execute(REFUSE.format(url="poison", condition="new.state = 'succeeded'").encode())
    async with nothing_left(eye):
        async with open_requeuest(eye.dsn, grace=1) as client:
            poison = await client.spawn("a", Request.get(receiver.url + "/poison"))
            await log.wait_for("record_failed")
            for _ in range(3):
                await client.spawn_returning("a", Request.get(receiver.url + "/good"))
        assert await eye.job(poison) == ("available", 0, None)
        assert len(log.fields("close_incomplete")) == 1


async def test_an_echo_wakes_as_the_first_answer_would_have(
    eye: Eye, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record was written and its answer lost, and with that the news of what to do next."""
    record = Store.record
    lost = 0

    async def unlucky(self: Store, connection: TrioConnection, *args: Any, **options: Any) -> Any:
        nonlocal lost
        answer = await record(self, connection, *args, **options)
        if lost < 3:
            lost += 1
            raise DatabaseUnavailable("the answer was lost")
        return answer

    monkeypatch.setattr(Store, "record", unlucky)
    receiver.script(Reply(503))
    async with nothing_left(eye), open_requeuest(eye.dsn, poll_interval=600) as client:
        ids = [await client.spawn("a", Request.get(receiver.url), ordering_key="k") for _ in range(3)]
        with trio.fail_after(10):
            await client.wait(ids[-1])
    assert lost == 3
    assert len(receiver.arrivals) == 4
